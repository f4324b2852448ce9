//! Envoy's rate-limit service, `envoy.service.ratelimit.v3.RateLimitService`: the request and response messages of its
//! only call, `ShouldRateLimit`. Bytes in, bytes out: a host frames and sends them.
//!
//! The service counts by descriptors, which are lists of keys and values. Each limit of the policy that applies to a
//! request is one descriptor: first [`NAME_KEY`] with the limit's name, then the limit's key, part by part. An answer
//! has a status for each of them, in the same order.
//!
//! Source: the published definition of the API, `envoy/service/ratelimit/v3/rls.proto`, and the Protocol Buffers
//! encoding.

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

/// The key of a descriptor's first entry, whose value is the limit's name. Envoy's own action for fixed texts uses the
/// same.
pub const NAME_KEY: &str = "generic_key";

/// The key of an entry that holds the client's address. Envoy's own action for it uses the same.
pub const ADDRESS_KEY: &str = "remote_address";

/// Envoy's `GrpcService` message for a cluster, as a proxy-wasm filter passes it to the host. A bare name works in most
/// cases, but not if its letters happen to be a valid message.
#[must_use]
pub fn envoy_service(cluster: &str) -> Vec<u8> {
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    message::write_bytes(1, cluster.as_bytes(), &mut inner);
    message::write_bytes(1, &inner, &mut outer);
    outer
}

/// Why the service gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RlsError {
    /// The call ended with this gRPC status, which is not success; 14 if the service cannot be reached.
    Status(u32),
    /// There was no answer within the deadline.
    Late,
    /// The bytes are not an answer of such a service.
    Malformed,
    /// The answer is larger than any honest one.
    TooLarge,
    /// The service does not know: code UNKNOWN, or a code that is not defined.
    Undecided,
}

impl RlsError {
    /// The error for a call that ended with this gRPC status.
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

/// The gRPC status of a service that cannot be reached.
pub const UNAVAILABLE: u32 = 14;

/// The gRPC status of a call that took too long.
const DEADLINE_EXCEEDED: u32 = 4;
