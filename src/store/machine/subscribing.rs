//! Subscriptions: what they deliver, and how far they remember that they came.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check;
use super::journal::{Meaning, Value};
use super::model::{Place, Standing};
use super::operation::{ReadSpec, Start, SubscribeSpec};
use super::world::World;
use crate::error::{Error, Result};
use crate::store::{RecordedEvent, Store};
use crate::subscription::{Horizon, Item, Subscribe, Subscription};
use crate::types::{Durability, Position};

/// How far a subscription is.
struct Progress {
    /// The checkpoint that was saved last, 0 for the beginning.
    saved: u64,
    /// The last position that was looked at.
    looked: u64,
    /// The positions that were delivered and not acknowledged.
    out: BTreeSet<u64>,
}

impl Progress {
    /// Everything up to here is acknowledged or does not match.
    fn checkpoint(&self) -> u64 {
        self.out.first().map_or(self.looked, |first| first - 1)
    }
}

/// What a subscription has delivered at once.
struct Pulled {
    events: Vec<RecordedEvent>,
    has_caught_up: bool,
    ack: Box<dyn FnOnce() -> Result<()>>,
}

impl World {
    /// Everything behind the checkpoint is delivered, in order, and nothing before it.
    pub(super) fn subscribe(&mut self, store: &Store, spec: &SubscribeSpec) {
        let Some((mut subscription, saved)) = self.open_subscription(store, spec) else { return };
        let mut progress = Progress { saved, looked: saved, out: BTreeSet::new() };
        self.check_held(store, spec.name);
        self.pull(store, spec, &mut subscription, &mut progress);
        let closed = subscription.close();
        self.note_progress(store, spec.name, &mut progress, closed);
        assert!(store.hold(spec.name).is_ok(), "a subscription that is closed holds its name");
        let saved = store.subscription_checkpoint(spec.name);
        if let Some(saved) = self.excused(saved, "look for a checkpoint").filter(|_| !self.is_troubled) {
            let expected = Position::new(progress.saved);
            assert_eq!(saved.map(|point| point.position), expected, "the checkpoint of {:?}", spec.name);
        }
    }

    /// Opens a subscription, and says behind which position it begins.
    fn open_subscription(&mut self, store: &Store, spec: &SubscribeSpec) -> Option<(Subscription, u64)> {
        let start = settled(spec.start, self.model.head());
        let opened = subscribe_of(store, spec, start).open();
        let is_invalid = spec.batch == Some(0);
        match self.journal.value(&checkpoint_key(spec.name)).map(|value| value.meaning) {
            Some(Meaning::Checkpoint(place)) if !is_invalid => {
                self.reopen_subscription(store, spec.name, start, opened, place)
            }
            _ if is_invalid || matches!(start, Start::After(after) if after.position() > self.model.head()) => {
                let is_right =
                    matches!(&opened, Err(error) if matches!(error, Error::Invalid(_)) || self.excuses(error));
                assert!(is_right, "{spec:?} is not refused: {opened:?}");
                None
            }
            _ => self.begin_subscription(store, spec, start, opened),
        }
    }

    fn reopen_subscription(
        &mut self,
        store: &Store,
        name: &'static str,
        start: Start,
        opened: Result<Subscription>,
        place: Option<Place>,
    ) -> Option<(Subscription, u64)> {
        let standing = place.as_ref().map_or(Standing::Same, |place| self.model.standing(place));
        if let Err(Error::HistoryChanged { .. }) = opened {
            assert_ne!(standing, Standing::Same, "the checkpoint of {name:?} is of this history");
            self.unsubscribe(store, name);
            return None;
        }
        let subscription = self.excused(opened, "subscribe")?;
        assert_ne!(standing, Standing::Other, "the checkpoint of {name:?} is of another history");
        if !is_beginning(start) {
            // Where it goes on is not lost with the power: it would begin elsewhere.
            self.journal.sync();
        }
        Some((subscription, place.map_or(0, |place| place.position)))
    }

    /// Where a subscription begins is remembered for good, unless it is the beginning that everybody begins at.
    fn begin_subscription(
        &mut self,
        store: &Store,
        spec: &SubscribeSpec,
        start: Start,
        opened: Result<Subscription>,
    ) -> Option<(Subscription, u64)> {
        let begin = match start {
            Start::Usual | Start::Beginning => 0,
            Start::After(after) => after.position(),
            Start::End => self.horizon(horizon_of(spec)),
        };
        if is_beginning(start) {
            return self.excused(opened, "subscribe").map(|subscription| (subscription, 0));
        }
        let (subscription, saved) = match opened {
            Ok(subscription) => (Some(subscription), Ok(())),
            Err(error) => (None, Err(error)),
        };
        if subscription.is_some() && begin > self.model.synced {
            self.model.synced = self.model.head();
        }
        self.note_checkpoint(store, spec.name, begin, saved, Durability::Synced);
        subscription.map(|subscription| (subscription, begin))
    }

    /// Nobody else does anything under the name of a subscription that is open.
    fn check_held(&self, store: &Store, name: &str) {
        let others =
            [store.hold(name).map(drop), store.subscribe(name).open().map(drop), store.delete_subscription(name)];
        for other in others {
            let is_right = matches!(&other, Err(error) if matches!(error, Error::Held { .. }) || self.excuses(error));
            assert!(is_right, "{name:?} is not held: {other:?}");
        }
    }

