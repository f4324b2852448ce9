//! Upstreams that fail in every possible way, over raw sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What an upstream does with a request.
#[derive(Clone, Debug)]
pub enum Does {
    /// Responds with these bytes, and keeps the connection.
    Answers(Vec<u8>),
    /// Responds with these bytes after a while.
    AnswersAfter(Duration, Vec<u8>),
    /// Responds with the first part, after a while with the second, and keeps the connection.
    AnswersInTwo(Vec<u8>, Duration, Vec<u8>),
    /// Responds with these bytes and cuts the connection.
    AnswersAndCuts(Vec<u8>),
    /// Cuts the connection.
    Cuts,
    /// Never responds.
    Hangs,
}

/// An upstream, and what it has received.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    does: Arc<Mutex<Does>>,
    requests: Arc<AtomicU64>,
    /// The head of the last request.
    last: Arc<Mutex<String>>,
}

impl Upstream {
    /// An upstream that does this with every request, until [`Upstream::set`] changes it.
    pub async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
            requests: Arc::default(),
            last: Arc::default(),
        };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                // Connection errors are for Envoy to handle.
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        upstream
    }

    /// What it does from now on.
    pub fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// The number of requests received.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// The head of the last request.
    pub fn last(&self) -> String {
        self.last.lock().unwrap().clone()
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        loop {
            let Some(head) = next_request(&mut stream).await? else { return Ok(()) };
            self.requests.fetch_add(1, Relaxed);
            let is_head = head.starts_with("HEAD ");
            *self.last.lock().unwrap() = head;
            let does = self.does.lock().unwrap().clone();
            let sent = |bytes: Vec<u8>| if is_head { head_of(&bytes) } else { bytes };
            match does {
                Does::Answers(bytes) => stream.write_all(&sent(bytes)).await?,
                Does::AnswersAfter(wait, bytes) => {
                    tokio::time::sleep(wait).await;
                    stream.write_all(&sent(bytes)).await?;
                }
                Does::AnswersInTwo(first, wait, second) => {
                    stream.write_all(&first).await?;
                    tokio::time::sleep(wait).await;
                    stream.write_all(&second).await?;
                }
                Does::AnswersAndCuts(bytes) => {
                    stream.write_all(&bytes).await?;
                    return Ok(());
                }
                Does::Cuts => return Ok(()),
                Does::Hangs => {
                    let _ = stream.read_u8().await;
                    return Ok(());
                }
            }
        }
    }
}

/// An address that refuses connections. A port that was free a moment ago could be another test's by now; this one no
/// system gives out.
pub fn refusing() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1).into()
}

/// A response with these header lines, each with its line end, and a body.
pub fn answer(status: u16, lines: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status} Any\r\ncontent-length: {}\r\n{lines}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A response of 200 with a text.
pub fn good(body: impl AsRef<[u8]>) -> Does {
    Does::Answers(answer(200, "content-type: text/plain\r\n", body))
}

fn head_of(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    bytes[..end].to_vec()
}

/// The head of a connection's next request, once its body has arrived too; `None` at the end of the connection.
pub async fn next_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
    Ok(Some(head))
}
