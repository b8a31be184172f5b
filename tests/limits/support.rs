//! A store that is worked with while something is limited, and what has to be there afterwards.

use std::path::Path;

use annals::{
    Durability, Error, ExpectedVersion, NewEvent, NewSnapshot, Options, Query, RecordedEvent, Result, SnapshotQuery,
    Store,
};

pub(crate) use super::torture::bench::options;
pub(crate) use super::torture::{directory, files, put_files};

pub(crate) fn event(number: u64) -> NewEvent {
    NewEvent::raw("Counted", format!("{number:0300}")).tag(format!("number:{number}"))
}

/// What was done to a store, and what of it failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Story {
    /// The numbers of the events that were acknowledged, and of those of which it is unknown whether they were written.
    pub(crate) acknowledged: Vec<u64>,
    pub(crate) in_doubt: Vec<u64>,
    next: u64,
    pub(crate) failures: Vec<Error>,
}

impl Story {
    /// Everything that a store can be asked for and told, whatever fails.
    pub(crate) fn tell(&mut self, path: &Path, options: Options) {
        let Some(store) = self.note(options.open(path)) else { return };
        (0..16).for_each(|_| self.append(&store));
        self.look(&store);
        self.note(store.maintain());
        self.keep_state(&store);
        self.note(store.backup(path.with_extension("backup")));
        let _ = std::fs::remove_dir_all(path.with_extension("backup"));
        self.note(store.stats());
        (0..4).for_each(|_| self.append(&store));
        let closed = store.clone().close();
        self.note(closed);
        self.look(&store);
        drop(store);
        if let Some(report) = self.note(annals::verify(path, &mut |_| {})) {
            assert!(report.problems.is_empty(), "{:?}", report.problems);
        }
        if let Some(reader) = self.note(Options::new().open_read_only(path)) {
            self.look(&reader);
        }
    }

    pub(crate) fn append(&mut self, store: &Store) {
        self.next += 1;
        let number = self.next;
        let durability = if number.is_multiple_of(3) { Durability::Synced } else { Durability::Os };
        let commit = store.commit().append("counter-1", ExpectedVersion::Any, [event(number)]);
        match commit.durability(durability).send() {
            Ok(_) => self.acknowledged.push(number),
            Err(error) => {
                if matches!(error.error(), Error::Indeterminate { .. }) {
                    self.in_doubt.push(number);
                }
                self.failures.push(error.into());
            }
        }
    }

    /// Reads everything in every way. What can be read is right.
    pub(crate) fn look(&mut self, store: &Store) {
        for query in [Query::all(), Query::stream("counter-1"), Query::types(["Counted"])] {
            let events = self.note(store.read(query).owned().collect::<Result<Vec<_>>>());
            if let Some(events) = events {
                self.assert_known(&events);
            }
        }
        if let Some(last) = self.acknowledged.last().copied() {
            let found = self.note(store.read(Query::tag(format!("number:{last}"))).count());
            assert!(found.is_none_or(|found| found <= 1), "{found:?} events with a tag of one");
        }
        self.note(store.version("counter-1"));
    }

    fn keep_state(&mut self, store: &Store) {
        let Some(state) = self.note(store.state()) else { return };
        self.note(state.put("key", self.next.to_string()));
        self.note(state.get("key"));
        let Some(Some(version)) = self.note(store.version("counter-1")) else { return };
        self.note(store.save_snapshot(&NewSnapshot::raw("counter-1", version, version.to_string())));
        if let Some(found) = self.note(store.load_snapshot("counter-1", SnapshotQuery::new())) {
            assert!(found.snapshot.is_none_or(|found| found.state == found.version.to_string().into_bytes()));
        }
    }

    /// Only what was sent, in its order.
    fn assert_known(&self, events: &[RecordedEvent]) {
        let found: Vec<u64> =
            events.iter().map(|event| String::from_utf8_lossy(&event.payload).parse().unwrap()).collect();
        let mut known = [self.acknowledged.as_slice(), &self.in_doubt].concat();
        known.sort_unstable();
        assert!(found.is_sorted() && found.iter().all(|number| known.contains(number)), "{found:?} of {self:?}");
    }

    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.failures.push(error)).ok()
    }

    /// Without the limit: everything that was acknowledged is there, and the store goes on.
    pub(crate) fn end(&mut self, path: &Path, options: Options) {
        let store = options.clone().open(path).unwrap();
        let found: Vec<u64> = store
            .read(Query::all())
            .owned()
            .map(|event| String::from_utf8(event.unwrap().payload).unwrap().parse().unwrap())
            .collect();
        assert!(self.acknowledged.iter().all(|number| found.contains(number)), "{found:?} of {self:?}");
        assert!(found.iter().all(|number| self.acknowledged.contains(number) || self.in_doubt.contains(number)));
        self.acknowledged = found;
        self.in_doubt.clear();
        self.failures.clear();
        self.tell_again(&store);
        store.close().unwrap();
        let report = annals::verify(path, &mut |_| {}).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }

    fn tell_again(&mut self, store: &Store) {
        (0..4).for_each(|_| self.append(store));
        self.look(store);
        self.keep_state(store);
        assert!(self.failures.is_empty(), "{:?}", self.failures);
    }
}

/// What the operating system said, if the error is its.
pub(crate) fn os_error(error: &Error) -> Option<i32> {
    match error {
        Error::Io { source, .. } | Error::Full { source, .. } => raw(source),
        Error::Indeterminate { cause } | Error::NotWritten { cause } | Error::Poisoned { cause } => os_error(cause),
        _ => None,
    }
}

fn raw(error: &std::io::Error) -> Option<i32> {
    let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<std::io::Error>());
    error.raw_os_error().or_else(|| wrapped.and_then(raw))
}
