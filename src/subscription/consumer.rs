//! A consumer of a subscription: a blocking iterator over what is delivered to it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::follow::{Follow, Lag};
use super::group::Group;
use super::progress::Taken;
use super::subscribe::Groups;
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::Position;
use crate::{RecordedEvent, Store, Watch};

/// What a subscription delivers.
#[derive(Debug)]
pub enum Item {
    /// An event. It is delivered again after a restart, and to another consumer, until it is acknowledged.
    Event(Delivery),
    /// Everything up to the head was delivered; what follows is live. Told once to each consumer.
    CaughtUp,
}

/// An event that was delivered, with the duty to acknowledge it.
#[derive(Debug)]
#[must_use = "an event that is not acknowledged is delivered again"]
pub struct Delivery {
    event: Box<RecordedEvent>,
    attempt: u32,
    group: Arc<Group>,
    consumer: u64,
}

/// Events that were collected, to be handled and acknowledged together.
#[derive(Debug)]
#[must_use = "events that are not acknowledged are delivered again"]
pub struct Batch {
    deliveries: Vec<Delivery>,
    has_caught_up: bool,
}

/// How batches are collected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batching {
    pub(super) events_max: usize,
    pub(super) delay_max: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self { events_max: 100, delay_max: Duration::ZERO }
    }
}

/// A subscription that is open: a blocking iterator over events, first those that are there and then those that come.
///
/// It pulls: nothing is read before it is asked for, and at most
/// [`UNACKNOWLEDGED_EVENTS_MAX`](crate::limits::UNACKNOWLEDGED_EVENTS_MAX) events are out at once; then it waits for an
/// acknowledgement, which may come from any thread. The iterator ends when it is stopped, and after the first error.
///
/// It keeps the store open, as a clone of it does. Dropping it gives back its name and what it did not acknowledge.
#[derive(Debug)]
pub struct Subscription {
    store: Store,
    group: Arc<Group>,
    consumer: u64,
    watch: Arc<Watch>,
    batching: Batching,
    stopped: Arc<AtomicBool>,
    has_ended: bool,
    has_left: bool,
}

/// Stops a subscription or a replay from any thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    stopped: Arc<AtomicBool>,
    signal: Arc<Signal>,
}

impl Stopper {
    pub(super) fn new(stopped: &Arc<AtomicBool>, signal: &Arc<Signal>) -> Self {
        Self { stopped: Arc::clone(stopped), signal: Arc::clone(signal) }
    }

    /// Stops it: what waits returns, and what runs ends before the next event.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.signal.raise();
    }
}

impl Follow {
    /// A subscription without a name: it delivers owned events from here on, says when it has caught up, and remembers
    /// nothing; acknowledging does nothing.
    #[must_use]
    pub fn subscribe(self) -> Subscription {
        let store = self.store().clone();
        let watch = Arc::clone(self.watch());
        let group = Arc::new(Group::new(None, None, self, None));
        Subscription::new(store, group, watch, Batching::default())
    }
}

impl Subscription {
    pub(super) fn join(store: &Store, group: Arc<Group>, batching: Batching) -> Self {
        let watch = Arc::new(group.horizon().watch(store));
        Self::new(store.clone(), group, watch, batching)
    }

    fn new(store: Store, group: Arc<Group>, watch: Arc<Watch>, batching: Batching) -> Self {
        let consumer = group.join(watch.signal());
        let stopped = Arc::default();
        Self { store, group, consumer, watch, batching, stopped, has_ended: false, has_left: false }
    }

    /// What is next, if it comes within this time by the store's clock; `None` otherwise. With zero it does not wait.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it was stopped; [`Error::Closed`] or [`Error::Poisoned`] if everything was delivered and
    /// nothing will come any more; those of [`Read::next`](crate::Read::next).
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Item>> {
        self.pull(Some(self.store.clock().monotonic().saturating_add(timeout)))
    }

