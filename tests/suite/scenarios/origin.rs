//! The upstreams of all scenarios: a server for each cluster, which treats a request as its scenario currently says.
//!
//! A request names its scenario in `x-scenario: NAME/NUMBER`; with `x-scenario-holds` its response is held back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::document::{Does, ECHOED_FIELDS, Fails, Scenario};
use super::seen::answer_of;
use crate::filter::failing::next_request;

/// The upstreams.
#[derive(Debug)]
pub struct Origin {
    addresses: BTreeMap<&'static str, SocketAddr>,
    /// A bound port without a listener, which no other process can take.
    _nowhere: TcpSocket,
    known: Arc<Known>,
}

#[derive(Debug, Default)]
struct Known {
    state: Mutex<State>,
    /// Notified when a held response may have been released.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    does: HashMap<String, BTreeMap<String, Does>>,
    /// The clusters that were asked for each request.
    asked: HashMap<String, Vec<String>>,
    held: HashSet<String>,
    ended: HashSet<(String, String)>,
}

impl Origin {
    /// Starts a server for each cluster.
    pub async fn start(scenarios: &[Arc<Scenario>]) -> Self {
        let known = Arc::new(Known::default());
        for scenario in scenarios {
            known.state.lock().unwrap().does.insert(scenario.name.clone(), scenario.upstreams.clone());
        }
        let mut addresses = BTreeMap::new();
        for cluster in ["origin", "cdn", "spare"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.insert(cluster, listener.local_addr().unwrap());
            let known = Arc::clone(&known);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let known = Arc::clone(&known);
                    // Connection errors are for Envoy to handle.
                    tokio::spawn(async move { serve(stream, cluster, &known).await });
                }
            });
        }
        let nowhere = TcpSocket::new_v4().unwrap();
        nowhere.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        addresses.insert("nowhere", nowhere.local_addr().unwrap());
        Self { addresses, _nowhere: nowhere, known }
    }

    /// The address of this cluster's server.
    pub fn address(&self, cluster: &str) -> SocketAddr {
        self.addresses[cluster]
    }

    /// Sets what the upstreams of a scenario do from now on.
    pub fn set(&self, scenario: &str, does: &BTreeMap<String, Does>) {
        self.known.state.lock().unwrap().does.insert(scenario.to_owned(), does.clone());
    }

    /// Releases what a scenario holds under this name.
    pub fn end(&self, scenario: &str, name: &str) {
        self.known.state.lock().unwrap().ended.insert((scenario.to_owned(), name.to_owned()));
        self.known.ended.notify_waiters();
    }

    /// Whether the response to this request is held back.
    pub fn holds(&self, id: &str) -> bool {
        self.known.state.lock().unwrap().held.contains(id)
    }

    /// The clusters that were asked for this request.
    pub fn asked(&self, id: &str) -> Vec<String> {
        self.known.state.lock().unwrap().asked.get(id).cloned().unwrap_or_default()
    }
}

async fn serve(stream: TcpStream, cluster: &str, known: &Known) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let Some(head) = next_request(&mut stream).await? else { return Ok(()) };
        let header = |name: &str| {
            let named =
                |line: &str| line.split_once(": ").filter(|(other, _)| *other == name).map(|(_, it)| it.to_owned());
            head.lines().find_map(named)
        };
        let id = header("x-scenario").unwrap_or_default();
        let scenario = id.split('/').next().unwrap_or_default().to_owned();
        // This header is for Envoy only, and must not reach an upstream.
        let leaked = if header("x-tidegate-upstream").is_some() { " was told x-tidegate-upstream" } else { "" };
        known.state.lock().unwrap().asked.entry(id.clone()).or_default().push(format!("{cluster}{leaked}"));
        if let Some(name) = header("x-scenario-holds") {
            known.hold(&id, &(scenario.clone(), name)).await;
        }
        let does = known.state.lock().unwrap().does.get(&scenario).cloned().unwrap_or_default();
        let mut answer = answer_of(cluster, &does);
        if answer.echoes {
            answer.body = head.split(' ').nth(1).map(str::to_owned);
        }
        if answer.tells {
            let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
            let told = ECHOED_FIELDS.iter().filter_map(|name| Some(format!("\n{name}: {}", header(name)?)));
            answer.body = Some(std::iter::once(line.to_owned()).chain(told).collect());
        }
        match answer.fails {
            Some(Fails::Reset) => return Ok(()),
            Some(Fails::Timeout) => {
                let _ = stream.read_u8().await;
                return Ok(());
            }
            None => stream.write_all(&bytes(&answer, head.starts_with("HEAD "))).await?,
        }
    }
}

impl Known {
    async fn hold(&self, id: &str, name: &(String, String)) {
        loop {
            // Subscribe before the check, so that no notification is missed.
            let ended = self.ended.notified();
            {
                let mut state = self.state.lock().unwrap();
                if state.ended.contains(name) {
                    return;
                }
                state.held.insert(id.to_owned());
            }
            ended.await;
        }
    }
}

fn bytes(answer: &Does, is_head: bool) -> Vec<u8> {
    let body = answer.body.as_deref().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} Any\r\ncontent-length: {}\r\n", answer.status, body.len());
    for (name, value) in &answer.headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.push_str(if is_head { "" } else { body });
    text.into_bytes()
}
