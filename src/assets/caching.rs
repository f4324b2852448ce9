//! Headers that tell caches and browsers what to do with a response.

use super::Answer;
use crate::policy::Caching;
use crate::stale::directives;

/// A change to one header of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The header, in lower case.
    pub name: &'static str,
    /// The value of the new line.
    pub value: String,
    /// Whether it replaces all lines of this name, instead of adding one.
    pub replaces: bool,
}

/// `Cache-Control` by the route's rule, for responses that may be cached: not for errors, nor for those that set a
/// cookie or forbid it (`no-store`, `private`, `no-cache`). Other directives of the upstream stay.
///
/// `public` and `s-maxage` are not set: either would let caches keep the response to a request with `Authorization`
/// (RFC 9111 section 3.5), which `max-age` alone does not.
pub(super) fn cache_control(rule: &Caching, answer: &Answer<'_>) -> Option<Edit> {
    if !matches!(answer.status, 200 | 203 | 206 | 301 | 304 | 308) || answer.first("set-cookie").is_some() {
        return None;
    }
    let mut value = rule.to_string();
    for directive in answer.values("cache-control").flat_map(directives) {
        if ["no-store", "private", "no-cache"].iter().any(|name| directive.is(name)) {
            return None;
        }
        if ["max-age", "s-maxage", "stale-while-revalidate", "immutable"].iter().any(|name| directive.is(name)) {
            continue;
        }
        // A directive that is not UTF-8 is dropped.
        if let Ok(whole) = str::from_utf8(directive.whole) {
            value.push_str(", ");
            value.push_str(whole);
        }
    }
    Some(Edit { name: "cache-control", value, replaces: true })
}

/// `Vary` with these names, in addition to the upstream's.
pub(super) fn vary(names: &[&'static str], answer: &Answer<'_>) -> Option<Edit> {
    let said = |name: &str| {
        let mut items = answer.values("vary").flat_map(|value| value.split(|byte| *byte == b','));
        items
            .any(|item| matches!(item.trim_ascii(), item if item == b"*" || item.eq_ignore_ascii_case(name.as_bytes())))
    };
    let missing: Vec<_> = names.iter().copied().filter(|name| !said(name)).collect();
    (!missing.is_empty()).then(|| Edit { name: "vary", value: missing.join(", "), replaces: false })
}

/// `Link` for what a page will need (RFC 8288, `rel=preload`), for HTML pages only.
pub(super) fn preload(links: &[String], answer: &Answer<'_>) -> Option<Edit> {
    let kind = answer.first("content-type")?.split(|byte| *byte == b';').next()?.trim_ascii();
    let is_page =
        [b"text/html".as_slice(), b"application/xhtml+xml"].iter().any(|html| kind.eq_ignore_ascii_case(html));
    (is_page && answer.status == 200 && !links.is_empty()).then(|| Edit {
        name: "link",
        value: links.join(", "),
        replaces: false,
    })
}
