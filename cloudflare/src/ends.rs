//! How a call ended, told from what workerd makes of it.
//!
//! In production, for an upstream that gives no answer Cloudflare writes one itself, with a status that nobody else uses:
//! <https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/>. workerd alone throws.

use crate::facts::Answer;
use crate::host::Response;
use crate::now;
use tidegate::fallback::Ended;
use tidegate::policy::CallEnd;

/// How the call with this answer ended.
pub fn of_answer(answer: &Response) -> Ended {
    match answer.status() {
        // Refused, too late, no route to it; no TLS, not its certificate; no name, among other things.
        521 | 522 | 523 | 525 | 526 | 530 => CallEnd::NotConnected.into(),
        524 => CallEnd::TimedOut.into(),
        // Empty, cut or no HTTP.
        520 => CallEnd::Reset.into(),
        status => Ended::answered(&Answer(answer), status, now()),
    }
}
