//! How a call ended, derived from Envoy's response: for an upstream that does not answer, Envoy writes a response
//! itself.

use crate::facts::upstream_time;
use crate::host::{self, Map};
use tidegate::fallback::Ended;
use tidegate::policy::CallEnd;
use tidegate::request::ResponseFacts;
use tidegate::units::{Span, Timestamp};

/// How the call of the current stream ended, now that there is a response. `is_whole`: it has no body.
pub fn of_stream(answer: &dyn ResponseFacts, is_whole: bool, now: Timestamp) -> Ended {
    let Some(status) = answer.status() else { return CallEnd::Reset.into() };
    // To a gRPC client, Envoy's own responses also have the status 200, and nothing after the headers.
    let may_be_routers = status >= 500 || (status == 200 && is_whole && answer.header("grpc-status").is_some());
    let end = if may_be_routers { by_flags(host::response_flags().unwrap_or(0)) } else { None };
    // Later filters may refuse a request themselves.
    let may_be_filters = end.is_none() && (may_be_routers || status >= 400);
    let end = if may_be_filters && !host::answered_by_upstream() { Some(CallEnd::NotMade) } else { end };
    end.map_or_else(|| Ended::answered(answer, status, now), Ended::from)
}

/// How a call by the filter ended, given its response and body. `None` if there are no headers: the call broke in its
/// body, or the body was larger than Envoy accepts.
pub fn of_call(answer: &dyn ResponseFacts, is_from_upstream: bool, body: &[u8]) -> Option<Ended> {
    let status = answer.status()?;
    Some(match status {
        // Envoy passes on the response only when it is complete, so the upstream's own time counts.
        _ if is_from_upstream => Ended { took: answer.upstream_time(), ..Ended::answered(answer, status, now()) },
        504 => CallEnd::TimedOut.into(),
        _ if NOT_CONNECTED.iter().any(|words| body.windows(words.len()).any(|part| part == *words)) => {
            CallEnd::NotConnected.into()
        }
        _ => CallEnd::Reset.into(),
    })
}

/// Whether the response to a call by the filter came from an upstream. Envoy adds the time that the upstream took, but
/// not to its own responses.
pub fn is_from_upstream(answer: &dyn ResponseFacts) -> bool {
    answer.header("x-envoy-upstream-service-time").is_some()
}

fn now() -> Timestamp {
    Timestamp::from_nanos(host::now_ns())
}

/// Whether the current stream had no response because there is no cluster of the upstream's name.
pub fn had_no_cluster() -> bool {
    host::response_flags().is_ok_and(|flags| flags & NO_CLUSTER_FLAG != 0)
}

fn by_flags(flags: u64) -> Option<CallEnd> {
    [(NOT_CONNECTED_FLAGS, CallEnd::NotConnected), (TIMED_OUT_FLAGS, CallEnd::TimedOut), (RESET_FLAGS, CallEnd::Reset)]
        .into_iter()
        .find_map(|(any, end)| (flags & any != 0).then_some(end))
}

/// The response to a call by the filter.
pub struct CallAnswer;

impl ResponseFacts for CallAnswer {
    fn status(&self) -> Option<u16> {
        str::from_utf8(&self.header(":status")?).ok()?.parse().ok()
    }

    fn upstream_time(&self) -> Option<Span> {
        upstream_time(self)
    }

    fn header(&self, name: &str) -> Option<std::borrow::Cow<'_, [u8]>> {
        host::header(Map::CallResponse, name).ok().flatten().map(std::borrow::Cow::Owned)
    }
}

/// No healthy host (UH), no connection (UF), no such cluster (NC), no address (DF), too many requests at once (UO), a
/// share that the cluster drops (DO, UDO).
const NOT_CONNECTED_FLAGS: u64 = 0x2 | 0x20 | 0x80 | NO_CLUSTER_FLAG | 0x400_0000 | 0x800_0000 | 0x2000_0000;

/// No such cluster (NC).
const NO_CLUSTER_FLAG: u64 = 0x100_0000;

/// The request timeout (UT), the idle timeout (SI), the maximum duration (UMSDR, DT).
const TIMED_OUT_FLAGS: u64 = 0x4 | 0x1_0000 | 0x8_0000 | 0x40_0000;

/// Local reset (LR), remote reset (UR), connection cut (UC), protocol error (UPE).
const RESET_FLAGS: u64 = 0x8 | 0x10 | 0x40 | 0x80_0000;

/// What Envoy writes into the body of its own response.
const NOT_CONNECTED: [&[u8]; 3] = [b"connection failure", b"no healthy upstream", b"connection timeout"];
