//! What a client accepts, with its weights (RFC 9110 section 12.4.2).

use crate::lookup::trim_blanks;

/// The weight that a list such as `Accept` or `Accept-Encoding` gives an item, in thousandths; `None` if it names
/// neither the item nor `*` (for a media type: nor its `type/*`, nor `*/*`). The most specific name counts.
#[must_use]
pub(crate) fn weight(list: &[u8], item: &[u8]) -> Option<u16> {
    let family = item.iter().position(|byte| *byte == b'/').and_then(|slash| item.get(..=slash));
    let mut best: Option<(u8, u16)> = None;
    for (name, weight) in items(list) {
        let rank = if name.eq_ignore_ascii_case(item) {
            3
        } else if family
            .is_some_and(|family| name.strip_suffix(b"*").is_some_and(|name| name.eq_ignore_ascii_case(family)))
        {
            2
        } else if matches!(name, b"*" | b"*/*") {
            1
        } else {
            continue;
        };
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, weight));
        }
    }
    best.map(|(_, weight)| weight)
}

/// The weight that a list gives an item by its own name. A wildcard does not count: browsers send `*/*` for
/// formats that they cannot show.
#[must_use]
pub(crate) fn weight_by_name(list: &[u8], item: &[u8]) -> Option<u16> {
    items(list).find(|(name, _)| name.eq_ignore_ascii_case(item)).map(|(_, weight)| weight)
}

/// The content codings that a client accepts, a bit for each, and one for all others.
#[must_use]
pub(crate) fn codings(list: &[u8]) -> u8 {
    CODINGS
        .iter()
        .rev()
        .fold(0, |bits, coding| (bits << 1) | u8::from(weight(list, coding).is_some_and(|weight| weight > 0)))
}

const CODINGS: [&[u8]; 6] = [b"gzip", b"br", b"zstd", b"deflate", b"identity", b"*"];

/// The items of a list with their weights. An unreadable weight counts as zero.
fn items(list: &[u8]) -> impl Iterator<Item = (&[u8], u16)> {
    list.split(|byte| *byte == b',').map(|item| {
        let mut parts = item.split(|byte| *byte == b';').map(trim_blanks);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        (name, weight.map_or(1_000, |text| thousandths(text).unwrap_or(0)))
    })
}

/// Reads `0`, `1`, or one of them with up to three decimals.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = text.split_first()?;
    let digits = match decimals {
        [] => decimals,
        [b'.', digits @ ..] => digits,
        _ => return None,
    };
    if digits.len() > 3 {
        return None;
    }
    let mut value = u16::from(whole.checked_sub(b'0').filter(|digit| *digit <= 1)?);
    for place in 0..3 {
        let digit = digits.get(place).map_or(Some(0), |digit| digit.checked_sub(b'0').filter(|digit| *digit <= 9))?;
        value = value.checked_mul(10)?.checked_add(u16::from(digit))?;
    }
    (value <= 1_000).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_says_most_counts() {
        let browser = b"text/html,image/avif,image/webp;q=0.8,image/*;q=0.5,*/*;q=0.1";
        for (item, expected) in
            [("image/avif", Some(1_000)), ("IMAGE/WebP", Some(800)), ("image/png", Some(500)), ("video/mp4", Some(100))]
        {
            assert_eq!(weight(browser, item.as_bytes()), expected, "{item}");
        }
        for (list, item, expected) in [
            ("gzip, br;q=0", "br", Some(0)),
            ("br;q=0, *", "br", Some(0)),
            ("*;q=0.5", "br", Some(500)),
            ("gzip;q=1.000", "gzip", Some(1_000)),
            ("gzip; x=y ; Q=0.25", "gzip", Some(250)),
            ("gzip", "br", None),
            ("", "br", None),
            ("gzip;q=1.5", "gzip", Some(0)),
            ("gzip;q=0.1234", "gzip", Some(0)),
            ("gzip;q=", "gzip", Some(0)),
            ("gzip;q=-1", "gzip", Some(0)),
            ("gzip;q=0.5x", "gzip", Some(0)),
        ] {
            assert_eq!(weight(list.as_bytes(), item.as_bytes()), expected, "{list}");
        }
        assert_eq!(weight_by_name(b"*/*, image/*", b"image/avif"), None);
        assert_eq!(weight_by_name(b"*/*;q=1, image/avif;q=0.3", b"image/avif"), Some(300));
    }

    #[test]
    fn codings_that_mean_the_same_are_the_same() {
        assert_eq!(codings(b"gzip, deflate, br"), codings(b"br;q=0.1,DEFLATE, gzip;q=1.0"));
        assert_ne!(codings(b"gzip"), codings(b"gzip, br"));
        assert_ne!(codings(b"gzip;q=0, *"), codings(b"*"));
        assert_ne!(codings(b""), codings(b"identity"));
    }
}
