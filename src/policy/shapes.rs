//! The types that fields of the document are declared with: numbers and spans in a range, texts, lists, maps.

use core::marker::PhantomData;

use super::hint;
use super::json::Node;
use super::read::{Form, HUNDREDTH, Shape, WHOLE};
use super::schema::Declared;
use super::value::{Entries, Items, Parsed, Value};
use crate::number::Number;
use crate::units::Span;

/// A whole number, `MIN..=MAX`. `10.0` is one too, because Envoy turns every number of its configuration into a double.
pub(super) enum Int<const MIN: u32, const MAX: u32> {}

impl<const MIN: u32, const MAX: u32> Declared for Int<MIN, MAX> {
    const SHAPE: Shape = Shape::Number { min: MIN, max: MAX, unit: WHOLE };

    type View<'v> = u32;

    fn view(value: &Value) -> Option<u32> {
        number(value)
    }

    fn schema() -> Node {
        Node::object([("type", "integer".into()), ("minimum", MIN.into()), ("maximum", MAX.into())])
    }
}

/// A number with at most two decimals, in hundredths, `MIN..=MAX`.
pub(super) enum Decimal<const MIN: u32, const MAX: u32> {}

impl<const MIN: u32, const MAX: u32> Declared for Decimal<MIN, MAX> {
    const SHAPE: Shape = Shape::Number { min: MIN, max: MAX, unit: HUNDREDTH };

    type View<'v> = u32;

    fn view(value: &Value) -> Option<u32> {
        number(value)
    }

    fn schema() -> Node {
        let [min, max] = [MIN, MAX].map(|end| Node::Number(Number::hundredths(end)));
        Node::object([("type", "number".into()), ("minimum", min), ("maximum", max)])
    }
}

fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => Some(*number),
        _ => None,
    }
}

impl Declared for bool {
    const SHAPE: Shape = Shape::Bool;

    type View<'v> = Self;

    fn view(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn schema() -> Node {
        Node::object([("type", "boolean".into())])
    }
}

/// A span such as `"60s"`, from `MIN_MS` to `MAX_MS` milliseconds.
pub(super) enum SpanIn<const MIN_MS: u64, const MAX_MS: u64> {}

impl<const MIN_MS: u64, const MAX_MS: u64> Declared for SpanIn<MIN_MS, MAX_MS> {
    const SHAPE: Shape = Shape::Span { min_ms: MIN_MS, max_ms: MAX_MS };

    type View<'v> = Span;

    fn view(value: &Value) -> Option<Span> {
        match value {
            Value::Span(span) => Some(*span),
            _ => None,
        }
    }

    fn schema() -> Node {
        Node::object([("type", "string".into()), ("pattern", "^[0-9]{1,12}(ms|s|m|h|d)$".into())])
    }
}

/// A text of a certain form.
pub(super) trait Text {
    /// What it is, with its article: `a name`.
    const WHAT: &str;
    /// The form as a regular expression of JSON Schema (ECMA-262); `None` if only the length is restricted.
    const PATTERN: Option<&str>;
    /// The minimum and maximum number of characters.
    const CHARS: (u32, u32);
    /// The hint for a wrong text: `write 1 to 64 of a-z, 0-9 and "-"`.
    const HINT: &str;
    /// Whether a wrong text may be a secret in the wrong place. Errors then do not quote it, because they go to logs.
    const SECRET: bool = false;
    /// The form as the reader's table has it.
    const FORM: Form = Form {
        what: Self::WHAT,
        chars: Self::CHARS,
        hint: if hint::ENABLED { Self::HINT } else { "" },
        secret: Self::SECRET,
        parse: Self::parse,
    };

    /// The type that the text is parsed into.
    type Parsed: Parsed + ?Sized + 'static;

    /// Reads a text of an allowed length. An error may carry a better hint than [`Text::HINT`].
    fn parse(text: &str) -> Result<Value, Option<String>>;
}

impl<T: Text> Declared for T {
    const SHAPE: Shape = Shape::Text(&T::FORM);

    type View<'v> = &'v T::Parsed;

    fn view(value: &Value) -> Option<&T::Parsed> {
        T::Parsed::parsed(value)
    }

    fn schema() -> Node {
        let mut schema = vec![
            ("type".to_owned(), Node::from("string")),
            ("minLength".to_owned(), T::CHARS.0.into()),
            ("maxLength".to_owned(), T::CHARS.1.into()),
        ];
        schema.extend(T::PATTERN.map(|pattern| ("pattern".to_owned(), pattern.into())));
        Node::Object(schema)
    }
}

impl<T: Declared> Declared for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const OPTIONAL: bool = true;

    type View<'v> = Option<T::View<'v>>;

    fn view(value: &Value) -> Option<Self::View<'_>> {
        match value {
            Value::Absent => Some(None),
            value => T::view(value).map(Some),
        }
    }

    fn schema() -> Node {
        T::schema()
    }
}

/// A list of `MIN..=MAX` values. Equal ones are allowed.
pub(super) struct List<T, const MIN: u32, const MAX: u32>(PhantomData<T>);

