//! Reads a value of the document as declared, and reports everything that is wrong with it.

use super::defaults::DefaultValue;
use super::error::{Path, Problems};
use super::hint;
use super::json::{Node, quoted};
use super::nearest;
use super::value::Value;
use crate::number::Number;
use crate::units::{SPAN_UNITS, Span};

/// What a value must be.
pub(super) enum Shape {
    /// True or false.
    Bool,
    /// A number in a range, both ends included. It must be a multiple of `unit` millionths, and is kept as a count of
    /// these units.
    Number {
        /// The minimum, in units.
        min: u32,
        /// The maximum, in units.
        max: u32,
        /// The unit, in millionths: [`WHOLE`] or [`HUNDREDTH`].
        unit: u32,
    },
    /// A span such as `"60s"` in a range, both ends included.
    Span {
        /// The shortest, in milliseconds.
        min_ms: u64,
        /// The longest, in milliseconds.
        max_ms: u64,
    },
    /// One of some words.
    Word(&'static [&'static str]),
    /// A text of a certain form.
    Text(&'static Form),
    /// A text of a certain form, or `null`.
    TextOrNull(&'static Form),
    /// A list.
    List {
        /// What each item must be.
        of: &'static Shape,
        /// The fewest items.
        min: u32,
        /// The most items.
        max: u32,
        /// Whether all items must be distinct.
        distinct: bool,
    },
    /// An object whose field names are the author's choice.
    Map {
        /// The form of the names.
        names: &'static Form,
        /// What each value must be.
        of: &'static Shape,
        /// The most fields.
        max: u32,
    },
    /// An object with declared fields.
    Object {
        /// The declared fields.
        fields: &'static [Field],
        /// The fields of which exactly one must be present. Empty if there is no such rule.
        one_of: &'static [&'static str],
    },
    /// A value of one of two shapes, which have different JSON types.
    Either(&'static Shape, &'static Shape),
}

/// The form of a text.
pub(super) struct Form {
    /// What it is, with its article: `a name`.
    pub(super) what: &'static str,
    /// The minimum and maximum number of characters.
    pub(super) chars: (u32, u32),
    /// The hint for a wrong text: `write 1 to 64 of a-z, 0-9 and "-"`.
    pub(super) hint: &'static str,
    /// Whether a wrong text may be a secret, which errors must not show.
    pub(super) secret: bool,
    /// Reads a text of an allowed length. An error may carry a better hint than `hint`.
    pub(super) parse: fn(&str) -> Result<Value, Option<String>>,
}

/// A declared field of an object.
pub(super) struct Field {
    /// Its name in the document.
    pub(super) name: &'static str,
    /// The shape of its value.
    pub(super) shape: &'static Shape,
    /// Whether it may be absent although it has no default.
    pub(super) optional: bool,
    /// Its value when it is absent.
    pub(super) default: Option<DefaultValue>,
}

/// The unit of whole numbers.
pub(super) const WHOLE: u32 = 1_000_000;
/// The unit of numbers with two decimals.
pub(super) const HUNDREDTH: u32 = 10_000;

