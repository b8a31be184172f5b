//! Beginning to subscribe: what, from where, how far, and together with whom.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::checkpoint::{Checkpoints, Saved};
use super::consumer::{Batching, Subscription};
use super::follow::{Follow, Horizon};
use super::group::Group;
use crate::error::{Invalid, Result, Violation};
use crate::limits::UNACKNOWLEDGED_EVENTS_MAX;
use crate::sync::Mutex;
use crate::types::Position;
use crate::{HistoryPoint, Query, Store};

/// The groups of consumers of one open store, by name.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<String, Weak<Group>>>);

/// A subscription that is described first, and then opened.
#[derive(Debug)]
#[must_use = "a subscription does nothing before it is opened"]
pub struct Subscribe {
    store: Store,
    name: String,
    query: Query,
    begin: Begin,
    horizon: Horizon,
    lease: Option<Duration>,
    batching: Batching,
}

/// Where a subscription begins that has no checkpoint yet.
#[derive(Debug)]
enum Begin {
    After(Option<Position>),
    End,
}

impl Store {
    /// Subscribes to events under a name. What was acknowledged under it is not delivered again, in this process or
    /// after it; everything else is delivered at least once.
    ///
    /// ```
    /// use annals::{ExpectedVersion, Item, NewEvent, Query, Store};
    ///
    /// let store = Store::in_memory()?;
    /// store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
    ///
    /// for item in store.subscribe("mailer").query(Query::types(["Opened"])).open()? {
    ///     match item? {
    ///         Item::Event(event) => {
    ///             println!("welcome, {}", event.stream);
    ///             event.ack()?;
    ///         }
    ///         Item::CaughtUp => break, // or go on, and wait for what comes
    ///     }
    /// }
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn subscribe(&self, name: impl Into<String>) -> Subscribe {
        Subscribe {
            store: self.clone(),
            name: name.into(),
            query: Query::all(),
            begin: Begin::After(None),
            horizon: Horizon::default(),
            lease: None,
            batching: Batching::default(),
        }
    }

    /// Where a subscription goes on when it is opened the next time; `None` if it was never opened, or nothing was
    /// acknowledged since it began at the beginning.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the name breaks a limit; [`Error::Codec`](crate::Error::Codec) if the checkpoint of this name is not a
    /// subscription's; those of [`State::get`](crate::State::get).
    pub fn subscription_checkpoint(&self, name: &str) -> Result<Option<HistoryPoint>> {
        Ok(Checkpoints::new(self, name)?.load()?.and_then(|Saved::Subscription(point)| point))
    }

    /// Forgets a subscription, which begins anew when it is opened the next time. It is forgotten for good when this
    /// returns, also if the power fails.
    ///
    /// # Errors
    /// [`Error::Held`](crate::Error::Held) if it is active; [`Error::Invalid`](crate::Error::Invalid) if the name breaks a limit; those of
    /// [`State::delete`](crate::State::delete).
    pub fn delete_subscription(&self, name: &str) -> Result<()> {
        let checkpoints = Checkpoints::new(self, name)?;
        let _held = self.hold(name)?;
        checkpoints.delete()
    }
}

impl Subscribe {
    /// Subscribes to the events that match; otherwise to all.
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// Begins at the beginning of the log, as is usual, if the name has no checkpoint yet.
    pub fn from_start(mut self) -> Self {
        self.begin = Begin::After(None);
        self
    }

    /// Begins with what comes after it is opened, if the name has no checkpoint yet. Where that is does not change any
    /// more, also if the power fails before anything is acknowledged.
    pub fn from_end(mut self) -> Self {
        self.begin = Begin::End;
        self
    }

    /// Begins behind this position, if the name has no checkpoint yet; `None` begins at the beginning. Where that is does
    /// not change any more, as with [`Subscribe::from_end`].
    pub fn after(mut self, position: impl Into<Option<Position>>) -> Self {
        self.begin = Begin::After(position.into());
        self
    }

    /// Delivers what a loss of power cannot undo, as is usual.
    pub fn synced(mut self) -> Self {
        self.horizon = Horizon::Synced;
        self
    }

    /// Delivers what is visible, sooner.
    pub fn visible(mut self) -> Self {
        self.horizon = Horizon::Visible;
        self
    }

