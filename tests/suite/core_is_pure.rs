//! The core depends on no host: compiled to wasm32 as a whole, it imports nothing.

use std::path::Path;
use std::process::Command;
use wasmparser::{Parser, Payload};

#[test]
fn the_core_compiled_to_wasm32_imports_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target/pure");
    // Export everything and disable garbage collection: otherwise the linker would drop unused code along with its
    // imports.
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["rustc", "--quiet", "--locked", "--package", "tidegate", "--lib", "--crate-type", "cdylib"])
        // It is looked at and not run.
        .args(["--config", "profile.dev.package.tidegate.opt-level=0", "--config", "profile.dev.debug=false"])
        .args(["--target", "wasm32-unknown-unknown", "--target-dir"])
        .arg(&target)
        .args(["--", "-C", "link-arg=--no-gc-sections", "-C", "link-arg=--export-all"])
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the core does not compile to wasm32-unknown-unknown");
    let module = std::fs::read(target.join("wasm32-unknown-unknown/debug/tidegate.wasm")).expect("the module");
    let (mut imports, mut functions) = (Vec::new(), 0);
    for payload in Parser::new(0).parse_all(&module) {
        match payload.expect("a valid module") {
            Payload::ImportSection(section) => {
                imports.extend(section.into_imports().map(|import| format!("{:?}", import.expect("a valid import"))));
            }
            Payload::FunctionSection(section) => functions = section.count(),
            _ => {}
        }
    }
    assert_eq!(imports, Vec::<String>::new());
    assert!(functions > 500, "only {functions} functions: this is not the whole core");
}
