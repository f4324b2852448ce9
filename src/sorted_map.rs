//! Values by key, in a list sorted by key.
//!
//! A tree can hold more keys, but its code takes about 2 KB for each kind of value, in a Worker whose size is bounded.
//! Inserting a value moves those behind it. So this is for some thousands of values, boxed if they are large, or for
//! keys that come roughly in order.

use core::borrow::Borrow;

/// Values by key.
#[derive(Clone, Debug)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

impl<K: Ord, V> SortedMap<K, V> {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many values there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        self.0.get(place).map(|(_, value)| value)
    }

    /// The value of a key, mutable.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// Sets the value of a key, and replaces the one that it had.
    pub fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(place) => {
                if let Some((_, old)) = self.0.get_mut(place) {
                    *old = value;
                }
            }
            Err(place) => self.0.insert(place, (key, value)),
        }
    }

    /// Removes a key, and returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        Some(self.0.remove(place).1)
    }

    /// Keeps the values for which `holds` answers true. It may change them.
    pub fn retain(&mut self, mut holds: impl FnMut(&mut V) -> bool) {
        self.0.retain_mut(|(_, value)| holds(value));
    }

    /// All keys and values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The values in the order of their keys, mutable.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// The index of a key, or the one where it would be inserted.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(other, _)| other.borrow().cmp(key))
    }
}

impl<K: Ord, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u8, u16),
        Change(u8, u16),
        ChangeAll(u16),
        Remove(u8),
        Retain(u16),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..40_u8, any::<u16>()).prop_map(|(key, value)| Act::Insert(key, value)),
            2 => (0..40_u8, any::<u16>()).prop_map(|(key, value)| Act::Change(key, value)),
            1 => any::<u16>().prop_map(Act::ChangeAll),
            2 => (0..40_u8).prop_map(Act::Remove),
            1 => (0..8_u16).prop_map(Act::Retain),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_tree_would(acts in prop::collection::vec(act(), 0..100)) {
            let (mut map, mut tree) = (SortedMap::new(), BTreeMap::new());
            for act in acts {
                match act {
                    Act::Insert(key, value) => {
                        map.insert(key, value);
                        tree.insert(key, value);
                    }
                    Act::Change(key, to) => {
                        let (value, other) = (map.get_mut(&key), tree.get_mut(&key));
                        prop_assert_eq!(value.as_deref(), other.as_deref());
                        if let Some((value, other)) = value.zip(other) {
                            (*value, *other) = (to, to);
                        }
                    }
                    Act::ChangeAll(by) => {
                        map.values_mut().for_each(|value| *value ^= by);
                        tree.values_mut().for_each(|value| *value ^= by);
                    }
                    Act::Remove(key) => prop_assert_eq!(map.remove(&key), tree.remove(&key)),
                    Act::Retain(not) => {
                        map.retain(|value| *value % 8 != not);
                        tree.retain(|_, value| *value % 8 != not);
                    }
                }
                prop_assert!(map.iter().eq(tree.iter()));
                prop_assert_eq!((map.len(), map.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert!((0..40).all(|key| map.get(&key) == tree.get(&key)));
            }
        }
    }
}
