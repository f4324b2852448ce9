//! What would be right, where a document is wrong. The texts and the search for them are 6 KB, compressed, of a host's
//! module, and one that must be small leaves them out: it is built without the feature `hints`, and says where to get them.

/// Whether errors carry hints of their own.
pub(super) const GIVEN: bool = cfg!(feature = "hints");

/// A hint, where hints are given; otherwise `say` is never called and leaves nothing in the module.
pub(super) fn hint(say: impl FnOnce() -> String) -> Option<String> {
    if GIVEN { Some(say()) } else { None }
}

/// The hint in these pieces, or where to get it.
pub(super) fn of(pieces: &[&str]) -> String {
    if GIVEN { pieces.concat() } else { ELSEWHERE.to_owned() }
}

/// What stands for every hint where none are given.
const ELSEWHERE: &str = "`tidegate check` says what would be right";
