//! A list of items that is valid only if every item could be read.

/// Collects the items that could be read, and remembers whether any could not. Unlike collecting into an `Option`, it
/// does not stop at the first failure, so the errors of all items are reported.
pub(super) struct AllOrNone<T> {
    items: Vec<T>,
    whole: bool,
}

impl<T> AllOrNone<T> {
    /// An empty list.
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), whole: true }
    }

    /// Appends an item; `None` stands for an item that could not be read.
    pub(super) fn add(&mut self, item: Option<T>) {
        match item {
            Some(item) => self.items.push(item),
            None => self.whole = false,
        }
    }

    /// Inserts an item in the order of names.
    pub(super) fn add_sorted<K: Ord + ?Sized>(&mut self, item: Option<T>, name: impl Fn(&T) -> &K) {
        let place = item.as_ref().map(|item| self.items.partition_point(|other| name(other) < name(item)));
        match place.zip(item) {
            Some((place, item)) => self.items.insert(place, item),
            None => self.whole = false,
        }
    }

    /// All items; `None` if any could not be read.
    pub(super) fn all(self) -> Option<Vec<T>> {
        self.whole.then_some(self.items)
    }
}
