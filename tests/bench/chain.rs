//! How long a request takes if its first upstream fails, compared with the sum of its attempts alone.
//!
//! `make bench` runs it. One Envoy serves one request at a time, alternating: to the upstream that fails, to the one
//! that serves, and along the route that has both, without a wait between attempts. It prints medians and 99th
//! percentiles, and the ratio of the route to the sum of the other two.

#![allow(clippy::disallowed_methods, reason = "a benchmark needs the real clock")]
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../../src/bin/tidegate/demo/bootstrap.rs"]
mod bootstrap;
#[path = "../../src/bin/tidegate/demo/envoy.rs"]
mod envoy;

use bootstrap::Bootstrap;
use envoy::{Envoy, Options};
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Three routes: one to each upstream alone, and one along both.
const POLICY: &str = r#"{
    "version": 1,
    "upstreams": { "fails": { "cluster": "fails" }, "serves": { "cluster": "serves" } },
    "routes": [
        { "name": "fails", "match": { "path": "/fails" }, "upstreams": ["fails"] },
        { "name": "serves", "match": { "path": "/serves" }, "upstreams": ["serves"] },
        { "name": "both", "match": { "path": "/both" }, "upstreams": ["fails", "serves"],
          "fallback": { "on": ["5xx"], "budget_percent": 100, "backoff": { "initial": "0s", "max": "0s" } } }
    ]
}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let requests = if smoke { 50 } else { REQUESTS };
    let (fails, serves) = (upstream("503 Busy")?, upstream("200 OK")?);
    let bootstrap = Bootstrap::shipped()?.wasm(Path::new("dist/envoy/tidegate.wasm"))?.policy(POLICY)?;
    let bootstrap =
        bootstrap.set(ACCESS_LOG, json!([]))?.with_cluster("fails", fails)?.with_cluster("serves", serves)?;
    let options = Options { concurrency: 1, log_level: "error".to_owned(), ..Options::new(bootstrap.text()) };
    let envoy = Envoy::start(options).await?;
    let mut connection = BufReader::new(TcpStream::connect(envoy.listener("http")?)?);
    connection.get_ref().set_nodelay(true)?;
    let ways = [("fails", "503"), ("serves", "200"), ("both", "200")];
    let mut taken = [const { Vec::new() }; 3];
    for request in 0..requests + WARM_UP {
        for ((path, status), taken) in ways.iter().zip(&mut taken) {
            let began = Instant::now();
            ask(&mut connection, path, status)?;
            if request >= WARM_UP {
                taken.push(began.elapsed());
            }
        }
    }
    let [fails, serves, both] = taken.map(|mut taken| {
        taken.sort_unstable();
        (at(&taken, 50), at(&taken, 99))
    });
    println!("a request whose first upstream fails, {requests} of them, in us");
    println!("{:<36}{:>10}{:>10}", "", "median", "p99");
    for (name, (median, p99)) in
        [("the first alone, which fails", fails), ("the second alone", serves), ("along both", both)]
    {
        println!("{name:<36}{median:>10.0}{p99:>10.0}");
    }
    let ratio = |both: f64, fails: f64, serves: f64| both / (fails + serves);
    let (median, p99) = (ratio(both.0, fails.0, serves.0), ratio(both.1, fails.1, serves.1));
    println!("{:<36}{median:>10.2}{p99:>10.2}", "ratio to the sum of the two");
    Ok(())
}

fn at(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_secs_f64() * 1e6
}

fn ask(connection: &mut BufReader<TcpStream>, path: &str, status: &str) -> io::Result<()> {
    connection.get_mut().write_all(format!("GET /{path} HTTP/1.1\r\nhost: bench.example\r\n\r\n").as_bytes())?;
    let head = read_head(connection)?;
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    connection.read_exact(&mut [0; BODY.len()])
}

/// A server that answers every request with this status.
fn upstream(status: &'static str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(BufReader::new(stream), status));
        }
    });
    Ok(address)
}

fn serve(mut connection: BufReader<TcpStream>, status: &str) -> io::Result<()> {
    connection.get_ref().set_nodelay(true)?;
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
    while !read_head(&mut connection)?.is_empty() {
        connection.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// The lines up to the empty one; empty at the end of the connection.
fn read_head(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while connection.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

const ACCESS_LOG: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log";
const BODY: &str = "ok";
const WARM_UP: usize = 100;
const REQUESTS: usize = 5_000;
