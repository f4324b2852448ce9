//! A scenario's requests and responses, as facts for the core.

use std::borrow::Cow;

use tidegate::request::{RequestFacts, ResponseFacts};

use super::super::document::{Does, Step};

/// A step's request, as a host knows it.
pub struct Request<'s> {
    pub step: &'s Step,
    method: &'s str,
    pub target: &'s str,
}

impl<'s> Request<'s> {
    pub fn of(step: &'s Step) -> Self {
        let (method, target) = step.send.as_deref().and_then(|send| send.split_once(' ')).expect("checked");
        Self { step, method, target }
    }
}

impl RequestFacts for Request<'_> {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.method.as_bytes())
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.target.as_bytes())
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.step.host.as_bytes())
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.step.from.as_bytes()))
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let lines = self.step.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?.1;
        Some(Cow::Owned(lines.all().join(",").into_bytes()))
    }
}

/// An upstream's response.
pub struct Answer<'a> {
    pub status: Option<u16>,
    pub does: &'a Does,
}

impl ResponseFacts for Answer<'_> {
    fn status(&self) -> Option<u16> {
        self.status
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.does.headers.get(name)?.as_bytes()))
    }
}
