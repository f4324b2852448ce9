//! Values by key, in a list in the order of the keys.
//!
//! A tree bears more keys, and for each kind of value its code is about 2 KB of a Worker whose size is bounded. Putting a value
//! in moves those behind it: this is for some thousands of values, boxed where they are large, or for keys that come about in order.

use core::borrow::Borrow;

/// Values by key.
#[derive(Clone, Debug)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

impl<K: Ord, V> SortedMap<K, V> {
    /// Without any values.
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

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// Gives a key this value, in place of the one that it had.
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

    /// Takes the value of a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        Some(self.0.remove(place).1)
    }

    /// Keeps the values of which this holds. It may change them.
    pub fn retain(&mut self, mut holds: impl FnMut(&mut V) -> bool) {
        self.0.retain_mut(|(_, value)| holds(value));
    }

    /// All of them, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The values in the order of their keys, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Where a key stands, or would.
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
