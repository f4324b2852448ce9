//! One list of scenarios, `tests/scenarios/*.json`, and three hosts that must give the same answers, byte for byte: the core
//! alone, here; the real Envoy, here; and the real workerd, in `cloudflare/test/scenarios.test.mjs`.

mod document;
mod envoy;
mod memory;
mod native;
mod origin;
mod seen;

/// Fails with all complaints together.
fn assert_none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "{} scenarios differ:{}", complaints.len(), complaints.concat());
}

#[tokio::test]
async fn scenarios_come_out_as_they_say_in_the_real_envoy() {
    let scenarios: Vec<_> = document::all().into_iter().map(std::sync::Arc::new).collect();
    assert_none(envoy::run(&scenarios).await);
}

#[test]
fn scenarios_come_out_as_they_say_in_the_core_alone() {
    assert_none(document::all().iter().filter_map(native::run));
}
