//! Writes JSON, member by member.

use core::fmt::{Display, Write as _};

/// An object or a list that is being written.
///
/// Strings are not escaped: the names and words of a policy contain nothing that JSON escapes.
pub(super) struct Json(String);

impl Json {
    /// An object with the members that `write` adds.
    pub(super) fn object_of(write: impl FnOnce(&mut Self)) -> String {
        let mut json = Self(String::from("{"));
        write(&mut json);
        json.0.push('}');
        json.0
    }

    /// Adds a string.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        for part in ["\"", value, "\""] {
            self.0.push_str(part);
        }
    }

    /// Adds an integer.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.plain(name, &value);
    }

    /// Adds a value in its own spelling: a boolean, or a decimal number.
    pub(super) fn plain(&mut self, name: &str, value: &dyn Display) {
        self.name(name);
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{value}");
    }

    /// Adds `null`.
    pub(super) fn null(&mut self, name: &str) {
        self.plain(name, &"null");
    }

    /// Adds an object.
    pub(super) fn object(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('{');
        write(self);
        self.0.push('}');
    }

    /// Adds a list, whose objects are written with [`Json::item`].
    pub(super) fn list(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('[');
        write(self);
        self.0.push(']');
    }

    /// Adds an object to the list.
    pub(super) fn item(&mut self, write: impl FnOnce(&mut Self)) {
        self.separate();
        self.0.push('{');
        write(self);
        self.0.push('}');
    }

    fn name(&mut self, name: &str) {
        self.separate();
        for part in ["\"", name, "\":"] {
            self.0.push_str(part);
        }
    }

    /// Writes a comma unless this is the first member. A string always ends in a quote, so its content cannot confuse
    /// this.
    fn separate(&mut self) {
        if !matches!(self.0.as_bytes().last(), Some(b'{' | b'[')) {
            self.0.push(',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_items_stand_apart_by_commas() {
        let text = Json::object_of(|json| {
            json.text("a", "{");
            json.number("b", 1);
            json.null("c");
            json.object("d", |_| {});
            json.list("e", |json| {
                json.item(|_| {});
                json.item(|json| json.plain("f", &true));
            });
            json.list("g", |_| {});
        });
        assert_eq!(text, r#"{"a":"{","b":1,"c":null,"d":{},"e":[{},{"f":true}],"g":[]}"#);
    }
}
