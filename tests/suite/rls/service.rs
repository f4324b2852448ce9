//! A rate-limit service built from types that are generated from the published API definition, without any of the code
//! under test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::Duration;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// What the service does with a request.
#[derive(Clone, Debug)]
pub enum Does {
    /// Counts every descriptor, and admits this many hits of each.
    Counts(u64),
    /// Answers this.
    Answers(RateLimitResponse),
    /// Ends the call with this status.
    Fails(tonic::Code),
    /// Holds the call until [`Service::release`], then admits the request.
    Holds,
}

/// A running service.
#[derive(Clone, Debug)]
pub struct Service {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    does: Mutex<Does>,
    asked: Mutex<Vec<RateLimitRequest>>,
    hits: Mutex<Hits>,
    released: watch::Sender<bool>,
    under_way: AtomicUsize,
}

impl Service {
    pub async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            does: Mutex::new(does),
            asked: Mutex::default(),
            hits: Mutex::default(),
            released: watch::Sender::new(false),
            under_way: AtomicUsize::new(0),
        });
        let service = Self { addr, shared };
        let calls = RateLimitServiceServer::new(service.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // Envoy was observed to queue calls beyond the limit of one connection.
                server.max_concurrent_streams(1_000);
                let calls = TowerToHyperService::new(calls.clone());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), calls));
            }
        });
        service
    }

    pub fn set(&self, does: Does) {
        *self.shared.does.lock().unwrap() = does;
    }

    /// Every request that it has received, in order.
    pub fn asked(&self) -> Vec<RateLimitRequest> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Releases the calls that it holds, and holds no further ones.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// The number of calls that have neither been answered nor cancelled.
    pub fn under_way(&self) -> usize {
        self.shared.under_way.load(Relaxed)
    }
}

/// The hits of each descriptor.
#[derive(Debug, Default)]
pub struct Hits(HashMap<String, u64>);

impl Hits {
    /// Counts every descriptor of a request, and admits `most` hits of each.
    pub fn count(&mut self, request: &RateLimitRequest, most: u64) -> RateLimitResponse {
        let hits = &mut self.0;
        let statuses: Vec<_> = request
            .descriptors
            .iter()
            .map(|descriptor| {
                let own = descriptor.hits_addend.map(|hits| hits.value);
                let count = hits.entry(format!("{:?}", descriptor.entries)).or_default();
                *count += own.unwrap_or(request.hits_addend.max(1).into());
                let code = if *count > most { Code::OverLimit } else { Code::Ok };
                status(code, Some(7))
            })
            .collect();
        let is_over = statuses.iter().any(|status| status.code == Code::OverLimit as i32);
        let overall = if is_over { Code::OverLimit } else { Code::Ok };
        RateLimitResponse { overall_code: overall as i32, statuses, ..RateLimitResponse::default() }
    }
}

#[tonic::async_trait]
impl RateLimitService for Service {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let _under_way = UnderWay::new(&self.shared.under_way);
        let request = request.into_inner();
        self.shared.asked.lock().unwrap().push(request.clone());
        let does = self.shared.does.lock().unwrap().clone();
        match does {
            Does::Counts(most) => Ok(Response::new(self.shared.hits.lock().unwrap().count(&request, most))),
            Does::Answers(answer) => Ok(Response::new(answer)),
            Does::Fails(code) => Err(Status::new(code, "as it was told to")),
            Does::Holds => {
                let mut released = self.shared.released.subscribe();
                released.wait_for(|released| *released).await.unwrap();
                Ok(Response::new(answer(Code::Ok)))
            }
        }
    }
}

/// Counts a call while it is alive: a cancelled one is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// An answer with this code and nothing else.
pub fn answer(code: Code) -> RateLimitResponse {
    RateLimitResponse { overall_code: code as i32, ..RateLimitResponse::default() }
}

/// A descriptor's status, and the seconds until its window ends.
pub fn status(code: Code, reset_secs: Option<i64>) -> DescriptorStatus {
    let duration_until_reset = reset_secs.map(|seconds| Duration { seconds, nanos: 0 });
    DescriptorStatus { code: code as i32, duration_until_reset, ..DescriptorStatus::default() }
}

/// A header line.
pub fn header(name: &str, value: &str) -> HeaderValue {
    HeaderValue { key: name.to_owned(), value: value.to_owned(), ..HeaderValue::default() }
}

/// A descriptor's entries.
pub fn entries(descriptor: &RateLimitDescriptor) -> Vec<(&str, &str)> {
    descriptor.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect()
}