    /// Collects a batch: waits for an event, and from then on until it is full, its time is over, everything up to the
    /// head was delivered for the first time, or an error comes up, which the next call tells.
    ///
    /// # Errors
    /// Those of [`Subscription::next_within`].
    pub fn next_batch(&mut self) -> Result<Batch> {
        let mut batch = Batch { deliveries: Vec::new(), has_caught_up: false };
        let mut deadline = None;
        while batch.deliveries.len() < self.batching.events_max {
            match self.pull(deadline) {
                Ok(Some(Item::Event(delivery))) => batch.deliveries.push(delivery),
                Ok(Some(Item::CaughtUp)) => {
                    batch.has_caught_up = true;
                    break;
                }
                Err(error) if batch.deliveries.is_empty() => return Err(error),
                Ok(None) | Err(_) => break,
            }
            let now = || self.store.clock().monotonic();
            deadline = deadline.or_else(|| Some(now().saturating_add(self.batching.delay_max)));
        }
        Ok(batch)
    }

    fn pull(&mut self, deadline: Option<Duration>) -> Result<Option<Item>> {
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                // It may have waited until now.
                self.group.renew(self.consumer);
                return Err(Error::Stopped);
            }
            let until = match self.group.take(self.consumer)? {
                Taken::Event { event, attempt } => {
                    let (group, consumer) = (Arc::clone(&self.group), self.consumer);
                    return Ok(Some(Item::Event(Delivery { event, attempt, group, consumer })));
                }
                Taken::CaughtUp => return Ok(Some(Item::CaughtUp)),
                Taken::Nothing { until } => until,
            };
            let next = deadline.into_iter().chain(until).min();
            let is_over = || deadline.is_some_and(|deadline| self.store.clock().monotonic() >= deadline);
            let waited = self.watch.wait(next);
            if matches!(waited, Ok(true)) || (waited.is_ok() && !is_over()) {
                continue;
            }
            self.group.renew(self.consumer);
            return waited.map(|_| None);
        }
    }

    /// What stops it from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper::new(&self.stopped, self.watch.signal())
    }

    /// Everything up to this position was acknowledged or does not match; `None` for nothing.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Position> {
        self.group.checkpoint()
    }

    /// How far what was acknowledged is behind the visible head.
    ///
    /// # Errors
    /// Those of [`Lag::behind`].
    pub fn lag(&self) -> Result<Lag> {
        self.group.lag()
    }

    /// Ends it, as dropping does, and says whether its checkpoint could be saved. Nothing is lost if not: events are
    /// delivered again.
    ///
    /// # Errors
    /// Those of [`State::write`](crate::State::write).
    pub fn close(mut self) -> Result<()> {
        self.leave()
    }

    fn leave(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.has_left, true) {
            return Ok(());
        }
        match self.group.name() {
            Some(name) => self.store.attachment::<Groups>().leave(name, &self.group, self.consumer),
            None => self.group.leave(self.consumer).1,
        }
    }
}

impl Iterator for Subscription {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let pulled = self.pull(None).transpose()?;
        self.has_ended = pulled.is_err();
        match pulled {
            Err(Error::Stopped) => None,
            pulled => Some(pulled),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Who wants to know uses `close`.
        let _ = self.leave();
    }
}

impl Delivery {
    /// Acknowledges the event: it is not delivered again. The checkpoint moves behind it once all events before it are
    /// acknowledged as well, and is handed to the operating system then, in one small write.
    ///
    /// # Errors
    /// [`Error::LeaseExpired`] if the event went to another consumer meanwhile; [`Error::Stopped`] if the subscription
    /// is dropped; those of [`State::write`](crate::State::write), in which case the event is delivered again after a
    /// restart unless a later acknowledgement is saved.
    pub fn ack(self) -> Result<()> {
        self.group.acknowledge(self.consumer, [(self.event.position, self.attempt)].into_iter())
    }

    /// How often it was delivered since the subscription was opened, this time included: from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The store that it is from.
    pub fn store(&self) -> &Store {
        self.group.store()
    }

    /// The event alone, which is not acknowledged by that.
    #[must_use]
    pub fn into_event(self) -> RecordedEvent {
        *self.event
    }
}

impl Deref for Delivery {
    type Target = RecordedEvent;

    fn deref(&self) -> &RecordedEvent {
        &self.event
    }
}

