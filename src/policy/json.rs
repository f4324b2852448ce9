//! JSON as a tree that keeps the order of fields and duplicates, as error messages need them.

use core::cell::Cell;
use core::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::error::{Place, PolicyError};
use super::hint;
use crate::number::Number;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(Number),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Node>),
    /// An object: its fields in the order of the text, with duplicate names.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Reads JSON text. The error concerns the whole document and carries the line and column where reading stopped.
    pub(crate) fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_BYTES {
            return Err(PolicyError {
                path: String::new(),
                problem: format!("the document has {} bytes", text.len()),
                hint: hint::of(&["write at most ", &MAX_BYTES.to_string(), " bytes"]),
                place: None,
            });
        }
        if let Some(place) = too_deep(text) {
            return Err(unreadable(&format!("lists and objects nested more than {MAX_DEPTH} deep"), Some(place)));
        }
        // `from_slice`, as for claims: `from_str` would be a second parser in the wasm.
        let mut deserializer = serde_json::Deserializer::from_slice(text.as_bytes());
        let long_name = Cell::new(false);
        let read = Seed { long_name: &long_name }
            .deserialize(&mut deserializer)
            .and_then(|node| deserializer.end().map(|()| node));
        let place = |error: &serde_json::Error| Place { line: error.line(), column: error.column() };
        match read {
            // The flag, not the error: if the long name is the whole object, the parser may succeed.
            read if long_name.get() => {
                let what = format!("a field's name of more than {MAX_NAME_BYTES} bytes");
                Err(unreadable(&what, read.err().as_ref().map(place)))
            }
            read => read.map_err(|error| unreadable(&what_is_wrong(&error), Some(place(&error)))),
        }
    }

    /// An object with these fields.
    pub(super) fn object<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Object(fields.into_iter().map(|(name, node)| (name.to_owned(), node)).collect())
    }

    /// A field of an object.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// The value in a few words, for an error: `"tomorrow"`, `12.5`, `a list`.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(text) => quoted(text),
            Self::List(_) => "a list".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

/// The text in quotes, shortened and without control characters: an error must fit one log line.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    quoted.extend(text.chars().take(MAX_QUOTED_CHARS).map(printable));
    if text.chars().nth(MAX_QUOTED_CHARS).is_some() {
        quoted.push('…');
    }
    quoted.push('"');
    quoted
}

/// The character, or a replacement for one that would break the line.
pub(super) fn printable(c: char) -> char {
    if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }
}

impl From<bool> for Node {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u32> for Node {
    fn from(value: u32) -> Self {
        Self::Number(Number::whole(false, value.into()))
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<const N: usize> From<[&str; N]> for Node {
    fn from(texts: [&str; N]) -> Self {
        Self::List(texts.into_iter().map(Self::from).collect())
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            // Whole numbers without `.0`, as a person would write them.
            Self::Number(value) => match value.as_f64() {
                whole if whole.fract() == 0.0 => serializer.serialize_i64(whole as i64),
                value => serializer.serialize_f64(value),
            },
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(nodes) => nodes.serialize(serializer),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, node) in fields {
                    map.serialize_entry(name, node)?;
                }
                map.end()
            }
        }
    }
}

/// The place of the first list or object that is nested too deep. It is searched for before parsing, which uses stack
/// for each level. If the text is not JSON, the place has no meaning.
fn too_deep(text: &str) -> Option<Place> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut place = Place { line: 1, column: 0 };
    for byte in text.bytes() {
        place.column = place.column.saturating_add(1);
        match byte {
            b'\n' => place = Place { line: place.line.saturating_add(1), column: 0 },
            b'"' if !escaped => quoted = !quoted,
            b'[' | b'{' if !quoted => depth = depth.saturating_add(1),
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = quoted && byte == b'\\' && !escaped;
        if depth > MAX_DEPTH {
            return Some(place);
        }
    }
    None
}

