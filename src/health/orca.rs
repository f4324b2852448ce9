//! An upstream's own load: an ORCA report in the header `endpoint-load-metrics` of its responses.
//!
//! The report is an `xds.data.orca.v3.OrcaLoadReport`, in the text forms that Envoy also reads: `TEXT
//! cpu_utilization=0.3, eps=2`, and `JSON {"cpu_utilization": 0.3, "eps": 2}` with field names in either case of
//! proto3's JSON. Without the leading word, a value that begins with a brace is JSON. The binary form is not read.
//!
//! An upstream is trusted only about its own load. A broken or too long report is ignored.

use crate::lookup::trim_blanks;

/// A load that an upstream can report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// Its use of its processors, in millionths of its share; may exceed the whole.
    Cpu,
    /// Its use of its memory, in millionths of its share.
    Memory,
    /// Its use of what limits it by its own measure, in millionths; may exceed the whole.
    Application,
    /// Its errors per second, in millionths.
    ErrorsPerSecond,
}

impl Load {
    /// Every load, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Application, Self::ErrorsPerSecond];

    /// The name in a report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu_utilization",
            Self::Memory => "mem_utilization",
            Self::Application => "application_utilization",
            Self::ErrorsPerSecond => "eps",
        }
    }

    /// The load with this name, in snake case or, whatever its letter case, without underscores.
    fn named(name: &[u8]) -> Option<Self> {
        let letters = |text: &'static str| text.bytes().filter(|byte| *byte != b'_');
        let is_camel = |load: &Self| {
            name.len() == letters(load.as_str()).count()
                && letters(load.as_str()).zip(name).all(|(letter, byte)| letter == byte.to_ascii_lowercase())
        };
        Self::ALL.into_iter().find(|load| name == load.as_str().as_bytes() || is_camel(load))
    }
}

/// A report: the loads in it, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    loads: [Option<u64>; Load::ALL.len()],
}

impl Report {
    /// Reads the value of a header. `None` if it is not a report, or longer than 4 KiB.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let value = trim_blanks(value);
        if value.len() > MAX_BYTES {
            return None;
        }
        let report = match value.split_at_checked(5) {
            Some((b"TEXT ", text)) => Self::text(text)?,
            Some((b"JSON ", json)) => Self::json(trim_blanks(json))?,
            _ => Self::json(value)?,
        };
        (report != Self::default()).then_some(report)
    }

    /// The value of a load, if the report has it.
    #[must_use]
    pub fn load(&self, load: Load) -> Option<u64> {
        self.loads.get(load as usize).copied().flatten()
    }

    /// `cpu_utilization=0.3,named_metrics.queue=7`.
    fn text(text: &[u8]) -> Option<Self> {
        let mut report = Self::default();
        for pair in text.split(|byte| *byte == b',') {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = pair.split_at_checked(equals)?;
            report.read_field(trim_blanks(name), trim_blanks(value.get(1..)?))?;
        }
        Some(report)
    }

    /// Reads the top-level fields of a JSON object, in one pass.
    fn json(text: &[u8]) -> Option<Self> {
        let mut report = Self::default();
        let mut rest = text.strip_prefix(b"{")?.trim_ascii_start();
        if rest == b"}" {
            return Some(report);
        }
        loop {
            let name = string(rest)?;
            // Skips the name and its two quotes.
            rest = rest.get(name.len().checked_add(2)?..)?.trim_ascii_start();
            rest = rest.strip_prefix(b":")?.trim_ascii_start();
            let (value, after) = rest.split_at_checked(value_len(rest)?)?;
            match value.first()? {
                b'0'..=b'9' | b'-' => report.read_field(name, value.trim_ascii_end())?,
                _ => {}
            }
            rest = match after.split_first()? {
                (b',', after) => after.trim_ascii_start(),
                (b'}', []) => return Some(report),
                _ => return None,
            };
        }
    }

    /// Reads the field `name`, if it is a load; `None` if its value is not a number, or is negative.
    fn read_field(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let Some(load) = Load::named(name) else { return Some(()) };
        let told = self.loads.get_mut(load as usize)?;
        *told = Some(millionths(value)?);
        Some(())
    }
}

/// The string with which `text` begins, without its quotes. Escapes stay as they are: no name of a load has any.
fn string(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b"\"")?;
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    text.get(..end?)
}

/// The length of the value with which `text` begins, up to the `,` or `}` after it.
fn value_len(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_u32, 0_usize);
    loop {
        let byte = *text.get(at)?;
        match byte {
            b',' | b'}' if depth == 0 => return Some(at),
            b'{' | b'[' => depth = depth.checked_add(1)?,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => at = at.checked_add(string(text.get(at..)?)?.len())?.checked_add(1)?,
            _ => {}
        }
        at = at.checked_add(1)?;
    }
}