    /// Has [`Subscription::next_batch`] collect so many events, or as many as come in this time after the first of them.
    /// Otherwise it takes what is there, up to 100.
    pub fn batch(mut self, events_max: usize, delay_max: Duration) -> Self {
        self.batching = Batching { events_max, delay_max };
        self
    }

    /// Shares the subscription with all others of this name that are opened so in this process. Each stream stays with
    /// one consumer while that one has events of it which it has not acknowledged; what a consumer has goes to others
    /// when it is dropped, or neither asks for more nor acknowledges anything for the time of the lease.
    pub fn shared(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Opens it. One that does not begin at the beginning syncs where it begins or goes on.
    ///
    /// # Errors
    /// [`Error::Held`](crate::Error::Held) if the name is active and either one is not shared; [`Error::HistoryChanged`](crate::Error::HistoryChanged) if the checkpoint is
    /// of another history: see to the effects outside, then [`Store::delete_subscription`]; [`Error::Invalid`](crate::Error::Invalid) if the
    /// name, the batch or the lease breaks a limit, or others share it with another query, horizon or lease;
    /// [`Error::ReadOnly`](crate::Error::ReadOnly) on a store that is open for reading, unless the name has a checkpoint or begins at the
    /// beginning, in which case acknowledging fails with it; those of [`State::write`](crate::State::write) and
    /// [`Store::sync`].
    pub fn open(self) -> Result<Subscription> {
        self.check()?;
        if self.lease.is_some() { self.open_shared() } else { self.open_alone() }
    }

    fn check(&self) -> Result<()> {
        let mut violations = Vec::new();
        if !(1..=UNACKNOWLEDGED_EVENTS_MAX).contains(&self.batching.events_max) {
            let problem = format!("{} events, 1 to {UNACKNOWLEDGED_EVENTS_MAX} are allowed", self.batching.events_max);
            violations.push(Violation::new(None, "batch", problem));
        }
        if self.lease.is_some_and(|lease| lease.is_zero()) {
            violations.push(Violation::new(None, "lease", "it would expire at once"));
        }
        if violations.is_empty() { Ok(()) } else { Err(Invalid { violations }.into()) }
    }

    fn open_alone(self) -> Result<Subscription> {
        let group = self.open_group()?;
        Ok(Subscription::join(&self.store, group, self.batching))
    }

    fn open_shared(self) -> Result<Subscription> {
        let groups = self.store.attachment::<Groups>();
        let mut by_name = groups.0.lock();
        let group = match by_name.get(&self.name).and_then(Weak::upgrade) {
            Some(group) if group.is_alike(&self.query, self.horizon, self.lease) => group,
            Some(_) => {
                let problem = format!("others share {:?} with another query, horizon or lease", self.name);
                return Err(Invalid::of("shared", problem).into());
            }
            None => {
                let group = self.open_group()?;
                by_name.insert(self.name.clone(), Arc::downgrade(&group));
                group
            }
        };
        Ok(Subscription::join(&self.store, group, self.batching))
    }

    /// Holds the name and finds the place.
    fn open_group(&self) -> Result<Arc<Group>> {
        let checkpoints = Checkpoints::new(&self.store, &self.name)?;
        let held = self.store.hold(&self.name)?;
        let follow = self.store.follow(self.query.clone()).upto(self.horizon);
        let after = match checkpoints.load()? {
            Some(Saved::Subscription(point)) => self.known(point, &checkpoints)?,
            None => self.begin_anew(&checkpoints, &follow)?,
        };
        Ok(Arc::new(Group::new(Some(checkpoints), Some(held), follow.after(after), self.lease)))
    }

    /// Where it goes on may have been saved by one that began at the beginning. If it were lost with the power, this one
    /// would begin elsewhere.
    fn known(&self, point: Option<HistoryPoint>, checkpoints: &Checkpoints) -> Result<Option<Position>> {
        if let Some(point) = &point {
            self.store.check_history(point)?;
        }
        if !matches!(self.begin, Begin::After(None)) {
            checkpoints.sync()?;
        }
        Ok(point.map(|point| point.position))
    }

    /// Where it begins is remembered at once, and for good: one that begins at the end must not skip what comes before it
    /// is opened again.
    fn begin_anew(&self, checkpoints: &Checkpoints, follow: &Follow) -> Result<Option<Position>> {
        let after = match self.begin {
            Begin::After(None) => return Ok(None),
            Begin::After(after) => after,
            Begin::End => follow.head()?,
        };
        checkpoints.begin(after)?;
        Ok(after)
    }
}

impl Groups {
    /// Has a consumer leave its group, which is gone with the last one.
    pub(super) fn leave(&self, name: &str, group: &Group, number: u64) -> Result<()> {
        let mut by_name = self.0.lock();
        let (was_last, saved) = group.leave(number);
        if was_last {
            by_name.remove(name);
        }
        saved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExpectedVersion;
    use crate::storage::{Disk, FaultyDisk, MemoryDisk};
    use crate::types::Durability;
    use crate::{Item, NewEvent, Options};

    /// What a loss of power may leave of a store.
    const CUTS: u64 = 24;

    fn open(disk: impl Disk + 'static, durability: Durability) -> Store {
        let options = Options::new().durability(durability).without_background_work();
        Store::open_on(Arc::new(disk), options, true).unwrap()
    }

    fn append(store: &Store) {
        store.append("a-1", ExpectedVersion::Any, [NewEvent::raw("Counted", "")]).unwrap();
    }

    /// Acknowledges everything that is there.
    fn handle_all(mut subscription: Subscription) -> Vec<u64> {
        let mut handled = Vec::new();
        while let Some(Item::Event(delivery)) = subscription.next_within(Duration::ZERO).unwrap() {
            handled.push(delivery.position.number());
            delivery.ack().unwrap();
        }
        handled
    }

    #[test]
    fn what_is_appended_behind_the_end_that_it_began_at_is_delivered_though_the_power_failed() {
        let lease = Duration::from_secs(60);
        let beginnings: [fn(&Store) -> Subscribe; 3] = [
            |store| store.subscribe("mailer").from_end(),
            |store| store.subscribe("mailer").after(store.head().unwrap()),
            |store| store.subscribe("mailer").from_end().visible(),
        ];
        for (number, begin) in beginnings.into_iter().enumerate() {
            for subscribe in [|begun: Subscribe, _| begun, Subscribe::shared] {
                let disk = FaultyDisk::new(MemoryDisk::new());
                let store = open(disk.clone(), Durability::Synced);
                append(&store);
                let _waits = subscribe(begin(&store), lease).open().unwrap();
                append(&store);
                for seed in 0..CUTS {
                    let left = open(disk.power_cut(seed), Durability::Synced);
                    let handled = handle_all(subscribe(begin(&left), lease).open().unwrap());
                    assert_eq!(handled, [2], "beginning {number}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn where_one_goes_on_that_would_begin_at_the_end_otherwise_is_not_lost_with_the_power() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(disk.clone(), Durability::Synced);
        append(&store);
        assert_eq!(handle_all(store.subscribe("mailer").open().unwrap()), [1]);
        let _waits = store.subscribe("mailer").from_end().open().unwrap();
        append(&store);
        for seed in 0..CUTS {
            let left = open(disk.power_cut(seed), Durability::Synced);
            assert_eq!(handle_all(left.subscribe("mailer").from_end().open().unwrap()), [2], "seed {seed}");
        }
    }

    #[test]
    fn one_that_begins_behind_what_is_not_synced_is_not_of_another_history_after_a_loss_of_power() {
        let beginnings: [fn(&Store) -> Subscribe; 2] = [
            |store| store.subscribe("mailer").from_end().visible(),
            |store| store.subscribe("mailer").after(Position::FIRST),
        ];
        for begin in beginnings {
            let disk = FaultyDisk::new(MemoryDisk::new());
            let store = open(disk.clone(), Durability::Os);
            append(&store);
            let _waits = begin(&store).open().unwrap();
            for seed in 0..CUTS {
                let left = open(disk.power_cut(seed), Durability::Os);
                let again = begin(&left).open().unwrap();
                assert_eq!(again.checkpoint(), Some(Position::FIRST), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_subscription_that_was_deleted_does_not_come_back_with_the_power() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(disk.clone(), Durability::Os);
        append(&store);
        assert_eq!(handle_all(store.subscribe("mailer").visible().open().unwrap()), [1]);
        store.sync().unwrap();
        store.state().unwrap().sync().unwrap();
        store.delete_subscription("mailer").unwrap();
        for seed in 0..CUTS {
            let left = open(disk.power_cut(seed), Durability::Os);
            assert_eq!(handle_all(left.subscribe("mailer").open().unwrap()), [1], "seed {seed}");
        }
    }
}