    /// Pulls until it has caught up, or something fails, and acknowledges what comes first.
    fn pull(&mut self, store: &Store, spec: &SubscribeSpec, subscription: &mut Subscription, progress: &mut Progress) {
        let last = self.horizon(horizon_of(spec));
        let begin = Some((progress.saved, false));
        let behind = ReadSpec { query: spec.query.clone(), begin, ..ReadSpec::default() };
        let mut expected = self.model.read(&behind, last).into_iter();
        for count in 0.. {
            let pulled = pull(subscription, spec.batch);
            let Some(Pulled { events, has_caught_up, ack }) = self.excused(pulled, "pull") else { return };
            for event in &events {
                assert_eq!(Some(event.position.number()), expected.next(), "the place of an event");
                check::assert_same(event, self.model.at(event.position.number()));
                progress.out.insert(event.position.number());
                progress.looked = event.position.number();
            }
            self.counts.delivered += events.len() as u64;
            let most = spec.batch.unwrap_or(1);
            let is_whole = events.len() == most || has_caught_up || self.is_troubled;
            assert!(events.len() <= most && is_whole, "{} events at once, {spec:?}", events.len());
            if has_caught_up {
                assert_eq!(expected.next(), None, "what was not delivered");
                progress.looked = progress.looked.max(last);
            }
            self.check_progress(subscription, progress);
            if count < spec.acknowledged && !events.is_empty() {
                self.counts.acknowledged += events.len() as u64;
                progress.out.retain(|position| events.iter().all(|event| event.position.number() != *position));
                let acked = ack();
                self.note_progress(store, spec.name, progress, acked);
                self.check_progress(subscription, progress);
            }
            if has_caught_up {
                return;
            }
        }
    }

    fn check_progress(&mut self, subscription: &Subscription, progress: &Progress) {
        let checkpoint = progress.checkpoint();
        assert_eq!(subscription.checkpoint(), Position::new(checkpoint), "how far a subscription is");
        if let Some(lag) = self.excused(subscription.lag(), "ask for the lag") {
            self.check_lag(lag, checkpoint);
        }
    }

    /// A checkpoint is saved if it has moved, by an acknowledgement or by the close.
    fn note_progress(&mut self, store: &Store, name: &str, progress: &mut Progress, saved: Result<()>) {
        let checkpoint = progress.checkpoint();
        if checkpoint <= progress.saved {
            self.excused(saved, "save no checkpoint");
        } else if self.note_checkpoint(store, name, checkpoint, saved, Durability::Os) {
            progress.saved = checkpoint;
        }
    }

    /// Takes a checkpoint that was saved, or may be; whether it was.
    fn note_checkpoint(
        &mut self,
        store: &Store,
        name: &str,
        position: u64,
        saved: Result<()>,
        durability: Durability,
    ) -> bool {
        let key = checkpoint_key(name);
        let bytes = store.state().and_then(|state| state.get(&key)).unwrap_or_default();
        let place = (position > 0).then(|| self.model.place(position));
        let value = Value { bytes: bytes.filter(|_| saved.is_ok()), meaning: Meaning::Checkpoint(place) };
        self.note_write(saved, vec![(key, Some(value))], durability).is_some()
    }

    pub(super) fn unsubscribe(&mut self, store: &Store, name: &'static str) {
        let deleted = store.delete_subscription(name);
        let is_deleted = deleted.is_ok();
        self.note_deletion(deleted, checkpoint_key(name), Durability::Synced);
        let left = store.subscription_checkpoint(name);
        let left = self.excused(left, "look for a checkpoint that was deleted").flatten();
        assert!(!is_deleted || left.is_none(), "the checkpoint of {name:?} was deleted");
    }
}

fn subscribe_of(store: &Store, spec: &SubscribeSpec, start: Start) -> Subscribe {
    let subscribe = store.subscribe(spec.name).query(spec.query.query());
    let subscribe = match start {
        Start::Usual => subscribe,
        Start::Beginning => subscribe.from_start(),
        Start::After(after) => subscribe.after(Position::new(after.position())),
        Start::End => subscribe.from_end(),
    };
    let subscribe = if spec.visible { subscribe.visible() } else { subscribe.synced() };
    match spec.batch {
        Some(events) => subscribe.batch(events, Duration::ZERO),
        None => subscribe,
    }
}

fn pull(subscription: &mut Subscription, batch: Option<usize>) -> Result<Pulled> {
    if batch.is_some() {
        let batch = subscription.next_batch()?;
        let events = batch.iter().map(|delivery| RecordedEvent::clone(delivery)).collect();
        return Ok(Pulled { events, has_caught_up: batch.has_caught_up(), ack: Box::new(|| batch.ack()) });
    }
    match subscription.next_within(Duration::ZERO)? {
        Some(Item::Event(delivery)) => {
            assert_eq!(delivery.attempt(), 1, "{delivery:?} was delivered before");
            let events = vec![RecordedEvent::clone(&delivery)];
            Ok(Pulled { events, has_caught_up: false, ack: Box::new(|| delivery.ack()) })
        }
        Some(Item::CaughtUp) => Ok(Pulled { events: Vec::new(), has_caught_up: true, ack: Box::new(|| Ok(())) }),
        None => panic!("nothing comes, and it has not caught up"),
    }
}

fn settled(start: Start, head: u64) -> Start {
    match start {
        Start::After(after) => Start::After(after.settled(head)),
        start => start,
    }
}

fn is_beginning(start: Start) -> bool {
    match start {
        Start::Usual | Start::Beginning => true,
        Start::After(after) => after.position() == 0,
        Start::End => false,
    }
}

fn horizon_of(spec: &SubscribeSpec) -> Horizon {
    if spec.visible { Horizon::Visible } else { Horizon::Synced }
}

/// The key of a subscription's checkpoint, as it is in stores that exist.
fn checkpoint_key(name: &str) -> String {
    format!("checkpoint-{name}")
}
