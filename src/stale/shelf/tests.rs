use super::super::AnswerKey;
use super::super::record::{Head, Record, seal};
use super::*;
use crate::key::Seed;
use crate::units::Timestamp;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

const SEED: Seed = Seed::new([3, 5]);

/// The shared values, and the most bytes that the slots of one page ever held.
#[derive(Debug, Default)]
struct Values {
    values: HashMap<Place, (Vec<u8>, u32)>,
    tokens: u32,
    most: HashMap<u32, usize>,
}

impl Values {
    fn read(&self, place: Place) -> Read {
        let value = self.values.get(&place);
        value.map_or_else(Read::default, |(bytes, token)| Read { bytes: bytes.clone(), token: Some(*token) })
    }

    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError> {
        assert!(!bytes.is_empty());
        if self.values.get(&place).map(|(_, token)| *token) != token {
            return Err(StoreError::Conflict);
        }
        self.tokens += 1;
        self.values.insert(place, (bytes.to_vec(), self.tokens));
        if let Place::Slot(page, _) = place {
            let held = self.held(page);
            let most = self.most.entry(page).or_default();
            *most = held.max(*most);
        }
        Ok(())
    }

    /// Without the single byte of each emptied slot.
    fn held(&self, page: u32) -> usize {
        let of_page = |place: &Place| matches!(place, Place::Slot(other, _) if *other == page);
        let slots = self.values.iter().filter(|(place, (bytes, _))| of_page(place) && bytes.len() > 1);
        slots.map(|(_, (bytes, _))| bytes.len()).sum()
    }

    fn most(&self) -> usize {
        self.most.values().copied().max().unwrap_or(0)
    }
}

impl Shelf for Values {
    fn read(&mut self, place: Place) -> Result<Read, StoreError> {
        Ok(Values::read(self, place))
    }

    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError> {
        Values::write(self, place, bytes, token)
    }
}

fn key(n: u64) -> AnswerKey {
    // All keys are on one page.
    AnswerKey([n * u64::from(PAGES), !n])
}

fn record(key: AnswerKey, size: usize) -> Vec<u8> {
    let (kept_at, until) = (Timestamp::EPOCH, Timestamp::EPOCH);
    let mut bytes = Head { key, kept_at, until, age_secs: 0, status: 200 }.begin([].into_iter()).unwrap();
    bytes.resize(size.max(bytes.len()), b'x');
    seal(&mut bytes, SEED);
    bytes
}

fn at(secs: u64) -> Timestamp {
    Timestamp::EPOCH.after(Span::from_secs(1_000_000 + secs))
}

fn keep_one(shelf: &mut impl Shelf, n: u64, size: usize, secs: u64, share: u32) -> Result<Kept, StoreError> {
    let key = key(n);
    keep(shelf, key, &record(key, size), at(secs + 600), at(secs), share * PAGES)
}

fn is_found(shelf: &mut impl Shelf, n: u64) -> bool {
    find(shelf, key(n)).unwrap().is_some_and(|bytes| Record::decode(&bytes, SEED, key(n)).is_some())
}

/// Whoever changes these bytes gives them another version, and then writes the new digits here: they outlive an update.
#[test]
fn pages_and_records_are_the_bytes_of_their_version() {
    let mut shelf = Values::default();
    let key = key(1);
    let head = Head { key, kept_at: at(0), until: at(600), age_secs: 3, status: 206 };
    let mut record = head.begin([(&b"etag"[..], &b"\"1\""[..])].into_iter()).unwrap();
    seal(&mut record, SEED);
    keep(&mut shelf, key, &record, at(600), at(0), 1_000 * PAGES).unwrap();
    let page = shelf.read(Place::Page(key.page(PAGES))).bytes;
    let digits =
        |bytes: &[u8]| Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>();
    let known = (1, "3f0bbe674683".to_owned(), 1, "8f6e8e2c92b8".to_owned());
    assert_eq!((VERSION, digits(&page), record[0], digits(&record)), known);
}

