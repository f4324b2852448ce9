//! How to tell the client of a request.

use crate::api_key::Digest;
use crate::policy::Name;
use crate::policy::absent::NO_FIELDS;
use crate::policy::client::ClaimName;
use crate::policy::schema::document;
use crate::policy::shapes::{Int, Map, Set};
use crate::policy::text::HeaderName;

document! {
    /// How to tell the client of a request.
    Client {
        /// Where to find the client's address. The address of the connection when absent.
        address: Address = NO_FIELDS,
        /// Where to find the client's tier.
        tier: Option<Tier>,
        /// Where to find the client's verified claims.
        claims: Option<Claims>,
        /// Where to find the client's API key.
        api_key: Option<ApiKey>,
        /// The request headers that no client can set, since a proxy of your own, or a filter before this one, sets them on
        /// every request and drops what clients send. Nothing is believed of a header that is not one of them: not a tier,
        /// nor claims, nor a cost. A list as `x-forwarded-for` is not meant, which is trusted as far as `trusted_hops` says.
        trusted_headers: Set<HeaderName, 0, 64> = [],
    }
}

document! {
    /// Where to find the client's address.
    Address {
        /// The list header to which proxies append the address that called them, as in `x-forwarded-for`.
        header: Option<HeaderName>,
        /// How many proxies of your own append to the header: the client's address is that many entries from the
        /// right, and everything further left is whatever the client wrote. 0 is the address of the connection.
        trusted_hops: Option<Int<0, 16>>,
        /// How many leading bits of an IPv6 address identify a client. A household or server commonly has 64.
        ipv6_prefix: Int<1, 128> = 64,
    }
}

document! {
    /// Where to find the client's tier: in a header, in a claim, or by its API key.
    Tier {
        /// The request header whose value is the name of a tier, one of `trusted_headers`.
        header: Option<HeaderName>,
        /// The claim whose text is the name of a tier, or a path to it of names with dots between them.
        claim: Option<ClaimName>,
        /// The names of tiers by API key, each key as its SHA-256 hash, at most 10,000.
        api_keys: Option<Map<Digest, Name, 10_000>>,
        /// The tier of a client that names none of the policy's tiers. The first of the tiers when absent.
        default: Option<Name>,
    }
}

document! {
    /// Where to find the client's verified claims.
    Claims {
        /// The request header with the payload of a verified JWT in base64url, as Envoy's `jwt_authn` forwards it, one of
        /// `trusted_headers`.
        header: HeaderName,
    }
}

document! {
    /// Where to find the client's API key. It is a secret of the client, so the header needs no trust.
    ApiKey {
        /// The request header whose value is the key.
        header: HeaderName,
    }
}
