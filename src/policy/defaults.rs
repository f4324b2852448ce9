//! The defaults of absent fields.

use super::json::Node;

/// The default of an absent field. It is data, because a function for each field would make the wasm larger.
#[derive(Clone, Copy, Debug)]
pub(super) enum DefaultValue {
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

impl DefaultValue {
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
pub(super) struct DefaultExpr<T: 'static>(pub(super) &'static T);

/// An object of numbers, as a declaration writes it.
pub(super) struct Fields<const N: usize>(pub(super) [(&'static str, u32); N]);

/// An object without fields: each of its fields has its own default.
pub(super) const NO_FIELDS: Fields<0> = Fields([]);

impl DefaultExpr<bool> {
    pub(super) const fn value(self) -> DefaultValue {
        DefaultValue::Bool(*self.0)
    }
}

impl DefaultExpr<u32> {
    pub(super) const fn value(self) -> DefaultValue {
        DefaultValue::Number(*self.0)
    }
}

impl DefaultExpr<&'static str> {
    pub(super) const fn value(self) -> DefaultValue {
        DefaultValue::Text(self.0)
    }
}

impl<const N: usize> DefaultExpr<[&'static str; N]> {
    pub(super) const fn value(self) -> DefaultValue {
        DefaultValue::Texts(self.0)
    }
}

impl<const N: usize> DefaultExpr<Fields<N>> {
    pub(super) const fn value(self) -> DefaultValue {
        DefaultValue::Fields(&self.0.0)
    }
}
