//! What a request costs: a number, or the value of a header of the request or the response.

use super::document;
use super::error::{Path, Problems};
use super::shapes::OneOf;
use super::value::View;
use crate::lookup::trim_blanks;
use crate::units::Permits;

/// What a request costs at a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A fixed cost of at least one permit.
    Fixed(Permits),
    /// The value of a header of the request.
    Request(CostHeader),
    /// The value of a header of the response, charged when the response arrives.
    Response(CostHeader),
}

/// A header that carries a cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostHeader {
    /// Its name, lower case.
    pub(crate) name: String,
    /// The cost when the header is absent or not a whole number, `min..=max`.
    pub(crate) default: Permits,
    /// The minimum; smaller values count as this. With zero, a request may be free.
    pub(crate) min: Permits,
    /// The maximum; larger values count as this.
    pub(crate) max: Permits,
}

impl Cost {
    /// The smallest number of permits that can admit a request.
    pub(crate) fn least(&self) -> Permits {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Request(header) => header.min,
            // The cost is not known before the response: one permit admits the request, and the rest becomes debt.
            Self::Response(_) => Permits::ONE,
        }
    }
}

impl CostHeader {
    /// The cost for a value of the header: decimal digits, with blanks around them ignored, clamped to `min..=max`.
    /// `default` if `value` is `None` or anything else.
    #[must_use]
    pub fn read(&self, value: Option<&[u8]>) -> Permits {
        let digits = value.map(trim_blanks).filter(|text| !text.is_empty() && text.iter().all(u8::is_ascii_digit));
        let said = digits.map(|digits| {
            let digit = |byte: &u8| u32::from(byte.saturating_sub(b'0'));
            // A number that saturates is at or above every `max`.
            digits.iter().fold(0_u32, |number, byte| number.saturating_mul(10).saturating_add(digit(byte)))
        });
        said.map_or(self.default, |said| Permits::new(said).max(self.min).min(self.max))
    }
}

/// Reads the cost of a limit.
pub(super) fn cost(document: document::CostView<'_>, at: &Path<'_>, problems: &mut Problems) -> Option<Cost> {
    let document = match document {
        OneOf::First(number) => return Some(Cost::Fixed(Permits::new(number))),
        OneOf::Second(header) => header,
    };
    let bounds = bounds(document, at, problems);
    let (request, response) = (document.request_header()?, document.response_header()?);
    let (default, min, max) = bounds?;
    let header = |name: &str| CostHeader { name: name.to_ascii_lowercase(), default, min, max };
    match (request, response) {
        (Some(name), None) => Some(Cost::Request(header(name))),
        (None, Some(name)) => Some(Cost::Response(header(name))),
        // The reader has reported that neither or both are there.
        _ => None,
    }
}

/// The default cost, the minimum and the maximum. Reports them if they are not in order.
fn bounds(
    document: View<'_, document::CostHeader>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Permits, Permits, Permits)> {
    let (default, min, max) = (document.default()?, document.min()?, document.max()?);
    if min > max {
        let problem = &["min is ", &min.to_string(), ", more than max, which is ", &max.to_string()];
        problems.report(&at.field("min"), problem, &["write at most ", &max.to_string()]);
    } else if !(min..=max).contains(&default) {
        let (min, max) = (min.to_string(), max.to_string());
        let problem = &[&default.to_string(), " is not between min and max"];
        problems.report(&at.field("default"), problem, &["write a whole number from ", &min, " to ", &max]);
    }
    Some((Permits::new(default), Permits::new(min), Permits::new(max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_a_whole_number_within_its_bounds() {
        let permits = Permits::new;
        let header = CostHeader { name: "x".to_owned(), default: permits(3), min: permits(2), max: permits(100) };
        for (value, cost) in [
            ("7", 7),
            (" 007\t", 7),
            ("100", 100),
            ("101", 100),
            ("99999999999999999999999", 100),
            ("0", 2),
            ("1", 2),
            ("", 3),
            ("-7", 3),
            ("+7", 3),
            ("7.0", 3),
            ("7,9", 3),
            ("0x7", 3),
            ("seven", 3),
            ("\u{0667}", 3),
        ] {
            assert_eq!(header.read(Some(value.as_bytes())), permits(cost), "{value}");
        }
        assert_eq!(header.read(None), permits(3));
        let free = CostHeader { min: Permits::ZERO, ..header };
        assert_eq!(free.read(Some(b"0")), Permits::ZERO);
    }
}
