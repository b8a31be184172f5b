//! What goes on beside appends and reads: other opens, verification, backups, statistics.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::check;
use super::model::{Model, category_of};
use super::operation::ReadSpec;
use super::sending::is_poisoned;
use super::world::World;
use crate::error::{Error, Result};
use crate::storage::{Disk, RealDisk, scratch};
use crate::store::verify::verify_on;
use crate::store::{Problem, Query, Store};
use crate::types::Position;

/// So many places are remembered at once.
const REMEMBERED_MAX: usize = 8;

/// How much a reader has shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shown {
    /// Of the log.
    head: u64,
    /// So many writes of the state.
    writes: usize,
}

impl World {
    /// Counting agrees with the log.
    pub(super) fn count(&mut self, store: &Store) {
        let stats = store.stats();
        let Some(stats) = self.excused(stats, "count") else { return };
        let events = self.model.events();
        let streams: BTreeSet<&str> = events.iter().map(|event| event.stream).collect();
        let categories: BTreeSet<&str> = streams.iter().map(|stream| category_of(stream)).collect();
        let types: BTreeSet<&str> = events.iter().map(|event| event.spec.event_type).collect();
        let counted = (stats.events, stats.streams, stats.categories, stats.types);
        let expected = (events.len(), streams.len(), categories.len(), types.len());
        assert_eq!(counted, (expected.0 as u64, expected.1 as u64, expected.2 as u64, expected.3 as u64));
        assert_eq!(stats.head, Position::new(self.model.head()));
        let counted = store.read(Query::all()).count();
        assert!(self.excused(counted, "count").is_none_or(|count| count == stats.events));
        let bytes = self.excused(store.log_bytes(), "count bytes");
        assert!(bytes.is_none_or(|bytes| bytes == stats.bytes), "{bytes:?} of {}", stats.bytes);
    }

    /// A handle that is lent shows what the store shows, and its guard comes back with the last read through it.
    pub(super) fn lend(&mut self, store: &Store, spec: &ReadSpec) {
        let guard = Arc::new(());
        let lent = store.with_guard(guard.clone());
        let compared = check::compare(&lent, &self.model, spec, self.model.head());
        self.excused(compared, "read through a handle that is lent");
        let other = lent.clone();
        let read = other.read(spec.query.query());
        drop(lent);
        drop(other);
        assert!(Arc::strong_count(&guard) > 1, "the guard came back before the read was over");
        drop(read);
        assert_eq!(Arc::strong_count(&guard), 1, "somebody has kept the guard");
    }

