//! What the consumers of one subscription share: the place in the log, who has which event, and the checkpoint.
//!
//! Events are pulled from one [`Follow`] by whichever consumer asks next. With several consumers, a stream stays with the
//! one that has events of it which are not acknowledged; later events of it wait in that consumer's queue. What a
//! consumer leaves behind, because it was dropped or let its lease expire, goes to the next one that asks, stream by
//! stream and in order.
//!
//! Invariants: the checkpoint is never beyond the first event that is not acknowledged; an event is out at one consumer
//! at most; of a stream, no event is out at one consumer while an earlier one is not acknowledged at another.

use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::Checkpoints;
use super::follow::{Follow, Horizon, Lag};
use super::progress::{Progress, Taken, Tracking};
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::limits::UNSAVED_POSITIONS_MAX;
use crate::sync::Mutex;
use crate::types::Position;
use crate::{HeldName, Query, Store};

/// The consumers of a subscription, and where they are.
#[derive(Debug)]
pub(super) struct Group {
    /// `None` for a subscription without a name, of which nothing is remembered.
    checkpoints: Option<Checkpoints>,
    query: Query,
    horizon: Horizon,
    /// `None` for the one consumer of a subscription that is not shared.
    lease: Option<Duration>,
    store: Store,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    progress: Progress,
    /// The checkpoint that was saved last.
    saved: Option<Position>,
    held: Option<HeldName>,
}

impl Group {
    pub(super) fn new(
        checkpoints: Option<Checkpoints>,
        held: Option<HeldName>,
        follow: Follow,
        lease: Option<Duration>,
    ) -> Self {
        let tracking = match (&checkpoints, lease) {
            (None, _) => Tracking::Nothing,
            (Some(_), None) => Tracking::Positions,
            (Some(_), Some(_)) => Tracking::Streams,
        };
        Self {
            checkpoints,
            query: follow.query().clone(),
            horizon: follow.horizon(),
            lease,
            store: follow.store().clone(),
            shared: Mutex::new(Shared { saved: follow.looked(), progress: Progress::new(follow, tracking), held }),
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn horizon(&self) -> Horizon {
        self.horizon
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.checkpoints.as_ref().map(Checkpoints::name)
    }

    /// Whether a consumer that wants this may join.
    pub(super) fn is_alike(&self, query: &Query, horizon: Horizon, lease: Option<Duration>) -> bool {
        self.query == *query && self.horizon == horizon && self.lease == lease
    }

    /// Adds a consumer that waits for this signal, and returns its number.
    pub(super) fn join(&self, signal: &Arc<Signal>) -> u64 {
        let leased_until = self.leased_until(self.now());
        self.shared.lock().progress.join(signal, leased_until)
    }

    fn leased_until(&self, now: Duration) -> Duration {
        self.lease.map_or(Duration::MAX, |lease| now.saturating_add(lease))
    }

    /// The time that leases run on; nobody asks the clock where there are none.
    fn now(&self) -> Duration {
        self.lease.map_or(Duration::ZERO, |_| self.store.clock().monotonic())
    }

    /// Removes a consumer; whether it was the last, and the checkpoint could be saved.
    pub(super) fn leave(&self, number: u64) -> (bool, Result<()>) {
        let mut shared = self.shared.lock();
        if !shared.progress.leave(number) {
            return (false, Ok(()));
        }
        let saved = self.save(&mut shared);
        shared.held = None;
        (true, saved)
    }

    /// The next thing for a consumer, if there is any now.
    pub(super) fn take(&self, number: u64) -> Result<Taken> {
        let now = self.now();
        let mut shared = self.shared.lock();
        let has_waited = shared.progress.renew(number, self.leased_until(now));
        let taken = self.take_from(&mut shared, number, now);
        // Not where it goes on to wait: consumers that wait would call each other for ever.
        if has_waited && !matches!(taken, Ok(Taken::Nothing { .. })) {
            shared.progress.tell_others(number);
        }
        taken
    }

    fn take_from(&self, shared: &mut Shared, number: u64, now: Duration) -> Result<Taken> {
        if let Some(taken) = shared.progress.take(number, now)? {
            return Ok(taken);
        }
        let number_of = |position: Option<Position>| position.map_or(0, Position::number);
        if number_of(shared.progress.checkpoint()) >= number_of(shared.saved) + UNSAVED_POSITIONS_MAX {
            // Only acknowledging and closing tell that nothing can be saved: what is lost by it is looked at once more.
            let _ = self.save(shared);
        }
        shared.progress.nothing_for(number)
    }

    /// Notes that a consumer has waited for nothing, and has not asked again yet.
    pub(super) fn renew(&self, number: u64) {
        if self.lease.is_some() {
            let leased_until = self.leased_until(self.now());
            let mut shared = self.shared.lock();
            shared.progress.renew(number, leased_until);
            shared.progress.tell_others(number);
        }
    }

    /// Acknowledges events that a consumer was given at these attempts, and saves the checkpoint if that moves it.
    pub(super) fn acknowledge(&self, number: u64, events: impl Iterator<Item = (Position, u32)>) -> Result<()> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(()) };
        let leased_until = self.leased_until(self.now());
        let mut shared = self.shared.lock();
        if !shared.progress.is_member(number) {
            return Err(Error::Stopped);
        }
        shared.progress.prolong(number, leased_until);
        let lost = shared.progress.acknowledge_all(number, events);
        self.save(&mut shared)?;
        match lost {
            Some(position) => Err(Error::LeaseExpired { name: checkpoints.name().to_owned(), position }),
            None => Ok(()),
        }
    }

