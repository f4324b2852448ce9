//! A small real HTTP service with a fixed capacity, which can be changed while it runs.
//!
//! Shared by the demo and the test suite. It speaks HTTP/1.1 and HTTP/2 without TLS, on its own thread. It works on at
//! most `capacity` requests at once, each for `latency`. More requests wait in a bounded queue, so latency rises. A
//! request that finds the queue full, or waits too long, gets 503. A service with an exhausted database pool behaves
//! like this.

#![allow(dead_code, reason = "the demo and the suite each use a part of the rig")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// A running origin. Dropping it closes its connections and ends its thread.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens, on the loopback.
    pub addr: SocketAddr,
    service: Arc<Service>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The capacity and behaviour of the origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Requests worked on at once.
    pub capacity: usize,
    /// Requests that may wait; further ones get 503 at once.
    pub queue: u64,
    /// How long a request waits before it gets 503.
    pub queue_timeout: Duration,
    /// How long the work on one request takes.
    pub latency: Duration,
    /// The share of requests that are answered with 500 after their work, `0..=10_000`, spread evenly.
    pub failure_basis_points: u64,
    /// Whether every path responds like `/echo`.
    pub echo: bool,
}

impl Default for Settings {
    /// An origin that is never the bottleneck: 10,000 at once, no latency, no failures.
    fn default() -> Self {
        Self {
            capacity: 10_000,
            queue: 10_000,
            queue_timeout: Duration::from_secs(10),
            latency: Duration::ZERO,
            failure_basis_points: 0,
            echo: false,
        }
    }
}

/// Counts since the start, and the current load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that arrived.
    pub received: u64,
    /// Requests answered with success.
    pub served: u64,
    /// Requests answered with 500: the share [`Settings::failure_basis_points`].
    pub failed: u64,
    /// Requests answered with 503 because the queue was full, or the wait too long.
    pub overloaded: u64,
    /// Requests whose client left before the response.
    pub abandoned: u64,
    /// Requests being worked on now.
    pub in_flight: u64,
    /// The most requests that were worked on at once.
    pub peak_in_flight: u64,
    /// Requests waiting now.
    pub queue: u64,
    /// The most requests that waited at once.
    pub peak_queue: u64,
}

impl Stats {
    /// The counts since `earlier`. Loads and peaks stay as they are.
    #[must_use]
    pub fn since(self, earlier: &Self) -> Self {
        Self {
            received: self.received.saturating_sub(earlier.received),
            served: self.served.saturating_sub(earlier.served),
            failed: self.failed.saturating_sub(earlier.failed),
            overloaded: self.overloaded.saturating_sub(earlier.overloaded),
            abandoned: self.abandoned.saturating_sub(earlier.abandoned),
            ..self
        }
    }
}

