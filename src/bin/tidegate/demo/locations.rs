//! Two running locations of the Worker in a real workerd, with the cache and KV that Cloudflare provides.
//!
//! Shared by the demo and the test suite. Unix only.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

/// Running locations. Dropping them ends their processes.
#[derive(Debug)]
pub struct Locations {
    process: Child,
    /// The process ends when this pipe closes, however the parent ends.
    stdin: Option<ChildStdin>,
    /// Their addresses.
    pub addrs: [SocketAddr; 2],
}

impl Locations {
    /// Starts the Worker with this policy from the directory that `make build` writes.
    pub fn start(built: &Path, policy: &str) -> io::Result<Self> {
        if !built.join("entry.mjs").is_file() {
            return Err(io::Error::other(format!("no Worker in {}: run `make setup build`", built.display())));
        }
        let file = NamedTempFile::with_prefix("tidegate-policy-")?;
        std::fs::write(&file, policy)?;
        let mut command = Command::new("node");
        command.arg(PROGRAM).arg(built).arg(file.path());
        // In a process group of its own, so Ctrl-C reaches only the parent.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let stdin = process.stdin.take();
        let mut said = String::new();
        if let Some(stdout) = process.stdout.take() {
            // It prints its addresses, or ends.
            BufReader::new(stdout).read_line(&mut said)?;
        }
        match serde_json::from_str(&said) {
            Ok(addrs) => Ok(Self { process, stdin, addrs }),
            Err(_) => {
                end(&mut process, stdin);
                Err(io::Error::other("it has not said where it listens"))
            }
        }
    }
}

impl Drop for Locations {
    fn drop(&mut self) {
        end(&mut self.process, self.stdin.take());
    }
}

/// Lets the process end by itself, with its own children, and kills it if it does not.
fn end(process: &mut Child, stdin: Option<ChildStdin>) {
    drop(stdin);
    let deadline = Instant::now() + ENDS_WITHIN;
    while Instant::now() < deadline {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _: io::Result<()> = process.kill();
    let _ = process.wait();
}

/// Needs the Worker's tools that `make setup` fetches.
const PROGRAM: &str = "cloudflare/demo/locations.mjs";
const ENDS_WITHIN: Duration = Duration::from_secs(5);
