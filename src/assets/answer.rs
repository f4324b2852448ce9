//! The header of a response, line by line.

use super::Edit;

/// The borrowed status and header lines of a response. Names are in lower case.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    pub(crate) status: u16,
    lines: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Answer<'a> {
    /// A response with these lines, in their order.
    #[must_use]
    pub fn new(status: u16, lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        Self { status, lines: lines.into_iter().collect() }
    }

    /// The values of all lines with this name.
    pub(crate) fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + use<'s, 'a> {
        self.lines.iter().filter(move |(other, _)| *other == name.as_bytes()).map(|(_, value)| *value)
    }

    /// The value of the first line with this name.
    pub(crate) fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// All lines except the pseudo-headers of HTTP/2.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'_, 'a> {
        self.lines.iter().copied().filter(|(name, _)| !name.starts_with(b":"))
    }

    /// The response after these edits.
    #[must_use]
    pub fn edited(&self, edits: &'a [Edit]) -> Self {
        let mut lines = self.lines.clone();
        for edit in edits {
            if edit.replaces {
                lines.retain(|(name, _)| *name != edit.name.as_bytes());
            }
            lines.push((edit.name.as_bytes(), edit.value.as_bytes()));
        }
        Self { status: self.status, lines }
    }
}

#[cfg(test)]
impl Answer<'static> {
    /// A response with these lines.
    pub(crate) fn of(status: u16, lines: &[(&'static str, &'static str)]) -> Self {
        Self::new(status, lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }
}
