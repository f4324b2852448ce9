//! Images in the format that the client shows and the width that it needs, by the image service of a CDN.

use super::accept;
use crate::key::query_value;
use crate::lookup::Lookup;
use crate::policy::{Piece, Variants, WidthFrom};

/// An image in the terms of Cloudflare's image service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The target of the image itself.
    pub source: Vec<u8>,
    /// Its format; that which it has when `None`.
    pub format: Option<String>,
    /// Its width in pixels; that which it has when `None`.
    pub width: Option<u32>,
}

impl Variants {
    /// Whether the request is for an image that the service can make variants of, and not for a variant already. Nor is it
    /// the service's own: Cloudflare's fetches the image by way of the Worker, and says so in `Via`.
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

    /// The target to ask for in place of the request's; `None` when the image itself is to be asked for, since the client
    /// accepts none of the formats.
    pub(crate) fn target<'a>(&'a self, request: &Lookup<'a>) -> Option<Vec<u8>> {
        let format = if self.formats.is_empty() { "" } else { self.format(request)? };
        let width = self.width(request);
        let mut target = Vec::with_capacity(128);
        for piece in &self.rewrite {
            match piece {
                Piece::Text(text) => target.extend_from_slice(text.as_bytes()),
                Piece::Format => target.extend_from_slice(format.as_bytes()),
                Piece::Width => target.extend_from_slice(width.to_string().as_bytes()),
                // The normal form, which has no dot segments: it cannot leave the place that the template gives it.
                Piece::Path => target.extend_from_slice(request.path()),
            }
        }
        self.push_query(request, &mut target);
        Some(target)
    }

    /// What Cloudflare's image service is to be asked for, where the zone has it.
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

    /// The headers of the request by which answers vary.
    pub(crate) fn asks_for(&self) -> &[&'static str] {
        match (self.formats.is_empty(), self.hints) {
            (false, true) => &["accept", "sec-ch-width"],
            (false, false) => &["accept"],
            (true, true) => &["sec-ch-width"],
            (true, false) => &[],
        }
    }

    /// The format that the client likes best, of equal ones the first of the policy; else the one for all others.
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

    /// The least of the policy's widths that is not less than the one asked for; the largest when none is, or none was
    /// asked for. 0 when the policy has none.
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

    /// The query without the parameters that say a width: the target says it.
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

/// What the service says of itself, as its documentation has it for telling its requests apart.
const RESIZER: &[u8] = b"image-resizing";
