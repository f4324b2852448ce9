//! A proxy between Envoy and the store's front: it forwards everything, or simulates a bad network and bad servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    PassesOn,
    /// 200 with a body that is not valid in the protocol.
    AnswersGarbage,
    /// A response that is not HTTP.
    AnswersNoHttp,
    Answers500,
    /// Half of the announced length, then the end of the connection.
    AnswersHalf,
    /// The correct response after this delay.
    IsLate(Duration),
    ClosesConnections,
}

/// A running proxy. Dropping it stops it.
pub struct Proxy {
    pub addr: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    does: Arc<Mutex<Does>>,
    requests: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (does, requests) = (Arc::new(Mutex::new(Does::PassesOn)), Arc::new(AtomicU64::new(0)));
        let to = Arc::new(Mutex::new(to));
        let (now_to, now_does, counted) = (Arc::clone(&to), Arc::clone(&does), Arc::clone(&requests));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (to, does, requests) = (Arc::clone(&now_to), Arc::clone(&now_does), Arc::clone(&counted));
                // A broken connection ends, and nothing else.
                tokio::spawn(async move { serve(stream, &to, &does, &requests).await });
            }
        });
        Self { addr, to, does, requests, serving }
    }

    /// What it does with requests from here on.
    pub fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// Where new connections lead from here on.
    pub fn lead_to(&self, to: SocketAddr) {
        *self.to.lock().unwrap() = to;
    }

    /// The number of requests received.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut client: TcpStream, to: &Mutex<SocketAddr>, does: &Mutex<Does>, requests: &AtomicU64) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut server = None;
    loop {
        let request = message(&mut client).await?;
        requests.fetch_add(1, Ordering::Relaxed);
        let now = *does.lock().unwrap();
        let fixed: &[u8] = match now {
            Does::PassesOn => b"",
            Does::IsLate(by) => {
                tokio::time::sleep(by).await;
                b""
            }
            Does::AnswersGarbage => b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n[{\"result\":[7,-1]",
            Does::AnswersNoHttp => b"\x16\x03\x01 no HTTP\r\n\r\n",
            Does::Answers500 => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
            Does::AnswersHalf => b"HTTP/1.1 200 OK\r\ncontent-length: 80\r\n\r\n[{\"result\":[50,0,",
            Does::ClosesConnections => return None,
        };
        if !fixed.is_empty() {
            client.write_all(fixed).await.ok()?;
            if matches!(now, Does::AnswersHalf | Does::AnswersNoHttp) {
                return None;
            }
            continue;
        }
        if server.is_none() {
            let to = *to.lock().unwrap();
            server = TcpStream::connect(to).await.ok();
        }
        let server = server.as_mut()?;
        server.set_nodelay(true).ok()?;
        server.write_all(&request).await.ok()?;
        client.write_all(&message(server).await?).await.ok()?;
    }
}

/// A whole HTTP/1.1 message with a `content-length`.
async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0_usize) {
                return Some(bytes);
            }
        }
        let mut piece = [0; 4_096];
        match stream.read(&mut piece).await {
            Ok(size) if size > 0 => bytes.extend_from_slice(&piece[..size]),
            _ => return None,
        }
    }
}
