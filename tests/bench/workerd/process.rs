//! workerd as a child process, with one Worker made of modules on disk, on one core if that can be set.

#[path = "../../../src/bin/tidegate/demo/guarded_child.rs"]
mod guarded_child;

use super::load::{BODY, read_head};
use guarded_child::GuardedChild;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A running workerd. Dropping it kills the process.
pub struct Workerd {
    process: GuardedChild,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The time from its start to the end of its first response.
    pub first_answer: Duration,
}

impl Workerd {
    /// Starts workerd with the modules of a directory, and sends one request. `object` is the class of its Durable
    /// Object, and the binding.
    pub fn start(directory: &Path, main: &str, object: Option<(&str, &str)>) -> io::Result<Self> {
        fs::write(directory.join("config.capnp"), config(directory, main, object)?)?;
        let ports = directory.join("ports");
        let mut command = Command::new("/bin/sh");
        // The binary itself: the package's wrapper would be one more process to measure.
        let pinned = "if command -v taskset >/dev/null; then exec taskset -c \"$1\" \"$2\" serve \"$3\" --control-fd=1; \
            else exec \"$2\" serve \"$3\" --control-fd=1; fi";
        let program = Path::new(PROGRAM);
        if !program.is_file() {
            return Err(io::Error::other(format!("no workerd at {PROGRAM}: run `make setup`")));
        }
        command.args(["-c", pinned, "workerd", &core()?]).arg(program.canonicalize()?);
        command.arg(directory.join("config.capnp")).stdout(File::create(&ports)?).stderr(Stdio::inherit());
        let began = Instant::now();
        let mut process = GuardedChild::spawn(&mut command)?;
        let address = loop {
            if let Some(how) = process.exited()? {
                return Err(io::Error::other(format!("workerd did not start: {how}")));
            }
            if let Some(port) = port(&fs::read_to_string(&ports)?) {
                break SocketAddr::from(([127, 0, 0, 1], port));
            }
            if began.elapsed() > STARTS_WITHIN {
                return Err(io::Error::other(format!("workerd was not ready within {} s", STARTS_WITHIN.as_secs())));
            }
            std::thread::sleep(POLL);
        };
        ask(address)?;
        Ok(Self { process, address, first_answer: began.elapsed() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

/// Sends one request and checks the response.
fn ask(address: SocketAddr) -> io::Result<()> {
    let mut connection = BufReader::new(TcpStream::connect(address)?);
    let request = "GET /api/x HTTP/1.1\r\nhost: bench.example\r\ncf-connecting-ip: 10.1.0.0\r\n\r\n";
    connection.get_mut().write_all(request.as_bytes())?;
    // workerd does not close a connection at once, even if told to.
    let head = read_head(&mut connection)?;
    connection.read_exact(&mut [0; BODY.len()])?;
    if head.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(head)) }
}

/// The port, which workerd prints as a line of JSON among the Worker's log.
fn port(told: &str) -> Option<u16> {
    let line = told.lines().find(|line| line.contains(r#""event":"listen""#))?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    line.get("port")?.as_u64()?.try_into().ok()
}

/// The last core that this process may use. The load generator has the others.
fn core() -> io::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
    Ok(list.rsplit([',', '-', '\t']).next().unwrap_or("0").to_owned())
}

fn config(directory: &Path, main: &str, object: Option<(&str, &str)>) -> io::Result<String> {
    // The first module is the Worker; it imports the others.
    let mut names = vec![main.to_owned()];
    names.extend(modules(directory)?.into_iter().filter(|name| name != main));
    let modules: Vec<_> = names
        .iter()
        .map(|name| {
            let kind = match name.rsplit_once('.') {
                Some((_, "wasm")) => "wasm",
                Some((_, "json")) => "json",
                _ => "esModule",
            };
            format!(r#"(name = "{name}", {kind} = embed "{name}")"#)
        })
        .collect();
    let object = object.map_or(String::new(), |(class, binding)| {
        format!(
            r#"durableObjectNamespaces = [(className = "{class}", uniqueKey = "bench", enableSql = true)],
               durableObjectStorage = (localDisk = "disk"),
               bindings = [(name = "{binding}", durableObjectNamespace = "{class}")],"#
        )
    });
    // SQL storage needs a directory on disk.
    let disk = tempfile::TempDir::new_in(directory)?.keep();
    let disk = disk.display();
    Ok(format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
           const config :Workerd.Config = (
               services = [(name = "main", worker = .main), (name = "disk", disk = (path = "{disk}", writable = true))],
               sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
           );
           const main :Workerd.Worker = (
               compatibilityDate = "2026-04-01", compatibilityFlags = ["enable_request_signal"], {object}
               modules = [{}],
           );"#,
        modules.join(", ")
    ))
}

/// The modules of a directory and its subdirectories, by relative path.
pub fn modules(directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_dir() {
            found.extend(modules(&path)?.into_iter().map(|inner| format!("{name}/{inner}")));
        } else if [".mjs", ".js", ".json", ".wasm"].iter().any(|end| name.ends_with(end)) {
            found.push(name.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Relative to the root of the repository.
const PROGRAM: &str = "cloudflare/node_modules/@cloudflare/workerd-linux-64/bin/workerd";
const STARTS_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_micros(500);
