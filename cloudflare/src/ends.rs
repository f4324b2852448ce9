//! How a call ended, derived from workerd's response.
//!
//! In production, Cloudflare itself answers for an upstream that does not, with statuses that nothing else uses:
//! <https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/>. Plain workerd
//! throws instead.

use crate::facts::Answer;
use crate::host::Response;
use crate::now;
use tidegate::fallback::Ended;
use tidegate::policy::CallEnd;

/// How the call with this response ended.
pub fn of_answer(answer: &Response) -> Ended {
    match answer.status() {
        // 521 connection refused, 522 connection timed out, 523 no route, 525 TLS handshake failed, 526 invalid
        // certificate, 530 no DNS name, among others.
        521 | 522 | 523 | 525 | 526 | 530 => CallEnd::NotConnected.into(),
        524 => CallEnd::TimedOut.into(),
        // Empty, cut off, or not HTTP.
        520 => CallEnd::Reset.into(),
        status => Ended::answered(&Answer(answer), status, now()),
    }
}
