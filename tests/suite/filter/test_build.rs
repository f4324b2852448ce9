//! The filter with what only tests may ask of it. The shipped build stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

/// Its clock is set by requests.
pub static WITH_TEST_CLOCK: LazyLock<PathBuf> = LazyLock::new(|| with_feature("test-clock"));

/// A request can crash its VM.
pub static WITH_PANIC: LazyLock<PathBuf> = LazyLock::new(|| with_feature("panic-on-header"));

/// Builds the filter with this feature.
fn with_feature(feature: &str) -> PathBuf {
    // Cargo gives both the same name; what they have in common is built once.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().expect("the other build has come to its end");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target/test-filter");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        // Small, like the shipped one, because dozens of VMs compile it.
        .args(["build", "--quiet", "--locked", "--package", "tidegate-envoy", "--features", feature])
        .args(["--profile", "wasm", "--target", "wasm32-wasip1", "--target-dir"])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the filter with {feature} does not compile");
    let wasm = target.join(format!("{feature}.wasm"));
    fs::copy(target.join("wasm32-wasip1/wasm/tidegate_envoy.wasm"), &wasm).expect("it was built");
    wasm
}
