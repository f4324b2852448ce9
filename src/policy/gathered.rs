//! Items of the document that are read one by one and stand only together.

/// Items as far as they could be read.
pub(super) struct Gathered<T> {
    items: Vec<T>,
    whole: bool,
}

impl<T> Gathered<T> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), whole: true }
    }

    /// Adds an item as the last one; `None` is one that was wrong.
    pub(super) fn add(&mut self, item: Option<T>) {
        match item {
            Some(item) => self.items.push(item),
            None => self.whole = false,
        }
    }

    /// Adds an item where its name comes in order.
    pub(super) fn add_by<K: Ord + ?Sized>(&mut self, item: Option<T>, name: impl Fn(&T) -> &K) {
        let place = item.as_ref().map(|item| self.items.partition_point(|other| name(other) < name(item)));
        match place.zip(item) {
            Some((place, item)) => self.items.insert(place, item),
            None => self.whole = false,
        }
    }

    /// All of them, if none was wrong.
    pub(super) fn all(self) -> Option<Vec<T>> {
        self.whole.then_some(self.items)
    }
}
