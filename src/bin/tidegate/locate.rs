//! Finds the line of a JSON document that a JSON pointer refers to.

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// A JSON text with the places of its values.
pub struct Located<'a> {
    text: &'a str,
    root: Option<Value<'a>>,
}

impl<'a> Located<'a> {
    /// The places of the values in `text`. A text that is not JSON has none.
    pub fn new(text: &'a str) -> Self {
        let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default());
        Self { text, root: parsed.ok().and_then(|parsed| parsed.value) }
    }

    /// The line that the JSON pointer refers to, counted from one. For a missing field, the line of the object that
    /// lacks it.
    pub fn line(&self, pointer: &str) -> usize {
        let Some(root) = &self.root else { return 1 };
        let (mut value, mut start) = (root, root.range().start);
        for step in pointer.split('/').skip(1).map(unescaped) {
            let next = match value {
                // Of duplicates the last, as in the reader of the policy.
                Value::Object(object) => {
                    let named = object.properties.iter().rfind(|property| property.name.as_str() == step);
                    // In paths, an index replaces a name that may be a secret.
                    let numbered = || object.properties.get(step.parse::<usize>().ok()?);
                    named.or_else(numbered).map(|property| (&property.value, property.range.start))
                }
                Value::Array(array) => {
                    let item = step.parse().ok().and_then(|index: usize| array.elements.get(index));
                    item.map(|item| (item, item.range().start))
                }
                _ => None,
            };
            let Some(next) = next else { break };
            (value, start) = next;
        }
        let before = self.text.as_bytes().get(..start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// One step of a JSON pointer (RFC 6901 section 4).
fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_to_a_line() {
        let located = Located::new("{\n \"a/~\": [\n  1,\n  {\"b\":\n   2}\n ],\n \"c\": 1,\n \"c\": 2\n}");
        for (pointer, line) in [
            ("", 1),
            ("/a~1~0", 2),
            ("/a~1~0/0", 3),
            ("/a~1~0/1", 4),
            ("/a~1~0/1/b", 4),
            ("/a~1~0/1/missing", 4),
            ("/a~1~0/9", 2),
            ("/c", 8),
            ("/1", 7),
            ("/missing/below", 1),
        ] {
            assert_eq!(located.line(pointer), line, "{pointer}");
        }
        assert_eq!(Located::new("{").line("/a"), 1);
    }
}
