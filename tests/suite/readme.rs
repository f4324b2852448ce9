//! The READMEs are correct: their policies parse, their commands run, and the files and items that they name exist.

use std::path::Path;
use std::process::Command;
use tidegate::policy::Policy;

/// All READMEs as one text, in reading order.
const README: &str = concat!(
    include_str!("../../README.md"),
    include_str!("../../src/policy/README.md"),
    include_str!("../../envoy/README.md"),
    include_str!("../../cloudflare/README.md"),
);
/// The same, each with the directory that its links are relative to.
const READMES: [(&str, &str); 4] = [
    ("", include_str!("../../README.md")),
    ("src/policy", include_str!("../../src/policy/README.md")),
    ("envoy", include_str!("../../envoy/README.md")),
    ("cloudflare", include_str!("../../cloudflare/README.md")),
];

/// The README's code blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let blocks = README.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

#[test]
fn policies_of_the_readme_are_good() {
    let policies = blocks("json");
    assert!(policies.len() >= 2, "the README shows no policies");
    for policy in policies {
        assert!(Policy::parse(policy).is_ok(), "{:?}\n{policy}", Policy::parse(policy));
    }
}

#[test]
fn code_in_the_readme_equals_the_tested_examples() {
    let examples = [
        ("rust", 1, include_str!("../../cloudflare/examples/rust/src/lib.rs")),
        ("toml", 1, include_str!("../../cloudflare/examples/rust/Cargo.toml")),
    ];
    for (language, count, example) in examples {
        let shown = blocks(language);
        assert_eq!(shown.len(), count, "{language}");
        for line in shown.iter().flat_map(|block| block.lines()) {
            assert!(example.lines().any(|of| of == line), "no such line in the example: {line}");
        }
    }
}

#[test]
fn commands_of_the_readme_run_on_its_larger_policy() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("policy.json"), blocks("json")[1]).unwrap();
    let commands: Vec<&str> = blocks("sh").iter().flat_map(|block| block.lines()).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let arguments = command.strip_prefix("cargo run --features cli --").expect("a command of ours");
        let shell = format!("{} {arguments}", env!("CARGO_BIN_EXE_tidegate"));
        let output = Command::new("sh").args(["-c", &shell]).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

#[test]
fn places_and_targets_that_the_readme_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let quoted = README.split('`').skip(1).step_by(2).filter(|text| !text.contains([' ', '\n', '{', '*']));
    let is_ours = |text: &&str| ["src/", "envoy/", "cloudflare/", "tests/"].iter().any(|top| text.starts_with(top));
    let places: Vec<&str> = quoted.filter(is_ours).collect();
    assert!(places.len() > 20, "{places:?}");
    for place in places {
        assert!(root.join(place).exists(), "{place}");
    }
    let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
    for target in README.split("make ").skip(1).filter_map(|rest| rest.split([' ', '`', '\n', ')']).next()) {
        let is_name = target.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let known = target.is_empty() || !is_name || makefile.contains(&format!("\n{target}:"));
        assert!(known, "make {target}");
    }
}

#[test]
fn links_of_the_readme_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for (directory, text) in READMES {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path =
                if file.is_empty() { root.join(directory).join("README.md") } else { root.join(directory).join(file) };
            assert!(path.exists(), "{directory}/README.md: {link}");
            if !heading.is_empty() {
                let headings = std::fs::read_to_string(&path).unwrap();
                let known = headings.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(known, "{directory}/README.md: {link}");
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} links");
}

/// The anchor of a heading, as forges derive it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == ' ').collect::<String>().replace(' ', "-")
}

#[test]
fn the_readme_lists_exactly_the_metrics_of_the_filter() {
    let source =
        include_str!("../../envoy/src/metrics.rs").to_owned() + include_str!("../../envoy/src/metrics/upstreams.rs");
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        text.split(word).filter(|name| name.starts_with("tidegate_") && name.len() > 12).map(str::to_owned).collect()
    };
    let counted: Vec<String> = names(&source).into_iter().filter(|name| !name.starts_with("tidegate_limit")).collect();
    let told = names(README);
    for name in &counted {
        assert!(told.contains(name), "the README does not tell of {name}");
    }
    for name in told.iter().filter(|name| name.ends_with("_total") || name.starts_with("tidegate_table")) {
        assert!(counted.contains(name), "the filter has no {name}");
    }
}
