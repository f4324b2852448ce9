//! Texts and globs that are looked up by a value, instead of tested one by one.

/// A map from texts and globs of the form `prefix*suffix` to ids.
///
/// Globs are grouped by shape, which is the lengths of prefix and suffix. A shape determines which bytes of a value are
/// its prefix and suffix, and these are looked up. So a value is looked up once among the texts and once for each
/// *shape*. A policy has few shapes, even if it has many globs.
#[derive(Debug, Default)]
pub(super) struct Values {
    texts: Table,
    shapes: Vec<Shape>,
}

/// The globs with these lengths of prefix and suffix.
#[derive(Debug)]
struct Shape {
    prefix_len: usize,
    suffix_len: usize,
    globs: Table,
}

/// Keys of two parts, and their ids: a hash table with linear probing, at most half full.
///
/// For a value that no rule names, the search almost always ends at an empty slot, and never reads a key. The hash is
/// not keyed: all keys come from the policy and their number is fixed, so no client can lengthen a run of slots.
#[derive(Debug, Default)]
struct Table {
    /// A power of two in length, or empty.
    slots: Vec<Slot>,
    /// Both parts of each key, concatenated, and its id.
    keys: Vec<(Box<[u8]>, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    /// The index of its key; [`EMPTY`] if there is none.
    key: u32,
}

impl Values {
    /// Whether it holds no text and no glob.
    pub(super) fn is_empty(&self) -> bool {
        self.texts.keys.is_empty() && self.shapes.is_empty()
    }

    /// The id of `text`.
    pub(super) fn exact(&self, text: &[u8]) -> Option<u32> {
        self.texts.find(text, b"")
    }

    /// Calls `found` with the ids of the text `value` and of each glob that matches it, each once.
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

    /// The id of `text`, which becomes `new` if it had none.
    pub(super) fn exact_or_insert(&mut self, text: &[u8], new: u32) -> u32 {
        self.texts.find_or_insert(text, b"", new)
    }

    /// The id of the glob `prefix*suffix`, which becomes `new` if it had none.
    pub(super) fn glob_or_insert(&mut self, prefix: &[u8], suffix: &[u8], new: u32) -> u32 {
        let (prefix_len, suffix_len) = (prefix.len(), suffix.len());
        let same = |shape: &&mut Shape| (shape.prefix_len, shape.suffix_len) == (prefix_len, suffix_len);
        if let Some(shape) = self.shapes.iter_mut().find(same) {
            return shape.globs.find_or_insert(prefix, suffix, new);
        }
        let mut globs = Table::default();
        globs.find_or_insert(prefix, suffix, new);
        self.shapes.push(Shape { prefix_len, suffix_len, globs });
        new
    }
}

impl Shape {
    /// The id of the glob that matches `value`. Two globs of one shape never match the same value.
    fn find(&self, value: &[u8]) -> Option<u32> {
        let suffix_start = value.len().checked_sub(self.suffix_len)?;
        if suffix_start < self.prefix_len {
            return None;
        }
        self.globs.find(value.get(..self.prefix_len)?, value.get(suffix_start..)?)
    }
}

impl Table {
    #[inline]
    fn find(&self, first: &[u8], second: &[u8]) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let hash = hash(first, second);
        let mut at = hash as usize & mask;
        // At least half of the slots are empty, so the search ends long before it has visited all of them.
        for _ in 0..=mask {
            let slot = self.slots.get(at)?;
            if slot.key == EMPTY {
                return None;
            }
            if slot.hash == hash
                && let Some((key, id)) = self.keys.get(slot.key as usize)
                && key.strip_prefix(first) == Some(second)
            {
                return Some(*id);
            }
            at = at.wrapping_add(1) & mask;
        }
        None
    }

    fn find_or_insert(&mut self, first: &[u8], second: &[u8], new: u32) -> u32 {
        if let Some(id) = self.find(first, second) {
            return id;
        }
        let key = super::id(self.keys.len());
        self.keys.push(([first, second].concat().into_boxed_slice(), new));
        if self.keys.len().saturating_mul(2) > self.slots.len() {
            let filled = self.slots.iter().filter(|slot| slot.key != EMPTY).copied().collect::<Vec<_>>();
            let empty = Slot { hash: 0, key: EMPTY };
            self.slots = vec![empty; self.keys.len().saturating_mul(4).next_power_of_two()];
            filled.into_iter().for_each(|slot| self.fill(slot));
        }
        self.fill(Slot { hash: hash(first, second), key });
        new
    }

    /// Puts a slot at the first empty position for its hash.
    fn fill(&mut self, slot: Slot) {
        let mask = self.slots.len().saturating_sub(1);
        let mut at = slot.hash as usize & mask;
        while let Some(place) = self.slots.get_mut(at) {
            if place.key == EMPTY {
                *place = slot;
                return;
            }
            at = at.wrapping_add(1) & mask;
        }
    }
}

/// Eight bytes at a time, each word multiplied and folded: fast, and good enough because no attacker chooses the keys.
#[inline]
fn hash(first: &[u8], second: &[u8]) -> u32 {
    let hash = fold(first.len() as u64, first);
    (if second.is_empty() { hash } else { fold(hash, second) }) as u32
}

#[inline]
fn fold(hash: u64, part: &[u8]) -> u64 {
    let (words, rest) = part.as_chunks::<8>();
    let hash = words.iter().fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    mix(hash, rest.iter().fold(0, |rest, byte| (rest << 8) | u64::from(*byte)))
}

#[inline]
fn mix(hash: u64, word: u64) -> u64 {
    // 2^64 divided by the golden ratio: odd and without a pattern.
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// No key has this index: no policy has so many.
const EMPTY: u32 = u32::MAX;

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

    #[test]
    fn of_thousands_of_values_each_finds_its_own_and_no_other_finds_any() {
        let mut values = Values::default();
        let text = |n: u32| format!("segment-{n}").into_bytes();
        for n in 0..5_000 {
            assert_eq!(values.exact_or_insert(&text(n), n), n);
            assert_eq!(values.glob_or_insert(&text(n), b"!", 5_000 + n), 5_000 + n);
        }
        for n in 0..5_000 {
            assert_eq!(values.exact(&text(n)), Some(n));
            assert_eq!(values.exact_or_insert(&text(n), 9), n);
            let mut found = Vec::new();
            values.each(&[text(n), b"?!".to_vec()].concat(), |id| found.push(id));
            // A glob matches longer values too: `segment-1*!` matches what begins with `segment-12`.
            assert!(found.contains(&(5_000 + n)) && found.iter().all(|id| *id >= 5_000), "{n}: {found:?}");
        }
        assert!((5_000..50_000).all(|n| values.exact(&text(n)).is_none()));
    }
}
