use super::*;
use crate::lookup::recorded::Recorded;
use crate::policy::{AddressSource, Cost, Match, OnExceed, OnStoreFailure, Quota, TierSource};
use crate::table::page_of;
use crate::units::{Permits, Span};
use proptest::prelude::*;

const SEED: Seed = Seed::new([1, 2]);

#[test]
fn each_part_tells_clients_apart_by_what_it_names_and_nothing_else() {
    let base = || Recorded::get("/a?q=1&r=1").on("h").from("192.0.2.7").with("x", "1").with("cookie", "c=1; d=1");
    let with_path = |path: &str| Recorded { path: path.into(), ..base() };
    let all = ["address", "header:x", "cookie:c", "query:q", "path", "method", "host", "country", "region", "colo"];
    let at = |facts: Recorded, places: [&str; 3]| Recorded {
        places: [Locality::Country, Locality::Region, Locality::Colo].into_iter().zip(places.map(Vec::from)).collect(),
        ..facts
    };
    let here = ["DE", "DE-BE", "TXL"];
    for (other, differing) in [
        (with_path("/a?q=2&r=1"), &["query:q"][..]),
        (with_path("/a?q=1&r=2"), &[]),
        (with_path("//a/./?q=1"), &["path"]),
        (with_path("/%61?q=%31"), &[]),
        (base().on("H:80"), &[]),
        (base().on("h2"), &["host"]),
        (base().from("192.0.2.7:80"), &[]),
        (base().from("192.0.2.8"), &["address"]),
        (Recorded { method: b"get".to_vec(), ..base() }, &["method"]),
        (Recorded { headers: vec![("x".into(), b" 1\t".to_vec()), ("cookie".into(), b"c=1".to_vec())], ..base() }, &[]),
        (
            Recorded { headers: vec![("x".into(), b"2".to_vec()), ("cookie".into(), b"c=2".to_vec())], ..base() },
            &["header:x", "cookie:c"],
        ),
        (at(base(), ["SE", "DE-BE", "TXL"]), &["country"]),
        (at(base(), ["DE", "DE-HH", "TXL"]), &["region"]),
        (at(base(), ["DE", "DE-BE", "HAM"]), &["colo"]),
    ] {
        let base = at(base(), here);
        let other = if other.places.is_empty() { at(other, here) } else { other };
        for part in all {
            let same = key(&base, &[part]) == key(&other, &[part]);
            assert_eq!(same, !differing.contains(&part), "{part} of {other:?}");
        }
    }
}

proptest! {
    #[test]
    fn an_address_alone_hashes_to_the_same_as_byte_by_byte(identity: u64, address: [u8; 4]) {
        let mut hasher = SEED.hasher(DOMAIN_KEY);
        for bytes in [&identity.to_le_bytes()[..], &[TAG_ADDRESS], &4_u64.to_le_bytes(), &address] {
            bytes.iter().for_each(|byte| hasher.write(&[*byte]));
        }
        prop_assert_eq!(Keys::new(SEED, identity).of_ipv4(address.into()), KeyHash(hasher.finish()));
    }
}

#[test]
fn an_absent_part_makes_the_key_fall_back_to_the_address() {
    let none = || Recorded::get("/").from("192.0.2.7");
    for part in ["header:x", "cookie:c", "query:q", "claim:sub", "country", "region", "colo", "host"] {
        let parts = ["path", part];
        assert_ne!(key(&none(), &parts), key(&none().from("192.0.2.8"), &parts), "{part}");
        let (here, there) = (none(), Recorded { path: b"/elsewhere".to_vec(), ..none() });
        assert_eq!(key(&here, &parts), key(&there, &parts), "{part}");
        let rules = rules();
        let lookup = Lookup::new(&here);
        let list = parts.map(part_of);
        assert_eq!(client(&lookup, &rules).missing(&list), list.get(1));
    }
    // Clients that each have an empty or ambiguous part do not share a counter.
    for (name, value) in [("x", " "), ("cookie", "c=1;c=2")] {
        let part = if name == "x" { "header:x" } else { "cookie:c" };
        let (one, two) = (none().with(name, value), none().with(name, value).from("192.0.2.8"));
        assert_ne!(key(&one, &[part]), key(&two, &[part]));
    }
}

#[test]
fn an_address_that_a_key_falls_back_to_is_no_value_that_spells_it() {
    let absent = Recorded::get("/").from("192.0.2.7");
    for spelling in [&b"192.0.2.7"[..], &[192, 0, 2, 7]] {
        assert_ne!(key(&absent, &["header:x"]), key(&absent.clone().with("x", spelling), &["header:x"]));
        let socket = Recorded { peer: Some(spelling.to_vec()), ..absent.clone() };
        assert_eq!(key(&absent, &["address"]) == key(&socket, &["address"]), spelling.len() > 4);
    }
    // The fallback key differs from the key of a limit by address.
    let (keys, rules) = (Keys::new(SEED, 7), rules());
    let lookup = Lookup::new(&absent);
    let client = client(&lookup, &rules);
    let (header, address) = ([part_of("header:x")], [KeyPart::Address]);
    assert_ne!(client.key(&keys, &header), client.key(&keys, &address));
}

