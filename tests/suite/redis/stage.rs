//! A real Redis behind a real front, and a minimal adapter: it sends what the codec produces, and passes responses to
//! it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tidegate::authority::{Ask, Grant};
use tidegate::policy::Protocol;
use tidegate::store::redis::{HttpRequest, Redis, RedisError};
use tokio::net::TcpStream;

use super::front::Front;
use super::process::{RedisServer, Webdis};

pub type Outcome = Result<Grant, RedisError>;

/// A Redis, its front, and the codec that asks it.
pub struct Stage {
    pub server: RedisServer,
    pub redis: Redis,
    addr: SocketAddr,
    _front: (Option<Front>, Option<Webdis>),
}

impl Stage {
    /// Starts the protocol's own front, and a Redis with further options.
    pub async fn start(protocol: Protocol, options: &[&str]) -> Self {
        let server = RedisServer::start(options);
        let redis = Redis::new(protocol, "", Some(token(protocol))).unwrap();
        let front = match protocol {
            Protocol::Upstash => (Some(Front::start(server.addr(), token(protocol)).await), None),
            Protocol::Webdis => (None, Some(Webdis::start(server.addr(), Some(token(protocol))).unwrap())),
        };
        let addr = front.0.as_ref().map(|front| front.addr).or(front.1.as_ref().map(Webdis::addr)).unwrap();
        Self { server, redis, addr, _front: front }
    }

    /// The outcomes of these asks, in as many exchanges as they need.
    pub async fn ask(&self, asks: &[Ask]) -> Vec<Outcome> {
        self.ask_within(asks, Duration::from_secs(10)).await
    }

    /// The same with this timeout for an answer.
    pub async fn ask_within(&self, asks: &[Ask], within: Duration) -> Vec<Outcome> {
        let (mut queue, mut outcomes) = (asks.to_vec(), Vec::new());
        while let Some((mut exchange, request)) = self.redis.begin(&mut queue) {
            let mut next = Some(request);
            while let Some(request) = next {
                let answer = send(self.addr, &request, within).await;
                next = exchange.receive(&self.redis, answer.as_ref().map(|(status, body)| (*status, &body[..])));
            }
            outcomes.extend(exchange.outcomes().map(|(_, outcome)| outcome));
        }
        outcomes
    }

    /// The same for one ask.
    pub async fn ask_one(&self, ask: &Ask) -> Outcome {
        self.ask(&[*ask]).await[0]
    }

    /// The raw response to this request.
    pub async fn send(&self, request: &HttpRequest<'_>) -> Option<(u16, Bytes)> {
        send(self.addr, request, Duration::from_secs(10)).await
    }
}

/// The token that this protocol's front requires.
pub const fn token(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Upstash => "token-of-the-suite",
        Protocol::Webdis => "suite:token-of-the-suite",
    }
}

/// The status and the body of the response, if it arrives in time.
pub async fn send(to: SocketAddr, request: &HttpRequest<'_>, within: Duration) -> Option<(u16, Bytes)> {
    let exchange = async {
        let stream = TcpStream::connect(to).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut head = Request::post(request.path).header("host", "redis").header("content-type", request.content_type);
        if let Some(authorization) = request.authorization {
            head = head.header("authorization", authorization);
        }
        let response = sender.send_request(head.body(Full::<Bytes>::from(request.body.clone())).ok()?).await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    };
    tokio::time::timeout(within, exchange).await.ok()?
}
