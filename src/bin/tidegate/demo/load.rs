//! Open-loop load: requests are sent on schedule, whether or not earlier ones have ended, and latency counts from the
//! scheduled time. A service that falls behind gets no relief from clients that wait for it.
//!
//! The load acts as a load balancer with its clients: it writes each client's address into x-forwarded-for. Envoy
//! appends the balancer's own, so the demo's policy has `trusted_hops: 2`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::population::Group;
use super::tally::{Ending, Tally};

/// Sends requests over kept-alive connections.
#[derive(Clone)]
pub struct Load {
    client: Client<HttpConnector, Empty<Bytes>>,
    in_flight: Arc<Semaphore>,
}

/// A group of clients, its counts, and how many of its requests have been sent.
struct Sender {
    group: Group,
    tally: Arc<Tally>,
    sent: u64,
}

impl Load {
    /// A load that has sent nothing.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(MAX_IN_FLIGHT).build(connector);
        Self { client, in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) }
    }

    /// Sends each group's requests for the time `lasting`, to the addresses in rotation, and waits until all have
    /// ended. Returns the longest delay of a request behind its schedule. Latencies contain this delay, which the
    /// sender causes and not the service.
    pub async fn run(
        &self,
        to: &[SocketAddr],
        groups: &[Group],
        tallies: &[Arc<Tally>],
        lasting: Duration,
    ) -> Duration {
        let mut senders: Vec<Sender> = groups
            .iter()
            .zip(tallies)
            .map(|(group, tally)| Sender { group: *group, tally: Arc::clone(tally), sent: 0 })
            .collect();
        let start = Instant::now();
        let mut latest = Duration::ZERO;
        loop {
            let now = Instant::now();
            for sender in &mut senders {
                while sender.due(start) <= now && sender.due(start) < start + lasting {
                    latest = latest.max(sender.due(start).elapsed());
                    self.send(to, sender, start);
                }
            }
            match senders.iter().map(|sender| sender.due(start)).min() {
                Some(next) if next < start + lasting => sleep_until(next).await,
                _ => break,
            }
        }
        // Every request gives its permit back when it ends, at the latest after `PATIENCE`.
        let _ = self.in_flight.acquire_many(MAX_IN_FLIGHT_U32).await;
        latest
    }

    fn send(&self, to: &[SocketAddr], sender: &mut Sender, start: Instant) {
        let (due, address, tally) = (sender.due(start), sender.group.address(sender.sent), Arc::clone(&sender.tally));
        // Each client uses one location after another, as if it were on the move.
        let turn = sender.sent / u64::from(sender.group.clients.max(1)) + sender.sent;
        let Some(to) = usize::try_from(turn).ok().and_then(|turn| to.get(turn % to.len().max(1))) else { return };
        sender.sent += 1;
        tally.offer();
        let mut request = Request::get(format!("http://{to}/api/items")).header("x-forwarded-for", address.to_string());
        if let Some(plan) = sender.group.plan {
            request = request.header("x-plan", plan);
        }
        let (Ok(request), Ok(permit)) = (request.body(Empty::new()), Arc::clone(&self.in_flight).try_acquire_owned())
        else {
            tally.end(Ending::Failed);
            return;
        };
        let client = self.client.clone();
        tokio::spawn(async move {
            let ending = match timeout_at(due + PATIENCE, exchange(&client, request)).await {
                Ok(Some(status)) if status.is_success() => Ending::Served(due.elapsed()),
                Ok(Some(StatusCode::TOO_MANY_REQUESTS)) => Ending::Refused,
                _ => Ending::Failed,
            };
            tally.end(ending);
            drop(permit);
        });
    }
}

impl Sender {
    /// The scheduled time of the next request.
    fn due(&self, start: Instant) -> Instant {
        let rate = u64::from(self.group.requests_per_s.max(1));
        start + Duration::from_nanos(self.sent.saturating_mul(1_000_000_000) / rate)
    }
}

async fn exchange(client: &Client<HttpConnector, Empty<Bytes>>, request: Request<Empty<Bytes>>) -> Option<StatusCode> {
    let response = client.request(request).await.ok()?;
    let status = response.status();
    // Read to the end, or the connection could not be reused.
    response.into_body().collect().await.ok()?;
    Some(status)
}

/// More than the schedule can have in flight within `PATIENCE` if a quarter gets a response. Further requests count as
/// failed without being sent; otherwise a stuck service could fill this machine's memory.
const MAX_IN_FLIGHT: usize = 4_096;
const MAX_IN_FLIGHT_U32: u32 = 4_096;
/// How long a client waits for a response.
const PATIENCE: Duration = Duration::from_secs(5);
