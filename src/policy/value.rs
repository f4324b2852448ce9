//! The document as it was read: an untyped tree, and the typed views through which checks read it.
//!
//! One function over tables reads the whole document (see `read`). A function for each type of the document would be a
//! third of the filter's wasm.

use core::marker::PhantomData;

use super::schema::Declared;
use super::{HeaderCondition, HostGlob, KeyPart, Name, PathGlob, StatusRange};
use crate::api_key::Digest;
use crate::network::Network;
use crate::units::Span;

/// A value of the document, read as declared.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    /// A wrong value, which has been reported.
    Wrong,
    /// An optional field that is absent.
    Absent,
    /// `null`, where it is allowed.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number, or a number with two decimals in hundredths.
    Number(u32),
    /// A span.
    Span(Span),
    /// One of the declared words, by its index.
    Word(usize),
    /// A text that is not parsed further.
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
    /// A range of response statuses.
    StatusRange(StatusRange),
    /// A network of addresses.
    Network(Network),
    /// The hash of an API key.
    Digest(Digest),
    /// The items of a list.
    Items(Vec<Value>),
    /// An object whose field names are the author's choice.
    Entries(Vec<(Value, Value)>),
    /// An object of declared fields, in the order of their declaration.
    Fields(Vec<Value>),
}

/// The typed view of an object declared as `T`. Its methods are the declared fields; each returns `None` if the field's
/// value was wrong.
pub(super) struct View<'v, T> {
    fields: &'v [Value],
    declared_as: PhantomData<T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'v, T> View<'v, T> {
    /// The view of an object; `None` if it was wrong.
    pub(super) fn of(value: &'v Value) -> Option<Self> {
        match value {
            Value::Fields(fields) => Some(Self { fields, declared_as: PhantomData }),
            _ => None,
        }
    }

    /// The value of the field at this index of the declaration.
    pub(super) fn field(self, place: usize) -> &'v Value {
        self.fields.get(place).unwrap_or(&Value::Wrong)
    }
}

/// The typed view of a list.
pub(super) struct Items<'v, T> {
    items: &'v [Value],
    declared_as: PhantomData<T>,
}

impl<'v, T: Declared> Items<'v, T> {
    /// The view of a list; `None` if it was wrong.
    pub(super) fn of(value: &'v Value) -> Option<Self> {
        match value {
            Value::Items(items) => Some(Self { items, declared_as: PhantomData }),
            _ => None,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All items; `None` for each that was wrong.
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<T::View<'v>>> + use<'v, T> {
        self.items.iter().map(T::view)
    }

    /// The items without the wrong ones.
    pub(super) fn known(&self) -> impl Iterator<Item = T::View<'v>> + use<'v, T> {
        self.items.iter().filter_map(T::view)
    }
}

/// The typed view of an object whose field names are the author's choice.
pub(super) struct Entries<'v, K, V> {
    entries: &'v [(Value, Value)],
    declared_as: PhantomData<(K, V)>,
}

impl<'v, K: Declared, V: Declared> Entries<'v, K, V> {
    /// The view of an object; `None` if it was wrong.
    pub(super) fn of(value: &'v Value) -> Option<Self> {
        match value {
            Value::Entries(entries) => Some(Self { entries, declared_as: PhantomData }),
            _ => None,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries with a valid name; `None` for each value that was wrong.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K::View<'v>, Option<V::View<'v>>)> + use<'v, K, V> {
        self.entries.iter().filter_map(|(name, value)| Some((K::view(name)?, V::view(value))))
    }

    /// The valid names.
    pub(super) fn names(&self) -> impl Iterator<Item = K::View<'v>> + use<'v, K, V> {
        self.entries.iter().filter_map(|(name, _)| K::view(name))
    }
}

/// A type that texts of the document are parsed into.
pub(super) trait Parsed {
    /// The parsed text; `None` if it was wrong.
    fn parsed(value: &Value) -> Option<&Self>;
}

macro_rules! parsed {
    ($($type:ty => $variant:ident),+ $(,)?) => {
        $(impl Parsed for $type {
            fn parsed(value: &Value) -> Option<&Self> {
                match value {
                    Value::$variant(value) => Some(value),
                    _ => None,
                }
            }
        })+
    };
}

parsed! { str => Text, Name => Name, PathGlob => Path, HostGlob => Host, KeyPart => Key, HeaderCondition => Header, StatusRange => StatusRange,
Network => Network, Digest => Digest }
