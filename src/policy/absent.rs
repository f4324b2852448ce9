//! The defaults of absent fields.

use super::json::Node;

/// The default of an absent field. It is data, because a function for each field would make the wasm larger.
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
    /// The default as a value of the document.
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

/// A default as a declaration writes it.
pub(super) struct Written<T: 'static>(pub(super) &'static T);

/// An object of numbers, as a declaration writes it.
pub(super) struct Fields<const N: usize>(pub(super) [(&'static str, u32); N]);

/// An object without fields: each of its fields has its own default.
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
