//! How long a response is fresh, and how old it is (RFC 9111 section 4.2).

use super::directives::directives;
use crate::assets::Answer;
use crate::date;

/// What a response states about its use by caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freshness {
    /// How many seconds it is fresh, from when it was made; 0 if it does not state it.
    pub(super) lifetime_secs: u64,
    /// Its age in seconds when it arrived.
    pub(super) age_secs: u64,
    /// It must not be kept, or not be used without validation: `no-store`, `private`, `no-cache`.
    pub(super) forbids: bool,
    /// It must not be used once it is stale: `must-revalidate`, `proxy-revalidate`, `s-maxage`.
    pub(super) fresh_only: bool,
    /// It states that it is the same for all clients: `public`, `s-maxage`.
    pub(super) shared: bool,
    /// For how many seconds after its freshness ends it may stand in for an error (RFC 5861); `None` if it does not
    /// state it.
    pub(super) stale_if_error_secs: Option<u64>,
}

impl Freshness {
    /// What `answer` states, if it arrived at `now_secs` since the epoch.
    pub(super) fn of(answer: &Answer<'_>, now_secs: u64) -> Self {
        let mut found = Self::default();
        let (mut shared_age, mut max_age) = (None::<u64>, None::<u64>);
        // If a directive appears twice, the stricter one counts.
        let least = |place: &mut Option<u64>, secs: u64| *place = Some(place.map_or(secs, |other| other.min(secs)));
        for directive in answer.values("cache-control").flat_map(directives) {
            let secs = directive.seconds();
            if directive.is("s-maxage") {
                least(&mut shared_age, secs);
            } else if directive.is("max-age") {
                least(&mut max_age, secs);
            } else if directive.is("stale-if-error") {
                least(&mut found.stale_if_error_secs, secs);
            }
            found.forbids |= ["no-store", "private", "no-cache"].iter().any(|name| directive.is(name));
            found.fresh_only |= ["must-revalidate", "proxy-revalidate"].iter().any(|name| directive.is(name));
            found.shared |= directive.is("public");
        }
        found.fresh_only |= shared_age.is_some();
        found.shared |= shared_age.is_some();
        let date = answer.first("date").and_then(date::parse);
        let expires = || {
            let expires = answer.first("expires").map(|text| date::parse(text).unwrap_or(0))?;
            Some(expires.saturating_sub(date.unwrap_or(now_secs)))
        };
        found.lifetime_secs = shared_age.or(max_age).or_else(expires).unwrap_or(0);
        let told = answer.first("age").and_then(|age| str::from_utf8(age).ok()?.trim().parse::<u64>().ok());
        let apparent = date.map_or(0, |date| now_secs.saturating_sub(date));
        found.age_secs = told.unwrap_or(0).max(apparent);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The epoch of the table, `Sun, 06 Nov 1994 08:49:37 GMT`.
    const NOW: u64 = 784_111_777;

    #[test]
    fn freshness_is_what_the_answer_says() {
        type Lines = &'static [(&'static str, &'static str)];
        let cases: [(Lines, Freshness); 8] = [
            (&[], Freshness::default()),
            (&[("cache-control", "max-age=60")], Freshness { lifetime_secs: 60, ..Freshness::default() }),
            (
                &[("cache-control", "max-age=60, S-MaxAge=9"), ("cache-control", "max-age=5")],
                Freshness { lifetime_secs: 9, fresh_only: true, shared: true, ..Freshness::default() },
            ),
            (
                &[("expires", "Sun, 06 Nov 1994 08:50:37 GMT"), ("date", "Sun, 06 Nov 1994 08:49:27 GMT")],
                Freshness { lifetime_secs: 70, age_secs: 10, ..Freshness::default() },
            ),
            (&[("expires", "0"), ("age", "7")], Freshness { age_secs: 7, ..Freshness::default() }),
            (
                &[("cache-control", "private=\"x\", max-age=1")],
                Freshness { lifetime_secs: 1, forbids: true, ..Freshness::default() },
            ),
            (
                &[("cache-control", "public, must-revalidate, max-age=30")],
                Freshness { lifetime_secs: 30, fresh_only: true, shared: true, ..Freshness::default() },
            ),
            (
                &[("cache-control", "max-age=30, stale-if-error=20")],
                Freshness { lifetime_secs: 30, stale_if_error_secs: Some(20), ..Freshness::default() },
            ),
        ];
        for (lines, expected) in cases {
            let answer = Answer::of(200, lines);
            assert_eq!(Freshness::of(&answer, NOW), expected, "{lines:?}");
        }
    }
}
