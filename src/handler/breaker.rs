//! The circuit breaker: a handler that only fails is left alone for a while. Pure; it is told the time.

use std::time::Duration;

use super::policy::BreakerOptions;

/// Counts failures in a row.
#[derive(Debug)]
pub(super) struct Breaker {
    options: Option<BreakerOptions>,
    failures: u32,
    /// Until when nothing is tried, in monotonic time.
    open_until: Option<Duration>,
}

impl Breaker {
    pub(super) fn new(options: Option<BreakerOptions>) -> Self {
        Self { options, failures: 0, open_until: None }
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.open_until = None;
    }

    /// Notes a failure. From the one that opens the breaker on, each opens it anew: those are the single attempts of a
    /// half-open breaker.
    pub(super) fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        if let Some(options) = self.options
            && self.failures >= options.failures
        {
            self.open_until = Some(now + options.cool_down);
        }
    }

    /// Whether the next attempt is a single one, or is not made yet.
    pub(super) fn has_opened(&self) -> bool {
        self.open_until.is_some()
    }

    /// Until when nothing is to be tried; `None` if the breaker is closed or half-open.
    pub(super) fn open_until(&self, now: Duration) -> Option<Duration> {
        self.open_until.filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_tries_once_when_cooled() {
        let mut breaker = Breaker::new(Some(BreakerOptions { failures: 2, cool_down: at(10) }));
        breaker.failed(at(0));
        breaker.succeeded();
        breaker.failed(at(1));
        assert_eq!(breaker.open_until(at(1)), None);
        breaker.failed(at(2));
        assert_eq!(breaker.open_until(at(2)), Some(at(12)));
        assert_eq!(breaker.open_until(at(12)), None, "half-open");
        breaker.failed(at(13));
        assert_eq!(breaker.open_until(at(13)), Some(at(23)), "one failure is enough now");
        breaker.succeeded();
        breaker.failed(at(30));
        assert_eq!(breaker.open_until(at(30)), None, "closed");
    }

    #[test]
    fn without_options_it_never_opens() {
        let mut breaker = Breaker::new(None);
        (0..1000).for_each(|second| breaker.failed(at(second)));
        assert_eq!(breaker.open_until(at(1000)), None);
    }
}
