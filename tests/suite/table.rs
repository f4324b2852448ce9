//! The key table: which entries it evicts, and in which order.

use proptest::prelude::*;
use std::collections::HashMap;
use tidegate::key::KeyHash;
use tidegate::limiter::{State, UsedShare};
use tidegate::store::Store;
use tidegate::store::memory::MemoryStore;
use tidegate::table::{Displaces, Page, SLOTS, Survey, page_of, pages_for};
use tidegate::units::Timestamp;

/// Puts a key into a page as the engine does; returns what it displaces.
fn put(page: &mut Page, key: KeyHash, state: State, now: Timestamp) -> Displaces {
    let probe = page.probe(key, now);
    page.write(&probe, key, state);
    probe.displaces()
}

fn state(fresh_in_s: u64, used: u8) -> State {
    State::new(at_s(fresh_in_s), UsedShare::from_byte(used), u64::from(used))
}

fn at_s(s: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + s * 1_000)
}

/// Keys with different tags and different first slots.
fn key(n: u64) -> KeyHash {
    KeyHash::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

#[test]
fn a_page_holds_as_many_keys_as_it_has_slots() {
    let mut page = Page::EMPTY;
    for n in 0..SLOTS as u64 {
        assert_eq!(put(&mut page, key(n), state(60, n as u8 + 1), at_s(0)), Displaces::Nothing);
    }
    for n in 0..SLOTS as u64 {
        assert_eq!(page.probe(key(n), at_s(1)).state().map(|state| state.payload()), Some(n + 1));
    }
    assert_eq!(page.live(at_s(0)), SLOTS);
    assert_eq!(page.live(at_s(61)), 0);
}

#[test]
fn an_entry_that_equals_a_fresh_one_goes_before_any_live_one() {
    let mut page = Page::EMPTY;
    for n in 0..SLOTS as u64 {
        // One of them is heavy, but fresh again by second 30.
        let ends = if n == 17 { 30 } else { 60 };
        put(&mut page, key(n), state(ends, if n == 17 { 255 } else { 1 }), at_s(0));
    }
    assert_eq!(put(&mut page, key(1_000), state(90, 1), at_s(31)), Displaces::Fresh);
    assert_eq!(page.probe(key(17), at_s(31)).state(), None);
}

#[test]
fn the_live_entry_with_the_smallest_share_goes_first_then_the_one_soonest_fresh() {
    let mut page = Page::EMPTY;
    for n in 0..SLOTS as u64 {
        let (ends, used) = match n {
            5 => (50, 10),
            6 => (40, 10),
            _ => (20, 200),
        };
        put(&mut page, key(n), state(ends, used), at_s(0));
    }
    assert_eq!(put(&mut page, key(1_000), state(60, 255), at_s(0)), Displaces::Live(UsedShare::from_byte(10)));
    assert_eq!(page.probe(key(6), at_s(0)).state(), None);
    assert_eq!(put(&mut page, key(1_001), state(60, 255), at_s(0)), Displaces::Live(UsedShare::from_byte(10)));
    assert_eq!(page.probe(key(5), at_s(0)).state(), None);
}

#[test]
fn a_client_at_its_limit_outlives_a_flood_of_a_hundred_keys_a_slot() {
    let mut store = MemoryStore::new(10_000);
    let pages = store.pages();
    let greedy: Vec<KeyHash> = (0..50).map(|n| key(1_000_000_007 + n)).collect();
    for &key in &greedy {
        put(store.write(page_of(key, pages)).unwrap(), key, state(60, 255), at_s(0));
    }
    for n in 0..1_000_000 {
        let key = key(n);
        put(store.write(page_of(key, pages)).unwrap(), key, state(60, 26), at_s(1));
    }
    for &key in &greedy {
        assert!(store.read(page_of(key, pages)).unwrap().probe(key, at_s(2)).state().is_some());
    }
}

#[test]
fn the_table_holds_the_promised_number_of_keys() {
    let max_keys = 100_000;
    let mut store = MemoryStore::new(max_keys);
    let pages = store.pages();
    let mut forgotten = 0;
    for n in 0..u64::from(max_keys) {
        let key = key(n);
        let displaced = put(store.write(page_of(key, pages)).unwrap(), key, state(60, 1), at_s(0));
        forgotten += u32::from(matches!(displaced, Displaces::Live(_)));
    }
    // Pages fill unevenly: at nine tenths full, a few overflow.
    assert!(forgotten * 100 < max_keys, "{forgotten} of {max_keys} were forgotten");
    let mut survey = Survey::default();
    let estimate = survey.step(&mut store, at_s(0));
    assert!((90_000..=110_000).contains(&estimate), "{estimate}");
    let walks = 4 * pages.div_ceil(128);
    let counted = (0..walks).map(|_| survey.step(&mut store, at_s(0))).last().unwrap();
    assert_eq!(counted, u64::from(max_keys - forgotten));
    // Later all entries have expired, and a whole walk counts none.
    assert_eq!((0..walks).map(|_| survey.step(&mut store, at_s(61))).last(), Some(0));
}

#[test]
fn keys_spread_over_all_pages() {
    for pages in [1, 2, 3, 417, pages_for(1_000_000)] {
        let mut seen = vec![false; pages as usize];
        // Multiplied by an odd constant, numbers spread evenly over the top bits, which choose the page.
        for n in 0..u64::from(pages) * 20 {
            seen[page_of(key(n), pages) as usize] = true;
        }
        assert!(seen.iter().all(|seen| *seen), "{pages}");
    }
}

#[test]
fn bytes_of_another_version_or_length_are_no_page() {
    let mut bytes = Vec::new();
    Page::EMPTY.encode(&mut bytes);
    assert_eq!(Page::decode(&bytes), Some(Page::EMPTY));
    assert_eq!(Page::decode(&bytes[1..]), None);
    assert_eq!(Page::decode(&[]), None);
    bytes[0] ^= 1;
    assert_eq!(Page::decode(&bytes), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A page never loses a key while it has a free slot, and never holds two entries of one key.
    #[test]
    fn a_page_is_a_map_until_it_is_full(
        steps in prop::collection::vec((0_u64..160, 0_u64..2, 1_u8..=255, 0_u64..200), 1..400),
    ) {
        let mut page = Page::EMPTY;
        let mut model: HashMap<u64, State> = HashMap::new();
        let mut now = 0;
        for (n, step, used, lasts) in steps {
            now += step;
            model.retain(|_, state| state.fresh_at() > at_s(now));
            let entry = State::new(at_s(now + lasts + 1), UsedShare::from_byte(used), u64::from(used));
            let full = model.len() == SLOTS && !model.contains_key(&n);
            let displaced = put(&mut page, key(n), entry, at_s(now));
            prop_assert_eq!(matches!(displaced, Displaces::Live(_)), full);
            if full {
                let least = *model.iter().min_by_key(|(_, state)| (state.used(), state.fresh_at())).unwrap().0;
                let gone = model.iter().filter(|(n, _)| page.probe(key(**n), at_s(now)).state().is_none()).count();
                prop_assert_eq!(gone, 1);
                let forgiven = model[&least].used();
                prop_assert_eq!(displaced, Displaces::Live(forgiven));
                model.retain(|n, _| page.probe(key(*n), at_s(now)).state().is_some());
            }
            model.insert(n, entry);
            prop_assert_eq!(page.live(at_s(now)), model.len());
            for (n, state) in &model {
                prop_assert_eq!(page.probe(key(*n), at_s(now)).state(), Some(*state));
            }
            let mut bytes = Vec::new();
            page.encode(&mut bytes);
            prop_assert_eq!(Page::decode(&bytes), Some(page.clone()));
        }
    }
}