#[test]
fn what_is_kept_is_found_and_kept_anew_when_it_is_older() {
    let mut shelf = Values::default();
    let wanted = |shelf: &mut Values, secs| is_wanted(shelf, key(1), Span::from_secs(600), at(secs)).unwrap();
    assert!(wanted(&mut shelf, 0));
    assert!(!is_found(&mut shelf, 1));
    assert_eq!(keep_one(&mut shelf, 1, 500, 0, 1_000), Ok(Kept::Stored { evicted: 0 }));
    assert!(is_found(&mut shelf, 1) && !is_found(&mut shelf, 2));
    assert!(!wanted(&mut shelf, 9));
    assert!(wanted(&mut shelf, 10));
    // For responses that live ten seconds, a second is old.
    assert!(is_wanted(&mut shelf, key(1), Span::from_secs(10), at(1)).unwrap());
    assert_eq!(keep_one(&mut shelf, 1, 700, 10, 1_000), Ok(Kept::Stored { evicted: 0 }));
    assert_eq!(find(&mut shelf, key(1)).unwrap().unwrap().len(), 700);
    assert_eq!(keep_one(&mut shelf, 2, 1_001, 10, 1_000), Ok(Kept::NoRoom));
    assert!(is_found(&mut shelf, 1));
}

#[test]
fn what_may_not_be_served_goes_first_then_what_was_kept_once_then_the_oldest() {
    let mut shelf = Values::default();
    for n in 1..=3 {
        keep_one(&mut shelf, n, 300, n, 1_000).unwrap();
    }
    // The first, which is the oldest, is kept again.
    keep_one(&mut shelf, 1, 300, 20, 1_000).unwrap();
    keep_one(&mut shelf, 3, 300, 21, 1_000).unwrap();
    for (n, gone) in [(4, 2), (5, 4), (6, 5), (7, 6)] {
        assert_eq!(keep_one(&mut shelf, n, 300, 20 + n, 1_000), Ok(Kept::Stored { evicted: 1 }));
        assert!(!is_found(&mut shelf, gone), "{gone}");
        assert!(is_found(&mut shelf, n) && is_found(&mut shelf, 1) && is_found(&mut shelf, 3));
    }
    // A response of two thirds evicts two: the one kept once, and the least recent of those kept again.
    assert_eq!(keep_one(&mut shelf, 8, 600, 40, 1_000), Ok(Kept::Stored { evicted: 2 }));
    assert!(is_found(&mut shelf, 3) && !is_found(&mut shelf, 1) && !is_found(&mut shelf, 7));
    // All are too old to be served.
    assert_eq!(keep_one(&mut shelf, 9, 800, 800, 1_000), Ok(Kept::Stored { evicted: 2 }));
    assert!(shelf.most() <= 1_000);
}

#[test]
fn a_page_with_all_slots_taken_gives_the_one_that_goes_first() {
    let mut shelf = Values::default();
    let all = SLOTS as u64;
    for n in 1..=all {
        keep_one(&mut shelf, n, 100, n, 100_000).unwrap();
    }
    assert_eq!(keep_one(&mut shelf, all + 1, 100, 100, 100_000), Ok(Kept::Stored { evicted: 0 }));
    assert!(!is_found(&mut shelf, 1) && is_found(&mut shelf, 2) && is_found(&mut shelf, all + 1));
    assert!(shelf.values.len() <= SLOTS + 1, "no names are added");
}

#[test]
fn trimming_makes_a_smaller_share_hold() {
    let mut shelf = Values::default();
    for n in 1..=5 {
        keep_one(&mut shelf, n, 200, n, 1_000).unwrap();
    }
    trim(&mut shelf, 500 * PAGES, at(9)).unwrap();
    assert_eq!(shelf.held(0), 400);
    assert!(is_found(&mut shelf, 4) && is_found(&mut shelf, 5));
}

#[test]
fn a_page_of_another_version_is_corrupt_and_left_alone() {
    let mut shelf = Values::default();
    let page = Place::Page(0);
    shelf.values.insert(page, (vec![9; 40], 1));
    assert_eq!(keep_one(&mut shelf, 1, 100, 0, 1_000), Err(StoreError::Corrupt));
    assert_eq!(find(&mut shelf, key(1)), Err(StoreError::Corrupt));
    assert_eq!(Values::read(&shelf, page).bytes, [9; 40]);
}

