//! What stands for a field of the document that is absent.

use super::json::Node;

/// What stands for an absent field. It is data: a function that makes it would be some code for each field of the document.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standard {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Number(u32),
    /// A text.
    Text(&'static str),
    /// A list of texts.
    Texts(&'static [&'static str]),
    /// An object of numbers.
    Fields(&'static [(&'static str, u32)]),
}

impl Standard {
    /// The value, as if the document had it.
    pub(super) fn node(self) -> Node {
        match self {
            Self::Bool(value) => value.into(),
            Self::Number(value) => value.into(),
            Self::Text(text) => text.into(),
            Self::Texts(texts) => Node::List(texts.iter().map(|text| (*text).into()).collect()),
            Self::Fields(fields) => {
                Node::Object(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect())
            }
        }
    }
}

/// What stands for an absent field, as its declaration writes it.
pub(super) struct Written<T: 'static>(pub(super) &'static T);

/// An object of numbers, as a declaration writes it.
pub(super) struct Fields<const N: usize>(pub(super) [(&'static str, u32); N]);

/// An object without fields, whose fields all have what stands for them.
pub(super) const NO_FIELDS: Fields<0> = Fields([]);

impl Written<bool> {
    pub(super) const fn standard(self) -> Standard {
        Standard::Bool(*self.0)
    }
}

impl Written<u32> {
    pub(super) const fn standard(self) -> Standard {
        Standard::Number(*self.0)
    }
}

impl Written<&'static str> {
    pub(super) const fn standard(self) -> Standard {
        Standard::Text(self.0)
    }
}

impl<const N: usize> Written<[&'static str; N]> {
    pub(super) const fn standard(self) -> Standard {
        Standard::Texts(self.0)
    }
}

impl<const N: usize> Written<Fields<N>> {
    pub(super) const fn standard(self) -> Standard {
        Standard::Fields(&self.0.0)
    }
}