impl<T: Declared + 'static, const MIN: u32, const MAX: u32> Declared for List<T, MIN, MAX> {
    const SHAPE: Shape = Shape::List { of: &T::SHAPE, min: MIN, max: MAX, distinct: false };

    type View<'v> = Items<'v, T>;

    fn view(value: &Value) -> Option<Items<'_, T>> {
        Items::of(value)
    }

    fn schema() -> Node {
        Node::object([
            ("type", "array".into()),
            ("minItems", MIN.into()),
            ("maxItems", MAX.into()),
            ("items", T::schema()),
        ])
    }
}

/// A list of `MIN..=MAX` distinct values.
pub(super) struct Set<T, const MIN: u32, const MAX: u32>(PhantomData<T>);

impl<T: Declared + 'static, const MIN: u32, const MAX: u32> Declared for Set<T, MIN, MAX> {
    const SHAPE: Shape = Shape::List { of: &T::SHAPE, min: MIN, max: MAX, distinct: true };

    type View<'v> = Items<'v, T>;

    fn view(value: &Value) -> Option<Items<'_, T>> {
        Items::of(value)
    }

    fn schema() -> Node {
        Node::object([
            ("type", "array".into()),
            ("minItems", MIN.into()),
            ("maxItems", MAX.into()),
            ("uniqueItems", true.into()),
            ("items", T::schema()),
        ])
    }
}

/// An object with at most `MAX` fields, whose names are the author's choice.
pub(super) struct Map<K, V, const MAX: u32>(PhantomData<(K, V)>);

impl<K: Text + 'static, V: Declared + 'static, const MAX: u32> Declared for Map<K, V, MAX> {
    const SHAPE: Shape = Shape::Map { names: &K::FORM, of: &V::SHAPE, max: MAX };

    type View<'v> = Entries<'v, K, V>;

    fn view(value: &Value) -> Option<Entries<'_, K, V>> {
        Entries::of(value)
    }

    fn schema() -> Node {
        Node::object([
            ("type", "object".into()),
            ("maxProperties", MAX.into()),
            ("propertyNames", K::schema()),
            ("additionalProperties", V::schema()),
        ])
    }
}

/// A value of one of two JSON types, for example a number or an object.
pub(super) struct Either<A, B>(PhantomData<(A, B)>);

/// The typed view of an [`Either`].
pub(super) enum OneOf<A, B> {
    First(A),
    Second(B),
}

impl<A: Declared + 'static, B: Declared + 'static> Declared for Either<A, B> {
    const SHAPE: Shape = Shape::Either(&A::SHAPE, &B::SHAPE);

    type View<'v> = OneOf<A::View<'v>, B::View<'v>>;

    fn view(value: &Value) -> Option<Self::View<'_>> {
        A::view(value).map(OneOf::First).or_else(|| B::view(value).map(OneOf::Second))
    }

    /// Chosen by the value's JSON type. With `anyOf`, a validator could not say where inside the value an error is.
    fn schema() -> Node {
        let (one, other) = (A::schema(), B::schema());
        let kind = other.field("type").cloned().unwrap_or(Node::Null);
        Node::object([("if", Node::object([("type", kind)])), ("then", other), ("else", one)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::{Path, Problems};
    use super::*;

    fn read<T: Declared>(text: &str) -> Value {
        T::SHAPE.read(&Node::parse(text).unwrap(), &Path::Root, &mut Problems::default())
    }

    #[test]
    fn a_span_is_a_whole_number_and_a_unit() {
        for (text, span) in [
            ("10ms", Some(Span::from_millis(10))),
            ("007s", Some(Span::from_secs(7))),
            ("1m", Some(Span::from_secs(60))),
            ("1h", Some(Span::from_secs(3_600))),
            ("1d", None),
            ("9ms", None),
            ("3601s", None),
            ("10", None),
            ("s", None),
            ("1.5s", None),
            ("1 s", None),
            ("1S", None),
            ("1s ", None),
            ("999999999999d", None),
            ("9999999999999ms", None),
        ] {
            let value = read::<SpanIn<10, 3_600_000>>(&format!("\"{text}\""));
            assert_eq!(SpanIn::<10, 3_600_000>::view(&value), span, "{text}");
        }
    }

    #[test]
    fn a_decimal_is_exact_to_the_hundredth() {
        for (text, hundredths) in
            [("0.07", 7), ("12.5", 1_250), ("1e1", 1_000), ("100", 10_000), ("0.29", 29), ("0.070000000000000007", 7)]
        {
            assert_eq!(read::<Decimal<1, 10_000>>(text), Value::Number(hundredths), "{text}");
        }
        for text in ["0", "0.001", "12.345", "100.01", "-1", "\"1\"", "1e300"] {
            assert_eq!(read::<Decimal<1, 10_000>>(text), Value::Wrong, "{text}");
        }
    }

    #[test]
    fn a_set_with_a_wrong_item_keeps_the_others() {
        let value = read::<Set<Int<1, 9>, 1, 3>>("[1, 10, 2]");
        let set = Set::<Int<1, 9>, 1, 3>::view(&value).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Some(1), None, Some(2)]);
        assert_eq!(set.known().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read::<Set<Int<1, 9>, 1, 3>>("[]"), Value::Wrong);
        assert_eq!(read::<Set<Int<1, 9>, 1, 3>>("[1, 2, 3, 4]"), Value::Wrong);
    }
}
