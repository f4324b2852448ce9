//! One decision of the core, compared with what a Rust program would use instead: a million keys in random order, one
//! thread, virtual time. The keys are IPv4 addresses, as those of most limits, and then 64-bit numbers.
//!
//! `cargo bench --bench core` runs it. All contenders alternate in one process. Each is reported as a median of rounds
//! and as a ratio to governor's keyed limiter. The row `touch` is a limiter that decides nothing: it hashes the key,
//! and reads and writes one place of a table as large as Tidegate's. Then come the instructions per decision, counted
//! by valgrind. Given a kind of key, a contender's name and a number of decisions, the program runs
//! that one alone, for valgrind.

#![allow(clippy::disallowed_methods, reason = "a benchmark needs the real clock")]
#![allow(missing_docs, reason = "a program, not a library")]

use core::hash::{Hash, Hasher};
use core::hint::black_box;
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr};
use governor::clock::FakeRelativeClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::{DefaultKeyedStateStore, HashMapStateStore, KeyedStateStore};
use governor::{Quota, RateLimiter};
use pingora_limits::rate::Rate;
use siphasher::sip::SipHasher13;
use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroU32;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate::key::{KeyHash, Keys, Seed};
use tidegate::limiter::{Meter, Verdict};
use tidegate::policy::{Policy, TierIndex};
use tidegate::store::Store;
use tidegate::store::memory::MemoryStore;
use tidegate::table::page_of;
use tidegate::units::{Permits, Timestamp};

/// Decides on one request for a key. Time moves by [`Limiter::advance`].
trait Limiter {
    fn decide(&mut self, key: u64) -> bool;
    fn advance(&mut self, by: Duration);
}

/// What clients are known by.
trait Key: Hash + Eq + Clone + Send + Sync + 'static {
    /// What the report calls such keys.
    const NAME: &'static str;

    /// The key of this number.
    fn of(number: u64) -> Self;

    /// The hash by which Tidegate knows it.
    fn hash_by(&self, secret: &Secret) -> KeyHash;
}

/// What a key's hash depends on beside the key.
struct Secret {
    bits: [u64; 2],
    keys: Keys,
}

impl Secret {
    /// Unknown to the compiler, which would compute half of the hash in advance.
    fn new() -> Self {
        let bits = black_box([1, 2]);
        Self { bits, keys: Keys::new(Seed::new(bits), black_box(3)) }
    }
}

impl Key for IpAddr {
    const NAME: &'static str = "addresses";

    fn of(number: u64) -> Self {
        // Spread over all addresses; no two numbers have the same.
        Ipv4Addr::from_bits((number as u32).wrapping_mul(0x9e37_79b1)).into()
    }

    fn hash_by(&self, secret: &Secret) -> KeyHash {
        match self {
            Self::V4(address) => secret.keys.of_ipv4(*address),
            Self::V6(_) => unreachable!("all are IPv4"),
        }
    }
}

impl Key for u64 {
    const NAME: &'static str = "numbers";

    fn of(number: u64) -> Self {
        number
    }

    fn hash_by(&self, secret: &Secret) -> KeyHash {
        let mut hasher = SipHasher13::new_with_keys(secret.bits[0], secret.bits[1]);
        hasher.write_u64(*self);
        KeyHash::from_bits(hasher.finish())
    }
}

/// The engine's work for one limit: hash the key, find its page and slot, check, and write the charge.
struct Ours<K> {
    secret: Secret,
    accounts: Accounts,
    keys: PhantomData<K>,
}

