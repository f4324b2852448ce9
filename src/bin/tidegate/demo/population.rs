//! Who sends what: the groups of clients, and the three acts they play in.

use std::net::Ipv4Addr;

/// Clients that behave alike. Each keeps to its own address and sends evenly.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// What the tables call them.
    pub name: &'static str,
    /// What they send as `x-plan`; without one the policy takes them as anonymous.
    pub plan: Option<&'static str>,
    /// How many they are.
    pub clients: u32,
    /// Requests a second, of all of them together.
    pub requests_per_s: u32,
    /// The first one's address; the others have the ones after it.
    pub first_address: Ipv4Addr,
    /// Whether they are the service's usual clients, those to be protected.
    pub usual: bool,
}

impl Group {
    /// The address of the client that sends the group's n-th request: they take turns.
    pub fn address(&self, n: u64) -> Ipv4Addr {
        let turn = u32::try_from(n % u64::from(self.clients.max(1))).unwrap_or(0);
        Ipv4Addr::from_bits(self.first_address.to_bits().wrapping_add(turn))
    }
}

/// Ten seconds or so of traffic.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// What it shows.
    pub title: &'static str,
    /// What a column of the summary calls it.
    pub short: &'static str,
    /// Whether requests go through the filter, or through the same Envoy's listener without it.
    pub filtered: bool,
    /// Who takes part.
    pub groups: &'static [Group],
}

/// The three acts.
pub const ACTS: [Act; 3] = [
    Act { title: "the usual clients", short: "calm", filtered: true, groups: USUAL },
    Act {
        title: "a spike: one greedy client, a thousand small ones",
        short: "spike, filter",
        filtered: true,
        groups: SPIKE,
    },
    Act { title: "the same spike, the filter bypassed", short: "spike, no filter", filtered: false, groups: SPIKE },
];

const ANONYMOUS: Group = Group {
    name: "anonymous",
    plan: None,
    clients: 40,
    requests_per_s: 60,
    first_address: Ipv4Addr::new(10, 1, 0, 0),
    usual: true,
};
const FREE: Group = Group {
    name: "free",
    plan: Some("free"),
    clients: 20,
    requests_per_s: 60,
    first_address: Ipv4Addr::new(10, 2, 0, 0),
    usual: true,
};
const PREMIUM: Group = Group {
    name: "premium",
    plan: Some("premium"),
    clients: 5,
    requests_per_s: 60,
    first_address: Ipv4Addr::new(10, 3, 0, 0),
    usual: true,
};
/// One client of the free tier that asks for twice of what the origin can do.
const GREEDY: Group = Group {
    name: "greedy (free)",
    plan: Some("free"),
    clients: 1,
    requests_per_s: 1_000,
    first_address: Ipv4Addr::new(10, 4, 0, 0),
    usual: false,
};
/// None of them sends more than its own limit allows: only a limit that they share can hold them.
const SMALL: Group = Group {
    name: "a thousand (anonymous)",
    plan: None,
    clients: 1_000,
    requests_per_s: 400,
    first_address: Ipv4Addr::new(10, 5, 0, 0),
    usual: false,
};
const USUAL: &[Group] = &[ANONYMOUS, FREE, PREMIUM];
const SPIKE: &[Group] = &[ANONYMOUS, FREE, PREMIUM, SMALL, GREEDY];
