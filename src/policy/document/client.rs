//! How to identify the client of a request.

use crate::api_key::Digest;
use crate::policy::Name;
use crate::policy::client::ClaimName;
use crate::policy::defaults::NO_FIELDS;
use crate::policy::schema::document;
use crate::policy::shapes::{Int, Map, Set};
use crate::policy::text::HeaderName;

document! {
    /// How to identify the client of a request.
    Client {
        /// Where to find the client's address. When absent, the address of the connection.
        address: Address = NO_FIELDS,
        /// Where to find the client's tier.
        tier: Option<Tier>,
        /// Where to find the client's verified claims.
        claims: Option<Claims>,
        /// Where to find the client's API key.
        api_key: Option<ApiKey>,
        /// The request headers that no client can set, because your own proxy, or an earlier filter, sets them on every
        /// request and drops what clients send. Only these may carry a tier, claims or a cost. `x-forwarded-for` needs
        /// no entry here: it is trusted as far as `trusted_hops` says.
        trusted_headers: Set<HeaderName, 0, 64> = [],
    }
}

document! {
    /// Where to find the client's address.
    Address {
        /// The list header to which proxies append the address that called them, such as `x-forwarded-for`.
        header: Option<HeaderName>,
        /// How many of your own proxies append to the header. The client's address is that many entries from the right;
        /// everything further left was written by the client. 0 is the address of the connection.
        trusted_hops: Option<Int<0, 16>>,
        /// How many leading bits of an IPv6 address identify a client. A household or server commonly has a /64 prefix.
        ipv6_prefix: Int<1, 128> = 64,
    }
}

document! {
    /// Where to find the client's tier: in a header, in a claim, or by its API key.
    Tier {
        /// The request header whose value is the name of a tier. It must be one of `trusted_headers`.
        header: Option<HeaderName>,
        /// The claim whose text is the name of a tier, or the path to the claim: names separated by dots.
        claim: Option<ClaimName>,
        /// The names of tiers by API key, at most 10,000. Each key is given as its SHA-256 hash.
        api_keys: Option<Map<Digest, Name, 10_000>>,
        /// The tier of a client that names none of the policy's tiers. When absent, the first of the tiers.
        default: Option<Name>,
    }
}

document! {
    /// Where to find the client's verified claims.
    Claims {
        /// The request header with the payload of a verified JWT in base64url, as Envoy's `jwt_authn` forwards it. It
        /// must be one of `trusted_headers`.
        header: HeaderName,
    }
}

document! {
    /// Where to find the client's API key. The key is the client's secret, so the header need not be trusted.
    ApiKey {
        /// The request header whose value is the key.
        header: HeaderName,
    }
}
