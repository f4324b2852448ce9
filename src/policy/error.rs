//! The errors of a policy document: what is wrong, where, and what would be right.

use core::fmt::{self, Write as _};

use super::hint;
use super::json::printable;

/// One error of a policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// A JSON pointer (RFC 6901) such as `/limits/0/quota/window`, empty for the whole document. For a missing field,
    /// the place where it belongs.
    pub path: String,
    /// What is wrong. It quotes the value, shortened to fit a log line.
    pub problem: String,
    /// What would be right. Without the feature `hints`, the command that tells.
    pub hint: String,
    /// Where reading stopped, if the text is not valid JSON.
    pub place: Option<Place>,
}

/// A place in a text. Line and column count from one; the column counts bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The byte within the line.
    pub column: usize,
}

/// `/limits/0/quota/window: "10 s" is not a duration; write ...`, always one line.
impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "line {}, column {}: ", place.line, place.column)?;
        }
        if !self.path.is_empty() {
            self.path.chars().try_for_each(|c| f.write_char(printable(c)))?;
            f.write_str(": ")?;
        }
        write!(f, "{}; {}", self.problem, self.hint)
    }
}

/// Every error of a policy document, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyErrors(Vec<PolicyError>);

impl PolicyErrors {
    /// The errors, in the order in which they were found.
    pub fn iter(&self) -> core::slice::Iter<'_, PolicyError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a PolicyErrors {
    type Item = &'a PolicyError;
    type IntoIter = core::slice::Iter<'a, PolicyError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for PolicyErrors {
    type Item = PolicyError;
    type IntoIter = std::vec::IntoIter<PolicyError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<PolicyError> for PolicyErrors {
    fn from(error: PolicyError) -> Self {
        Self(vec![error])
    }
}

/// One error per line.
impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{error}")?;
        }
        Ok(())
    }
}

impl core::error::Error for PolicyErrors {}

/// A place in the document while it is read: a linked list on the stack, from the leaf to the root.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// The whole document.
    Root,
    /// A field of the object at that place.
    Field(&'a Path<'a>, &'a str),
    /// An item of the list at that place.
    Item(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// The field `name` of the object at this place.
    pub(super) fn field(&'a self, name: &'a str) -> Self {
        Self::Field(self, name)
    }

    /// The item at `index` of the list at this place.
    pub(super) fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }
}

/// The JSON pointer.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Item(parent, index) => write!(f, "{parent}/{index}"),
            Self::Field(parent, name) => {
                write!(f, "{parent}/")?;
                name.chars().try_for_each(|c| match c {
                    '~' => f.write_str("~0"),
                    '/' => f.write_str("~1"),
                    c => f.write_char(c),
                })
            }
        }
    }
}

/// The errors found so far.
#[derive(Default)]
pub(super) struct Problems(Vec<PolicyError>);

impl Problems {
    /// Adds an error. The pieces of `problem` and of `hint` are joined.
    pub(super) fn report(&mut self, at: &Path<'_>, problem: &[&str], hint: &[&str]) {
        let (problem, hint) = (problem.concat(), hint::of(hint));
        match self.0.len() {
            ..MAX_PROBLEMS => self.0.push(PolicyError { path: at.to_string(), problem, hint, place: None }),
            MAX_PROBLEMS => self.0.push(PolicyError {
                path: String::new(),
                problem: format!("there are more than {MAX_PROBLEMS} errors"),
                hint: hint::of(&["correct these first, the others are listed then"]),
                place: None,
            }),
            _ => {}
        }
    }

    /// Whether further errors would be dropped, which makes it a waste of time to search for hints.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() > MAX_PROBLEMS
    }

    /// `value` if there are no errors, otherwise the errors. `value` is `None` only if an error was reported.
    pub(super) fn or_errors<T>(self, value: Option<T>) -> Result<T, PolicyErrors> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(PolicyErrors(self.0)),
        }
    }
}

/// More than anyone reads at once. Without a bound, a document of one mebibyte could fill the filter's memory with
/// errors.
const MAX_PROBLEMS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_json_pointer() {
        let root = Path::Root;
        let (limits, field) = (root.field("limits"), root.field("a/b~c"));
        assert_eq!(root.to_string(), "");
        assert_eq!(limits.item(2).field("name").to_string(), "/limits/2/name");
        assert_eq!(field.to_string(), "/a~1b~0c");
    }

    #[test]
    fn an_error_is_one_line() {
        let error = PolicyError {
            path: "/a\nb".to_owned(),
            problem: "is wrong".to_owned(),
            hint: "right it".to_owned(),
            place: None,
        };
        assert_eq!(error.to_string(), "/a\u{fffd}b: is wrong; right it");
    }

    #[test]
    fn errors_beyond_the_bound_are_summed_up_in_one() {
        let mut problems = Problems::default();
        for index in 0..2 * MAX_PROBLEMS {
            problems.report(&Path::Root.item(index), &["is wrong"], &["right it"]);
        }
        let errors = problems.or_errors(Some(())).unwrap_err();
        assert_eq!(errors.iter().count(), MAX_PROBLEMS + 1);
        assert_eq!(errors.iter().last().unwrap().problem, "there are more than 200 errors");
    }
}
