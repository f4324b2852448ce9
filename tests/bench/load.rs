//! Generates load for the measured servers, and reads the CPU time of their processes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Connections with one request under way each, from a thousand client addresses in rotation.
pub struct Load {
    connections: Vec<BufReader<TcpStream>>,
    address_header: &'static str,
    sent: usize,
}

impl Load {
    /// Connects. Every request has its client's address in this header.
    pub fn open(to: SocketAddr, address_header: &'static str) -> io::Result<Self> {
        let connections = (0..CONNECTIONS).map(|_| {
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            Ok(BufReader::new(stream))
        });
        Ok(Self { connections: connections.collect::<io::Result<_>>()?, address_header, sent: 0 })
    }

    /// Sends this many requests. All must be answered with 200 and [`BODY`].
    pub fn run(&mut self, requests: usize) -> io::Result<()> {
        for _ in 0..requests.div_ceil(CONNECTIONS) {
            for connection in &mut self.connections {
                let client = self.sent % ADDRESSES;
                self.sent += 1;
                let address = format!("10.0.{}.{}", client / 250, client % 250);
                let header = self.address_header;
                let request = format!("GET /api/x HTTP/1.1\r\nhost: bench.example\r\n{header}: {address}\r\n\r\n");
                connection.get_mut().write_all(request.as_bytes())?;
            }
            for connection in &mut self.connections {
                let head = read_head(connection)?;
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                let mut body = [0; BODY.len()];
                connection.read_exact(&mut body)?;
                assert_eq!(body, BODY.as_bytes());
            }
        }
        Ok(())
    }
}

/// The lines up to the empty one; empty at the end of the connection.
pub fn read_head(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while connection.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

/// The CPU time that a process's threads have used, in microseconds, with a resolution of nanoseconds.
pub fn cpu_us(pid: u32) -> io::Result<f64> {
    let mut sum_ns = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        sum_ns += stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default();
    }
    Ok(sum_ns / 1_000.0)
}

/// The quantile: this share of the values lies below.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(values.len() as f64 * share) as usize]
}

/// The body of every response.
pub const BODY: &str = "ok";
const CONNECTIONS: usize = 16;
const ADDRESSES: usize = 1_000;
