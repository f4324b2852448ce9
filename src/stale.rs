//! The last good responses, kept for when every upstream fails.
//!
//! [`Keeping`] decides which responses may be kept, by the rules of RFC 9111 for a shared cache, and stricter: a
//! response must be good, complete, and the same for every client that asks in the same way. [`Collecting`] gathers one
//! while it streams through. [`Shelf`] stores kept responses, in a fixed number of slots and a fixed number of bytes.
//! [`serve`](serve::serve) makes a response of a kept one.
//!
//! A kept response is identified by an [`AnswerKey`], 128 bits of keyed hashes over everything it depends on. The key
//! is also in the record, under the record's checksum, so a slot is never mistaken for another. A host whose cache
//! outlives the instance uses keys of [`KeyHasher::Everywhere`], and the instance's [`Recent`] in place of a shelf.

pub mod collect;
mod decoded;
mod directives;
mod freshness;
mod keeping;
mod keyed;
mod range;
mod recent;
pub mod record;
pub mod serve;
pub mod shelf;

pub use collect::Collecting;
pub use decoded::undo_coding;
pub(crate) use directives::directives;
pub use keeping::{Draft, Keeping};
pub use keyed::KeyHasher;
pub use recent::Recent;
pub use shelf::Shelf;

use crate::assets::accept;
use crate::lookup::Lookup;

/// Everything that a kept response depends on, as 128 bits of hashes: see [`KeyHasher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerKey([u64; 2]);

impl AnswerKey {
    /// The key of no response.
    pub(crate) const NONE: Self = Self([0, 0]);

    /// The key of a request on a route. It covers the route's name and the version of its cache, whose change
    /// invalidates all kept responses; the scheme, host and target as the upstream gets them, because their port or
    /// spelling may appear in the response; the headers that services read in their place; and the values of the
    /// headers by which responses vary.
    #[must_use]
    pub(crate) fn new<'a>(
        keyed: KeyHasher,
        route: &str,
        version: &str,
        request: &Lookup<'a>,
        (authority, target): (&[u8], &[u8]),
        vary: &'a [String],
    ) -> Self {
        keyed.key(|write| {
            write(0, route.as_bytes());
            write(1, version.as_bytes());
            // The same URL may be a redirect over http and the page itself over https.
            write(2, request.header("x-forwarded-proto").unwrap_or_default());
            write(3, authority);
            write(4, target);
            for name in IN_PLACE {
                if let Some(value) = request.header(name) {
                    write(8, name.as_bytes());
                    write(6, value);
                }
            }
            for name in vary {
                write(5, name.as_bytes());
                match request.header(name) {
                    // By the set of accepted codings instead of the header's spelling, so there are fewer kept
                    // responses.
                    Some(value) if name == "accept-encoding" => write(6, &[accept::codings(value)]),
                    Some(value) => write(6, value),
                    None => write(7, b""),
                }
            }
        })
    }

    /// The key as bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.0[0]) | (u128::from(self.0[1]) << 64)).to_le_bytes()
    }

    /// Decodes a key.
    #[must_use]
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        Self([bits as u64, (bits >> 64) as u64])
    }

    /// The key's page in an index of this many pages.
    pub(crate) fn page(self, pages: u32) -> u32 {
        u32::try_from(self.0[0].checked_rem(u64::from(pages)).unwrap_or(0)).unwrap_or(0)
    }
}

/// Headers that many services read in place of the host, the target or the method. Any client may send them, and responses do not name
/// them in `Vary`: a redirect to one client's host would come back to all.
const IN_PLACE: [&str; 5] =
    ["x-forwarded-host", "x-forwarded-prefix", "x-original-url", "x-rewrite-url", "x-http-method-override"];
