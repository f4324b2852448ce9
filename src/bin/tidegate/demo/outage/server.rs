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
    /// It refuses connections, and has cut those that it had.
    Refuses,
    /// It takes so long for every answer.
    Slow(Duration),
}

/// A server that can be made to fail.
pub struct Server {
    /// Holds the port while nobody listens there, so that no other socket of this machine can be given it.
    _held: TcpSocket,
    addr: SocketAddr,
    serving: Option<Origin>,
}

impl Server {
    /// A server that is well, at a port that the system chooses.
    pub fn start() -> io::Result<Self> {
        let held = TcpSocket::new_v4()?;
        // Otherwise nobody could listen at a port that is held.
        held.set_reuseaddr(true)?;
        held.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = held.local_addr()?;
        Ok(Self { _held: held, addr, serving: Some(Origin::start_at(addr, settings(Fault::None))?) })
    }

    /// Where it listens, when it does.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on this is wrong with it.
    pub fn suffer(&mut self, fault: Fault) -> io::Result<()> {
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

/// As long as a near edge of a CDN takes.
const WELL: Duration = Duration::from_millis(5);
