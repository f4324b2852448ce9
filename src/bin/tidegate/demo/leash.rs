//! A child process that is never left behind.
//!
//! Part of the rig that the demo and the test suite share. Unix only.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A process and, beside it, a shell that kills it as soon as this process is gone, however that comes about: the shell
/// reads a pipe that only this process holds open. Both stand in their own process group, so that Ctrl-C reaches only us.
#[derive(Debug)]
pub struct Leashed {
    child: Child,
    leash: Option<Child>,
}

impl Leashed {
    /// Starts the command, which reads nothing.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).stdin(Stdio::null()).spawn()?;
        let mut process = Self { child, leash: None };
        let leash = Command::new("/bin/sh")
            .args(["-c", "read -r _; kill -9 \"$1\"", "leash", &process.id().to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        process.leash = Some(leash?);
        Ok(process)
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the process has ended, if it has.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        // The shell first: once the process has been waited for, its number may become another one's.
        for child in self.leash.iter_mut().chain([&mut self.child]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
