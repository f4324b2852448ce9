//! Sorted lists, in which a few comparisons find one item among thousands.

use std::collections::BinaryHeap;

/// The items in order, without duplicates.
pub(crate) fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    // Sorting with a heap takes little code, and the filter sorts nowhere else.
    let mut items = items.into_iter().collect::<BinaryHeap<_>>().into_sorted_vec();
    items.dedup();
    items.shrink_to_fit();
    items
}

/// The item whose key is `wanted`, in a list sorted by `key`. In a list of ten thousand, at most fifteen are compared.
pub(crate) fn find<'l, T, K: Ord + ?Sized>(
    items: &'l [T],
    wanted: &K,
    key: impl for<'t> Fn(&'t T) -> &'t K,
) -> Option<&'l T> {
    let place = items.binary_search_by(|item| key(item).cmp(wanted)).ok()?;
    items.get(place)
}

#[cfg(test)]
pub(crate) mod counted {
    //! Numbers that count how often they are compared.

    use core::cell::Cell;
    use core::cmp::Ordering;

    thread_local! {
        static COMPARISONS: Cell<u32> = const { Cell::new(0) };
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Counted(pub(crate) u32);

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    /// How many comparisons `search` makes.
    pub(crate) fn comparisons(search: impl FnOnce()) -> u32 {
        COMPARISONS.set(0);
        search();
        COMPARISONS.get()
    }
}

#[cfg(test)]
mod tests {
    use super::counted::{Counted, comparisons};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_of_ten_thousand_is_found_in_as_many_comparisons_as_its_number_has_bits() {
        let items = sorted((0..10_000).rev().map(|number| Counted(2 * number)));
        for number in 0..20_001 {
            let wanted = Counted(number);
            let count = comparisons(|| {
                let found = find(&items, &wanted, |item| item);
                assert_eq!(found.is_some(), number % 2 == 0 && number < 20_000, "{number}");
            });
            // Fourteen to narrow 2^14 down to one, and one to look at it.
            assert!(count <= 15, "{count} for {number}");
        }
    }

    proptest! {
        #[test]
        fn items_are_found_as_by_asking_each(
            items in prop::collection::vec("[a-c]{1,3}", 0..40),
            wanted in prop::collection::vec("[a-d]{0,4}", 1..40),
        ) {
            let list = sorted(items.clone());
            for wanted in wanted {
                prop_assert_eq!(find(&list, &wanted, |item| item).is_some(), items.contains(&wanted));
            }
        }
    }
}
