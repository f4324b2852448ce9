//! JSON, written member by member.

use core::fmt::{Display, Write as _};

/// An object that is being written, or a list.
///
/// Texts stand as they are: the names and words of a policy have nothing that JSON escapes.
pub(super) struct Json(String);

impl Json {
    /// The text of an object with the members that are written to it.
    pub(super) fn object_of(write: impl FnOnce(&mut Self)) -> String {
        let mut json = Self(String::from("{"));
        write(&mut json);
        json.0.push('}');
        json.0
    }

    /// A member that is a text.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        for part in ["\"", value, "\""] {
            self.0.push_str(part);
        }
    }

    /// A member that is a whole number.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.plain(name, &value);
    }

    /// A member that stands as it is: a truth value, or a number that is not whole.
    pub(super) fn plain(&mut self, name: &str, value: &dyn Display) {
        self.name(name);
        // Writing to a string does not fail.
        let _ = write!(self.0, "{value}");
    }

    /// A member that there is none of.
    pub(super) fn null(&mut self, name: &str) {
        self.plain(name, &"null");
    }

    /// A member that is an object.
    pub(super) fn object(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('{');
        write(self);
        self.0.push('}');
    }

    /// A member that is a list, of objects that are written with [`Json::item`].
    pub(super) fn list(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('[');
        write(self);
        self.0.push(']');
    }

    /// An object of a list.
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

    /// Puts a comma after what stands before in the same object or list. A text ends in quotes, whatever it is.
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