impl Shape {
    /// Reads `node` as a value of this shape, and reports what is wrong with it.
    pub(super) fn read(&self, node: &Node, at: &Path<'_>, problems: &mut Problems) -> Value {
        let problem = match (self, node) {
            (Self::Bool, Node::Bool(value)) => return Value::Bool(*value),
            (Self::Bool, _) => "is not true or false",
            (Self::Number { min, max, unit }, Node::Number(number)) => match in_units(*number, *min, *max, *unit) {
                Ok(units) => return Value::Number(units),
                Err(problem) => problem,
            },
            (Self::Number { .. }, _) => "is not a number",
            (Self::Span { min_ms, max_ms }, Node::Text(text)) => match span(text) {
                Some(span) if (Span::from_millis(*min_ms)..=Span::from_millis(*max_ms)).contains(&span) => {
                    return Value::Span(span);
                }
                Some(_) => "is out of range",
                None => "is not a duration",
            },
            (Self::Span { .. }, _) => "is not a duration",
            (Self::Word(known), Node::Text(text)) => return word(text, known, at, problems),
            (Self::Word(_), _) => "is not a string",
            (Self::TextOrNull(_), Node::Null) => return Value::Null,
            (Self::Text(form) | Self::TextOrNull(form), Node::Text(text)) => return form.read(text, at, problems),
            (Self::Text(form) | Self::TextOrNull(form), _) => {
                let is_shown = !form.secret || !matches!(node, Node::Number(_));
                let described = if is_shown { node.described() } else { "a number".to_owned() };
                problems.report(at, &[&described, " is not ", form.what], &[form.hint]);
                return Value::Wrong;
            }
            (Self::List { of, min, max, distinct }, Node::List(nodes)) => {
                if counted(nodes.len(), *min, *max) {
                    return Value::Items(items(of, nodes, *distinct, at, problems));
                }
                problems.report(at, &["the list has ", &nodes.len().to_string(), " items"], &[&self.hint()]);
                return Value::Wrong;
            }
            (Self::List { .. }, _) => "is not a list",
            (Self::Map { names, of, max }, Node::Object(fields)) => {
                if counted(fields.len(), 0, *max) {
                    return Value::Entries(entries(names, of, fields, at, problems));
                }
                let problem = &["the object has ", &fields.len().to_string(), " fields"];
                problems.report(at, problem, &["write at most ", &max.to_string()]);
                return Value::Wrong;
            }
            (Self::Object { fields, one_of }, Node::Object(given)) => {
                unknown_fields(given, fields, at, problems);
                let values = fields.iter().map(|field| field.read(given, at, problems)).collect();
                exactly_one(given, one_of, fields, at, problems);
                return Value::Fields(values);
            }
            (Self::Map { .. } | Self::Object { .. }, _) => "is not an object",
            (Self::Either(one, other), node) => {
                if let Some(shape) = [one, other].into_iter().find(|shape| shape.is_kind_of(node)) {
                    return shape.read(node, at, problems);
                }
                "has the wrong type"
            }
        };
        problems.report(at, &[&node.described(), " ", problem], &[&self.hint_for(node)]);
        Value::Wrong
    }

    /// Whether `node` has the JSON type of this shape, even if its value is wrong.
    fn is_kind_of(&self, node: &Node) -> bool {
        matches!(
            (self, node),
            (Self::Number { .. }, Node::Number(_))
                | (Self::Object { .. }, Node::Object(_))
                | (Self::List { .. }, Node::List(_))
        )
    }

    /// The hint for a wrong value: what was probably meant if that can be guessed, otherwise what would be right.
    fn hint_for(&self, node: &Node) -> String {
        let meant = match (self, node) {
            (Self::Span { min_ms, max_ms }, Node::Text(text)) => nearest::span(text)
                .filter(|meant| {
                    let range = Span::from_millis(*min_ms)..=Span::from_millis(*max_ms);
                    span(meant).is_some_and(|span| range.contains(&span))
                })
                .map(|meant| ["did you mean \"", &meant, "\"?"].concat()),
            (Self::List { of, .. }, Node::Text(_) | Node::Number(_)) => of.brackets_hint(node),
            _ => None,
        };
        meant.unwrap_or_else(|| self.hint())
    }

    /// The hint for an item of this shape that is written without its list. It does not repeat a secret.
    fn brackets_hint(&self, node: &Node) -> Option<String> {
        let is_secret = matches!(self, Self::Text(form) if form.secret);
        let is_good = || self.read(node, &Path::Root, &mut Problems::default()) != Value::Wrong;
        if is_secret || !hint::ENABLED || !is_good() {
            return None;
        }
        Some(["write it in brackets, as in [", &node.described(), "]"].concat())
    }

