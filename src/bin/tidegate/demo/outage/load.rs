//! Requests for assets, sent on schedule: each once through the filter, and once past it to the CDN.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::tally::{ServedBy, Tally};

/// Sends requests to some addresses in rotation, over kept-alive connections.
pub struct Load {
    client: Client<HttpConnector, Empty<Bytes>>,
    in_flight: Arc<Semaphore>,
    to: Vec<SocketAddr>,
    /// Whether responses carry `x-tidegate`. Past the filter they do not, and only the CDN can have served them.
    filtered: bool,
}

impl Load {
    /// A load that has sent nothing.
    pub fn new<const N: usize>(to: [SocketAddr; N], filtered: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), to: to.to_vec(), filtered }
    }

    /// The addresses that it sends to.
    pub fn to(&self) -> &[SocketAddr] {
        &self.to
    }

    /// Asks every address, and returns whether each `x-tidegate` contains `word`.
    pub async fn all_report(&self, word: &str) -> bool {
        for to in &self.to {
            let Ok(request) = get(*to, 0) else { return false };
            match exchange(&self.client, request).await {
                Some((_, header)) if header.contains(word) => {}
                _ => return false,
            }
        }
        true
    }

    /// Sends the n-th request, scheduled for the time `due`, and counts it and its outcome.
    pub fn send(&self, number: u64, due: Instant, tally: &Arc<Tally>) {
        tally.send();
        let request = self.turn(number).map(|to| get(to, number));
        let (Some(Ok(request)), Ok(permit)) = (request, Arc::clone(&self.in_flight).try_acquire_owned()) else {
            tally.end(ServedBy::Failed, Duration::ZERO);
            return;
        };
        let (client, tally, filtered) = (self.client.clone(), Arc::clone(tally), self.filtered);
        tokio::spawn(async move {
            let by = match timeout_at(due + PATIENCE, exchange(&client, request)).await {
                Ok(Some((is_success, header))) if filtered => {
                    tally.see(&header);
                    ServedBy::from_header(&header, is_success)
                }
                Ok(Some((true, _))) => ServedBy::Cdn,
                _ => ServedBy::Failed,
            };
            tally.end(by, due.elapsed());
            drop(permit);
        });
    }

    /// The address that the n-th request goes to.
    fn turn(&self, number: u64) -> Option<SocketAddr> {
        let places = u64::try_from(self.to.len()).ok()?;
        self.to.get(usize::try_from(number.checked_rem(places)?).ok()?).copied()
    }

    /// How many clients wait for a response.
    pub fn waiting(&self) -> usize {
        MAX_IN_FLIGHT.saturating_sub(self.in_flight.available_permits())
    }

    /// Waits until every request has ended, at the latest after [`PATIENCE`].
    pub async fn ended(&self) {
        let _ = self.in_flight.acquire_many(MAX_IN_FLIGHT_U32).await;
    }
}

fn get(to: SocketAddr, number: u64) -> hyper::http::Result<Request<Empty<Bytes>>> {
    Request::get(format!("http://{to}{}", path(number))).body(Empty::new())
}

/// The path of the n-th request: one of a few assets, and sometimes an asset that was never requested before.
fn path(number: u64) -> String {
    if number % NEW_EVERY == NEW_EVERY - 1 {
        format!("/assets/new-{number}.css")
    } else {
        format!("/assets/{}.css", number % ASSETS)
    }
}

/// Whether the response is a success, and its `x-tidegate`; `None` without a response.
async fn exchange(
    client: &Client<HttpConnector, Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Option<(bool, String)> {
    let response = client.request(request).await.ok()?;
    let is_success = response.status().is_success();
    let header =
        response.headers().get("x-tidegate").and_then(|header| header.to_str().ok()).unwrap_or_default().to_owned();
    // Read to the end, or the connection could not be reused.
    response.into_body().collect().await.ok()?;
    Some((is_success, header))
}

/// How long a client waits for a response: longer than the policy's timeouts together, shorter than the slow CDN takes.
pub const PATIENCE: Duration = Duration::from_millis(2_500);
/// How many assets there are besides the new ones.
const ASSETS: u64 = 20;
const NEW_EVERY: u64 = 25;
/// More than the schedule can have in flight within [`PATIENCE`]. Further requests count as failed without being sent.
const MAX_IN_FLIGHT: usize = 1_000;
const MAX_IN_FLIGHT_U32: u32 = 1_000;
