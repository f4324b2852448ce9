//! Texts and globs, searched by a value instead of tried one by one.

use core::cmp::Ordering;

/// A map from texts and globs of the form `prefix*suffix` to ids.
///
/// Texts are sorted. Globs are grouped by shape, which is how long their two ends are: of one shape, the ends that a
/// value would have to have are known, and those are searched. So a look-up takes one binary search for the texts and
/// one for each *shape*, of which a policy has few, however many globs it has.
///
/// Sorted lists and no hash table: the keys are the policy's and never grow, ten comparisons find one of a thousand,
/// and no client can choose values that collide.
#[derive(Debug, Default)]
pub(super) struct Values {
    texts: Vec<(Box<[u8]>, u32)>,
    shapes: Vec<Shape>,
}

/// The globs whose ends are so long.
#[derive(Debug)]
struct Shape {
    prefix_len: usize,
    suffix_len: usize,
    /// The prefix with the suffix behind it, sorted.
    ends: Vec<(Box<[u8]>, u32)>,
}

impl Values {
    /// Whether there is nothing to find.
    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.shapes.is_empty()
    }

    /// The id of `text`.
    pub(super) fn exact(&self, text: &[u8]) -> Option<u32> {
        let at = self.texts.binary_search_by(|(key, _)| key.as_ref().cmp(text)).ok()?;
        self.texts.get(at).map(|&(_, id)| id)
    }

    /// Calls `found` with the id of `value` and of each glob that it fits, each once.
    pub(super) fn each(&self, value: &[u8], mut found: impl FnMut(u32)) {
        if let Some(id) = self.exact(value) {
            found(id);
        }
        for shape in &self.shapes {
            if let Some(id) = shape.find(value) {
                found(id);
            }
        }
    }

    /// The id of `text`, `new` when it had none.
    pub(super) fn exact_or_insert(&mut self, text: &[u8], new: u32) -> u32 {
        let place = self.texts.binary_search_by(|(key, _)| key.as_ref().cmp(text));
        get_or_insert(&mut self.texts, place, text, new)
    }

    /// The id of the glob `prefix*suffix`, `new` when it had none.
    pub(super) fn glob_or_insert(&mut self, prefix: &[u8], suffix: &[u8], new: u32) -> u32 {
        let (prefix_len, suffix_len) = (prefix.len(), suffix.len());
        let same = |shape: &&mut Shape| (shape.prefix_len, shape.suffix_len) == (prefix_len, suffix_len);
        let ends = [prefix, suffix].concat();
        match self.shapes.iter_mut().find(same) {
            Some(shape) => {
                let place = shape.ends.binary_search_by(|(key, _)| key.as_ref().cmp(&ends));
                get_or_insert(&mut shape.ends, place, &ends, new)
            }
            None => {
                let ends = vec![(ends.into_boxed_slice(), new)];
                self.shapes.push(Shape { prefix_len, suffix_len, ends });
                new
            }
        }
    }
}

impl Shape {
    /// The id of the glob that `value` fits; two globs of one shape never fit the same value.
    fn find(&self, value: &[u8]) -> Option<u32> {
        let suffix_start = value.len().checked_sub(self.suffix_len)?;
        if suffix_start < self.prefix_len {
            return None;
        }
        let (prefix, suffix) = (value.get(..self.prefix_len)?, value.get(suffix_start..)?);
        let compare = |ends: &[u8]| match ends.split_at_checked(self.prefix_len) {
            Some((before, after)) => before.cmp(prefix).then_with(|| after.cmp(suffix)),
            None => Ordering::Less,
        };
        let at = self.ends.binary_search_by(|(ends, _)| compare(ends)).ok()?;
        self.ends.get(at).map(|&(_, id)| id)
    }
}

fn get_or_insert(sorted: &mut Vec<(Box<[u8]>, u32)>, place: Result<usize, usize>, key: &[u8], new: u32) -> u32 {
    match place {
        Ok(at) => sorted.get(at).map_or(new, |&(_, id)| id),
        Err(at) => {
            sorted.insert(at, (key.into(), new));
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_finds_its_text_and_every_glob_that_it_fits() {
        let mut values = Values::default();
        assert_eq!(values.exact_or_insert(b"abc", 1), 1);
        assert_eq!(values.exact_or_insert(b"abc", 9), 1);
        assert_eq!(values.exact_or_insert(b"", 2), 2);
        for (id, (prefix, suffix)) in (3..).zip([("", ""), ("a", ""), ("", "c"), ("ab", "bc"), ("b", "")]) {
            assert_eq!(values.glob_or_insert(prefix.as_bytes(), suffix.as_bytes(), id), id);
            assert_eq!(values.glob_or_insert(prefix.as_bytes(), suffix.as_bytes(), 99), id);
        }
        for (value, ids) in
            [("abc", &[1, 3, 4, 5][..]), ("abbc", &[3, 4, 5, 6]), ("", &[2, 3]), ("bx", &[3, 7]), ("x", &[3])]
        {
            let mut found = Vec::new();
            values.each(value.as_bytes(), |id| found.push(id));
            found.sort_unstable();
            assert_eq!(found, ids, "{value}");
        }
    }
}
