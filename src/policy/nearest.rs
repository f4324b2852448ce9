//! What a misspelt word was probably meant to be.

use super::hint;

/// A hint that names the known word nearest to `wrong`, or, when none is near, lists what is known after `list`,
/// as in `write one of`.
pub(super) fn hint(wrong: &str, list: &str, known: &[&str]) -> String {
    if !hint::GIVEN {
        return String::new();
    }
    if let Some(meant) = meant(wrong, known) {
        return meant;
    }
    let mut hint = list.to_owned();
    for (index, word) in known.iter().take(MAX_LISTED).enumerate() {
        hint.push_str(if index == 0 { " \"" } else { ", \"" });
        hint.push_str(word);
        hint.push('"');
    }
    match known.len().saturating_sub(MAX_LISTED) {
        0 => hint,
        more => format!("{hint} and {more} more"),
    }
}

/// A hint that names the known word nearest to `wrong`, when one is near.
pub(super) fn meant(wrong: &str, known: &[&str]) -> Option<String> {
    nearest(wrong, known).map(|word| ["did you mean \"", word, "\"?"].concat())
}

/// The word that the fewest slips of the keyboard turn into `wrong`: at most one in three letters.
pub(super) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    if !hint::GIVEN || wrong.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase();
    let slips = |word: &str| strsim::osa_distance(&wrong, &word.to_ascii_lowercase());
    let (slips, word) =
        known.iter().take(MAX_COMPARED).map(|word| (slips(word), *word)).min_by_key(|(slips, _)| *slips)?;
    (slips <= word.chars().count().div_ceil(3)).then_some(word)
}

/// A hint is one line.
const MAX_LISTED: usize = 16;

/// Names have at most 64 characters and words fewer; comparing costs the product of both lengths.
const MAX_COMPARED_BYTES: usize = 96;

/// A document may know thousands of names, and have hundreds of wrong ones.
const MAX_COMPARED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_named_and_far_ones_are_listed() {
        let known = ["window", "permits", "burst"];
        for wrong in ["widnow", "windows", "WINDOW", "wndw"] {
            assert_eq!(hint(wrong, "the fields are", &known), "did you mean \"window\"?");
        }
        assert_eq!(hint("zzz", "the fields are", &known), "the fields are \"window\", \"permits\", \"burst\"");
        let many = ["aaaa"; 18];
        assert!(hint("zzzz", "the fields are", &many).ends_with("\"aaaa\" and 2 more"));
        assert_eq!(nearest("window", &[]), None);
        assert_eq!(nearest(&"w".repeat(97), &known), None);
    }
}
