//! The open instances of a process manager and the timers they wait for: what is derived from their streams.
//!
//! In memory while the process manager runs, and saved with its checkpoint, one value for each open instance, so that a
//! start costs the open ones and what was written since, never all that there ever were. It is a cache: before a timer
//! fires, the instance itself is asked.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::instance::Timer;
use super::record::Outline;
use crate::error::{Error, Result};
use crate::types::Timestamp;
use crate::{Event, HistoryPoint, Query, State, StateBatch, Store};

/// Most values that are saved in one step.
const BATCH_KEYS_MAX: usize = 4_096;

/// A step ends with the value that makes it so large: one of an instance with all the timers it may have still fits into
/// a commit with it.
const BATCH_BYTES: usize = 1024 * 1024;

/// The open instances, by id, with their timers.
#[derive(Debug, Default)]
pub(super) struct OpenInstances {
    instances: BTreeMap<String, Vec<Timer>>,
    /// All timers, in the order in which they are due.
    due: BTreeSet<(Timer, String)>,
    /// Instances that are not saved as they are.
    unsaved: BTreeSet<String>,
    /// Instances that have a saved value.
    saved: BTreeSet<String>,
}

/// What is to be saved.
pub(super) struct Unsaved {
    pub(super) instances: Vec<String>,
    /// To be written in order.
    pub(super) batches: Vec<StateBatch>,
}

/// Up to where the saved instances are right: the last event of the process manager's own streams that they reflect.
#[derive(Serialize, Deserialize)]
struct Reach {
    point: Option<HistoryPoint>,
}

impl OpenInstances {
    /// Those that were saved, brought up to date with what was written since. From another history, all streams of the
    /// process manager are read.
    pub(super) fn load(store: &Store, process: &str) -> Result<Self> {
        let (state, mut open) = (store.state()?, Self::default());
        let reach = Reach::load(&state, process)?;
        let keys = state.keys(&key(process, ""))?;
        for key in &keys {
            let instance = key.split_once('-').map_or("", |(_, instance)| instance).to_owned();
            let Some(bytes) = state.get(key)? else { continue };
            let timers: Vec<Timer> = decode(key, &bytes)?;
            open.saved.insert(instance.clone());
            open.set(&instance, Some(timers));
        }
        open.unsaved.clear();
        let after = match reach.point.map(|point| store.check_history(&point).map(|()| point.position)) {
            Some(Err(Error::HistoryChanged { .. })) => {
                open.forget_all();
                None
            }
            Some(result) => Some(result?),
            None => None,
        };
        let mut read = store.read(Query::category(process)).after(after);
        while let Some(event) = read.next()? {
            open.follow(&event)?;
        }
        Ok(open)
    }

    fn forget_all(&mut self) {
        self.unsaved.extend(std::mem::take(&mut self.instances).into_keys());
        self.due.clear();
    }

    /// Takes in an event of the stream of an instance.
    fn follow(&mut self, event: &Event<'_>) -> Result<()> {
        let Some((_, instance)) = event.stream().split_once('-') else { return Ok(()) };
        self.update(instance, &Outline::decode(event)?);
        Ok(())
    }

    /// Takes in how an instance is after a step.
    pub(super) fn update(&mut self, instance: &str, outline: &Outline) {
        self.set(instance, outline.is_open.then(|| outline.timers.clone()));
    }

    fn set(&mut self, instance: &str, timers: Option<Vec<Timer>>) {
        if self.instances.get(instance) == timers.as_ref() {
            return;
        }
        for timer in self.instances.remove(instance).unwrap_or_default() {
            self.due.remove(&(timer, instance.to_owned()));
        }
        if let Some(timers) = timers {
            self.due.extend(timers.iter().map(|timer| (timer.clone(), instance.to_owned())));
            self.instances.insert(instance.to_owned(), timers);
        }
        self.unsaved.insert(instance.to_owned());
    }

    /// What makes the saved values those of now; what it changes counts as saved, unless it is
    /// [given back](Self::keep_unsaved). `point` is that of the last event which they reflect. It is in the last batch,
    /// since what is saved too early is only told again.
    pub(super) fn take_unsaved(&mut self, process: &str, point: Option<HistoryPoint>) -> Unsaved {
        let instances: Vec<String> = std::mem::take(&mut self.unsaved).into_iter().collect();
        let mut batches = self.batches(process, &instances);
        let last = batches.pop().unwrap_or_default();
        batches.push(last.put(reach_key(process), encode(&Reach { point })));
        for instance in &instances {
            if self.instances.contains_key(instance) {
                self.saved.insert(instance.clone());
            } else {
                self.saved.remove(instance);
            }
        }
        Unsaved { instances, batches }
    }

