//! The CPU time that the filter adds to a request in plain Envoy, compared with a wasm filter that does nothing, one
//! that makes only Tidegate's calls to the host, and Envoy's own per-client limit in C++.
//!
//! `make bench` runs it. Each contender is an Envoy of its own with one worker. They alternate in many short rounds.
//! The results are the median over the rounds, and the decile of those that were disturbed the least. CPU time is that
//! of the process, as the kernel counts it, without load generator and upstream. Still, run it on a machine that does
//! little else.
//!
//! `cargo bench --features cli --bench filter -- route` measures only contenders with one of these words in their
//! names, and the first two.

#![allow(clippy::disallowed_methods, reason = "a benchmark needs the real clock")]
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../../src/bin/tidegate/demo/bootstrap.rs"]
mod bootstrap;
#[path = "../../src/bin/tidegate/demo/envoy.rs"]
mod envoy;
mod load;

use bootstrap::Bootstrap;
use envoy::{Envoy, Options};
use load::{BODY, Load, cpu_us, quantile, read_head};
use serde_json::{Value, json};
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

/// A limit per client address, too high to refuse anything, so that all contenders carry the same requests.
const POLICY: &str = r#"{"version":1,"limits":[{"name":"api","quota":{"permits":100000000,"window":"60s"}}]}"#;

/// A route for all requests along an upstream with a breaker, and another route.
const ROUTED: &str = concat!(
    r#""breakers":{"default":{"window":{"time":"10s"}}},"#,
    r#""upstreams":{"origin":{"cluster":"origin","breaker":"default"},"other":{"cluster":"origin"}},"#,
    r#""routes":[{"name":"all","upstreams":["origin","other"]$ROUTE}],"#,
);

fn contenders(upstream: SocketAddr) -> Result<Vec<(&'static str, Bootstrap)>, Box<dyn std::error::Error>> {
    let shipped = Bootstrap::shipped()?.upstream(upstream)?.set(ACCESS_LOG, json!([]))?;
    let ours = shipped.clone().wasm(Path::new("dist/envoy/tidegate.wasm"))?.policy(POLICY)?;
    // Every request has another address in this header. The other policies never read it.
    let many = POLICY.replacen('{', r#"{"client":{"address":{"header":"x-forwarded-for","trusted_hops":2}},"#, 1);
    let routed = |route: &str| POLICY.replacen('{', &format!("{{{}", ROUTED.replace("$ROUTE", route)), 1);
    let (route, again) = (routed(""), routed(r#","fallback":{"on":["connect","timeout","reset","5xx"]}"#));
    let unwatched = route.replace(r#","breaker":"default""#, "");
    let silent = POLICY.replacen('{', r#"{"response":{"ratelimit":false},"#, 1);
    let calls = |words: &str| shipped.clone().wasm(Path::new(CALLS))?.policy(words);
    Ok(vec![
        ("plain Envoy", shipped.clone().without_filter()?),
        ("wasm, does nothing", shipped.clone().wasm(Path::new(NOTHING))?),
        ("wasm, Tidegate's calls alone", calls("")?),
        ("the calls, no RateLimit fields", calls("silent")?),
        ("the calls, no address", calls("unaddressed")?),
        ("the calls, a route", calls("routed")?),
        ("Envoy's local_ratelimit", shipped.clone().set(FILTER, local_ratelimit())?),
        ("Tidegate", ours.clone()),
        ("Tidegate, no RateLimit fields", ours.clone().policy(&silent)?),
        ("Tidegate, a thousand addresses", ours.clone().policy(&many)?),
        ("Tidegate, a route", ours.clone().policy(&unwatched)?),
        ("Tidegate, a route and its breaker", ours.clone().policy(&route)?),
        ("Tidegate, further tries as well", ours.policy(&again)?),
    ])
}

/// Envoy's own limit in C++: one token bucket per client address, created on demand.
fn local_ratelimit() -> Value {
    let bucket = json!({ "max_tokens": 100_000_000, "tokens_per_fill": 100_000_000, "fill_interval": "60s" });
    let all = json!({ "numerator": 100, "denominator": "HUNDRED" });
    json!({ "name": "envoy.filters.http.local_ratelimit", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "local",
        "token_bucket": bucket,
        "filter_enabled": { "default_value": all },
        "filter_enforced": { "default_value": all },
        "max_dynamic_descriptors": 1_000,
        "rate_limits": [{ "actions": [{ "remote_address": {} }] }],
        "descriptors": [{ "entries": [{ "key": "remote_address" }], "token_bucket": bucket }],
    } })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (options, wanted): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|it| it.starts_with("--"));
    let smoke = !options.iter().any(|option| option == "--bench");
    let (rounds, requests) = if smoke { (1, 200) } else { (ROUNDS, REQUESTS) };
    let mut running = Vec::new();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word));
    for (at, (name, bootstrap)) in contenders(upstream()?)?.into_iter().enumerate() {
        if at > 1 && !is_wanted(name) {
            continue;
        }
        let options = Options { concurrency: 1, log_level: "error".to_owned(), ..Options::new(bootstrap.text()) };
        let envoy = Envoy::start(options).await?;
        let mut load = Load::open(envoy.listener("http")?, "x-forwarded-for")?;
        load.run(requests / 4)?;
        running.push((name, envoy, load, Vec::new()));
    }
    for _ in 0..rounds {
        for (_, envoy, load, costs) in &mut running {
            // Brings its memory back into the processor's caches before measuring.
            load.run(requests / 4)?;
            let before = cpu_us(envoy.pid())?;
            load.run(requests)?;
            costs.push((cpu_us(envoy.pid())? - before) / requests as f64);
        }
    }
    println!("CPU of one Envoy worker in us per request, {rounds} rounds of {requests} requests");
    let columns = ["median", "added", "ratio", "decile", "added", "ratio"];
    println!("{:<32}{}", "", columns.map(|column| format!("{column:>10}")).concat());
    let base = [0.5, 0.1].map(|share| (quantile(&running[0].3, share), quantile(&running[1].3, share)));
    for (name, _, _, costs) in &running {
        let columns = [0.5, 0.1].iter().zip(base).map(|(share, (plain, nothing))| {
            let cost = quantile(costs, *share);
            format!("{cost:>10.2}{:>10.2}{:>10.2}", cost - plain, (cost - plain) / (nothing - plain))
        });
        println!("{name:<32}{}", columns.collect::<String>());
    }
    Ok(())
}

/// A server that answers every request with the same bytes, as cheaply as possible.
fn upstream() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(BufReader::new(stream)));
        }
    });
    Ok(address)
}

fn serve(mut connection: BufReader<TcpStream>) -> io::Result<()> {
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
    while !read_head(&mut connection)?.is_empty() {
        connection.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

const FILTER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0";
const ACCESS_LOG: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log";
const NOTHING: &str = "target/bench/nothing.wasm";
const CALLS: &str = "target/bench/calls.wasm";
/// Many short rounds spread disturbances over all contenders alike.
const ROUNDS: usize = 60;
const REQUESTS: usize = 2_000;
