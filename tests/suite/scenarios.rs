//! One list of scenarios, `tests/scenarios/*.json`, and three hosts that must give the same answers, byte for byte: the core
//! alone, here; the real Envoy, here; and the real workerd, in `cloudflare/test/scenarios.test.mjs`.

mod document;
mod memory;
mod native;
mod seen;

/// Fails with all complaints together.
fn assert_none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "{} scenarios differ:{}", complaints.len(), complaints.concat());
}

#[test]
fn scenarios_come_out_as_they_say_in_the_core_alone() {
    assert_none(document::all().iter().filter_map(native::run));
}