    fn save(&self, shared: &mut Shared) -> Result<()> {
        let checkpoint = shared.progress.checkpoint();
        if let Some(checkpoints) = &self.checkpoints
            && checkpoint > shared.saved
        {
            checkpoints.save(checkpoint)?;
            shared.saved = checkpoint;
        }
        Ok(())
    }

    /// Everything up to here is acknowledged or does not match.
    pub(super) fn checkpoint(&self) -> Option<Position> {
        self.shared.lock().progress.checkpoint()
    }

    pub(super) fn lag(&self) -> Result<Lag> {
        Lag::behind(&self.store, self.checkpoint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ExpectedVersion;
    use crate::types::Timestamp;
    use crate::{NewEvent, Options};

    const LEASE: Duration = Duration::from_secs(30);

    fn append(store: &Store) {
        store.append("a-1", ExpectedVersion::Any, [NewEvent::raw("Counted", "")]).unwrap();
    }

    /// A store, and two consumers that have caught up, the first with an event that is not acknowledged.
    fn caught_up() -> (Store, Group, [(u64, Arc<Signal>); 2]) {
        let options = Options::new().clock(ManualClock::new(Timestamp::default())).without_background_work();
        let store = options.in_memory().unwrap();
        append(&store);
        let checkpoints = Checkpoints::new(&store, "mailer").unwrap();
        let group = Group::new(Some(checkpoints), None, store.follow(Query::all()), Some(LEASE));
        let consumers = [0, 1].map(|_| Arc::new(Signal::new())).map(|signal| (group.join(&signal), signal));
        assert!(matches!(group.take(consumers[0].0), Ok(Taken::Event { .. })));
        for (number, _) in &consumers {
            assert!(matches!(group.take(*number), Ok(Taken::CaughtUp)));
        }
        (store, group, consumers)
    }

    /// It waits until this time for the lease of another one.
    fn until(group: &Group, number: u64) -> Option<Duration> {
        match group.take(number) {
            Ok(Taken::Nothing { until }) => until,
            other => panic!("{other:?}"),
        }
    }

    /// It had looked before the event went to the one that has waited, and was not told that there is a lease again.
    #[test]
    fn a_consumer_that_waits_is_called_when_one_that_has_waited_is_given_something() {
        let (store, group, [(one, _), (other, signal)]) = caught_up();
        assert_eq!((until(&group, one), until(&group, other)), (None, Some(Duration::MAX)));
        append(&store);
        assert_eq!(until(&group, other), Some(Duration::MAX), "it is the event of the one that waits");
        signal.take();
        assert!(matches!(group.take(one), Ok(Taken::Event { .. })));
        assert!(signal.take(), "it is called");
        assert_eq!(until(&group, other), Some(LEASE));
    }

    /// They would do nothing else any more.
    #[test]
    fn consumers_that_go_on_to_wait_do_not_call_each_other() {
        let (_store, group, consumers) = caught_up();
        for (number, _) in consumers.iter().cycle().take(6) {
            until(&group, *number);
        }
        assert!(consumers.iter().all(|(_, signal)| !signal.take()));
    }
}