    /// Takes back instances of which it is not known whether they were saved.
    pub(super) fn keep_unsaved(&mut self, instances: Vec<String>) {
        self.saved.extend(instances.iter().cloned());
        self.unsaved.extend(instances);
    }

    fn batches(&self, process: &str, instances: &[String]) -> Vec<StateBatch> {
        let (mut batches, mut batch, mut keys, mut bytes) = (Vec::new(), StateBatch::new(), 0, 0);
        for instance in instances {
            let key = key(process, instance);
            bytes += key.len();
            match self.instances.get(instance).map(encode) {
                Some(timers) => {
                    bytes += timers.len();
                    batch = batch.put(key, timers);
                }
                None if self.saved.contains(instance) => batch = batch.delete(key),
                None => continue,
            }
            keys += 1;
            if keys == BATCH_KEYS_MAX || bytes >= BATCH_BYTES {
                batches.push(std::mem::take(&mut batch));
                (keys, bytes) = (0, 0);
            }
        }
        batches.push(batch);
        batches
    }

    /// The timer that is due first, and its instance.
    pub(super) fn first_due(&self) -> Option<(&Timer, &str)> {
        self.due.first().map(|(timer, instance)| (timer, instance.as_str()))
    }

    /// The ids, ascending.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.instances.keys().map(String::as_str)
    }

    /// All timers that are waited for, the first that is due first.
    pub(super) fn timers(&self) -> impl Iterator<Item = (&Timer, &str)> {
        self.due.iter().map(|(timer, instance)| (timer, instance.as_str()))
    }

    /// Whether a timer is due at a time.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.first_due().is_some_and(|(timer, _)| timer.due <= now)
    }
}

impl Reach {
    fn load(state: &State, process: &str) -> Result<Self> {
        let key = reach_key(process);
        match state.get(&key)? {
            Some(bytes) => decode(&key, &bytes),
            None => Ok(Self { point: None }),
        }
    }
}

/// The key of an instance. Those of one process manager share a category, so that no others are looked through.
fn key(process: &str, instance: &str) -> String {
    format!("process_{process}-{instance}")
}

fn reach_key(process: &str) -> String {
    format!("process-{process}")
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what is saved of an instance can be told in JSON")
}