impl<K: Key> Ours<K> {
    fn boxed(algorithm: &str) -> Box<dyn Limiter> {
        let quota = format!(r#"{{"permits":{PERMITS},"window":"{WINDOW_S}s"}}"#);
        let document =
            format!(r#"{{"version":1,"limits":[{{"name":"a","algorithm":"{algorithm}","quota":{quota}}}]}}"#);
        let policy = Policy::parse(&document).expect("a good policy");
        let limit = &policy.limits()[0];
        let meter = Meter::new(limit.algorithm(), &limit.quotas(TierIndex::default())[0]);
        let accounts = Accounts { meter, store: MemoryStore::new(KEYS as u32), now_ns: START_NS };
        Box::new(Self { secret: Secret::new(), accounts, keys: PhantomData })
    }
}

impl<K: Key> Limiter for Ours<K> {
    fn decide(&mut self, key: u64) -> bool {
        self.accounts.decide(K::of(key).hash_by(&self.secret))
    }

    fn advance(&mut self, by: Duration) {
        self.accounts.now_ns += by.as_nanos() as u64;
    }
}

/// What one limit knows of its clients, by the hashes of their keys.
struct Accounts {
    meter: Meter,
    store: MemoryStore,
    now_ns: u64,
}

impl Accounts {
    /// Once in the program, as in the engine, for all kinds of keys.
    #[inline(never)]
    fn decide(&mut self, key: KeyHash) -> bool {
        let now = Timestamp::from_nanos(self.now_ns);
        let pages = self.store.pages();
        let page = self.store.write(page_of(key, pages)).expect("memory does not fail");
        let probe = page.probe(key, now);
        let outcome = self.meter.check(probe.state(), Permits::ONE, now);
        let admit = outcome.verdict == Verdict::Admit;
        if admit {
            page.write(&probe, key, outcome.state);
        }
        admit
    }
}

/// No limiter: the cost of a table that is indexed by a keyed hash.
struct Touch<K> {
    secret: Secret,
    table: Vec<[u64; 2]>,
    keys: PhantomData<K>,
}

impl<K: Key> Limiter for Touch<K> {
    fn decide(&mut self, key: u64) -> bool {
        let hash = K::of(key).hash_by(&self.secret).get();
        let at = (u128::from(hash) * self.table.len() as u128) >> 64;
        let [one, other] = &mut self.table[at as usize];
        *one += 1;
        *other ^= key;
        true
    }

    fn advance(&mut self, _by: Duration) {}
}

struct Governor<K: Key, S: KeyedStateStore<K>> {
    limiter: RateLimiter<K, S, FakeRelativeClock, NoOpMiddleware<Nanos>>,
    clock: FakeRelativeClock,
    keys: PhantomData<K>,
}

impl<K: Key, S: KeyedStateStore<K> + 'static> Governor<K, S> {
    fn boxed(store: S) -> Box<dyn Limiter> {
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(Duration::from_secs(WINDOW_S) / PERMITS).expect("a period");
        let quota = quota.allow_burst(NonZeroU32::new(PERMITS).expect("permits"));
        Box::new(Self { limiter: RateLimiter::new(quota, store, clock.clone()), clock, keys: PhantomData })
    }
}

impl<K: Key, S: KeyedStateStore<K>> Limiter for Governor<K, S> {
    fn decide(&mut self, key: u64) -> bool {
        self.limiter.check_key(&K::of(key)).is_ok()
    }

    fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
    }
}

/// A rate estimate by a count-min sketch. It uses its own, real clock.
struct Pingora<K>(Rate, PhantomData<K>);

impl<K: Key> Limiter for Pingora<K> {
    fn decide(&mut self, key: u64) -> bool {
        self.0.observe(&K::of(key), 1) <= PERMITS as isize
    }

    fn advance(&mut self, _by: Duration) {}
}

type Make = fn() -> Box<dyn Limiter>;

