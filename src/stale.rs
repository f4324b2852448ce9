//! The last good answers, kept for when every upstream fails.
//!
//! What may be kept is told by [`Keeping`], after RFC 9111 as a shared cache has it and stricter: an answer that was
//! good, whole, and the same for every client who asks in the same way. [`Collecting`] gathers one while it streams past.
//! [`Shelf`] is where kept answers lie, in a fixed number of slots and a fixed number of bytes; [`serve`](serve::serve)
//! makes an answer of one.
//!
//! A kept answer is known by an [`AnswerKey`], 128 bits of keyed hashes over all that it depends on. It is part of the
//! record as well, under the record's checksum, so that no slot is ever taken for another's. A host whose cache outlives the
//! instance has keys by [`Keyed::Everywhere`], and the instance's [`Recent`] in place of a shelf.

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
pub use keyed::Keyed;
pub use recent::Recent;
pub use shelf::Shelf;

use crate::assets::accept;
use crate::lookup::Lookup;

/// All that a kept answer depends on, as 128 bits of hashes: see [`Keyed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerKey([u64; 2]);

impl AnswerKey {
    /// The key of no answer.
    pub(crate) const NONE: Self = Self([0, 0]);

    /// The key of the request under a route: the route's name and its cache's version, by which keeping begins anew; the
    /// scheme, host and target as the upstream gets them, whose port or spelling may come back in its answer; what a client may say in
    /// their place; and the values of the headers that answers vary by.
    #[must_use]
    pub(crate) fn new<'a>(
        keyed: Keyed,
        route: &str,
        version: &str,
        request: &Lookup<'a>,
        (authority, target): (&[u8], &[u8]),
        vary: &'a [String],
    ) -> Self {
        keyed.key(|write| {
            write(0, route.as_bytes());
            write(1, version.as_bytes());
            // One address may redirect to https and be the page itself there.
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
                    // As many answers as there are sets of codings, and not as many as there are spellings.
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

    /// The key of these bytes.
    #[must_use]
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        Self([bits as u64, (bits >> 64) as u64])
    }

    /// Which of so many pages of the index the key lives on.
    pub(crate) fn page(self, pages: u32) -> u32 {
        u32::try_from(self.0[0].checked_rem(u64::from(pages)).unwrap_or(0)).unwrap_or(0)
    }
}

/// Headers that many services read in place of the host, the target or the method. Any client may send them, and responses do not name
/// them in `Vary`: a redirect to one client's host would come back to all.
const IN_PLACE: [&str; 5] =
    ["x-forwarded-host", "x-forwarded-prefix", "x-original-url", "x-rewrite-url", "x-http-method-override"];