impl Batch {
    /// Acknowledges all of its events, with one write of the checkpoint.
    ///
    /// # Errors
    /// Those of [`Delivery::ack`].
    pub fn ack(self) -> Result<()> {
        let Some(first) = self.deliveries.first() else { return Ok(()) };
        let events = self.deliveries.iter().map(|delivery| (delivery.event.position, delivery.attempt));
        first.group.acknowledge(first.consumer, events)
    }

    /// Whether everything up to the head was delivered with this batch, for the first time.
    pub fn has_caught_up(&self) -> bool {
        self.has_caught_up
    }
}

impl Deref for Batch {
    type Target = [Delivery];

    fn deref(&self) -> &[Delivery] {
        &self.deliveries
    }
}

impl IntoIterator for Batch {
    type Item = Delivery;
    type IntoIter = std::vec::IntoIter<Delivery>;

    fn into_iter(self) -> Self::IntoIter {
        self.deliveries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExpectedVersion;
    use crate::limits::UNSAVED_POSITIONS_MAX;
    use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
    use crate::{NewEvent, Options, Query};

    /// A store on a disk that can fail, with one event.
    fn store() -> (Store, FaultyDisk) {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = Store::open_on(Arc::new(disk.clone()), Options::new().without_background_work(), true).unwrap();
        append(&store).unwrap();
        (store, disk)
    }

    fn append(store: &Store) -> Result<()> {
        store.append("a-1", ExpectedVersion::Any, [NewEvent::raw("Counted", "")]).map(drop).map_err(Error::from)
    }

    fn delivered(subscription: &mut Subscription) -> Delivery {
        match subscription.next_within(Duration::ZERO) {
            Ok(Some(Item::Event(delivery))) => delivery,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_store_that_takes_no_more_appends_ends_the_waiting_after_everything_was_delivered() {
        let (store, disk) = store();
        let mut subscription = store.subscribe("mailer").open().unwrap();
        disk.inject(Fault::next(Call::Sync));
        append(&store).unwrap_err();
        delivered(&mut subscription).ack().unwrap();
        assert!(matches!(subscription.next(), Some(Ok(Item::CaughtUp))));
        let next = subscription.next();
        assert!(matches!(next, Some(Err(Error::Poisoned { .. }))), "{next:?}");
        assert!(subscription.next().is_none());
    }

    #[test]
    fn a_checkpoint_that_cannot_be_saved_is_told_and_keeps_nothing_from_coming() {
        let (store, disk) = store();
        append(&store).unwrap();
        let mut subscription = store.subscribe("mailer").after(Position::FIRST).open().unwrap();
        let second = delivered(&mut subscription);
        append(&store).unwrap();
        disk.inject(Fault::next(Call::Write).of("state/"));
        assert!(second.ack().is_err());
        // The state is poisoned by that; the subscription goes on, and says so each time.
        assert!(delivered(&mut subscription).ack().is_err());
        assert_eq!(subscription.checkpoint(), Position::new(3));
        assert!(subscription.close().is_err());
    }

    #[test]
    fn a_state_that_takes_no_checkpoint_of_what_does_not_match_keeps_nothing_from_coming() {
        let full = Fault { forever: true, ..Fault::next(Call::Write).kind(std::io::ErrorKind::StorageFull) };
        for fault in [Fault::next(Call::Write), full] {
            let (store, disk) = store();
            store.state().unwrap().put("other", "value").unwrap();
            let mut subscription = store.subscribe("mailer").query(Query::category("b")).open().unwrap();
            let others = || (0..UNSAVED_POSITIONS_MAX).map(|_| NewEvent::raw("Counted", ""));
            store.append("a-1", ExpectedVersion::Any, others()).unwrap();
            disk.inject(fault.of("state/"));
            assert!(matches!(subscription.next_within(Duration::ZERO), Ok(Some(Item::CaughtUp))), "{fault:?}");
            assert!(matches!(subscription.next_within(Duration::ZERO), Ok(None)), "{fault:?}");
            store.append("b-1", ExpectedVersion::Any, [NewEvent::raw("Counted", "")]).unwrap();
            assert!(delivered(&mut subscription).ack().is_err(), "{fault:?}");
            assert!(subscription.close().is_err(), "{fault:?}");
        }
    }
}
