//! The macros that declare the objects of the policy document. One declaration gives an object's table for the reader,
//! its typed view and its JSON Schema, which therefore cannot disagree.

use super::defaults::DefaultValue;
use super::json::Node;
use super::read::Shape;
use super::value::Value;

/// A type that values of the policy document are declared with.
pub(super) trait Declared {
    /// What a value must look like.
    const SHAPE: Shape;
    /// Whether a field of this type may be absent although it has no default.
    const OPTIONAL: bool = false;

    /// The typed view of a value.
    type View<'v>;

    /// The typed view of a value that was read; `None` if it was wrong.
    fn view(value: &Value) -> Option<Self::View<'_>>;

    /// The JSON Schema of values of this type.
    fn schema() -> Node;
}

/// Declares an object of the document, for example `Limit`. Its typed view is `View<Limit>`.
///
/// Every field becomes a method of the view. It returns `None` if the value was wrong, which the reader has reported;
/// checks across fields still see the other fields. A field may be absent if it is an `Option` or has a default. Of the
/// fields in `one_of`, exactly one must be present. Doc comments become the descriptions of the JSON Schema.
macro_rules! document {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $($(#[doc = $doc:literal])+ $field:ident $(as $key:literal)?: $type:ty $(= $default:expr)?,)+
        }
        $(one_of $($choice:literal)+)?
    ) => {
        $(#[doc = $about])+
        pub(in crate::policy) enum $name {}

        const _: () = {
            use $crate::policy::schema;

            /// The index of each field in the order of declaration.
            #[allow(non_camel_case_types, reason = "the fields' own names")]
            enum Place {
                $($field,)+
            }

            #[allow(clippy::wrong_self_convention, reason = "the fields' own names")]
            impl<'v> $crate::policy::value::View<'v, $name> {
                $(
                    $(#[doc = $doc])+
                    #[allow(dead_code, reason = "a field is declared, and so checked, before a version acts on it")]
                    pub(in crate::policy) fn $field(self) -> Option<<$type as schema::Declared>::View<'v>> {
                        <$type as schema::Declared>::view(self.field(Place::$field as usize))
                    }
                )+
            }

            impl schema::Declared for $name {
                const SHAPE: $crate::policy::read::Shape = $crate::policy::read::Shape::Object {
                    fields: &[$($crate::policy::read::Field {
                        name: schema::key!($field $($key)?),
                        shape: &<$type as schema::Declared>::SHAPE,
                        optional: <$type as schema::Declared>::OPTIONAL,
                        default: schema::default!($($default)?),
                    }),+],
                    one_of: &[$($($choice),+)?],
                };

                type View<'v> = $crate::policy::value::View<'v, $name>;

                fn view(value: &$crate::policy::value::Value) -> Option<Self::View<'_>> {
                    $crate::policy::value::View::of(value)
                }

                fn schema() -> $crate::policy::json::Node {
                    schema::object_schema(concat!($($about, "\n"),+), vec![
                        $(schema::FieldSchema {
                            name: schema::key!($field $($key)?),
                            about: concat!($($doc, "\n"),+),
                            schema: <$type as schema::Declared>::schema(),
                            optional: <$type as schema::Declared>::OPTIONAL,
                            default: schema::default!($($default)?),
                        }),+
                    ], &[$($($choice),+)?])
                }
            }
        };
    };
}

/// Declares the words that a type's values are written as.
macro_rules! words {
    ($type:ty { $($word:literal => $value:expr),+ $(,)? }) => {
        impl $crate::policy::schema::Declared for $type {
            const SHAPE: $crate::policy::read::Shape = $crate::policy::read::Shape::Word(&[$($word),+]);

            type View<'v> = Self;

            fn view(value: &$crate::policy::value::Value) -> Option<Self> {
                match value {
                    $crate::policy::value::Value::Word(place) => [$($value),+].get(*place).copied(),
                    _ => None,
                }
            }

            fn schema() -> $crate::policy::json::Node {
                $crate::policy::json::Node::object([("enum", [$($word),+].into())])
            }
        }
    };
}

/// The name of a field in the document: the name after `as`, otherwise that of the declared field.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// The declared default of a field, if any.
macro_rules! default {
    () => {
        None
    };
    ($default:expr) => {
        Some($crate::policy::defaults::DefaultExpr(&$default).value())
    };
}

pub(super) use {default, document, key, words};

/// A field of an object's schema.
pub(super) struct FieldSchema {
    /// Its name in the document.
    pub(super) name: &'static str,
    /// Its documentation.
    pub(super) about: &'static str,
    /// The schema of its type.
    pub(super) schema: Node,
    /// Whether it may be absent although it has no default.
    pub(super) optional: bool,
    /// Its default.
    pub(super) default: Option<DefaultValue>,
}

