//! A client over raw sockets. It can send malformed requests, and is as fast as Envoy.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

/// A request as bytes.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    /// The host that it names; the suite's default if absent.
    pub host: Option<String>,
    pub target: Vec<u8>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self { method: "GET", host: None, target: target.as_ref().to_vec(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn post(target: impl AsRef<[u8]>, body: Vec<u8>) -> Self {
        Self { body, ..Self::get(target).method("POST") }
    }

    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// Adds a header line; others of the same name stay.
    pub fn with(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }

    /// The request as a proxy in front of Envoy passes it on for a client at this address.
    pub fn from(self, address: impl AsRef<[u8]>) -> Self {
        self.with("x-forwarded-for", address)
    }

    /// The bytes of the request in HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.body.len());
        let host = self.host.as_deref().unwrap_or("suite.example").as_bytes();
        for part in [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\nhost: ", host, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
        for (name, value) in &self.headers {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        if !self.body.is_empty() {
            bytes.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A response of any protocol.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// The values of a header, joined by `, `; empty if it is absent.
    pub fn header(&self, name: &str) -> String {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        self.headers.get_all(name).iter().map(text).collect::<Vec<_>>().join(", ")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The values that the upstream got under this name, from an origin that echoes; empty if none.
    pub fn upstream_saw(&self, name: &str) -> Vec<String> {
        let echo = self.json();
        let values = echo["headers"].get(name).and_then(serde_json::Value::as_array).into_iter().flatten();
        values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }
}

/// An HTTP/1.1 connection that stays open.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        in_time(TcpStream::connect(to)).await?.try_into()
    }

    /// Connects from an address of this machine: all of 127.0.0.0/8 are.
    pub async fn open_from(address: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(SocketAddr::new(address, 0))?;
        in_time(socket.connect(to)).await?.try_into()
    }

    /// Sends a request and reads its response. Both run at once, because a response may come before the whole request
    /// is read.
    pub async fn send(&mut self, request: &Request) -> io::Result<Answer> {
        let bytes = request.bytes();
        let (writer, reader) = (&mut self.writer, &mut self.reader);
        in_time(async {
            let answer = read(reader, request.method);
            tokio::pin!(answer);
            tokio::select! {
                answer = &mut answer => answer,
                written = writer.write_all(&bytes) => match written {
                    Ok(()) => answer.await,
                    // A server that refuses a request may close the connection before it has read all of it.
                    Err(error) => answer.await.map_err(|_| error),
                },
            }
        })
        .await
    }

    /// Sends these bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        in_time(self.writer.write_all(bytes)).await
    }

    /// Reads the response to a request that was sent by [`Connection::write`].
    pub async fn answer(&mut self, method: &str) -> io::Result<Answer> {
        in_time(read(&mut self.reader, method)).await
    }

    /// Whether Envoy has closed the connection, or does so within the timeout of [`in_time`].
    pub async fn is_closed(&mut self) -> bool {
        in_time(self.reader.read_u8()).await.is_err_and(|error| error.kind() != ErrorKind::TimedOut)
    }
}

impl TryFrom<TcpStream> for Connection {
    type Error = io::Error;

    fn try_from(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: BufReader::new(reader), writer })
    }
}

/// Bounds a wait for Envoy; the bound is generous, so only a hang exceeds it.
pub async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(ErrorKind::TimedOut, "no answer within 30 s");
    tokio::time::timeout(Duration::from_secs(30), work).await.map_err(|_| late())?
}

async fn read(reader: &mut BufReader<OwnedReadHalf>, method: &str) -> io::Result<Answer> {
    let (status, headers) = loop {
        let (status, headers) = read_head(reader).await?;
        // 1xx responses come before the final one.
        if status >= 200 {
            break (status, headers);
        }
    };
    // A response to HEAD may have a transfer coding although it has no body.
    if headers.contains_key(TRANSFER_ENCODING) && method != "HEAD" {
        return Err(invalid("the origin and the filter both say how long their answers are"));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = vec![0; if method == "HEAD" { 0 } else { length.unwrap_or(0) }];
    reader.read_exact(&mut body).await?;
    Ok(Answer { status, headers, body })
}

async fn read_head(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<(u16, HeaderMap)> {
    let first = read_line(reader).await?;
    let status = first.get(9..12).and_then(|status| str::from_utf8(status).ok()?.parse().ok());
    let status = status.ok_or_else(|| invalid(&String::from_utf8_lossy(&first)))?;
    let mut headers = HeaderMap::new();
    loop {
        let line = read_line(reader).await?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let header = line.iter().position(|byte| *byte == b':').and_then(|colon| {
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
        });
        let (name, value) = header.ok_or_else(|| invalid(&String::from_utf8_lossy(&line)))?;
        headers.append(name, value);
    }
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(64);
    if reader.read_until(b'\n', &mut line).await? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_ascii_end().len());
    Ok(line)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}
