//! How routes serve responses: kept and static responses, caching, image variants, preload.

pub(super) mod text;

use super::KeyPart;
use super::document::responses;
use super::document::{self, Document};
use super::error::{Path, Problems};
use super::json::quoted;
use super::value::View;
use crate::decision::is_without_body;
use crate::units::Span;
use core::fmt;

/// How a route serves responses.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    /// How old a kept response may be to be served; `None` if none are kept.
    pub(crate) stale: Option<Span>,
    pub(crate) fixed: Option<StaticResponse>,
    /// What responses tell caches.
    pub(crate) caching: Option<Caching>,
    /// The headers by which kept responses may vary, lower case.
    pub(crate) vary: Vec<String>,
    /// A part of the key of kept responses.
    pub(crate) version: Option<String>,
    pub(crate) variants: Option<Variants>,
    /// Complete values of the `Link` header.
    pub(crate) preload: Vec<String>,
}

/// A route's static response, for when everything else has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticResponse {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its header lines, names in lower case, the content type first.
    pub lines: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

/// What responses tell caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caching {
    /// How long a response is fresh.
    pub(crate) ttl: Span,
    /// For how long after that it may be served while a new one is fetched.
    pub(crate) stale_while_revalidate: Option<Span>,
    /// Whether the response never changes.
    pub(crate) immutable: bool,
}

/// Images by format and width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variants {
    /// Without `image/`, in the order of preference.
    pub(crate) formats: Vec<String>,
    /// The format for clients that accept none of these; with `None` they get the original image.
    pub(crate) otherwise: Option<String>,
    /// Ascending.
    pub(crate) widths: Vec<u32>,
    pub(crate) width_from: Vec<WidthFrom>,
    /// Whether the width may come from the client hint: `width_from` has [`WidthFrom::Hint`], and there are widths.
    pub(crate) hints: bool,
    /// The file extensions of images, without the dot.
    pub(crate) extensions: Vec<String>,
    pub(crate) rewrite: Vec<Piece>,
    /// Whether a Worker uses Cloudflare's `cf.image` in place of `rewrite`.
    pub(crate) cf_image: bool,
}

/// Where a request may ask for an image's width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WidthFrom {
    /// In a query parameter.
    Query(String),
    /// In the client hint `Sec-CH-Width`.
    Hint,
}

/// A piece of the template in `rewrite`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(String),
    /// The format.
    Format,
    /// The width in pixels.
    Width,
    /// The path of the request.
    Path,
}

/// The bounds on kept responses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBytes {
    /// The largest response that is kept.
    pub max_object: u32,
    /// The most that all kept responses take together.
    pub max_bytes: u32,
}

impl Serving {
    /// Whether the route changes or keeps responses while its upstreams are healthy. A static response alone does not.
    #[must_use]
    pub fn affects_responses(&self) -> bool {
        self.stale.is_some() || self.caching.is_some() || self.variants.is_some() || !self.preload.is_empty()
    }

    /// How old a kept response may be to be served; `None` if none are kept.
    #[must_use]
    pub fn stale(&self) -> Option<Span> {
        self.stale
    }

    /// The static response for when everything else has failed.
    #[must_use]
    pub fn fixed(&self) -> Option<&StaticResponse> {
        self.fixed.as_ref()
    }
}

/// The directives of `Cache-Control`, in whole seconds, rounded down.
impl fmt::Display for Caching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max-age={}", self.ttl.as_secs())?;
        if let Some(span) = self.stale_while_revalidate {
            write!(f, ", stale-while-revalidate={}", span.as_secs())?;
        }
        f.write_str(if self.immutable { ", immutable" } else { "" })
    }
}

/// Reads the bounds on kept responses.
pub(super) fn kept_bytes(document: View<'_, Document>, problems: &mut Problems) -> Option<KeptBytes> {
    let kept = document.state()?.kept()?;
    let (max_object, max_bytes) = (kept.max_object()?, kept.max_bytes()?);
    let least = max_object.saturating_mul(crate::stale::shelf::PAGES);
    if max_bytes < least {
        let (state, least) = (Path::Root.field("state"), least.to_string());
        let at = state.field("kept");
        let problem = &[&max_bytes.to_string(), " is less than 32 times \"max_object\""];
        problems.report(&at.field("max_bytes"), problem, &["write at least ", &least, ", or a smaller \"max_object\""]);
    }
    Some(KeptBytes { max_object, max_bytes })
}

/// Reads how a route serves responses.
pub(super) fn serving(route: View<'_, document::Route>, at: &Path<'_>, problems: &mut Problems) -> Option<Serving> {
    let at_fallback = at.field("fallback");
    let fallback = match route.fallback()? {
        Some(fallback) => {
            Some((fallback.stale(), fallback.fixed()?.map(|it| fixed(it, &at_fallback.field("static"), problems))))
        }
        None => None,
    };
    let (stale, fixed) = fallback.unwrap_or((Some(None), None));
    let cache = route.cache()?.map(|it| cache(it, &at.field("cache"), problems));
    let variants = route.variants()?.map(|it| variants(it, &at.field("variants"), problems));
    let (caching, vary, version) = match cache {
        Some(cache) => cache?,
        None => (None, vec!["accept-encoding".to_owned()], None),
    };
    Some(Serving {
        stale: stale?,
        fixed: match fixed {
            Some(fixed) => Some(fixed?),
            None => None,
        },
        caching,
        vary,
        version,
        variants: match variants {
            Some(variants) => Some(variants?),
            None => None,
        },
        preload: route.preload()?.known().filter_map(preload).collect(),
    })
}

