//! HTTP/2 and gRPC clients.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http2::{Builder, SendRequest, handshake};
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::client::{Answer, Request, in_time};

/// An HTTP/2 connection with prior knowledge; clones share the connection.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: SocketAddr,
}

/// The response to a gRPC call.
#[derive(Debug)]
pub struct GrpcAnswer {
    pub headers: HeaderMap,
    /// Whether the first headers ended the stream, without message and trailers.
    pub trailers_only: bool,
    pub trailers: HeaderMap,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, authority: to }
    }

    /// The same for a client that never accepts a byte of a response body.
    pub async fn open_deaf(to: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let mut builder = Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.initial_stream_window_size(0).handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, authority: to }
    }

    pub async fn send(&mut self, request: &Request) -> Answer {
        let response = self.respond(request).await;
        let (parts, body) = response.into_parts();
        let body = in_time(async { body.collect().await.map_err(std::io::Error::other) }).await.unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes().to_vec() }
    }

    /// Calls a gRPC method with one empty message.
    pub async fn call(&mut self, request: &Request) -> GrpcAnswer {
        let request = Request { body: vec![0; 5], ..request.clone().method("POST") };
        let response = self.respond(&request.with("content-type", "application/grpc").with("te", "trailers")).await;
        assert_eq!(response.status(), 200, "gRPC has its own status, in every case: {response:?}");
        let trailers_only = response.body().is_end_stream();
        let (parts, body) = response.into_parts();
        let body = in_time(async { body.collect().await.map_err(std::io::Error::other) }).await.unwrap();
        GrpcAnswer { headers: parts.headers, trailers_only, trailers: body.trailers().cloned().unwrap_or_default() }
    }

    /// Sends a request; returns once the header of the response has arrived.
    pub async fn respond(&mut self, request: &Request) -> hyper::Response<hyper::body::Incoming> {
        let target = str::from_utf8(&request.target).unwrap();
        let mut builder =
            hyper::Request::builder().method(request.method).uri(format!("http://{}{target}", self.authority));
        for (name, value) in &request.headers {
            builder = builder.header(*name, &value[..]);
        }
        let request = builder.body(Full::from(request.body.clone())).unwrap();
        let answer = async { self.sender.send_request(request).await.map_err(std::io::Error::other) };
        in_time(answer).await.unwrap()
    }
}
