//! Images in a format and width that suit the client, made by a CDN's image service.

use super::accept;
use crate::key::query_value;
use crate::lookup::Lookup;
use crate::policy::{Piece, Variants, WidthFrom};

/// A request to Cloudflare's image service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The target of the original image.
    pub source: Vec<u8>,
    /// The format; `None` keeps the original's.
    pub format: Option<String>,
    /// The width in pixels; `None` keeps the original's.
    pub width: Option<u32>,
}

impl Variants {
    /// Whether the request is for an image that the service can make variants of, and not for a variant. The service's
    /// own requests do not count: Cloudflare's service fetches the image through the Worker, and says so in `Via`.
    pub(crate) fn is_for<'a>(&self, request: &Lookup<'a>) -> bool {
        let path = request.path();
        let by_service = |via: &[u8]| via.windows(RESIZER.len()).any(|part| part == RESIZER);
        if self.cf_image && request.header("via").is_some_and(by_service) {
            return false;
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let ending = name.iter().rposition(|byte| *byte == b'.').and_then(|dot| name.get(dot.saturating_add(1)..));
        let is_image = ending
            .is_some_and(|ending| self.extensions.iter().any(|other| other.as_bytes().eq_ignore_ascii_case(ending)));
        let is_variant = match self.rewrite.first() {
            Some(Piece::Text(prefix)) if prefix.len() > 1 => path.starts_with(prefix.as_bytes()),
            _ => false,
        };
        is_image && !is_variant
    }

    /// The target to request in place of the client's; `None` for the original image, because the client accepts none
    /// of the formats.
    pub(crate) fn target<'a>(&'a self, request: &Lookup<'a>) -> Option<Vec<u8>> {
        let format = if self.formats.is_empty() { "" } else { self.format(request)? };
        let width = self.width(request);
        let mut target = Vec::with_capacity(128);
        for piece in &self.rewrite {
            match piece {
                Piece::Text(text) => target.extend_from_slice(text.as_bytes()),
                Piece::Format => target.extend_from_slice(format.as_bytes()),
                Piece::Width => target.extend_from_slice(width.to_string().as_bytes()),
                // The normalised path has no dot segments, so it cannot leave the place that the template gives it.
                Piece::Path => target.extend_from_slice(request.path()),
            }
        }
        self.push_query(request, &mut target);
        Some(target)
    }

    /// The request to Cloudflare's image service, if the zone has it.
    pub(crate) fn image<'a>(&'a self, request: &Lookup<'a>) -> Option<Image> {
        if !self.cf_image {
            return None;
        }
        let format = if self.formats.is_empty() { None } else { self.format(request).map(str::to_owned) };
        let width = Some(self.width(request)).filter(|_| !self.widths.is_empty());
        let mut source = request.path().to_vec();
        self.push_query(request, &mut source);
        Some(Image { source, format, width })
    }

    /// The request headers by which the response varies.
    pub(crate) fn vary_headers(&self) -> &[&'static str] {
        match (self.formats.is_empty(), self.hints) {
            (false, true) => &["accept", "sec-ch-width"],
            (false, false) => &["accept"],
            (true, true) => &["sec-ch-width"],
            (true, false) => &[],
        }
    }

    /// The format with the highest weight, the policy's first among equals; otherwise the one for all other clients.
    fn format<'a>(&'a self, request: &Lookup<'a>) -> Option<&'a str> {
        let accepted = request.header("accept").unwrap_or_default();
        let mut best: Option<(u16, &str)> = None;
        for format in &self.formats {
            let kind = ["image/", format].concat();
            let weight = accept::weight_by_name(accepted, kind.as_bytes()).unwrap_or(0);
            if weight > best.map_or(0, |(weight, _)| weight) {
                best = Some((weight, format));
            }
        }
        best.map(|(_, format)| format).or(self.otherwise.as_deref())
    }

    /// The smallest of the policy's widths that is at least the requested one; the largest if none is, or none was
    /// requested. 0 if the policy has no widths.
    fn width<'a>(&'a self, request: &Lookup<'a>) -> u32 {
        let asked = self.width_from.iter().find_map(|from| {
            let text = match from {
                WidthFrom::Query(name) => query_value(request.query()?, name)?,
                WidthFrom::Hint => request.header("sec-ch-width")?.into(),
            };
            str::from_utf8(&text).ok()?.parse::<u32>().ok()
        });
        let fits = |width: &&u32| asked.is_some_and(|asked| asked <= **width);
        self.widths.iter().find(fits).or(self.widths.last()).copied().unwrap_or(0)
    }

    /// Appends the query without the parameters for the width, which is already in the target.
    fn push_query<'a>(&'a self, request: &Lookup<'a>, target: &mut Vec<u8>) {
        let Some(all) = request.query() else { return };
        let is_width = |pair: &[u8]| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            self.width_from.iter().any(|from| matches!(from, WidthFrom::Query(other) if other.as_bytes() == name))
        };
        let mut mark = if target.contains(&b'?') { b'&' } else { b'?' };
        for pair in all.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty() && !is_width(pair)) {
            target.push(mark);
            target.extend_from_slice(pair);
            mark = b'&';
        }
    }
}

/// How the service identifies its own requests, according to its documentation.
const RESIZER: &[u8] = b"image-resizing";
