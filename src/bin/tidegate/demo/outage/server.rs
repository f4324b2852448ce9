//! A server that can be made to fail, and brought back at the same address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpSocket;

use super::super::origin::{Origin, Settings};

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It answers every request with 500.
    Errors,
    /// It refuses connections, and has closed those that it had.
    Refuses,
    /// It takes this long for every response.
    Slow(Duration),
}

/// A server that can be made to fail.
pub struct Server {
    /// Reserves the port while the server is down; otherwise the system could give it to another socket.
    _held: TcpSocket,
    addr: SocketAddr,
    serving: Option<Origin>,
}

impl Server {
    /// A healthy server, at a port that the system chooses.
    pub fn start() -> io::Result<Self> {
        let held = TcpSocket::new_v4()?;
        // Without this, the server could not listen at the reserved port.
        held.set_reuseaddr(true)?;
        held.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = held.local_addr()?;
        Ok(Self { _held: held, addr, serving: Some(Origin::start_at(addr, settings(Fault::None))?) })
    }

    /// The address at which it listens unless it refuses connections.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Puts a fault into effect, or ends it with [`Fault::None`].
    pub fn set_fault(&mut self, fault: Fault) -> io::Result<()> {
        match &self.serving {
            _ if fault == Fault::Refuses => self.serving = None,
            Some(serving) => serving.set(settings(fault)),
            None => self.serving = Some(Origin::start_at(self.addr, settings(fault))?),
        }
        Ok(())
    }
}

fn settings(fault: Fault) -> Settings {
    let well = Settings { latency: WELL, ..Settings::default() };
    match fault {
        Fault::None | Fault::Refuses => well,
        Fault::Errors => Settings { failure_basis_points: 10_000, ..well },
        Fault::Slow(latency) => Settings { latency, ..well },
    }
}

/// The latency of a nearby CDN edge.
const WELL: Duration = Duration::from_millis(5);