impl Origin {
    /// Starts an origin at a port that the system chooses.
    pub fn start(settings: Settings) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), settings)
    }

    /// Starts an origin at this address.
    pub fn start_at(addr: SocketAddr, settings: Settings) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let service = Arc::new(Service::new(settings));
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&service);
        let thread = std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { addr, service, stop: Some(stop), thread: Some(thread) })
    }

    /// Changes the settings for new requests. Requests in progress end under the old ones.
    pub fn set(&self, settings: Settings) {
        self.service.set(settings);
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.service.settings()
    }

    /// The counts now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.service.counters.snapshot()
    }

    /// Resets the peaks to the current load.
    pub fn reset_peaks(&self) {
        let counters = &self.service.counters;
        counters.peak_in_flight.store(counters.in_flight.load(Relaxed), Relaxed);
        counters.peak_queue.store(counters.queue.load(Relaxed), Relaxed);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn accept(listener: std::net::TcpListener, service: Arc<Service>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely out of file descriptors: wait until some are closed.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // An error of one connection does not concern the origin.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

struct Service {
    settings: Mutex<Settings>,
    slots: Semaphore,
    /// How many slots to withdraw as requests end, after the capacity was lowered.
    excess: Mutex<usize>,
    counters: Counters,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("settings", &self.settings()).finish_non_exhaustive()
    }
}

impl Service {
    fn new(settings: Settings) -> Self {
        Self {
            settings: Mutex::new(settings),
            slots: Semaphore::new(settings.capacity.min(Semaphore::MAX_PERMITS)),
            excess: Mutex::new(0),
            counters: Counters::default(),
        }
    }

    fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, new: Settings) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut excess = self.excess.lock().unwrap_or_else(PoisonError::into_inner);
        let more = new.capacity.saturating_sub(settings.capacity);
        self.slots.add_permits(more.saturating_sub(*excess));
        *excess = excess.saturating_sub(more);
        let fewer = settings.capacity.saturating_sub(new.capacity);
        *excess += fewer - self.slots.forget_permits(fewer);
        *settings = new;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let settings = self.settings();
        add(&self.counters.received);
        let mut abandoned = CountOnDrop(Some(&self.counters.abandoned));
        let (parts, body) = request.into_parts();
        let body_bytes = drain(body).await;
        let grpc = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let outcome = self.work(&settings).await;
        abandoned.0 = None;
        let mut answer = match (outcome, grpc) {
            (outcome, true) => grpc_answer(outcome),
            (Outcome::Served, false) if settings.echo || parts.uri.path().starts_with("/echo") => {
                let echo = json!({
                    "method": parts.method.as_str(),
                    "path": parts.uri.path_and_query().map(|path| path.as_str()),
                    "headers": echoed(&parts.headers),
                    "body_bytes": body_bytes,
                });
                plain(StatusCode::OK, "application/json", echo.to_string())
            }
            (Outcome::Served, false) => plain(StatusCode::OK, "text/plain", "served by the origin\n".to_owned()),
            (Outcome::Failed, false) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the origin failed\n".to_owned())
            }
            (Outcome::Overloaded, false) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the origin is overloaded\n".to_owned())
            }
        };
        // Over HTTP/1, hyper drops the body itself.
        if parts.method == Method::HEAD && parts.version == Version::HTTP_2 {
            *answer.body_mut() = Body::default();
        }
        answer
    }

    async fn work(&self, settings: &Settings) -> Outcome {
        let counters = &self.counters;
        let Some(slot) = self.slot(settings).await else {
            add(&counters.overloaded);
            return Outcome::Overloaded;
        };
        let _working = Level::raise(&counters.in_flight, &counters.peak_in_flight);
        let _slot = Slot { service: self, permit: Some(slot) };
        if !settings.latency.is_zero() {
            tokio::time::sleep(settings.latency).await;
        }
        // Spreads failures evenly: a request fails if the sum of shares passes a whole number with it.
        let before = counters.finished.fetch_add(1, Relaxed).wrapping_mul(settings.failure_basis_points) % 10_000;
        if before + settings.failure_basis_points >= 10_000 {
            add(&counters.failed);
            Outcome::Failed
        } else {
            add(&counters.served);
            Outcome::Served
        }
    }

    async fn slot(&self, settings: &Settings) -> Option<SemaphorePermit<'_>> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Some(slot);
        }
        if self.counters.queue.load(Relaxed) >= settings.queue {
            return None;
        }
        let _waiting = Level::raise(&self.counters.queue, &self.counters.peak_queue);
        tokio::time::timeout(settings.queue_timeout, self.slots.acquire()).await.ok()?.ok()
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Served,
    Failed,
    Overloaded,
}

/// One unit of capacity. While there are too many, it is withdrawn instead of given back.
struct Slot<'s> {
    service: &'s Service,
    permit: Option<SemaphorePermit<'s>>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut excess = self.service.excess.lock().unwrap_or_else(PoisonError::into_inner);
        if *excess > 0
            && let Some(permit) = self.permit.take()
        {
            *excess -= 1;
            permit.forget();
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    finished: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
    overloaded: AtomicU64,
    abandoned: AtomicU64,
    in_flight: AtomicU64,
    peak_in_flight: AtomicU64,
    queue: AtomicU64,
    peak_queue: AtomicU64,
}

impl Counters {
    fn snapshot(&self) -> Stats {
        Stats {
            received: self.received.load(Relaxed),
            served: self.served.load(Relaxed),
            failed: self.failed.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            abandoned: self.abandoned.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            peak_in_flight: self.peak_in_flight.load(Relaxed),
            queue: self.queue.load(Relaxed),
            peak_queue: self.peak_queue.load(Relaxed),
        }
    }
}

/// Adds one to the counter when dropped, unless it has been emptied.
struct CountOnDrop<'c>(Option<&'c AtomicU64>);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|counter| add(counter));
    }
}

/// Adds one to a gauge until dropped.
struct Level<'c>(&'c AtomicU64);

impl<'c> Level<'c> {
    fn raise(level: &'c AtomicU64, peak: &AtomicU64) -> Self {
        peak.fetch_max(level.fetch_add(1, Relaxed) + 1, Relaxed);
        Self(level)
    }
}

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Reads the body to its end without keeping it, and returns its length.
async fn drain(mut body: Incoming) -> usize {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    bytes
}

fn plain(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A gRPC response: one empty message, then the status in trailers.
fn grpc_answer(outcome: Outcome) -> Response<Body> {
    let status = match outcome {
        Outcome::Served => "0",
        Outcome::Failed => "13",
        Outcome::Overloaded => "14",
    };
    let message = Full::new(Bytes::from_static(&[0; 5]));
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))]);
    let mut response = Response::new(message.with_trailers(async { Some(Ok(trailers)) }).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Every header with all its values. Bytes that are not UTF-8 become the replacement character.
fn echoed(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
    let values = |name| headers.get_all(name).iter().map(text).collect();
    headers.keys().map(|name| (name.as_str().to_owned(), Value::Array(values(name)))).collect()
}
