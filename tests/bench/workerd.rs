//! The CPU time of a request in workerd with Tidegate before a handler, compared with the handler alone and with a
//! limiter in JavaScript; for a limit that isolates share, compared with a plain Durable Object. Also the size of the
//! Workers, and the time to their first response.
//!
//! `make bench` runs it. Each contender is a workerd of its own, on one core if `taskset` is available. They alternate
//! in many short rounds. The results are medians over the rounds: of each contender's CPU time, as the kernel counts
//! it, and of its ratio to its peer in the same round.
//!
//! `cargo bench --features cli --bench workerd -- address` measures only contenders with one of these words in their
//! names, and their peers.

#![allow(clippy::disallowed_methods, reason = "a benchmark needs the real clock")]
#![allow(missing_docs, reason = "a program, not a library")]

mod load;
#[path = "workerd/process.rs"]
mod process;

use load::{Load, cpu_us, quantile};
use process::Workerd;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A Worker that answers every request with the same bytes, after what it measures.
struct Contender {
    name: &'static str,
    /// The contender that its ratio refers to.
    peer: &'static str,
    worker: Worker,
    /// Whether it has a Durable Object.
    has_object: bool,
}

enum Worker {
    /// This file, and the files that it imports.
    Script(&'static str),
    /// The shipped Worker with this policy, before a handler.
    Tidegate(&'static str),
}

/// Limits too high to refuse anything, so that all contenders carry the same requests.
const LIMIT: &str = r#"{"version":1,"limits":[{"name":"api","quota":{"permits":100000000,"window":"60s"}}]}"#;
const SILENT: &str = r#"{"version":1,"response":{"ratelimit":false},
    "limits":[{"name":"api","quota":{"permits":100000000,"window":"60s"}}]}"#;
const NONE: &str = r#"{"version":1}"#;
/// Requests that the object does not count are refused, so the responses show that it was measured.
const LEASED: &str = r#"{"version":1,"stores":{"deadline":"1s"},"response":{"ratelimit":false},
    "limits":[{"name":"api","scope":"global","on_store_failure":"deny","quota":{"permits":100000000,"window":"60s"}}]}"#;
const EXACT: &str = r#"{"version":1,"stores":{"deadline":"1s"},"response":{"ratelimit":false},
    "limits":[{"name":"api","scope":"global","on_store_failure":"deny","sharing":"exact","quota":{"permits":100000000,"window":"60s"}}]}"#;

const OK: &str = "a handler that answers ok";
const FLEXIBLE: &str = "rate-limiter-flexible, address";
const FLEXIBLE_TOLD: &str = "the same, its state in headers";
const COUNTER: &str = "an object that counts in memory";

fn contenders() -> Vec<Contender> {
    use Worker::{Script, Tidegate};
    let one = |name, peer, worker, has_object| Contender { name, peer, worker, has_object };
    vec![
        one(OK, OK, Script("ok.mjs"), false),
        one(FLEXIBLE, FLEXIBLE, Script("flexible.mjs"), false),
        one(FLEXIBLE_TOLD, FLEXIBLE_TOLD, Script("flexible-told.mjs"), false),
        one("Tidegate, no limit", OK, Tidegate(NONE), false),
        one("Tidegate, address, silent", FLEXIBLE, Tidegate(SILENT), false),
        one("Tidegate, address, RateLimit", FLEXIBLE_TOLD, Tidegate(LIMIT), false),
        one("Tidegate, address, with its object", FLEXIBLE, Tidegate(SILENT), true),
        one(COUNTER, COUNTER, Script("counter.mjs"), true),
        one("an object that stores its counts", COUNTER, Script("counter-stored.mjs"), true),
        one("Tidegate, shared, exact", COUNTER, Tidegate(EXACT), true),
        one("Tidegate, shared, leases", COUNTER, Tidegate(LEASED), true),
    ]
}

/// A running contender, and its measurements.
struct Running {
    contender: Contender,
    workerd: Workerd,
    cpu_us: Vec<f64>,
    first_answer_ms: Vec<f64>,
    directory: TempDir,
}

fn main() -> io::Result<()> {
    let (options, wanted): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|it| it.starts_with("--"));
    let smoke = !options.iter().any(|option| option == "--bench");
    let (rounds, requests, starts) = if smoke { (1, 200, 1) } else { (ROUNDS, REQUESTS, STARTS) };
    let mut running: Vec<Running> = chosen(&wanted).into_iter().map(Running::start).collect::<io::Result<_>>()?;
    for _ in 1..starts {
        running.iter_mut().try_for_each(Running::start_again)?;
    }
    for one in &running {
        // Warms up until its code is fully optimised.
        one.load(if smoke { 0 } else { WARM_UP })?;
    }
    for _ in 0..rounds {
        for one in &mut running {
            one.measure(requests)?;
        }
    }
    println!("CPU of workerd in us per request, medians of {rounds} rounds of {requests} requests");
    println!("first answer in ms from the start of the process, medians of {starts}; modules in bytes, compressed");
    let columns = ["CPU", "decile", "ratio", "to", "first", "modules"];
    println!("{:<39}{}", "", columns.map(|column| format!("{column:>9}")).concat());
    for (at, one) in running.iter().enumerate() {
        one.tell(at + 1, &running)?;
    }
    Ok(())
}

/// The contenders with one of the words in their names, and their peers; all if there are no words.
fn chosen(words: &[String]) -> Vec<Contender> {
    let is_wanted = |it: &Contender| words.is_empty() || words.iter().any(|word| it.name.contains(word));
    let peers: Vec<_> = contenders().iter().filter(|it| is_wanted(it)).map(|it| it.peer).collect();
    contenders().into_iter().filter(|it| is_wanted(it) || peers.contains(&it.name)).collect()
}

