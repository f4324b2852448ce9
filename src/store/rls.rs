//! Envoy's rate-limit service, `envoy.service.ratelimit.v3.RateLimitService`: what it is asked and what it answers, as the
//! messages of its one call, `ShouldRateLimit`. Bytes in, bytes out: a host frames and sends them.
//!
//! The service counts by descriptors, lists of keys and values. Each limit of the policy that a request meets is one:
//! first [`NAME_KEY`] with the limit's name, then its key, part by part. An answer is for each of them, in the same order.
//!
//! Source: the published definition of the API, `envoy/service/ratelimit/v3/rls.proto`, and Protocol Buffers' encoding.

mod answer;
mod message;
mod request;

pub use answer::{Answer, Code, Header, LARGEST, Status, answer};
pub use request::{Descriptor, request};

use core::fmt;

/// The service's full name.
pub const SERVICE: &str = "envoy.service.ratelimit.v3.RateLimitService";

/// The method.
pub const METHOD: &str = "ShouldRateLimit";

/// The key of a descriptor's first entry, whose value is the limit's name: that of Envoy's own action for fixed texts.
pub const NAME_KEY: &str = "generic_key";

/// The key of an entry that holds the client's address: that of Envoy's own action for it.
pub const ADDRESS_KEY: &str = "remote_address";

/// Envoy's `GrpcService` for a cluster, as the host call of a proxy-wasm filter takes it. A bare name would do in most cases,
/// but not where its letters happen to be such a message.
#[must_use]
pub fn envoy_service(cluster: &str) -> Vec<u8> {
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    message::write_bytes(1, cluster.as_bytes(), &mut inner);
    message::write_bytes(1, &inner, &mut outer);
    outer
}

/// Why there is no answer of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RlsError {
    /// The call ended with this gRPC status, which is none of success; 14 when the service cannot be reached.
    Status(u32),
    /// It was not answered within the deadline.
    Late,
    /// The bytes are no answer of such a service.
    Malformed,
    /// The answer has more in it than any that is meant well.
    TooLarge,
    /// The service says that it does not know: code UNKNOWN, or none of those that there are.
    Undecided,
}

impl RlsError {
    /// A call that ended with this gRPC status.
    #[must_use]
    pub const fn of_status(status: u32) -> Self {
        if status == DEADLINE_EXCEEDED { Self::Late } else { Self::Status(status) }
    }
}

impl fmt::Display for RlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(UNAVAILABLE) => f.write_str("cannot be reached (gRPC status 14, UNAVAILABLE)"),
            Self::Status(12) => f.write_str("is no envoy.service.ratelimit.v3.RateLimitService (gRPC status 12)"),
            Self::Status(status) => write!(f, "failed with gRPC status {status}"),
            Self::Late => f.write_str("did not answer within the deadline"),
            Self::Malformed => f.write_str("answered with bytes that are no RateLimitResponse"),
            Self::TooLarge => f.write_str("answered with more than a RateLimitResponse has room for"),
            Self::Undecided => f.write_str("answered with the code UNKNOWN"),
        }
    }
}

impl core::error::Error for RlsError {}

/// gRPC's status for what cannot be reached.
pub const UNAVAILABLE: u32 = 14;

/// gRPC's status for what has taken too long.
const DEADLINE_EXCEEDED: u32 = 4;