fn contenders<K: Key>() -> [(&'static str, Make); 7] {
    [
        ("tidegate-sliding-window", || Ours::<K>::boxed("sliding-window")),
        ("tidegate-token-bucket", || Ours::<K>::boxed("token-bucket")),
        ("tidegate-fixed-window", || Ours::<K>::boxed("fixed-window")),
        ("governor-dashmap", || Governor::boxed(DefaultKeyedStateStore::<K>::default())),
        ("governor-hashmap", || Governor::boxed(HashMapStateStore::<K>::default())),
        ("touch", || Box::new(Touch::<K> { secret: Secret::new(), table: places(), keys: PhantomData })),
        ("pingora-rate", || Box::new(Pingora::<K>(Rate::new(Duration::from_secs(WINDOW_S)), PhantomData))),
    ]
}

/// As many places as Tidegate's table has slots.
fn places() -> Vec<[u64; 2]> {
    vec![[1; 2]; KEYS as usize * 10 / 9]
}

/// The contender that ratios refer to: what a program gets when it asks governor for a keyed limiter.
const PEER: usize = 3;

/// Decides for keys in a random order that is the same for all contenders, a thousand for each millisecond. Returns the
/// number of admitted requests.
fn run(limiter: &mut dyn Limiter, decisions: u64, keys: u64, random: &mut u64) -> u64 {
    let mut admitted = 0;
    for _ in 0..decisions / 1_000 {
        for _ in 0..1_000 {
            // SplitMix64.
            *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = *random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            admitted += u64::from(limiter.decide(((u128::from(mixed) * u128::from(keys)) >> 64) as u64));
        }
        limiter.advance(Duration::from_millis(1));
    }
    admitted
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [keys, name, decisions] = &arguments[..] {
        let contenders = if keys == IpAddr::NAME { contenders::<IpAddr>() } else { contenders::<u64>() };
        let (_, make) = contenders.iter().find(|(known, _)| known == name).expect("a contender's name");
        let mut limiter = make();
        // Few enough keys that all are soon known: further decisions then cost nothing else.
        run(&mut *limiter, decisions.parse().expect("a number of decisions"), COUNTED_KEYS, &mut 1);
        return;
    }
    // `cargo test --benches` only checks in one short run that everything still works.
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    compare::<IpAddr>(smoke);
    compare::<u64>(smoke);
}

/// Measures all contenders by keys of one kind.
fn compare<K: Key>(smoke: bool) {
    let (rounds, decisions) = if smoke { (1, 20_000) } else { (ROUNDS, KEYS) };
    let mut running = Vec::new();
    for (name, make) in contenders::<K>() {
        let before = LIVE.load(Ordering::Relaxed);
        let mut limiter = make();
        for key in 0..KEYS {
            limiter.decide(key);
        }
        let bytes = LIVE.load(Ordering::Relaxed).saturating_sub(before);
        running.push((name, limiter, bytes as f64 / KEYS as f64, Vec::new(), 0));
    }
    for round in 0..rounds {
        for (_, limiter, _, times, admitted) in &mut running {
            let began = Instant::now();
            *admitted += run(&mut **limiter, decisions, KEYS, &mut (round + 1).wrapping_mul(0x1234_5678_9abc_def1));
            times.push(began.elapsed().as_nanos() as f64 / decisions as f64);
        }
    }
    let median = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let (peer_ns, peer_bytes) = (median(&running[PEER].3), running[PEER].2);
    println!(
        "{KEYS} {} in random order, {rounds} rounds of {decisions} decisions, medians; ratios to governor-dashmap",
        K::NAME
    );
    println!("{:<26}{:>12}{:>8}{:>14}{:>8}{:>12}", "", "ns/decision", "ratio", "bytes/key", "ratio", "refused");
    for (name, _, bytes, times, admitted) in &running {
        let ns = median(times);
        let refused = 100.0 - 100.0 * *admitted as f64 / (rounds * decisions) as f64;
        println!(
            "{name:<26}{ns:>12.1}{:>8.2}{bytes:>14.1}{:>8.2}{:>12}",
            ns / peer_ns,
            bytes / peer_bytes,
            format!("{refused:.2}%")
        );
    }
    print_instructions::<K>(if smoke { 1_000 } else { 200_000 });
}

/// The instructions per decision, including key generation and loop: the difference between a long run and a short one.
fn print_instructions<K: Key>(decisions: u64) {
    let mut peer = None;
    println!(
        "\nInstructions of one decision, {COUNTED_KEYS} {}, counted by valgrind; ratios to governor-dashmap",
        K::NAME
    );
    // The peer first, for the ratios.
    let contenders = contenders::<K>();
    let (before, from_peer) = contenders.split_at(PEER);
    for (name, _) in from_peer.iter().chain(before) {
        let short = instructions(K::NAME, name, 10 * COUNTED_KEYS);
        let long = instructions(K::NAME, name, 10 * COUNTED_KEYS + decisions);
        let (Some(short), Some(long)) = (short, long) else {
            println!("valgrind is missing, or does not run here: not counted");
            return;
        };
        let each = long.saturating_sub(short) as f64 / decisions as f64;
        let peer = *peer.get_or_insert(each);
        println!("{name:<26}{each:>12.0}{:>8.2}", each / peer);
    }
    println!();
}

/// Valgrind's count of this program when it runs one contender alone.
fn instructions(keys: &str, name: &str, decisions: u64) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let output = valgrind.arg(program).args([keys, name, &decisions.to_string()]).output().ok()?;
    let told = String::from_utf8(output.stderr).ok()?;
    let line = told.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Counts allocations, to measure bytes per key.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KEYS: u64 = 1_000_000;
/// Enough that almost no request is refused in the long run: refusing and admitting are different work.
const PERMITS: u32 = 25;
const WINDOW_S: u64 = 10;
const ROUNDS: u64 = 15;
const COUNTED_KEYS: u64 = 10_000;
const START_NS: u64 = 1_800_000_000_000_000_000;
