//! Suggestions for misspelt words.

use super::hint;

/// A hint that names the known word nearest to `wrong`. If none is near, it lists all known words after the phrase
/// `list`, such as `write one of`.
pub(super) fn hint(wrong: &str, list: &str, known: &[&str]) -> String {
    if !hint::ENABLED {
        return String::new();
    }
    if let Some(suggestion) = suggestion(wrong, known) {
        return suggestion;
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

/// A hint that names the known word nearest to `wrong`, if one is near.
pub(super) fn suggestion(wrong: &str, known: &[&str]) -> Option<String> {
    nearest(wrong, known).map(|word| ["did you mean \"", word, "\"?"].concat())
}

/// The duration that a common misspelling means: `1 min`, `60 S`, `2hours`.
pub(super) fn span(wrong: &str) -> Option<String> {
    if !hint::ENABLED || wrong.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let wrong = wrong.trim().to_ascii_lowercase();
    let digits = wrong.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = wrong.split_at_checked(digits).filter(|(number, _)| !number.is_empty())?;
    let is_unit = |(_, names): &&(&str, &[&str])| names.contains(&unit.trim_start());
    UNITS.iter().find(is_unit).map(|(unit, _)| [number, unit].concat())
}

/// The known word with the fewest edits from `wrong`: at most one for each three letters.
pub(super) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    if !hint::ENABLED || wrong.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase();
    let slips = |word: &str| strsim::osa_distance(&wrong, &word.to_ascii_lowercase());
    let (slips, word) =
        known.iter().take(MAX_COMPARED).map(|word| (slips(word), *word)).min_by_key(|(slips, _)| *slips)?;
    (slips <= word.chars().count().div_euclid(3).max(1)).then_some(word)
}

/// A hint must fit one line. No object of the document has more fields than this.
const MAX_LISTED: usize = 24;

/// The units of durations, each with its spellings.
const UNITS: [(&str, &[&str]); 5] = [
    ("ms", &["ms", "msec", "msecs", "millisecond", "milliseconds"]),
    ("s", &["s", "sec", "secs", "second", "seconds"]),
    ("m", &["m", "min", "mins", "minute", "minutes"]),
    ("h", &["h", "hr", "hrs", "hour", "hours"]),
    ("d", &["d", "day", "days"]),
];

/// Names have at most 64 characters and words fewer. The cost of a comparison is the product of both lengths.
const MAX_COMPARED_BYTES: usize = 96;

/// A document may have thousands of names, and hundreds of wrong ones.
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
        let many = ["aaaa"; 26];
        assert!(hint("zzzz", "the fields are", &many).ends_with("\"aaaa\" and 2 more"));
        // With two of four letters changed, it is another word.
        assert_eq!(nearest("rate", &["name", "cost"]), None);
        assert_eq!(nearest("window", &[]), None);
        assert_eq!(nearest(&"w".repeat(97), &known), None);
    }

    #[test]
    fn durations_as_people_write_them_are_understood_and_others_are_not() {
        for (wrong, right) in
            [("1 min", "1m"), ("60S", "60s"), (" 2 hours", "2h"), ("500msec", "500ms"), ("3 Days", "3d")]
        {
            assert_eq!(span(wrong).as_deref(), Some(right), "{wrong}");
        }
        for wrong in ["", "60", "min", "1h30m", "1.5s", "-1s", "1w", "1 s s"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }
}
