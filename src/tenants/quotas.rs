//! What a tenant may use, what it uses, and the decision about one commit.
//!
//! Counted is what is written: the store asks once for each commit, when nothing else can keep it from being written.
//! The rate is that of a token bucket in whole nanoseconds, so that nothing is rounded away.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::error::{Error, Quota, Result};
use crate::{Position, Store};

/// Nanoseconds in a second: the parts that an event in the bucket has.
const PARTS_PER_EVENT: u128 = 1_000_000_000;

/// What a tenant may use. Nothing is limited that is not named.
///
/// ```
/// use annals::Quotas;
///
/// let trial = Quotas::unlimited().events_max(10_000).bytes_max(16 * 1024 * 1024).events_per_second(50);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Quotas {
    events_max: Option<u64>,
    bytes_max: Option<u64>,
    events_per_second: Option<u64>,
    burst_events: Option<u64>,
}

impl Quotas {
    /// No limits.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// The most events that its store may ever have.
    pub fn events_max(mut self, events: u64) -> Self {
        self.events_max = Some(events);
        self
    }

    /// The most bytes that its log may have, headers included. Segment files are allocated ahead of use, and may be
    /// larger; state beside the log, such as snapshots, is not counted.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = Some(bytes);
        self
    }

    /// How many events it may append each second, on average.
    pub fn events_per_second(mut self, events: u64) -> Self {
        self.events_per_second = Some(events);
        self
    }

    /// How many events it may append at once, after a rest. As many as in one second otherwise. A commit with more is
    /// never let through, if there is a rate.
    pub fn burst_events(mut self, events: u64) -> Self {
        self.burst_events = Some(events);
        self
    }

    fn burst(&self) -> u64 {
        self.burst_events.or(self.events_per_second).unwrap_or(u64::MAX)
    }
}

/// What a tenant uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Events that its store has ever had.
    pub events: u64,
    /// Bytes of its log: headers and frames.
    pub bytes: u64,
}

impl Usage {
    pub(super) fn of(store: &Store) -> Result<Self> {
        Ok(Self { events: store.head()?.map_or(0, Position::number), bytes: store.log_bytes()? })
    }
}

/// Keeps the accounts of a tenant. It outlives the open store, so that closing it gives no new burst.
#[derive(Debug)]
pub(super) struct Ledger {
    tenant: String,
    clock: Arc<dyn Clock>,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    quotas: Quotas,
    usage: Usage,
    bucket: Bucket,
}

/// What was taken out of the bucket and has not flown back yet, in parts of an event, and when that was so.
#[derive(Debug, Default)]
struct Bucket {
    taken_parts: u128,
    at: Duration,
}

impl Ledger {
    pub(super) fn new(tenant: &str, clock: &Arc<dyn Clock>) -> Self {
        Self { tenant: tenant.to_owned(), clock: Arc::clone(clock), accounts: Mutex::default() }
    }

    pub(super) fn set_quotas(&self, quotas: Quotas) {
        self.accounts.lock().quotas = quotas;
    }

    /// The store was opened, and uses so much.
    pub(super) fn begin(&self, usage: Usage) {
        self.accounts.lock().usage = usage;
    }

    /// Whether a new ledger would decide the same.
    pub(super) fn is_rested(&self) -> bool {
        let accounts = &mut *self.accounts.lock();
        accounts.bucket.flow(self.clock.monotonic(), accounts.quotas.events_per_second);
        accounts.bucket.taken_parts == 0
    }

    /// Lets a commit pass and counts it, or says what it is too much for.
    /// `log_bytes` are those that its log would have then.
    pub(super) fn admit(&self, events: u64, log_bytes: u64) -> Result<()> {
        let accounts = &mut *self.accounts.lock();
        let admitted = accounts.admit(events, log_bytes, self.clock.monotonic());
        admitted.map_err(|(what, used, limit)| {
            self.tell_refusal(what);
            Error::Quota { tenant: self.tenant.clone(), what, used, limit }
        })
    }

    #[cfg_attr(not(feature = "metrics"), expect(unused_variables, clippy::unused_self, reason = "nobody listens"))]
    fn tell_refusal(&self, what: Quota) {
        #[cfg(feature = "metrics")]
        {
            let quota = match what {
                Quota::Events => "events",
                Quota::Bytes => "bytes",
                Quota::Rate { .. } => "rate",
                Quota::OpenStores => "open_stores",
            };
            let tenant = self.tenant.clone();
            metrics::counter!("annals_quota_refusals_total", "tenant" => tenant, "quota" => quota).increment(1);
        }
    }
}

/// What is limited, how much there would be, and the limit.
type Refusal = (Quota, u64, u64);

impl Accounts {
    fn admit(&mut self, events: u64, log_bytes: u64, now: Duration) -> Result<(), Refusal> {
        let after = Usage { events: self.usage.events.saturating_add(events), bytes: log_bytes };
        if let Some(limit) = self.quotas.events_max.filter(|limit| after.events > *limit) {
            return Err((Quota::Events, after.events, limit));
        }
        if let Some(limit) = self.quotas.bytes_max.filter(|limit| after.bytes > *limit) {
            return Err((Quota::Bytes, after.bytes, limit));
        }
        self.bucket.take(events, &self.quotas, now)?;
        self.usage = after;
        Ok(())
    }
}

impl Bucket {
    /// Lets flow back what has flown back since it was last looked at.
    fn flow(&mut self, now: Duration, events_per_second: Option<u64>) {
        let nanos = now.saturating_sub(self.at).as_nanos();
        // An event a second is a part a nanosecond.
        let parts = events_per_second.map_or(u128::MAX, |rate| nanos.saturating_mul(u128::from(rate)));
        self.taken_parts = self.taken_parts.saturating_sub(parts);
        self.at = now;
    }

    fn take(&mut self, events: u64, quotas: &Quotas, now: Duration) -> Result<(), Refusal> {
        self.flow(now, quotas.events_per_second);
        let Some(rate) = quotas.events_per_second else { return Ok(()) };
        let burst = quotas.burst();
        let taken = self.taken_parts + u128::from(events) * PARTS_PER_EVENT;
        let missing = taken.saturating_sub(u128::from(burst) * PARTS_PER_EVENT);
        if missing == 0 {
            self.taken_parts = taken;
            return Ok(());
        }
        let retry_after = (events <= burst && rate > 0).then(|| nanos(missing.div_ceil(u128::from(rate))));
        let used = u64::try_from(taken.div_ceil(PARTS_PER_EVENT)).unwrap_or(u64::MAX);
        Err((Quota::Rate { retry_after }, used, burst))
    }
}

fn nanos(count: u128) -> Duration {
    u64::try_from(count).map_or(Duration::MAX, Duration::from_nanos)
}