    /// The hint at what would be right: `write a whole number from 1 to 16`.
    fn hint(&self) -> String {
        if !hint::ENABLED {
            return String::new();
        }
        match self {
            Self::Bool => "write true or false, without quotes".to_owned(),
            Self::Number { min, max, .. } if min == max => format!("write {min}"),
            Self::Number { min, max, unit: WHOLE } => format!("write a whole number from {min} to {max}"),
            Self::Number { min, max, .. } => {
                let (min, max) = (Number::hundredths(*min), Number::hundredths(*max));
                format!("write a number from {min} to {max} with at most two decimals")
            }
            Self::Span { min_ms, max_ms } => {
                let (min, max) = (Span::from_millis(*min_ms), Span::from_millis(*max_ms));
                format!("write a whole number and a unit (ms, s, m, h, d) in quotes, from \"{min}\" to \"{max}\"")
            }
            Self::Word(known) => one_of(known),
            Self::Text(form) | Self::TextOrNull(form) => form.hint.to_owned(),
            Self::List { of, min, max, .. } => {
                let each = match of {
                    Self::Text(_) | Self::Word(_) => ["; for each, ", &of.hint()].concat(),
                    _ => String::new(),
                };
                let least = if *min == 0 { "at most".to_owned() } else { format!("{min} to") };
                format!("write a list, in brackets, of {least} {max} items{each}")
            }
            Self::Map { .. } => "write an object, in braces, with each value under its name".to_owned(),
            Self::Object { fields, .. } => {
                nearest::hint("", "write an object, in braces, with fields from", &names(fields))
            }
            Self::Either(one, other) => [one.hint(), other.hint()].join(", or "),
        }
    }
}

impl Field {
    /// Reads the field from the `given` fields. An absent field is its default, `Absent` if it is optional, or an
    /// error.
    fn read(&self, given: &[(String, Node)], at: &Path<'_>, problems: &mut Problems) -> Value {
        let at = at.field(self.name);
        // Of duplicates the last, as in most JSON parsers. They are reported elsewhere.
        if let Some((_, node)) = given.iter().rfind(|(name, _)| name == self.name) {
            return self.shape.read(node, &at, problems);
        }
        if let Some(default) = self.default {
            return self.shape.read(&default.node(), &at, problems);
        }
        if self.optional {
            return Value::Absent;
        }
        problems.report(&at, &["this field is missing"], &[&self.shape.hint()]);
        Value::Wrong
    }
}

impl Form {
    /// Reads a text of any length.
    fn read(&self, text: &str, at: &Path<'_>, problems: &mut Problems) -> Value {
        let chars = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        let (min, max) = self.chars;
        let told = if self.secret { "this text, not shown as it may be a secret,".to_owned() } else { quoted(text) };
        if (min..=max).contains(&chars) {
            let hint = match (self.parse)(text) {
                Ok(value) => return value,
                Err(hint) => hint,
            };
            problems.report(at, &[&told, " is not ", self.what], &[hint.as_deref().unwrap_or(self.hint)]);
        } else if chars < min {
            problems.report(at, &[&told, " is too short"], &[self.hint]);
        } else {
            let (chars, max) = (chars.to_string(), max.to_string());
            problems.report(at, &[&told, " has ", &chars, " characters, more than ", &max], &[self.hint]);
        }
        Value::Wrong
    }
}

/// The number as a count of units.
fn in_units(number: Number, min: u32, max: u32, unit: u32) -> Result<u32, &'static str> {
    let micros = |units: u32| u64::from(units).saturating_mul(u64::from(unit));
    match number.in_micros() {
        Some(value) if (micros(min)..=micros(max)).contains(&value) => {
            if number.is_exact() && value.is_multiple_of(u64::from(unit)) {
                return Ok(value.checked_div(u64::from(unit)).and_then(|units| units.try_into().ok()).unwrap_or(max));
            }
            Err(if unit == WHOLE { "is not a whole number" } else { "has more than two decimals" })
        }
        _ if min == max => Err("is not supported by this version"),
        _ => Err("is out of range"),
    }
}

