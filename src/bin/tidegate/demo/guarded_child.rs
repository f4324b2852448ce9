//! A child process that always ends with its parent.
//!
//! Shared by the demo and the test suite. Unix only.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A child process, and a shell that kills it when the parent ends for any reason: the shell reads a pipe that only the
/// parent holds open. Both have process groups of their own, so Ctrl-C reaches only the parent.
#[derive(Debug)]
pub struct GuardedChild {
    child: Child,
    guard: Option<Child>,
}

impl GuardedChild {
    /// Starts the command with an empty standard input.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).stdin(Stdio::null()).spawn()?;
        let mut process = Self { child, guard: None };
        let guard = Command::new("/bin/sh")
            .args(["-c", "read -r _; kill -9 \"$1\"", "leash", &process.id().to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        process.guard = Some(guard?);
        Ok(process)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        // The shell first: once the child has been waited for, its process id may be given to another process.
        for child in self.guard.iter_mut().chain([&mut self.child]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