impl Running {
    fn start(contender: Contender) -> io::Result<Self> {
        // In memory if possible, because CPU time does not include the disk.
        let place =
            Some(Path::new("/dev/shm")).filter(|it| it.is_dir()).map_or_else(std::env::temp_dir, Path::to_path_buf);
        let directory = TempDir::with_prefix_in("tidegate-workerd-", place)?;
        lay_out(&contender.worker, directory.path())?;
        let workerd = contender.workerd(directory.path())?;
        let first_answer_ms = vec![workerd.first_answer.as_secs_f64() * 1_000.0];
        Ok(Self { contender, workerd, cpu_us: Vec::new(), first_answer_ms, directory })
    }

    fn start_again(&mut self) -> io::Result<()> {
        let again = self.contender.workerd(self.directory.path())?;
        self.first_answer_ms.push(again.first_answer.as_secs_f64() * 1_000.0);
        Ok(())
    }

    /// Warmed-up connections, new for each round: workerd closes those that were idle for 5 s.
    fn load(&self, requests: usize) -> io::Result<Load> {
        let mut load = Load::open(self.workerd.address, "cf-connecting-ip")?;
        load.run(requests)?;
        Ok(load)
    }

    fn measure(&mut self, requests: usize) -> io::Result<()> {
        // Brings its memory back into the processor's caches before measuring.
        let mut load = self.load(requests / 4)?;
        let before = cpu_us(self.workerd.pid())?;
        load.run(requests)?;
        self.cpu_us.push((cpu_us(self.workerd.pid())? - before) / requests as f64);
        Ok(())
    }

    fn tell(&self, number: usize, all: &[Self]) -> io::Result<()> {
        let (at, peer) = all
            .iter()
            .zip(1..)
            .find_map(|(it, at)| (it.contender.name == self.contender.peer).then_some((at, it)))
            .unwrap_or((number, self));
        let ratios: Vec<f64> = self.cpu_us.iter().zip(&peer.cpu_us).map(|(own, peers)| own / peers).collect();
        println!(
            "{number:>2} {:<36}{:>9.2}{:>9.2}{:>9.3}{at:>9}{:>9.0}{:>9}",
            self.contender.name,
            quantile(&self.cpu_us, 0.5),
            quantile(&self.cpu_us, 0.1),
            quantile(&ratios, 0.5),
            quantile(&self.first_answer_ms, 0.5),
            compressed(self.directory.path())?,
        );
        Ok(())
    }
}

impl Contender {
    fn workerd(&self, directory: &Path) -> io::Result<Workerd> {
        let (main, object) = match self.worker {
            Worker::Script(_) => ("worker.mjs", ("Authority", "AUTHORITY")),
            Worker::Tidegate(_) => ("tidegate.mjs", ("TidegateAuthority", "TIDEGATE_AUTHORITY")),
        };
        Workerd::start(directory, main, self.has_object.then_some(object))
    }
}

/// Writes a Worker's modules into a directory.
fn lay_out(worker: &Worker, directory: &Path) -> io::Result<()> {
    match worker {
        Worker::Script(script) => {
            let out = format!("--outfile={}", directory.join("worker.mjs").display());
            let bundled = Command::new("cloudflare/node_modules/.bin/esbuild")
                .args(["--bundle", "--minify", "--format=esm", "--external:cloudflare:workers", "--log-level=error"])
                .arg(format!("{SCRIPTS}/{script}"))
                .arg(out)
                // The directory of rate-limiter-flexible.
                .env("NODE_PATH", "cloudflare/node_modules")
                .status()?;
            if bundled.success() { Ok(()) } else { Err(io::Error::other(format!("{script} cannot be bundled"))) }
        }
        Worker::Tidegate(policy) => {
            fs::create_dir(directory.join("pkg"))?;
            // The check that wrangler runs before a deployment is not part of the Worker.
            for name in process::modules(Path::new(SHIPPED))?.iter().filter(|name| !name.starts_with("deploy/")) {
                fs::copy(Path::new(SHIPPED).join(name), directory.join(name))?;
            }
            fs::write(directory.join("policy.json"), policy)?;
            fs::copy(format!("{SCRIPTS}/tidegate.mjs"), directory.join("tidegate.mjs"))?;
            Ok(())
        }
    }
}

/// The size of a Worker's modules in bytes, compressed as Cloudflare counts them.
fn compressed(directory: &Path) -> io::Result<usize> {
    let mut gzip = Command::new("gzip").arg("-9").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut all = Vec::new();
    for name in process::modules(directory)? {
        all.extend(fs::read(directory.join(name))?);
    }
    // In a thread, because gzip writes output before it has read all input.
    let mut stdin = gzip.stdin.take().ok_or_else(|| io::Error::other("gzip has no input"))?;
    let writing = std::thread::spawn(move || stdin.write_all(&all));
    let size = gzip.wait_with_output()?.stdout.len();
    writing.join().map_err(|_| io::Error::other("gzip was not fed"))??;
    Ok(size)
}

const SCRIPTS: &str = "tests/bench/workerd";
const SHIPPED: &str = "dist/cloudflare";
/// Many short rounds spread disturbances over all contenders alike.
const ROUNDS: usize = 30;
const REQUESTS: usize = 2_000;
const WARM_UP: usize = 10_000;
const STARTS: usize = 7;
