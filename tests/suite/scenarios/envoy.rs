//! The scenarios in the real Envoy: each has its own listener and VM, and the filter's clock is set by requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet};

use super::document::{Decision, Does, START_MS, Scenario, Step};
use super::native::service::PERMITS;
use super::origin::Origin;
use super::random::shares;
use super::seen::{Report, Seen};
use crate::bootstrap::Bootstrap;
use crate::envoy::{Envoy, Error, Options};
use crate::filter::client::{Answer, Connection, Request};
use crate::filter::stage::eventually;
use crate::filter::test_build::WITH_TEST_CLOCK;
use crate::redis::process::{RedisServer, Webdis};
use crate::rls::service::Does::Counts;
use crate::rls::service::Service;
use crate::rls::stage::service_at;

/// Runs all scenarios; returns the complaints.
pub async fn run(scenarios: &[Arc<Scenario>]) -> Vec<String> {
    failing(scenarios).await.into_iter().map(|(_, complaint)| complaint).collect()
}

/// Runs all scenarios; returns the names of those that fail, each with its complaint.
pub async fn failing(scenarios: &[Arc<Scenario>]) -> Vec<(String, String)> {
    let wasm = tokio::task::spawn_blocking(|| WITH_TEST_CLOCK.as_path()).await.unwrap();
    let mut complaints = Vec::new();
    for scenarios in scenarios.chunks(AT_ONCE) {
        complaints.extend(run_at_once(scenarios, wasm).await);
    }
    complaints
}

/// Runs these scenarios in one Envoy. If it does not start, finds the scenarios that it refuses.
async fn run_at_once(scenarios: &[Arc<Scenario>], wasm: &Path) -> Vec<(String, String)> {
    match run_together(scenarios, wasm).await {
        Ok(complaints) => complaints,
        Err(error) if scenarios.len() == 1 => {
            let name = scenarios[0].name.clone();
            vec![(name.clone(), format!("\n  tests/scenarios/{name}.json on envoy: {error}"))]
        }
        Err(_) => {
            let (some, others) = scenarios.split_at(scenarios.len() / 2);
            let mut complaints = Box::pin(run_at_once(some, wasm)).await;
            complaints.extend(Box::pin(run_at_once(others, wasm)).await);
            complaints
        }
    }
}

/// Runs these scenarios in one Envoy.
///
/// # Errors
/// Why Envoy does not start.
async fn run_together(scenarios: &[Arc<Scenario>], wasm: &Path) -> Result<Vec<(String, String)>, Error> {
    let origin = Arc::new(Origin::start(scenarios).await);
    let redis = RedisServer::start(&[]);
    let webdis = Webdis::start(redis.addr(), None).unwrap();
    let service = Service::start(Counts(PERMITS)).await;
    let bootstrap = bootstrap(scenarios, wasm, &origin, (webdis.addr(), service.addr));
    let options = Options { concurrency: 1, ..Options::new(bootstrap.text()) };
    let envoy = Envoy::start(options).await?;
    let playing = LocalSet::new();
    let mut played = Vec::new();
    for scenario in scenarios {
        let (scenario, origin) = (Arc::clone(scenario), Arc::clone(&origin));
        let to = envoy.listener(&scenario.name).unwrap();
        played.push(playing.spawn_local(async move { play(&scenario, &origin, to).await }));
    }
    playing.await;
    let mut complaints = Vec::new();
    for (scenario, played) in scenarios.iter().zip(played) {
        complaints.extend(played.await.unwrap().map(|complaint| (scenario.name.clone(), complaint)));
    }
    // Otherwise each instance could have counted by itself and given the same responses.
    let keys: usize = redis::cmd("DBSIZE").query(&mut redis.connect()).unwrap();
    let has_store = scenarios.iter().any(|scenario| scenario.policy.pointer("/stores/redis").is_some());
    let shares = scenarios.iter().any(|scenario| shares(&scenario.policy));
    assert!(if keys > 0 { has_store } else { !shares }, "{keys} keys in Redis");
    let log = envoy.log();
    assert!(!log.contains("panicked") && !log.contains("Uncaught RuntimeError"), "{log}");
    Ok(complaints)
}