/// One value of the document.
#[derive(Clone, Copy)]
struct Seed<'r> {
    /// Set when a name is too long. The visitor then stops reading, which makes the parser stop too. Returning the
    /// parser's own kind of error instead would add more code to the wasm than this whole file.
    long_name: &'r Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(Number::whole(value < 0, value.unsigned_abs())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(Number::whole(false, value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(Number::nearest(value)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME_BYTES {
                self.long_name.set(true);
                return Ok(Node::Null);
            }
            fields.push((name, map.next_value_seed(self)?));
        }
        Ok(Node::Object(fields))
    }
}

/// The parser's message without the place at its end, which [`PolicyError::place`] holds.
fn what_is_wrong(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

fn unreadable(what: &str, place: Option<Place>) -> PolicyError {
    PolicyError {
        path: String::new(),
        problem: ["the document cannot be read as JSON: ", what].concat(),
        hint: hint::of(&[
            "write JSON (RFC 8259): no comments, no comma after the last item, names and strings in double quotes",
        ]),
        place,
    }
}

/// One mebibyte. Only a policy of 4,096 limits that use every field, with absurd patterns, comes near 2 MB, and a
/// host's configuration channel carries one mebibyte without trouble.
const MAX_BYTES: usize = 1 << 20;

/// A valid document is at most six levels deep. The rest leaves room for errors inside wrong documents, and is bounded
/// because parsing uses stack for each level.
const MAX_DEPTH: usize = 32;

/// No name in a valid document has more than 128 ASCII characters. A much longer one is refused at once, because every
/// error below it would repeat it in its path.
const MAX_NAME_BYTES: usize = 256;

/// Enough to recognise a value.
const MAX_QUOTED_CHARS: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_order_are_kept() {
        let node = Node::parse(r#"{"b": 1, "a": [null, true], "b": "x"}"#).unwrap();
        let expected = Node::object([
            ("b", Node::from(1)),
            ("a", Node::List(vec![Node::Null, Node::Bool(true)])),
            ("b", Node::from("x")),
        ]);
        assert_eq!(node, expected);
    }

    #[test]
    fn a_syntax_error_says_where() {
        let error = Node::parse("{\n  \"a\": 1,\n}").unwrap_err();
        assert_eq!(error.place, Some(Place { line: 3, column: 1 }));
        assert_eq!(error.problem, "the document cannot be read as JSON: trailing comma");
    }

    #[test]
    fn nesting_names_and_size_are_bounded() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Node::parse(&nested(MAX_DEPTH)).is_ok());
        for depth in [MAX_DEPTH + 1, 500_000] {
            let error = Node::parse(&nested(depth)).unwrap_err();
            assert!(error.problem.contains("nested more than 32 deep"), "{error}");
            assert_eq!(error.place, Some(Place { line: 1, column: MAX_DEPTH + 1 }));
        }
        let harmless = format!("[\"{}\\\"[\", [], \"\\\\\", []]", "[".repeat(2 * MAX_DEPTH));
        assert!(Node::parse(&harmless).is_ok(), "{harmless}");
        let named = |bytes| format!("{{\"{}\": 1}}", "n".repeat(bytes));
        assert!(Node::parse(&named(MAX_NAME_BYTES)).is_ok());
        let error = Node::parse(&named(MAX_NAME_BYTES + 1)).unwrap_err();
        assert!(error.problem.contains("more than 256 bytes") && error.place.is_some(), "{error}");
        let alone = format!("{{\"{}\"}}", "n".repeat(MAX_NAME_BYTES + 1));
        assert!(Node::parse(&alone).unwrap_err().problem.contains("more than 256 bytes"));
        assert!(Node::parse(&" ".repeat(MAX_BYTES + 1)).unwrap_err().problem.contains("1048577 bytes"));
    }

    #[test]
    fn values_are_described_in_a_few_words() {
        for (text, described) in [
            ("12", "12"),
            ("-0.5", "-0.5"),
            ("10.0", "10"),
            ("2.000001", "2.000001"),
            ("1e-9", "0.0…"),
            ("-1e300", "a number below -2^53"),
            ("\"a\\nb\"", "\"a\u{fffd}b\""),
            ("[1]", "a list"),
            ("null", "null"),
        ] {
            assert_eq!(Node::parse(text).unwrap().described(), described);
        }
        assert_eq!(quoted(&"x".repeat(49)), format!("\"{}…\"", "x".repeat(48)));
    }
}
