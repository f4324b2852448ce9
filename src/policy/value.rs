//! What has been read of the document: a tree without types, and the typed views of it by which checks read it.
//!
//! Reading is one function over tables (`read`), and not one for each type of the document: those would be a third of
//! the filter.

use core::marker::PhantomData;

use super::schema::Document;
use super::{Answers, HeaderCondition, HostGlob, KeyPart, Name, PathGlob};
use crate::api_key::Digest;
use crate::network::Network;
use crate::units::Span;

/// A value of the document that fits its declaration.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    /// It does not fit, which has been reported.
    Wrong,
    /// A field that may be absent, and is.
    Absent,
    /// `null`, where that has a meaning.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number, or one with two decimals in hundredths.
    Number(u32),
    /// A span.
    Span(Span),
    /// One of some words, by its place among them.
    Word(usize),
    /// A text that is kept as it stands.
    Text(String),
    /// A name.
    Name(Name),
    /// A path pattern.
    Path(PathGlob),
    /// A host.
    Host(HostGlob),
    /// A part of a key.
    Key(KeyPart),
    /// A condition on a header.
    Header(HeaderCondition),
    /// Statuses of answers.
    Answers(Answers),
    /// A network of addresses.
    Network(Network),
    /// The hash of an API key.
    Digest(Digest),
    /// The items of a list.
    Items(Vec<Value>),
    /// An object whose fields have names by its author.
    Entries(Vec<(Value, Value)>),
    /// An object of declared fields, in the order of their declaration.
    Fields(Vec<Value>),
}

/// An object of the document, seen as `T`, whose fields it has as methods. Each answers `None` when the field's value
/// was wrong.
pub(super) struct Of<'v, T> {
    fields: &'v [Value],
    seen_as: PhantomData<T>,
}

impl<T> Clone for Of<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Of<'_, T> {}

impl<'v, T> Of<'v, T> {
    /// The object as it was read.
    pub(super) fn seen(value: &'v Value) -> Option<Self> {
        match value {
            Value::Fields(fields) => Some(Self { fields, seen_as: PhantomData }),
            _ => None,
        }
    }

    /// The value of the field at this place of the declaration.
    pub(super) fn field(self, place: usize) -> &'v Value {
        self.fields.get(place).unwrap_or(&Value::Wrong)
    }
}

/// The items of a list.
pub(super) struct Items<'v, T> {
    items: &'v [Value],
    seen_as: PhantomData<T>,
}

impl<'v, T: Document> Items<'v, T> {
    /// The list as it was read.
    pub(super) fn seen(value: &'v Value) -> Option<Self> {
        match value {
            Value::Items(items) => Some(Self { items, seen_as: PhantomData }),
            _ => None,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Each item; `None` for one that was wrong.
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<T::Seen<'v>>> + use<'v, T> {
        self.items.iter().map(T::seen)
    }

    /// The items that were not wrong.
    pub(super) fn known(&self) -> impl Iterator<Item = T::Seen<'v>> + use<'v, T> {
        self.items.iter().filter_map(T::seen)
    }
}

/// The entries of an object whose fields have names by its author.
pub(super) struct Entries<'v, K, V> {
    entries: &'v [(Value, Value)],
    seen_as: PhantomData<(K, V)>,
}

impl<'v, K: Document, V: Document> Entries<'v, K, V> {
    /// The object as it was read.
    pub(super) fn seen(value: &'v Value) -> Option<Self> {
        match value {
            Value::Entries(entries) => Some(Self { entries, seen_as: PhantomData }),
            _ => None,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Each entry with a good name; `None` for a value that was wrong.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K::Seen<'v>, Option<V::Seen<'v>>)> + use<'v, K, V> {
        self.entries.iter().filter_map(|(name, value)| Some((K::seen(name)?, V::seen(value))))
    }

    /// The good names.
    pub(super) fn names(&self) -> impl Iterator<Item = K::Seen<'v>> + use<'v, K, V> {
        self.entries.iter().filter_map(|(name, _)| K::seen(name))
    }
}

/// A type whose values are kept as such.
pub(super) trait Kept {
    /// The value as it was read.
    fn kept(value: &Value) -> Option<&Self>;
}

macro_rules! kept {
    ($($type:ty => $variant:ident),+ $(,)?) => {
        $(impl Kept for $type {
            fn kept(value: &Value) -> Option<&Self> {
                match value {
                    Value::$variant(value) => Some(value),
                    _ => None,
                }
            }
        })+
    };
}

kept! { str => Text, Name => Name, PathGlob => Path, HostGlob => Host, KeyPart => Key, HeaderCondition => Header, Answers => Answers,
Network => Network, Digest => Digest }