/// The shipped bootstrap with a listener for each scenario, and Redis and the rate-limit service at these addresses.
fn bootstrap(
    scenarios: &[Arc<Scenario>],
    wasm: &Path,
    origin: &Origin,
    (redis, service): (SocketAddr, SocketAddr),
) -> Bootstrap {
    let clusters = ["cdn", "spare"].map(|name| (name, origin.address(name)));
    let shipped = Bootstrap::shipped().unwrap().wasm(wasm).unwrap().upstream(origin.address("origin")).unwrap();
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let shipped = shipped
        .set(&format!("{manager}/use_remote_address"), json!(false))
        .unwrap()
        // The client's address has its own header, apart from those that the client sends.
        .insert(manager, "original_ip_detection_extensions", json!([{
            "name": "client",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
                "header_name": CLIENT,
                "allow_extension_to_set_address_as_trusted": true,
            },
        }]))
        .unwrap()
        // Why the filter has responded, as in the access log.
        .insert(manager, "local_reply_config", json!({ "mappers": [{
            "filter": { "status_code_filter": { "comparison": { "op": "GE", "value": { "default_value": 0, "runtime_key": "none" } } } },
            "headers_to_add": [{ "header": { "key": REASON, "value": "%RESPONSE_CODE_DETAILS%" } }],
        }] }))
        .unwrap();
    let shipped = service_at(shipped, service);
    let all = clusters.into_iter().chain([("nowhere", origin.address("nowhere")), ("redis", redis)]);
    let mut bootstrap = all.fold(shipped, |bootstrap, (name, address)| bootstrap.with_cluster(name, address).unwrap());
    let mut listeners = Vec::new();
    for scenario in scenarios {
        let one = bootstrap.policy(&scenario.policy.to_string()).unwrap();
        bootstrap = one;
        let mut listener = bootstrap.listener().unwrap();
        listener["name"] = json!(scenario.name);
        let filter = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/vm_config/vm_id";
        *listener.pointer_mut(filter).unwrap() = json!(scenario.name);
        listeners.push(listener);
    }
    bootstrap.set("/static_resources/listeners", Value::Array(listeners)).unwrap()
}

/// A running scenario.
struct Stage<'s> {
    scenario: &'s Scenario,
    origin: &'s Origin,
    to: SocketAddr,
    report: Report<'s>,
    does: BTreeMap<String, Does>,
    /// How many requests the filter must have seen.
    sent: u64,
    flights: Vec<Flight>,
}

/// A request that is waiting for its response while the scenario goes on.
struct Flight {
    number: usize,
    id: String,
    is_last: bool,
    sent_ms: u64,
    /// Whether it is refused in the end, to make room for a request that arrives at that time.
    is_refused: bool,
    /// When its response is due; `None` if an upstream holds it back.
    due_ms: Option<u64>,
    held: Option<String>,
    /// The random draw of its step.
    draw: u64,
    answer: JoinHandle<Answer>,
}

async fn play(scenario: &Scenario, origin: &Origin, to: SocketAddr) -> Option<String> {
    let report = Report::new(scenario, "envoy");
    let does = scenario.upstreams.clone();
    let mut stage = Stage { scenario, origin, to, report, does, sent: 0, flights: Vec::new() };
    for (number, step) in scenario.numbered() {
        stage.advance(step.at).await;
        stage.does.extend(step.upstreams.clone());
        origin.set(&scenario.name, &stage.does);
        if let Some(name) = &step.ends {
            // All effects of the response use the draw of its request.
            let held = |flight: &&Flight| flight.held.as_ref() == Some(name) && flight.draw > 0;
            if let Some(draw) = stage.flights.iter().find(held).map(|flight| flight.draw) {
                stage.ask(step.at, draw).await;
            }
            origin.end(&scenario.name, name);
            stage.take(step.at, |flight| flight.held.as_ref() == Some(name)).await;
        }
        if step.send.is_some() {
            for left in (0..step.times).rev() {
                stage.request(number, step, left == 0).await;
            }
        }
        if scenario.steps.get(number).is_none_or(|next| next.at != step.at) {
            stage.take(step.at, |flight| flight.due_ms == Some(step.at)).await;
        }
    }
    stage.advance(u64::MAX).await;
    stage.report.complaint()
}