    pub(super) fn remember(&mut self, store: &Store, back: u64) {
        let Some(position) = self.model.head().checked_sub(back).and_then(Position::new) else { return };
        let point = store.history_point(position);
        let Some(point) = self.excused(point, "remember a position") else { return };
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.remove(0);
        }
        self.remembered.push((point, self.model.place(position.number())));
        let checked = check::places(store, &self.model, &self.remembered);
        self.excused(checked, "check what was remembered");
    }

    /// A second writer is refused, and changes nothing.
    pub(super) fn open_twice(&mut self) {
        let opened = Store::open_on(self.disk(), self.options(), true);
        match opened {
            Err(Error::Locked { .. }) => {}
            Err(error) => assert!(self.excuses(&error), "a second open for writing: {error:?}"),
            Ok(_) => panic!("two writers have the store open"),
        }
    }

    /// Opens the store for reading, beside its writer or alone.
    pub(super) fn look_beside(&mut self, spec: &ReadSpec) {
        let Some(reader) = self.open_reader() else { return };
        let looked = self.compare_beside(&reader, Shown::default(), spec);
        self.excused(looked, "read beside the writer");
    }

    /// Reads on with the reader that is there, which shows no less than it has shown.
    pub(super) fn look_on(&mut self, spec: &ReadSpec) {
        if self.follower.is_none() {
            self.follower = self.open_reader();
            self.followed = Shown::default();
        }
        let Some(follower) = self.follower.clone() else { return };
        let looked = self.compare_beside(&follower, self.followed, spec);
        if let Some(shown) = self.excused(looked, "follow the writer") {
            self.followed = shown;
        }
    }

    fn open_reader(&mut self) -> Option<Store> {
        let opened = Store::open_read_only_on(self.disk_beside(), self.options());
        if let Err(Error::NotFound { .. }) = opened {
            assert!(!self.is_made, "a store that was made is not found");
            return None;
        }
        self.excused(opened, "open for reading")
    }

    /// A reader shows a beginning of the log, no more than is known to be synced, and the state as it was after one of its
    /// writes; of both no less than it has shown before.
    fn compare_beside(&mut self, reader: &Store, before: Shown, spec: &ReadSpec) -> Result<Shown> {
        let head = reader.head()?.map_or(0, Position::number);
        assert!(head >= before.head, "a reader that showed {} positions shows {head}", before.head);
        let known = self.confirmed();
        assert!(head <= known.head(), "a reader shows {head} positions");
        // What tells others how far the log is synced is itself not synced, until the log is opened again.
        let is_told = self.is_open() && !self.is_troubled;
        assert!(!is_told || head >= known.synced, "a reader shows {head} of {} positions", known.synced);
        check::compare(reader, &known, spec, head)?;
        let found = check::values(&reader.state()?)?;
        let least = if is_told { self.journal.synced().max(before.writes) } else { before.writes };
        let writes = self.journal.shown(&found, least);
        let Some(writes) = writes else {
            panic!("a reader that has to show {least} writes of the state shows {found:?}")
        };
        self.model.show(head);
        Ok(Shown { head, writes })
    }

    /// The model with all that a reader may show. What is in doubt may be synced: the first part of a batch before a
    /// later part failed, and all of it by an open that failed behind that.
    fn confirmed(&self) -> Model {
        let mut model = self.model.clone();
        match self.is_open() && !model.has_doubt() {
            true => model.doubt_behind(model.synced),
            false => model.doubt_behind(model.possible().len() as u64),
        }
        model
    }

    /// Whatever has happened to the disk, no byte is wrong that is not explained by it.
    pub(super) fn verify(&mut self) {
        let report = verify_on(&self.disk(), &mut |_| {});
        if let Err(Error::NotFound { .. }) = report {
            assert!(!self.is_made, "a store that was made is not found");
            return;
        }
        let Some(report) = self.excused(report, "verify") else { return };
        // A synced head that was not written as a whole says nothing, and the next open writes it again.
        let is_excused = |problem: &Problem| !self.is_open() && problem.file.ends_with("synced-head");
        let problems: Vec<&Problem> = report.problems.iter().filter(|problem| !is_excused(problem)).collect();
        assert!(self.is_troubled || problems.is_empty(), "{problems:?}");
        let least = if self.is_troubled { 0 } else { self.model.synced };
        assert!(report.events >= least, "{} events of {least} were verified", report.events);
    }

    /// A backup is a store with all that was synced when it was made, and goes its own way.
    pub(super) fn back_up(&mut self, store: &Store) {
        let directory = scratch();
        let path = directory.path().join("backup");
        let report = store.backup(&path);
        let Some(report) = self.excused(report, "back up") else { return };
        assert_ne!(report.store, store.id());
        if !is_poisoned(store) {
            self.model.synced = self.model.head();
        }
        assert_eq!(report.head, Position::new(self.model.synced), "the head of a backup");
        self.counts.backups += 1;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&path));
        self.check_backup(&Store::open_on(Arc::clone(&disk), self.options(), false).unwrap()).unwrap();
        let problems = verify_on(&disk, &mut |_| {}).unwrap().problems;
        assert!(problems.is_empty(), "a backup: {problems:?}");
    }

    fn check_backup(&self, backup: &Store) -> Result<()> {
        let mut model = self.model.without_doubt();
        model.doubt_behind(model.synced);
        let model = model.without_doubt();
        check::assert_same_events(&check::everything(backup)?, model.events());
        check::every_query(backup, &model)?;
        let state = check::values(&backup.state()?)?;
        for (key, value) in self.journal.values().iter().filter(|(key, _)| !key.starts_with("snapshot-")) {
            assert!(value.bytes.is_none() || value.bytes.as_ref() == state.get(key), "{key} in a backup");
        }
        Ok(())
    }
}
