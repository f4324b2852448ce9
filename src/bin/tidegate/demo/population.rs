//! The groups of clients and the three acts of the spike.

use std::net::Ipv4Addr;

/// Clients with the same behaviour. Each has its own address, and all send at an even rate.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The name in tables.
    pub name: &'static str,
    /// The value of `x-plan`. Without it, the policy treats them as anonymous.
    pub plan: Option<&'static str>,
    /// The number of clients.
    pub clients: u32,
    /// Requests a second, all clients together.
    pub requests_per_s: u32,
    /// The address of the first client. The others have the addresses after it.
    pub first_address: Ipv4Addr,
    /// Whether they are the service's usual clients, which the policy is to protect.
    pub usual: bool,
}

impl Group {
    /// The address of the client that sends the group's n-th request. The clients send in rotation.
    pub fn address(&self, n: u64) -> Ipv4Addr {
        let turn = u32::try_from(n % u64::from(self.clients.max(1))).unwrap_or(0);
        Ipv4Addr::from_bits(self.first_address.to_bits().wrapping_add(turn))
    }
}

/// A part of the spike with constant traffic.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// The title in the view.
    pub title: &'static str,
    /// The name in the summary's columns.
    pub short: &'static str,
    /// Whether requests go through the filter, or through the same Envoy's listener without it.
    pub filtered: bool,
    /// The groups that send.
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
/// One client of the free tier that sends twice what the origin can process.
const GREEDY: Group = Group {
    name: "greedy (free)",
    plan: Some("free"),
    clients: 1,
    requests_per_s: 1_000,
    first_address: Ipv4Addr::new(10, 4, 0, 0),
    usual: false,
};
/// Each of them stays within its own limit. Only a limit that counts them together can stop them.
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
