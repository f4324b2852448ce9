//! A fake request for tests, which records what it is asked for.

use core::cell::RefCell;
use std::borrow::Cow;

use crate::request::{Locality, RequestFacts};

/// A fake request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) method: Vec<u8>,
    pub(crate) path: Vec<u8>,
    pub(crate) authority: Vec<u8>,
    pub(crate) peer: Option<Vec<u8>>,
    pub(crate) places: Vec<(Locality, Vec<u8>)>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) asked: RefCell<Vec<String>>,
}

impl Recorded {
    pub(crate) fn get(path: &str) -> Self {
        Self { method: b"GET".to_vec(), path: path.into(), ..Self::default() }
    }

    pub(crate) fn on(mut self, authority: &str) -> Self {
        self.authority = authority.into();
        self
    }

    pub(crate) fn from(mut self, peer: &str) -> Self {
        self.peer = Some(peer.into());
        self
    }

    pub(crate) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// What has been asked for so far, in that order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    fn record(&self, what: &str) {
        self.asked.borrow_mut().push(what.to_owned());
    }
}

impl RequestFacts for Recorded {
    fn method(&self) -> Cow<'_, [u8]> {
        self.record("method");
        Cow::Borrowed(&self.method)
    }

    fn path(&self) -> Cow<'_, [u8]> {
        self.record("path");
        Cow::Borrowed(&self.path)
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        self.record("authority");
        Cow::Borrowed(&self.authority)
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        self.record("peer");
        self.peer.as_deref().map(Cow::Borrowed)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.record(name);
        let mut values = self.headers.iter().filter(|(named, _)| named == name).map(|(_, value)| value.as_slice());
        let first = values.next()?.to_vec();
        Some(Cow::Owned(values.fold(first, |list, value| [&list, b",".as_slice(), value].concat())))
    }

    fn locality(&self, kind: Locality) -> Option<Cow<'_, [u8]>> {
        self.record(kind.as_str());
        self.places.iter().find(|(known, _)| *known == kind).map(|(_, place)| Cow::Borrowed(place.as_slice()))
    }
}