/// A worker that others may overtake between any two of its calls, and that may die at any call.
struct Overtaken {
    shared: Rc<RefCell<Values>>,
    /// What happens at the next calls, drawn by one number each.
    fates: Rc<RefCell<Vec<u32>>>,
    depth: u32,
    dead: bool,
    now_secs: Rc<RefCell<u64>>,
}

const SHARE: u32 = 1_000;

impl Overtaken {
    fn before_a_call(&mut self) -> Result<(), StoreError> {
        let fate = self.fates.borrow_mut().pop().unwrap_or(0);
        match fate % 8 {
            0..=3 => {}
            // Another worker keeps a response here. It may be overtaken or die itself.
            4 | 5 if self.depth < 6 => {
                let (fates, now_secs) = (Rc::clone(&self.fates), Rc::clone(&self.now_secs));
                let mut other =
                    Self { shared: Rc::clone(&self.shared), fates, depth: self.depth + 1, dead: false, now_secs };
                let now = *self.now_secs.borrow();
                let _ = keep_one(&mut other, u64::from(fate / 8 % 7), (fate / 64 % 900) as usize, now, SHARE);
            }
            // This worker is delayed for so long that its locks are taken over.
            6 => *self.now_secs.borrow_mut() += u64::from(fate / 8 % 15),
            7 if fate.is_multiple_of(3) => self.dead = true,
            _ => {}
        }
        if self.dead { Err(StoreError::Unavailable) } else { Ok(()) }
    }
}

impl Shelf for Overtaken {
    fn read(&mut self, place: Place) -> Result<Read, StoreError> {
        self.before_a_call()?;
        Ok(self.shared.borrow().read(place))
    }

    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError> {
        self.before_a_call()?;
        self.shared.borrow_mut().write(place, bytes, token)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn workers_that_overtake_each_other_and_die_never_hold_more_than_the_share(
        fates in prop::collection::vec(any::<u32>(), 0..400),
        jobs in prop::collection::vec((0..7_u64, 0..1_100_usize), 1..30),
    ) {
        let shared = Rc::new(RefCell::new(Values::default()));
        let (fates, now_secs) = (Rc::new(RefCell::new(fates)), Rc::new(RefCell::new(0)));
        for (n, size) in jobs {
            let (shared, fates, now_secs) = (Rc::clone(&shared), Rc::clone(&fates), Rc::clone(&now_secs));
            let mut worker = Overtaken { shared, fates, depth: 0, dead: false, now_secs };
            let now = *worker.now_secs.borrow();
            let _ = keep_one(&mut worker, n, size, now, SHARE);
            *worker.now_secs.borrow_mut() += 1;
        }
        let mut shared = shared.borrow_mut();
        prop_assert!(shared.most() <= SHARE as usize, "{}", shared.most());
        // Once every lock is old, keeping works again.
        let late = *now_secs.borrow() + 1_000;
        prop_assert_eq!(matches!(keep_one(&mut *shared, 1, 900, late, SHARE), Ok(Kept::Stored { .. })), true);
        prop_assert!(is_found(&mut *shared, 1));
        prop_assert!(shared.most() <= SHARE as usize);
    }
}

/// Values shared by threads, locked for each call.
struct Threaded(Arc<Mutex<Values>>);

impl Shelf for Threaded {
    fn read(&mut self, place: Place) -> Result<Read, StoreError> {
        Ok(self.0.lock().unwrap().read(place))
    }

    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError> {
        self.0.lock().unwrap().write(place, bytes, token)
    }
}

#[test]
fn threads_keep_at_once_within_the_share() {
    let shared = Arc::new(Mutex::new(Values::default()));
    let workers: Vec<_> = (0..4_u64)
        .map(|worker| {
            let mut shelf = Threaded(Arc::clone(&shared));
            std::thread::spawn(move || {
                let mut stored = 0;
                for step in 0..400 {
                    let n = (step * 7 + worker * 3) % 9;
                    let size = 100 + ((step * 131 + worker * 17) % 400) as usize;
                    stored += u32::from(matches!(keep_one(&mut shelf, n, size, step, SHARE), Ok(Kept::Stored { .. })));
                }
                stored
            })
        })
        .collect();
    let stored: u32 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    assert!(stored > 400, "{stored}");
    let shared = shared.lock().unwrap();
    assert!(shared.most() <= SHARE as usize, "{}", shared.most());
}
