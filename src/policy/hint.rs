//! Hints: what would be right in place of an error. They take 6 KB, compressed, of a host's wasm. A host whose module
//! must be small is built without the feature `hints`; its errors then name the command that gives hints.

/// Whether this build has hints.
pub(super) const ENABLED: bool = cfg!(feature = "hints");

/// The hint that `say` makes. In a build without hints, `say` is never called and is not part of the wasm.
pub(super) fn hint(say: impl FnOnce() -> String) -> Option<String> {
    if ENABLED { Some(say()) } else { None }
}

/// The hint in these pieces, or the command that gives it.
pub(super) fn of(pieces: &[&str]) -> String {
    if ENABLED { pieces.concat() } else { COMMAND.to_owned() }
}

/// Takes the place of every hint in a build without them.
const COMMAND: &str = "`tidegate check` says what would be right";
