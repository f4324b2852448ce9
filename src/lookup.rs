//! The facts of one request, each asked of the host at most once.

use core::cell::OnceCell;
use std::borrow::Cow;

use crate::path::{self, Form};
use crate::request::{Locality, RequestFacts};

/// A request's facts, kept once they were asked for.
///
/// In Envoy each question is a call into the host of about half a microsecond, and several rules ask for the same fact.
/// So all code that reads a request goes through this type. `'a` is the lifetime of the request and of the policy's
/// names.
pub struct Lookup<'a> {
    facts: &'a dyn RequestFacts,
    target: OnceCell<Target<'a>>,
    method: OnceCell<Cow<'a, [u8]>>,
    host: OnceCell<Cow<'a, [u8]>>,
    peer: OnceCell<Option<Cow<'a, [u8]>>>,
    /// Indexed by [`Locality`].
    localities: [OnceCell<Option<Cow<'a, [u8]>>>; 3],
    headers: Headers<'a>,
}

impl<'a> Lookup<'a> {
    /// A request of which no fact has been asked yet.
    #[must_use]
    pub fn new(facts: &'a dyn RequestFacts) -> Self {
        Self {
            facts,
            target: OnceCell::new(),
            method: OnceCell::new(),
            host: OnceCell::new(),
            peer: OnceCell::new(),
            localities: Default::default(),
            headers: Headers::default(),
        }
    }

    /// The normalised path, see [`path::normalise`].
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let target = self.target();
        match &target.form {
            Form::Prefix(len) => target.raw.get(..*len).unwrap_or(&target.raw),
            Form::Rewritten(path) => path,
        }
    }

    /// The query as received, without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        path::query(&self.target().raw)
    }

    /// The method as received.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.method.get_or_init(|| self.facts.method())
    }

    /// The host that the request names: lower case, without its port, and without a trailing dot, because
    /// `example.com.` is `example.com`. Empty if the request names none.
    #[must_use]
    pub fn host(&self) -> &[u8] {
        self.host.get_or_init(|| host_of(self.facts.authority()))
    }

    /// The address of the connection as the host gives it.
    #[must_use]
    pub fn peer(&self) -> Option<&[u8]> {
        self.peer.get_or_init(|| self.facts.peer()).as_deref()
    }

    /// The place that the request comes from or arrived at; `None` if it is unknown or empty.
    #[must_use]
    pub fn locality(&self, kind: Locality) -> Option<&[u8]> {
        let place = self.localities.get(kind as usize)?.get_or_init(|| self.facts.locality(kind)).as_deref();
        place.filter(|place| !place.is_empty())
    }

    /// The value of the header `name` (lower case) without surrounding blanks; `None` if it is absent.
    #[must_use]
    pub fn header(&self, name: &'a str) -> Option<&[u8]> {
        self.headers.get(name, self.facts).map(trim_blanks)
    }

    fn target(&self) -> &Target<'a> {
        self.target.get_or_init(|| {
            let raw = self.facts.path();
            let form = path::form(&raw);
            Target { raw, form }
        })
    }
}

/// The path as received, and how to get its normal form.
struct Target<'a> {
    raw: Cow<'a, [u8]>,
    form: Form,
}

/// The headers asked for so far, in that order. Their number is bounded by the names in the policy.
#[derive(Default)]
struct Headers<'a> {
    first: [OnceCell<Header<'a>>; HEADERS_INLINE],
    more: OnceCell<Box<Headers<'a>>>,
}

struct Header<'a> {
    name: &'a str,
    value: Option<Cow<'a, [u8]>>,
}

impl<'a> Headers<'a> {
    fn get(&self, name: &'a str, facts: &'a dyn RequestFacts) -> Option<&[u8]> {
        let mut block = self;
        loop {
            for slot in &block.first {
                let header = slot.get_or_init(|| Header { name, value: facts.header(name) });
                if header.name == name {
                    return header.value.as_deref();
                }
            }
            block = block.more.get_or_init(Box::default);
        }
    }
}

/// `text` without surrounding blanks (space and tab, RFC 9110 section 5.6.3).
pub(crate) fn trim_blanks(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn host_of(authority: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let len = host_len(&authority);
    let lower = !authority.iter().any(u8::is_ascii_uppercase);
    match authority {
        Cow::Borrowed(text) if lower => Cow::Borrowed(text.get(..len).unwrap_or(text)),
        authority => {
            let mut host = authority.into_owned();
            host.truncate(len);
            host.make_ascii_lowercase();
            Cow::Owned(host)
        }
    }
}

/// The length of the host within `authority`.
fn host_len(authority: &[u8]) -> usize {
    let colon = authority.iter().rposition(|byte| !byte.is_ascii_digit());
    // The last byte that is no digit is a port's colon, or part of the name. In `[::1]:80` it is the colon after the
    // bracket. `::1` is no valid authority and is cut here, which does no harm.
    let named = match colon.and_then(|colon| authority.get(..colon.saturating_add(1))) {
        Some([name @ .., b':']) => name,
        _ => authority,
    };
    named.strip_suffix(b".").unwrap_or(named).len()
}

/// How many headers are kept without allocating. Policies read one to three; each further block of four costs an
/// allocation.
const HEADERS_INLINE: usize = 4;

#[cfg(test)]
pub(crate) mod recorded;

#[cfg(test)]
mod tests {
    use super::recorded::Recorded;
    use super::*;

    #[test]
    fn the_host_is_lower_case_and_without_its_port() {
        for (authority, host) in [
            ("example.com", "example.com"),
            ("Example.COM:8080", "example.com"),
            ("example.com.:443", "example.com"),
            ("example.com:", "example.com"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("[2001:DB8::1]:80", "[2001:db8::1]"),
            ("[::1]", "[::1]"),
            ("host7", "host7"),
            ("7", "7"),
            ("", ""),
        ] {
            let borrowed = host_of(Cow::Borrowed(authority.as_bytes()));
            let owned = host_of(Cow::Owned(authority.as_bytes().to_vec()));
            assert_eq!(borrowed, host.as_bytes(), "{authority}");
            assert_eq!(owned, host.as_bytes(), "{authority}");
        }
    }

    #[test]
    fn nothing_is_asked_twice() {
        let names: Vec<String> = (0..HEADERS_INLINE * 2 + 1).map(|n| format!("x-{n}")).collect();
        let mut facts = Recorded::get("/a?b").on("h").from("192.0.2.7");
        for name in &names {
            facts = facts.with(name, format!(" value of {name}\t"));
        }
        let lookup = Lookup::new(&facts);
        for _ in 0..2 {
            assert_eq!(lookup.path(), b"/a");
            assert_eq!(lookup.query(), Some(b"b".as_slice()));
            assert_eq!(lookup.method(), b"GET");
            assert_eq!(lookup.host(), b"h");
            assert_eq!(lookup.peer(), Some(b"192.0.2.7".as_slice()));
            assert_eq!(lookup.locality(Locality::Country), None);
            assert_eq!(lookup.locality(Locality::Colo), None);
            assert_eq!(lookup.header("absent"), None);
            for name in &names {
                assert_eq!(lookup.header(name), Some(format!("value of {name}").as_bytes()));
            }
        }
        let asked = facts.asked();
        assert_eq!(asked.len(), 7 + names.len(), "{asked:?}");
    }

    #[test]
    fn blanks_are_space_and_tab() {
        assert_eq!(trim_blanks(b" \t a b\t "), b"a b");
        assert_eq!(trim_blanks(b" \t "), b"");
        assert_eq!(trim_blanks(b"\x0ba\n"), b"\x0ba\n");
    }
}