fn fixed(answer: View<'_, responses::Static>, at: &Path<'_>, problems: &mut Problems) -> Option<StaticResponse> {
    let at = at.field("headers");
    let mut lines = vec![("content-type".to_owned(), answer.content_type()?.to_owned())];
    for (name, value) in answer.headers()?.iter() {
        let lower = name.to_ascii_lowercase();
        if RESERVED_HEADERS.contains(&lower.as_str()) {
            let problem = &["the header ", &quoted(&lower), " is not the policy's to say"];
            problems.report(&at.field(name), problem, &["remove it; the type of the body is \"content_type\""]);
        }
        lines.push((lower, value?.to_owned()));
    }
    let status = u16::try_from(answer.status()?).ok()?;
    let body = if is_without_body(status) { "" } else { answer.body()? };
    if body.is_empty() {
        // An empty body has no type, and Envoy sends none.
        lines.retain(|(name, _)| name != "content-type");
    }
    Some(StaticResponse { status, lines, body: body.to_owned() })
}

type Cache = (Option<Caching>, Vec<String>, Option<String>);

fn cache(cache: View<'_, responses::Cache>, at: &Path<'_>, problems: &mut Problems) -> Option<Cache> {
    let (ttl, swr, immutable) = (cache.ttl()?, cache.stale_while_revalidate()?, cache.immutable()?);
    if ttl.is_none() {
        for (field, there) in [("stale_while_revalidate", swr.is_some()), ("immutable", immutable)] {
            if there {
                problems.report(
                    &at.field(field),
                    &["there is no \"ttl\" that it could add to"],
                    &["write a \"ttl\" as well, as in \"1d\""],
                );
            }
        }
    }
    let at_vary = at.field("vary");
    for (index, _) in cache.vary()?.iter().enumerate().filter(|(_, name)| *name == Some("*")) {
        // A response with `Vary: *` matches no other request: RFC 9111 section 4.1.
        problems.report(
            &at_vary.item(index),
            &["an answer that varies by everything is never kept"],
            &["name the headers that answers vary by, as in \"accept-language\""],
        );
    }
    let caching = ttl.map(|ttl| Caching { ttl, stale_while_revalidate: swr, immutable });
    let vary = cache.vary()?.known().map(str::to_ascii_lowercase).collect();
    Some((caching, vary, cache.version()?.map(str::to_owned)))
}

fn variants(document: View<'_, responses::Variants>, at: &Path<'_>, problems: &mut Problems) -> Option<Variants> {
    let at_from = at.field("width_from");
    let mut width_from = Vec::new();
    for (index, part) in document.width_from()?.iter().enumerate() {
        match part {
            Some(KeyPart::Query(name)) => width_from.push(WidthFrom::Query(name.clone())),
            Some(KeyPart::Header(name)) if name == "sec-ch-width" => width_from.push(WidthFrom::Hint),
            Some(_) => problems.report(
                &at_from.item(index),
                &["a width cannot be read from that"],
                &["write \"query:NAME\" or \"header:sec-ch-width\""],
            ),
            None => {}
        }
    }
    let rewrite = pieces(document.rewrite()?)?;
    let formats: Vec<_> = document.formats()?.known().map(str::to_owned).collect();
    let mut widths = Vec::new();
    for width in document.widths()?.known() {
        widths.insert(widths.partition_point(|other| *other < width), width);
    }
    for (piece, word, field, is_empty) in [
        (Piece::Format, "{format}", "formats", formats.is_empty()),
        (Piece::Width, "{width}", "widths", widths.is_empty()),
    ] {
        match (rewrite.contains(&piece), is_empty) {
            (true, true) => problems.report(
                &at.field("rewrite"),
                &["there are no \"", field, "\" for ", word],
                &["name them in \"", field, "\", or leave ", word, " out"],
            ),
            (false, false) => {
                problems.report(
                    &at.field("rewrite"),
                    &["it does not say where a variant has its ", word],
                    &["write ", word, " into it"],
                );
            }
            _ => {}
        }
    }
    let hints = !widths.is_empty() && width_from.contains(&WidthFrom::Hint);
    Some(Variants {
        formats,
        otherwise: document.otherwise()?.map(str::to_owned),
        widths,
        hints,
        width_from,
        extensions: document.extensions()?.known().map(str::to_owned).collect(),
        rewrite,
        cf_image: document.cf_image()?,
    })
}

/// The pieces of a template; `None` if it has an unknown word in braces, or an open brace.
fn pieces(template: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, word)) = rest.split_once('{') {
        let (word, after) = word.split_once('}')?;
        pieces.push(Piece::Text(text.to_owned()));
        pieces.push(match word {
            "format" => Piece::Format,
            "width" => Piece::Width,
            "path" => Piece::Path,
            _ => return None,
        });
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Some(pieces)
}

fn preload(document: View<'_, responses::Preload>) -> Option<String> {
    let (path, kind) = (document.path()?, document.kind()?.0);
    // Browsers fetch fonts with CORS even from the same origin, and would not use a font preloaded without it.
    let crossorigin = document.crossorigin()? || kind == "font";
    Some(format!("<{path}>; rel=preload; as={kind}{}", if crossorigin { "; crossorigin" } else { "" }))
}

/// Headers that the host sets itself, or that the policy sets in another field.
const RESERVED_HEADERS: [&str; 7] =
    ["connection", "content-length", "content-type", "keep-alive", "te", "transfer-encoding", "upgrade"];