fn decode<T: serde::de::DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Codec { what: format!("cannot decode the state {key:?}"), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExpectedVersion;
    use crate::limits::{COMMIT_BYTES_MAX, TIMER_NAME_BYTES_MAX, TIMERS_PER_INSTANCE_MAX};
    use crate::process::instance::{Instance, Place, ProcessStatus};
    use crate::process::record::{self, Cause};
    use crate::types::Position;

    fn timer(name: &str, millis: i64) -> Timer {
        Timer { name: name.into(), due: Timestamp::from_millis(millis) }
    }

    fn outline(timers: &[Timer]) -> Outline {
        Outline { is_open: true, timers: timers.to_vec() }
    }

    fn ended() -> Outline {
        Outline { is_open: false, timers: Vec::new() }
    }

    /// Writes a step of an instance, and returns its position.
    fn write(store: &Store, instance: &str, outline: Outline) -> Position {
        let place = Place { position: Position::FIRST, ordinal: 0 };
        let mut written: Instance<u32, String> = Instance::new(place, 0);
        written.timers = outline.timers;
        if !outline.is_open {
            written.status = ProcessStatus::Completed;
        }
        let event = record::encode(&Cause::Abandoned { reason: String::new() }, &written).unwrap();
        store.append(format!("order-{instance}"), ExpectedVersion::Any, [event]).unwrap().last_position()
    }

    fn save(store: &Store, open: &mut OpenInstances, reach: Position) {
        for batch in open.take_unsaved("order", Some(store.history_point(reach).unwrap())).batches {
            store.state().unwrap().write(batch).unwrap();
        }
    }

    fn due(open: &OpenInstances) -> Vec<(&str, &str)> {
        open.timers().map(|(timer, instance)| (timer.name.as_str(), instance)).collect()
    }

    #[test]
    fn timers_are_due_in_the_order_of_their_times() {
        let mut open = OpenInstances::default();
        open.update("o1", &outline(&[timer("late", 30), timer("early", 10)]));
        open.update("o2", &outline(&[timer("middle", 20)]));
        assert_eq!(due(&open), [("early", "o1"), ("middle", "o2"), ("late", "o1")]);
        assert!(open.is_due(Timestamp::from_millis(10)) && !open.is_due(Timestamp::from_millis(9)));
        open.update("o1", &outline(&[timer("late", 15)]));
        assert_eq!(due(&open), [("late", "o1"), ("middle", "o2")]);
        open.update("o2", &ended());
        assert_eq!((due(&open), open.ids().collect::<Vec<_>>()), (vec![("late", "o1")], vec!["o1"]));
        open.update("o1", &outline(&[]));
        assert!(open.first_due().is_none());
    }

    #[test]
    fn what_was_saved_and_what_was_written_since_is_loaded() {
        let store = Store::in_memory().unwrap();
        let mut open = OpenInstances::default();
        for instance in ["kept", "ended", "moved"] {
            write(&store, instance, outline(&[timer("late", 10)]));
            open.update(instance, &outline(&[timer("late", 10)]));
        }
        let reach = store.head().unwrap().unwrap();
        save(&store, &mut open, reach);
        write(&store, "ended", ended());
        write(&store, "moved", outline(&[timer("late", 5)]));
        write(&store, "new-with-a-dash", outline(&[]));
        let mut loaded = OpenInstances::load(&store, "order").unwrap();
        assert_eq!(loaded.ids().collect::<Vec<_>>(), ["kept", "moved", "new-with-a-dash"]);
        assert_eq!(due(&loaded), [("late", "moved"), ("late", "kept")]);

        let reach = store.head().unwrap().unwrap();
        save(&store, &mut loaded, reach);
        let keys = store.state().unwrap().keys("process_order-").unwrap();
        assert_eq!(keys, ["process_order-kept", "process_order-moved", "process_order-new-with-a-dash"]);
    }

    #[test]
    fn what_was_written_before_the_last_save_is_not_read_again() {
        let store = Store::in_memory().unwrap();
        // Reading it would be an error.
        let unreadable = crate::NewEvent::raw("ProcessReacted", "?");
        store.append("order-ended", ExpectedVersion::Any, [unreadable]).unwrap();
        assert!(OpenInstances::load(&store, "order").is_err());
        let mut open = OpenInstances::default();
        open.update("o1", &outline(&[timer("late", 10)]));
        let reach = store.head().unwrap().unwrap();
        save(&store, &mut open, reach);
        write(&store, "o2", outline(&[timer("later", 20)]));
        assert_eq!(due(&OpenInstances::load(&store, "order").unwrap()), [("late", "o1"), ("later", "o2")]);
    }

    #[test]
    fn an_instance_that_comes_and_goes_between_two_saves_is_never_written() {
        let store = Store::in_memory().unwrap();
        let mut open = OpenInstances::default();
        let reach = write(&store, "o1", ended());
        open.update("o1", &outline(&[]));
        open.update("o1", &ended());
        save(&store, &mut open, reach);
        assert_eq!(store.state().unwrap().keys("process").unwrap(), ["process-order"]);
    }

    #[test]
    fn after_a_change_of_history_all_streams_are_read_again() {
        let store = Store::in_memory().unwrap();
        write(&store, "real", outline(&[timer("late", 10)]));
        let mut open = OpenInstances::default();
        open.update("imagined", &outline(&[timer("late", 5)]));
        let mut point = store.history_point(Position::FIRST).unwrap();
        point.checksum = !point.checksum;
        for batch in open.take_unsaved("order", Some(point)).batches {
            store.state().unwrap().write(batch).unwrap();
        }
        let mut loaded = OpenInstances::load(&store, "order").unwrap();
        assert_eq!(loaded.ids().collect::<Vec<_>>(), ["real"]);
        save(&store, &mut loaded, Position::FIRST);
        assert_eq!(store.state().unwrap().keys("process_order-").unwrap(), ["process_order-real"]);
    }

    #[test]
    fn more_than_one_batch_can_hold_is_saved() {
        let store = Store::in_memory().unwrap();
        let reach = write(&store, "0", outline(&[]));
        let mut open = OpenInstances::default();
        (0..=BATCH_KEYS_MAX).for_each(|number| open.update(&number.to_string(), &outline(&[])));
        save(&store, &mut open, reach);
        assert_eq!(OpenInstances::load(&store, "order").unwrap().ids().count(), BATCH_KEYS_MAX + 1);
    }

    #[test]
    fn more_timers_than_a_commit_can_hold_are_saved() {
        let store = Store::in_memory().unwrap();
        let reach = write(&store, "0", outline(&[]));
        let mut open = OpenInstances::default();
        let name = |number: usize| format!("{number:0>TIMER_NAME_BYTES_MAX$}");
        let timers: Vec<_> = (0..TIMERS_PER_INSTANCE_MAX).map(|number| timer(&name(number), 10)).collect();
        let instances = COMMIT_BYTES_MAX / (TIMERS_PER_INSTANCE_MAX * TIMER_NAME_BYTES_MAX) + 1;
        (0..instances).for_each(|number| open.update(&number.to_string(), &outline(&timers)));
        save(&store, &mut open, reach);
        let loaded = OpenInstances::load(&store, "order").unwrap();
        assert_eq!(loaded.timers().count(), instances * TIMERS_PER_INSTANCE_MAX);
    }
}
