//! What is done about an event that a handler could not handle.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use serde::{Deserialize, Serialize};

use crate::error::{Invalid, Result, Violation};
use crate::limits::{BREAKER_FAILURES_MAX, RETRIES_MAX, RETRY_DELAY_SECONDS_MAX};

const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(60);

/// What is done about an event that a handler could not handle: retry it after growing delays, and then stop, skip it or
/// park it.
///
/// An [outage](crate::HandlerError::outage), such as a full disk, is no failure of an event: it is waited out, whatever is
/// said here.
///
/// Delays are waited for on the clock of the store. They begin at 100 ms and double up to a minute, and up to as much
/// again is added by chance ([`backoff`](OnError::backoff), [`without_jitter`](OnError::without_jitter)).
///
/// ```
/// use std::time::Duration;
/// use annals::OnError;
///
/// let policy = OnError::retry(5).then_park().circuit_breaker(10, Duration::from_secs(30));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "a policy does nothing before it is given to a handler"]
pub struct OnError {
    retries: u32,
    last_resort: LastResort,
    delay_min: Duration,
    delay_max: Duration,
    jitter: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    breaker: Option<BreakerOptions>,
}

/// What is done when retries have not helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LastResort {
    Stop,
    Skip,
    Park,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BreakerOptions {
    pub(super) failures: u32,
    pub(super) cool_down: Duration,
}

impl OnError {
    const fn immediately(last_resort: LastResort) -> Self {
        Self { retries: 0, last_resort, delay_min: DELAY_MIN, delay_max: DELAY_MAX, jitter: true, breaker: None }
    }

    /// The handler stops at the event, and tries it again when it is started again.
    pub const fn stop() -> Self {
        Self::immediately(LastResort::Stop)
    }

    /// The event is noted as skipped, and the handler goes on with the next.
    pub const fn skip() -> Self {
        Self::immediately(LastResort::Skip)
    }

    /// The event becomes a dead letter, later events of its stream are parked behind it, and the handler goes on with
    /// other streams. See [`Store::dead_letters`](crate::Store::dead_letters).
    pub const fn park() -> Self {
        Self::immediately(LastResort::Park)
    }

    /// The event is tried so many times again, at most [`RETRIES_MAX`], before the handler stops, or does what
    /// [`then_skip`](OnError::then_skip) or [`then_park`](OnError::then_park) say.
    pub const fn retry(times: u32) -> Self {
        Self { retries: times, ..Self::stop() }
    }

    /// When retries have not helped, stops.
    pub const fn then_stop(mut self) -> Self {
        self.last_resort = LastResort::Stop;
        self
    }

    /// When retries have not helped, skips the event.
    pub const fn then_skip(mut self) -> Self {
        self.last_resort = LastResort::Skip;
        self
    }

    /// When retries have not helped, parks the event.
    pub const fn then_park(mut self) -> Self {
        self.last_resort = LastResort::Park;
        self
    }