/// The schema of an object with these fields and no others, and with exactly one of the fields in `one_of`, if any.
pub(super) fn object_schema(about: &str, fields: Vec<FieldSchema>, one_of: &[&str]) -> Node {
    let mut required = Vec::new();
    let mut properties = Vec::new();
    for field in fields {
        if !field.optional && field.default.is_none() {
            required.push(Node::from(field.name));
        }
        // The description of the field replaces that of its type, which is more general.
        let mut schema = vec![("description".to_owned(), flowed(field.about))];
        if let Node::Object(of_type) = field.schema {
            schema.extend(of_type.into_iter().filter(|(name, _)| name != "description"));
        }
        schema.extend(field.default.map(|default| ("default".to_owned(), default.node())));
        properties.push((field.name.to_owned(), Node::Object(schema)));
    }
    let mut schema = vec![
        ("description".to_owned(), flowed(about)),
        ("type".to_owned(), "object".into()),
        ("properties".to_owned(), Node::Object(properties)),
        ("required".to_owned(), Node::List(required)),
        ("additionalProperties".to_owned(), false.into()),
    ];
    if !one_of.is_empty() {
        let choices = one_of.iter().map(|name| Node::object([("required", [*name].into())]));
        schema.push(("oneOf".to_owned(), Node::List(choices.collect())));
    }
    Node::Object(schema)
}

/// A doc comment as one line.
fn flowed(about: &str) -> Node {
    Node::Text(about.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The JSON Schema (draft 2020-12) of the policy document `T`, as text that ends with a line break.
pub(super) fn json_schema<T: Declared>() -> String {
    let mut schema = vec![
        ("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into()),
        ("$id".to_owned(), SCHEMA_ID.into()),
        ("title".to_owned(), "Tidegate policy".into()),
    ];
    if let Node::Object(of_type) = T::schema() {
        schema.extend(of_type);
    }
    // Serializing a tree of texts, numbers and lists does not fail.
    serde_json::to_string_pretty(&Node::Object(schema)).unwrap_or_default() + "\n"
}

/// Only a name of the schema: a URN cannot be fetched.
const SCHEMA_ID: &str = "urn:tidegate:policy:1";

#[cfg(test)]
mod tests {
    use super::super::error::{Path, Problems};
    use super::super::shapes::Int;
    use super::super::value::View;
    use super::*;

    document! {
        /// A thing
        /// of two lines.
        Thing {
            /// How many.
            count as "match": Int<1, 9>,
            /// Perhaps more.
            more: Option<Int<1, 9>>,
            /// Whether.
            whether: bool = true,
        }
    }

    fn read(text: &str) -> (Value, String) {
        let mut problems = Problems::default();
        let value = Thing::SHAPE.read(&Node::parse(text).unwrap(), &Path::Root, &mut problems);
        (value, problems.or_errors(None::<()>).unwrap_err().to_string())
    }

    #[test]
    fn what_can_be_read_is_read_although_the_rest_is_wrong() {
        let (value, errors) = read(r#"{"match": 10, "whether": false, "mroe": 2}"#);
        let thing = View::<Thing>::of(&value).unwrap();
        assert_eq!(thing.count(), None);
        assert_eq!(thing.more(), Some(None));
        assert_eq!(thing.whether(), Some(false));
        assert_eq!(
            errors,
            "/mroe: there is no field \"mroe\"; did you mean \"more\"?\n\
             /match: 10 is out of range; write a whole number from 1 to 9"
        );
    }

    #[test]
    fn an_absent_field_has_its_default_or_is_missing() {
        let (value, errors) = read("{}");
        assert_eq!(View::<Thing>::of(&value).unwrap().whether(), Some(true));
        assert_eq!(errors, "/match: this field is missing; write a whole number from 1 to 9");
    }

    #[test]
    fn the_schema_has_what_the_declaration_has() {
        let schema = serde_json::to_string(&Thing::schema()).unwrap();
        let expected = concat!(
            r#"{"description":"A thing of two lines.","type":"object","properties":{"#,
            r#""match":{"description":"How many.","type":"integer","minimum":1,"maximum":9},"#,
            r#""more":{"description":"Perhaps more.","type":"integer","minimum":1,"maximum":9},"#,
            r#""whether":{"description":"Whether.","type":"boolean","default":true}},"#,
            r#""required":["match"],"additionalProperties":false}"#,
        );
        assert_eq!(schema, expected);
    }
}