/// The span that the text stands for. At most twelve digits: of milliseconds these are 31 years, and of days they
/// saturate.
fn span(text: &str) -> Option<Span> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).filter(|_| (1..=12).contains(&digits))?;
    let (_, unit_ns) = SPAN_UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Span::from_nanos(number.parse::<u64>().ok()?.saturating_mul(*unit_ns)))
}

fn word(word: &str, known: &[&str], at: &Path<'_>, problems: &mut Problems) -> Value {
    if let Some(place) = known.iter().position(|other| *other == word) {
        return Value::Word(place);
    }
    let hint = nearest::suggestion(word, known).unwrap_or_else(|| one_of(known));
    problems.report(at, &[&quoted(word), " is not allowed here"], &[&hint]);
    Value::Wrong
}

fn items(of: &Shape, nodes: &[Node], distinct: bool, at: &Path<'_>, problems: &mut Problems) -> Vec<Value> {
    let mut items = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let at = at.item(index);
        let item = of.read(node, &at, problems);
        if distinct && item != Value::Wrong && items.contains(&item) {
            problems.report(&at, &[&node.described(), " appears twice"], &["remove one of them"]);
        }
        items.push(item);
    }
    items
}

fn entries(
    names: &Form,
    of: &Shape,
    fields: &[(String, Node)],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<(Value, Value)> {
    let read = |(index, (name, node)): (usize, &(String, Node))| {
        // A name that must not be shown is replaced by its index.
        let is_hidden = names.secret && (names.parse)(name).is_err();
        let at = if is_hidden { at.item(index) } else { at.field(name) };
        (names.read(name, &at, problems), of.read(node, &at, problems))
    };
    fields.iter().enumerate().map(read).collect()
}

/// Reports fields that are not declared.
fn unknown_fields(given: &[(String, Node)], fields: &[Field], at: &Path<'_>, problems: &mut Problems) {
    for (name, _) in given {
        if !fields.iter().any(|field| field.name == name) {
            let hint =
                nested_hint(name, fields).unwrap_or_else(|| nearest::hint(name, "the fields here are", &names(fields)));
            problems.report(&at.field(name), &["there is no field ", &quoted(name)], &[&hint]);
        }
    }
}

/// The hint for a field that is declared in an object one level below.
fn nested_hint(name: &str, fields: &[Field]) -> Option<String> {
    if !hint::ENABLED {
        return None;
    }
    let has_it = |field: &&Field| matches!(field.shape, Shape::Object { fields, .. } if fields.iter().any(|field| field.name == name));
    let objects: Vec<&str> = fields.iter().filter(has_it).map(|field| field.name).collect();
    (!objects.is_empty()).then(|| nearest::hint("", "it belongs in", &objects))
}

/// Reports if none or more than one of the fields `one_of` is present.
fn exactly_one(given: &[(String, Node)], one_of: &[&str], fields: &[Field], at: &Path<'_>, problems: &mut Problems) {
    let mut there = one_of.iter().filter(|name| given.iter().any(|(other, _)| other == *name));
    match (there.next(), there.next(), one_of) {
        (None, _, [first, others @ ..]) => {
            let known = fields.iter().find(|field| field.name == *first).filter(|_| hint::ENABLED);
            let right = known.map_or_else(String::new, |field| field.shape.hint());
            let hint = nearest::hint("", &[&right, ", or write the field"].concat(), others);
            problems.report(&at.field(first), &["this field is missing"], &[&hint]);
        }
        (Some(first), Some(second), _) => {
            let problem = &["there is ", &quoted(first), " already"];
            problems.report(&at.field(second), problem, &["remove one of the two"]);
        }
        _ => {}
    }
}

fn names(fields: &[Field]) -> Vec<&'static str> {
    fields.iter().map(|field| field.name).collect()
}

/// The hint that lists all known words.
fn one_of(words: &[&str]) -> String {
    nearest::hint("", if words.len() == 1 { "write" } else { "write one of" }, words)
}

fn counted(count: usize, min: u32, max: u32) -> bool {
    u32::try_from(count).is_ok_and(|count| (min..=max).contains(&count))
}