    /// The first delay and the longest, before chance is added. Each is twice the one before. At most
    /// [`RETRY_DELAY_SECONDS_MAX`].
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.delay_min = min;
        self.delay_max = max;
        self
    }

    /// Waits for the delays as they are. Handlers that fail together then come back together.
    pub const fn without_jitter(mut self) -> Self {
        self.jitter = false;
        self
    }

    /// After so many failures in a row, of one event or several, at most [`BREAKER_FAILURES_MAX`], nothing is tried for
    /// the time of `cool_down`, then one attempt: if that fails as well, nothing again for as long. The breaker only
    /// delays: what is tried counts as a retry.
    pub const fn circuit_breaker(mut self, failures: u32, cool_down: Duration) -> Self {
        self.breaker = Some(BreakerOptions { failures, cool_down });
        self
    }

    /// Whether the handler stops at an event for which retries have not helped, and lets none pass.
    pub fn stops(&self) -> bool {
        self.last_resort == LastResort::Stop
    }

    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    pub(super) fn last_resort(&self) -> LastResort {
        self.last_resort
    }

    pub(super) fn breaker_options(&self) -> Option<BreakerOptions> {
        self.breaker
    }

    /// The delays before the retries that are left after `done` of them.
    pub(super) fn delays(&self, seed: u64, done: u32) -> ExponentialBackoff {
        let builder = ExponentialBuilder::new()
            .with_min_delay(self.delay_min)
            .with_max_delay(self.delay_max)
            .with_max_times(self.retries as usize)
            .with_jitter_seed(seed);
        let mut delays = if self.jitter { builder.with_jitter() } else { builder }.build();
        if let Some(last) = done.checked_sub(1) {
            delays.nth(last as usize);
        }
        delays
    }

    /// Everything that is wrong with the policy.
    pub(super) fn check(&self) -> Result<()> {
        let mut violations = Vec::new();
        let mut add = |field: &str, problem: String| {
            violations.push(Violation::new(None, format!("policy.{field}"), problem));
        };
        if self.retries > RETRIES_MAX {
            add("retries", format!("{} retries, at most {RETRIES_MAX} are allowed", self.retries));
        }
        if self.delay_min > self.delay_max {
            add("backoff", format!("the first delay, {:?}, is longer than {:?}", self.delay_min, self.delay_max));
        }
        let longest = Duration::from_secs(RETRY_DELAY_SECONDS_MAX);
        if self.delay_max > longest {
            add("backoff", format!("a delay of {:?}, at most {longest:?} are allowed", self.delay_max));
        }
        if let Some(breaker) = self.breaker {
            if !(1..=BREAKER_FAILURES_MAX).contains(&breaker.failures) {
                let problem = format!("opens after {}, 1 to {BREAKER_FAILURES_MAX} are allowed", breaker.failures);
                add("circuit_breaker", problem);
            }
            if breaker.cool_down > longest {
                add("circuit_breaker", format!("cools {:?}, at most {longest:?} are allowed", breaker.cool_down));
            }
        }
        if violations.is_empty() { Ok(()) } else { Err(Invalid { violations }.into()) }
    }
}

impl Default for OnError {
    /// [`OnError::stop`]: nothing is lost or reordered without being asked for.
    fn default() -> Self {
        Self::stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    const SECOND: Duration = Duration::from_secs(1);

    fn problems(policy: &OnError) -> usize {
        match policy.check() {
            Ok(()) => 0,
            Err(Error::Invalid(invalid)) => invalid.violations.len(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn delays_double_up_to_the_longest_and_end_with_the_retries() {
        let policy = OnError::retry(5).backoff(SECOND, 6 * SECOND).without_jitter();
        let delays: Vec<u64> = policy.delays(0, 0).map(|delay| delay.as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 6, 6]);
        for done in 0..=6 {
            let left: Vec<u64> = policy.delays(0, done).map(|delay| delay.as_secs()).collect();
            assert_eq!(left, delays[(done as usize).min(5)..]);
        }
    }

    #[test]
    fn jitter_adds_less_than_the_delay_and_follows_its_seed() {
        let policy = OnError::retry(20).backoff(SECOND, 8 * SECOND);
        let drawn = |seed| policy.delays(seed, 0).collect::<Vec<_>>();
        for (delay, base) in drawn(7).iter().zip([1, 2, 4, 8, 8, 8]) {
            assert!((base * SECOND..2 * base * SECOND).contains(delay), "{delay:?}");
        }
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn limits_hold_at_n_and_n_plus_1_and_all_problems_are_told() {
        let longest = Duration::from_secs(RETRY_DELAY_SECONDS_MAX);
        assert_eq!(problems(&OnError::retry(RETRIES_MAX).backoff(longest, longest)), 0);
        assert_eq!(problems(&OnError::retry(RETRIES_MAX + 1)), 1);
        assert_eq!(problems(&OnError::skip().backoff(SECOND, longest + SECOND)), 1);
        assert_eq!(problems(&OnError::skip().backoff(2 * SECOND, SECOND)), 1);
        assert_eq!(problems(&OnError::park().circuit_breaker(BREAKER_FAILURES_MAX, longest)), 0);
        assert_eq!(problems(&OnError::park().circuit_breaker(0, SECOND)), 1);
        let worst = OnError::retry(u32::MAX).backoff(2 * longest, longest + SECOND);
        assert_eq!(problems(&worst.circuit_breaker(BREAKER_FAILURES_MAX + 1, longest + SECOND)), 5);
    }

    #[test]
    fn the_longest_delays_with_jitter_can_be_told() {
        let longest = Duration::from_secs(RETRY_DELAY_SECONDS_MAX);
        let policy = OnError::retry(RETRIES_MAX).backoff(longest, longest);
        assert!(policy.delays(1, 0).all(|delay| delay < 2 * longest));
    }
}