impl Stage<'_> {
    /// Moves the clock, and collects the responses that become due on the way.
    async fn advance(&mut self, to_ms: u64) {
        let due = |flight: &Flight| flight.due_ms.filter(|due| *due < to_ms || (*due == to_ms && !flight.is_refused));
        while let Some((due, draw)) = self.flights.iter().filter_map(|flight| Some((due(flight)?, flight.draw))).min() {
            self.ask(due - 1, draw).await;
            // Time for a response that comes too early: the root context ticks every 20 ms.
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.take(due - 1, |flight| flight.answer.is_finished()).await;
            self.ask(due, draw).await;
            self.take(due, |flight| flight.due_ms == Some(due)).await;
        }
        if to_ms < u64::MAX {
            self.ask(to_ms, 0).await;
            self.take(to_ms, |flight| flight.answer.is_finished()).await;
        }
    }

    /// Sets the clock and the random draw, and waits until the filter has seen all requests and has done what is due.
    async fn ask(&self, now_ms: u64, draw: u64) {
        let now = (START_MS + now_ms).to_string();
        let draw = draw.to_string();
        let request = Request::get("/").with("x-tidegate-test-now", &now).with("x-tidegate-test-draw", &draw);
        let request = request.with("x-tidegate-test-asks", "1");
        let mut connection = Connection::open(self.to).await.unwrap();
        let mut told = (0, 0);
        eventually("the filter has come so far", async || {
            let answer = connection.send(&request).await.unwrap();
            let number = |name| answer.header(name).parse::<u64>().unwrap_or_else(|_| panic!("{answer:?}"));
            told = (number("x-tidegate-test-seen"), number("x-tidegate-test-ticked"));
            told.0 >= self.sent && told.1 == START_MS + now_ms
        })
        .await;
    }

    async fn request(&mut self, number: usize, step: &Step, is_last: bool) {
        self.sent += 1;
        let id = format!("{}/{}", self.scenario.name, self.sent);
        let request = request(step, &id);
        let to = self.to;
        let answer = tokio::spawn(async move {
            Connection::open(to)
                .await
                .unwrap()
                .send(&request)
                .await
                .unwrap_or_else(|error| panic!("{error}: {request:?}"))
        });
        let expected = self.scenario.expected("envoy", number).expect("what is sent is expected to come to something");
        let after = expected.after;
        let flight = Flight {
            number,
            id: id.clone(),
            is_last,
            sent_ms: step.at,
            is_refused: expected.decision == Decision::Refused,
            due_ms: after.map(|after| step.at + after),
            held: step.holds.clone(),
            draw: step.draw(),
            answer,
        };
        if after.is_some() {
            self.flights.push(flight);
            self.ask(step.at, step.draw()).await;
        } else if step.holds.is_some() {
            self.flights.push(flight);
            let origin = self.origin;
            let flight = self.flights.last().unwrap();
            eventually("it is held", async || origin.holds(&id) || flight.answer.is_finished()).await;
            self.take(step.at, |flight| flight.answer.is_finished()).await;
        } else {
            self.finish(flight, step.at).await;
        }
    }

    /// Collects the responses of the requests in flight that `which` selects. These are there, or come at once.
    async fn take(&mut self, now_ms: u64, which: impl Fn(&Flight) -> bool) {
        while let Some(at) = self.flights.iter().position(&which) {
            let flight = self.flights.remove(at);
            self.finish(flight, now_ms).await;
        }
    }

    async fn finish(&mut self, flight: Flight, now_ms: u64) {
        let Flight { number, id, is_last, sent_ms, due_ms, answer, .. } = flight;
        let answer = match tokio::time::timeout(Duration::from_secs(10), answer).await {
            Ok(answer) => answer.unwrap(),
            Err(_) => return self.report.wrong(number, "there was no answer within 10 s"),
        };
        let reason = Some(answer.header(REASON)).filter(|it| it.starts_with("tidegate_") && it != "tidegate_fallback");
        let mut seen = Seen {
            status: answer.status,
            reason,
            // The time that an upstream holds a response back is not a wait of the filter.
            after_ms: if due_ms.is_some() { now_ms.saturating_sub(sent_ms) } else { 0 },
            asked: self.origin.asked(&id),
            body: answer.text(),
            fields: BTreeMap::new(),
        };
        seen.keep(answer.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("no text"))));
        if is_last {
            self.report.step(number, &self.does, &seen);
        } else {
            self.report.early(number, &seen);
        }
    }
}

/// A step's request as a client sends it to Envoy.
fn request(step: &Step, id: &str) -> Request {
    let (method, target) = step.send.as_deref().and_then(|send| send.split_once(' ')).expect("checked");
    let mut request = Request::get(target);
    request.method = method.to_owned().leak();
    request.host = Some(step.host.clone());
    let mut add = |name: &str, value: &str| request.headers.push((name.to_owned().leak(), value.as_bytes().to_vec()));
    for (name, lines) in &step.headers {
        lines.all().iter().for_each(|line| add(name, line));
    }
    add(CLIENT, &step.from);
    add("x-scenario", id);
    add("x-tidegate-test-now", &(START_MS + step.at).to_string());
    add("x-tidegate-test-draw", &step.draw().to_string());
    if let Some(name) = &step.holds {
        add("x-scenario-holds", name);
    }
    request.body = step.body.clone().unwrap_or_default().into_bytes();
    request
}

/// The number of VMs in one Envoy: it does not respond until it has created them all.
const AT_ONCE: usize = 48;

/// The header that tells Envoy the client's address.
const CLIENT: &str = "x-scenario-client";

/// The header in which Envoy reports why it, or the filter, has responded.
const REASON: &str = "x-scenario-reason";