#[test]
fn a_key_that_is_an_address_alone_has_the_bytes_of_its_pieces() {
    let (rules, facts) = (rules(), Recorded::get("/").from("192.0.2.7"));
    let mut pieces = SEED.hasher(DOMAIN_KEY);
    pieces.write(&7_u64.to_le_bytes());
    write(&mut pieces, TAG_ADDRESS, &[192, 0, 2, 7]);
    let key = client(&Lookup::new(&facts), &rules).key(&Keys::new(SEED, 7), &[KeyPart::Address]);
    assert_eq!(key, KeyHash(pieces.finish()));
}

#[test]
fn claims_are_read_from_the_header_that_the_policy_names() {
    // {"sub":"1"}, {"sub":1}, {"sub":"2"}
    let with = |payload: &str| Recorded::get("/").from("192.0.2.7").with("x-jwt-payload", payload);
    let keys =
        ["eyJzdWIiOiIxIn0", "eyJzdWIiOjF9", "eyJzdWIiOiIyIn0"].map(|payload| key(&with(payload), &["claim:sub"]));
    assert_ne!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
    assert_eq!(key(&with("eyJzdWIiOiIxIn0="), &["claim:sub"]), keys[0]);
    assert_eq!(key(&with("eyJzdWIiOiIxIn0").from("192.0.2.8"), &["claim:sub"]), keys[0]);
}

#[test]
fn a_tier_is_the_one_that_the_header_names_or_the_default() {
    let rules = rules();
    for (value, tier) in [("free", 1), (" premium ", 2), ("Free", 0), ("gold", 0), ("", 0), ("free,premium", 0)] {
        let facts = Recorded::get("/").with("x-plan", value);
        assert_eq!(client(&Lookup::new(&facts), &rules).tier(), TierIndex(tier), "{value}");
    }
}

#[test]
fn what_is_kept_beside_an_account_is_on_its_page_and_known_by_other_tags() {
    for request in 0..1_000 {
        let key = key(&Recorded::get(&format!("/{request}")), &["path"]);
        let companions = [
            Companion::Ban,
            Companion::Penalty,
            Companion::Estimate,
            Companion::Samples,
            Companion::Quiet,
            Companion::Beyond,
        ];
        let companions = companions.map(|of| key.companion(of));
        for pages in [1, 2, 1_000, u32::MAX] {
            assert_eq!(companions.map(|companion| page_of(companion, pages)), [page_of(key, pages); 6]);
        }
        let mut tags = companions.map(|key| key.get() as u32).to_vec();
        tags.push(key.get() as u32);
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 7);
    }
}

#[test]
fn a_key_of_no_parts_is_one_counter_for_all() {
    let (one, two) = (Recorded::get("/a").from("192.0.2.7"), Recorded::get("/b").from("192.0.2.8"));
    assert_eq!(key(&one, &[]), key(&two, &[]));
}

#[test]
fn a_limit_is_the_same_as_long_as_its_name_key_and_algorithm_are() {
    let limit = || Limit {
        name: Name("api".into()),
        matches: Match::default(),
        key: vec![KeyPart::Header("ab".into()), KeyPart::Cookie("c".into())],
        algorithm: Algorithm::SlidingWindow,
        quotas: Vec::new(),
        cost: Cost::Fixed(Permits::ONE),
        only_on: Vec::new(),
        on_exceed: OnExceed::Reject,
        delays: None,
        priority: None,
        penalty: None,
        ban: None,
        on_store_failure: OnStoreFailure::Local,
        sharing: None,
        by_service: false,
    };
    let quota = Quota { permits: Permits::ONE, window: Span::from_secs(1), burst: Permits::ONE, least: None };
    let methods = vec!["GET".to_owned()];
    let same = [
        Limit { quotas: vec![vec![quota]], ..limit() },
        Limit { matches: Match { methods, ..Match::default() }, ..limit() },
        Limit { on_exceed: OnExceed::Observe, on_store_failure: OnStoreFailure::Deny, ..limit() },
    ];
    let others = [
        Limit { name: Name("ap".into()), ..limit() },
        Limit { algorithm: Algorithm::FixedWindow, ..limit() },
        Limit { key: vec![], ..limit() },
        Limit { key: vec![KeyPart::Cookie("c".into()), KeyPart::Header("ab".into())], ..limit() },
        Limit { key: vec![KeyPart::Header("a".into()), KeyPart::Cookie("bc".into())], ..limit() },
        Limit { key: vec![KeyPart::Header("ab".into()), KeyPart::Query("c".into())], ..limit() },
    ];
    assert!(same.iter().all(|same| identity(same, 0) == identity(&limit(), 0)));
    assert!(others.iter().all(|other| identity(other, 0) != identity(&limit(), 0)));
    // Counts in a shared store survive an upgrade only if this number does not change.
    assert_eq!(identity(&limit(), 0), 11_179_654_023_555_695_583, "the identity of limits has changed");
    let places: std::collections::BTreeSet<_> = (0..4).map(|place| identity(&limit(), place)).collect();
    assert_eq!(places.len(), 4, "quotas of a limit are counted apart");
}