/// Reads a decimal as JSON and C print it, `0.25` or `2.5e-1`, in millionths, rounded down and at most a million. It
/// avoids floats, which nothing else here uses and whose parser is a large table.
fn millionths(text: &[u8]) -> Option<u64> {
    let exponent_at = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
    let (decimal, exponent) = text.split_at_checked(exponent_at)?;
    let exponent = match exponent.split_first() {
        Some((_, digits)) => str::from_utf8(digits).ok()?.parse::<i16>().ok()?,
        None => 0,
    };
    let mut parts = decimal.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    let mut value = 0_u128;
    let mut places = i32::from(exponent).checked_add(6)?;
    for (digits, step) in [(whole, 0), (fraction, 1)] {
        for digit in digits {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
            // Beyond twenty digits the value exceeds the limit of a million or the digits are too small to matter; only
            // the decimal point moves.
            if value < ENOUGH {
                value = value.saturating_mul(10).saturating_add(digit.into());
                places = places.checked_sub(step)?;
            } else {
                places = places.checked_add(1)?.checked_sub(step)?;
            }
        }
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    for _ in 0..places.unsigned_abs().min(40) {
        value = if places < 0 { value / 10 } else { value.saturating_mul(10) };
    }
    Some(u64::try_from(value).unwrap_or(u64::MAX).min(MOST))
}

/// Longer than any plain load report. An upstream that adds hundreds of named metrics uses it for something else.
const MAX_BYTES: usize = 4_096;
/// A million, in millionths.
const MOST: u64 = 1_000_000_000_000;
const ENOUGH: u128 = 10_u128.pow(20);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(value: &str) -> Option<[Option<u64>; 4]> {
        Report::read(value.as_bytes()).map(|report| report.loads)
    }

    #[test]
    fn a_report_is_read_in_each_of_its_forms() {
        let all = Some([Some(300_000), Some(800_000), Some(1_250_000), Some(2_000_000)]);
        let cpu = Some([Some(500_000), None, None, None]);
        for (value, loads) in [
            ("TEXT cpu_utilization=0.3,mem_utilization=0.8,application_utilization=1.25,eps=2,rps_fractional=100", all),
            (
                "TEXT cpu_utilization=0.3, mem_utilization = 0.8, application_utilization=125e-2,eps=2.0,named_metrics.x=-1",
                all,
            ),
            (
                r#"JSON {"cpu_utilization": 0.3, "mem_utilization":0.8,"application_utilization":12.5E-1, "eps" :2, "rps_fractional":1e9}"#,
                all,
            ),
            (r#"{"cpuUtilization":0.3,"memUtilization":0.8,"applicationUtilization":1.25,"eps":2}"#, all),
            (
                r#"JSON {"named_metrics":{"cpu_utilization":9,"a}":[1,"]"]},"request_cost":"\"","cpu_utilization":0.5 }"#,
                cpu,
            ),
            (r#" {"a\"":"{","cpu_utilization":5e-1} "#, cpu),
            ("TEXT cpu_utilization=.5", cpu),
            ("TEXT cpu_utilization=0.1,cpu_utilization=0.5", cpu),
            ("TEXT cpu_utilization=1e99", Some([Some(MOST), None, None, None])),
            ("TEXT cpu_utilization=1e-99", Some([Some(0), None, None, None])),
        ] {
            assert_eq!(read(value), loads, "{value}");
        }
    }

    #[test]
    fn what_is_no_report_is_ignored_whole() {
        for value in [
            "",
            "TEXT ",
            "JSON {}",
            "{}",
            "BIN CgkpMzMzMzMz",
            "cpu_utilization=0.5",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=",
            "TEXT cpu_utilization=-0.5",
            "TEXT cpu_utilization=NaN",
            "TEXT cpu_utilization=inf",
            "TEXT cpu_utilization=0.5,eps=x",
            "TEXT cpu_utilization=0.5,,eps=1",
            "TEXT cpu_utilization=1.2.3",
            "TEXT cpu_utilization=1e99999999999",
            "TEXT rps_fractional=5",
            r#"JSON {"cpu_utilization":"0.5"}"#,
            r#"JSON {"cpu_utilization":0.5"#,
            r#"JSON {"cpu_utilization":0.5}}"#,
            r#"JSON {"cpu_utilization" 0.5}"#,
            r#"JSON {"x":[{"cpu_utilization":0.5]}"#,
            r#"JSON {"x":{"cpu_utilization":0.5}}"#,
            r#"JSON {cpu_utilization:0.5}"#,
            r#"JSON [{"cpu_utilization":0.5}]"#,
        ] {
            assert_eq!(read(value), None, "{value}");
        }
        assert_eq!(read(&format!("TEXT cpu_utilization=0.{}", "5".repeat(MAX_BYTES))), None);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(
            word in prop::sample::select(vec!["", "TEXT ", "JSON "]),
            junk in prop::collection::vec(prop::sample::select(br#"{}[]",:\=.eE-+019 cpu_utilization"#.to_vec()), 0..80),
        ) {
            let _ = Report::read(&[word.as_bytes(), &junk].concat());
        }

        #[test]
        fn a_number_is_what_a_float_says(value in 0.0..1e5_f64) {
            let exact = millionths(format!("{value}").as_bytes()).unwrap() as f64 / 1e6;
            prop_assert!((exact - value).abs() <= 1e-6, "{exact} for {value}");
            let short = millionths(format!("{value:e}").as_bytes()).unwrap() as f64 / 1e6;
            prop_assert!((short - value).abs() <= 1e-6, "{short} for {value:e}");
        }
    }
}
