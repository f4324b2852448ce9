//! How many retries the requests of a route may have.
//!
//! Without a bound every failing request is sent again, and an overloaded upstream gets twice the load. The budget is a
//! share of recent requests, as in Finagle's `RetryBudget`, with a minimum for routes with little traffic.

use crate::units::Timestamp;

/// The retries that the requests of a route may have: a share of the requests of the last ten seconds, or three a
/// second, whichever is more.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    /// The newest second in which anything was counted.
    second: u64,
    /// One bucket for each of the last seconds.
    buckets: [Bucket; SECONDS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    requests: u32,
    retries: u32,
}

impl Budget {
    /// A budget of this percentage of recent requests.
    #[must_use]
    pub fn new(percent: u32) -> Self {
        Self { percent, second: 0, buckets: [Bucket::default(); SECONDS as usize] }
    }

    /// Counts a request.
    pub fn request(&mut self, now: Timestamp) {
        if let Some(bucket) = self.bucket(now) {
            bucket.requests = bucket.requests.saturating_add(1);
        }
    }

    /// Counts a retry.
    pub fn retry(&mut self, now: Timestamp) {
        if let Some(bucket) = self.bucket(now) {
            bucket.retries = bucket.retries.saturating_add(1);
        }
    }

    /// Whether there is room for one more retry.
    pub fn allows(&mut self, now: Timestamp) -> bool {
        if self.bucket(now).is_some_and(|bucket| bucket.retries < FLOOR_PER_SECOND) {
            return true;
        }
        let sum = |count: fn(&Bucket) -> u32| self.buckets.iter().map(|bucket| u64::from(count(bucket))).sum::<u64>();
        let (requests, retries) = (sum(|bucket| bucket.requests), sum(|bucket| bucket.retries));
        retries.saturating_mul(100) < requests.saturating_mul(u64::from(self.percent))
    }

    /// The bucket of this second. If the clock was set back, the newest bucket is used.
    fn bucket(&mut self, now: Timestamp) -> Option<&mut Bucket> {
        let second = now.as_nanos() / NANOS_PER_SEC;
        // The buckets of the seconds since the last use still hold counts that are ten or more seconds old.
        for ago in 0..second.saturating_sub(self.second).min(SECONDS) {
            if let Some(bucket) = self.buckets.get_mut(place(second.saturating_sub(ago))) {
                *bucket = Bucket::default();
            }
        }
        self.second = self.second.max(second);
        self.buckets.get_mut(place(self.second))
    }
}

fn place(second: u64) -> usize {
    (second % SECONDS) as usize
}

/// The number of seconds for which requests are recent.
const SECONDS: u64 = 10;

/// The retries that every route may always have.
const FLOOR_PER_SECOND: u32 = 3;

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_millis(second * 1_000 + 1)
    }

    fn spend(budget: &mut Budget, now: Timestamp) -> u32 {
        let mut spent = 0;
        while budget.allows(now) && spent < 10_000 {
            budget.retry(now);
            spent += 1;
        }
        spent
    }

    #[test]
    fn a_share_of_recent_requests_and_no_more() {
        let mut budget = Budget::new(20);
        for second in 1..=10 {
            (0..100).for_each(|_| budget.request(at(second)));
        }
        assert_eq!(spend(&mut budget, at(10)), 200);
        assert_eq!(spend(&mut budget, at(10)), 0);
        // A second later there is room for the minimum again, but not for the share.
        assert_eq!(spend(&mut budget, at(11)), 3);
        assert_eq!(spend(&mut budget, at(40)), 3);
    }

    #[test]
    fn three_a_second_at_least() {
        let mut budget = Budget::new(0);
        for second in 1..30 {
            assert_eq!(spend(&mut budget, at(second)), 3, "{second}");
        }
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_anew() {
        let mut budget = Budget::new(0);
        assert_eq!(spend(&mut budget, at(100)), 3);
        assert_eq!(spend(&mut budget, at(50)), 0);
        assert_eq!(spend(&mut budget, at(101)), 3);
    }
}