#[test]
fn what_a_client_is_told_of_its_key_is_not_the_key() {
    let told = partition(SEED, KeyHash(7));
    assert_eq!(told, partition(SEED, KeyHash(7)));
    assert_ne!(told, partition(SEED, KeyHash(8)));
    assert_ne!(told, partition(Seed::new([1, 3]), KeyHash(7)));
    assert_ne!(u64::from_be_bytes(told), 7);
}

#[test]
fn a_seed_is_not_printed() {
    assert_eq!(format!("{:?}", Seed::new([4711, 4712])), "Seed(..)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn values_never_run_into_each_other(
        one in (any_value(), any_value()),
        other in (any_value(), any_value()),
        seed in any::<[u64; 2]>(),
    ) {
        let facts = |(x, y): &(String, String)| Recorded::get("/").from("::1").with("x", x).with("y", y);
        let parts = [part_of("header:x"), part_of("header:y")];
        let rules = rules();
        let hash = |values| {
            let facts = facts(values);
            client(&Lookup::new(&facts), &rules).key(&Keys::new(Seed::new(seed), 1), &parts)
        };
        prop_assert_eq!(hash(&one) == hash(&other), one == other);
    }

    #[test]
    fn no_request_is_too_strange(
        bytes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..48), 8),
        names in prop::collection::vec("[a-z.]{0,4}", 4),
    ) {
        let facts = Recorded {
            method: bytes[0].clone(),
            path: bytes[1].clone(),
            authority: bytes[2].clone(),
            peer: Some(bytes[3].clone()),
            headers: vec![
                ("x-forwarded-for".into(), bytes[4].clone()),
                ("cookie".into(), bytes[5].clone()),
                ("x-jwt-payload".into(), bytes[6].clone()),
                ("x".into(), bytes[7].clone()),
            ],
            ..Recorded::default()
        };
        let parts = [
            KeyPart::Address,
            KeyPart::Header("x".into()),
            KeyPart::Cookie(names[0].clone()),
            KeyPart::Query(names[1].clone()),
            KeyPart::Claim(names[2].clone()),
            KeyPart::Path,
            KeyPart::Method,
            KeyPart::Host,
            KeyPart::Tier,
            KeyPart::Locality(Locality::Country),
        ];
        let rules = rules();
        let lookup = Lookup::new(&facts);
        let client = client(&lookup, &rules);
        for part in &parts {
            let _ = client.key(&Keys::new(SEED, 1), core::slice::from_ref(part));
        }
    }
}

fn any_value() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn key(facts: &Recorded, parts: &[&str]) -> KeyHash {
    let parts: Vec<KeyPart> = parts.iter().map(|part| part_of(part)).collect();
    let rules = rules();
    let lookup = Lookup::new(facts);
    client(&lookup, &rules).key(&Keys::new(SEED, 7), &parts)
}

fn client<'r, 'a>(lookup: &'r Lookup<'a>, rules: &'a (policy::Client, Vec<Name>)) -> Client<'r, 'a> {
    Client::with_rules(lookup, &rules.0, &rules.1)
}

fn rules() -> (policy::Client, Vec<Name>) {
    let client = policy::Client {
        address: AddressSource { header: None, ipv6_prefix: 64 },
        tier: Some(TierSource::Header("x-plan".to_owned())),
        default_tier: TierIndex(0),
        claims_header: Some("x-jwt-payload".to_owned()),
        api_key_header: Some("x-api-key".into()),
    };
    (client, ["anonymous", "free", "premium"].map(|tier| Name(tier.to_owned())).to_vec())
}

fn part_of(text: &str) -> KeyPart {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let name = name.to_owned();
    match kind {
        "address" => KeyPart::Address,
        "header" => KeyPart::Header(name),
        "cookie" => KeyPart::Cookie(name),
        "query" => KeyPart::Query(name),
        "claim" => KeyPart::Claim(name),
        "path" => KeyPart::Path,
        "method" => KeyPart::Method,
        "host" => KeyPart::Host,
        "country" => KeyPart::Locality(Locality::Country),
        "region" => KeyPart::Locality(Locality::Region),
        "colo" => KeyPart::Locality(Locality::Colo),
        _ => KeyPart::Tier,
    }
}
