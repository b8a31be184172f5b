//! Compaction of the state: what still counts of the oldest segments is written again, then they are removed.
//!
//! Work is done in steps, one segment each, since the background thread has other duties. A job first counts what is
//! live in the older half of the log. If that is most of it, nothing would be gained, and the next look waits until the
//! log has doubled. Otherwise the live values are copied, each only if nobody wrote its key meanwhile, and the log is
//! trimmed. A crash on the way leaves both, which say the same.
//!
//! A deletion is never copied: when its segment goes, so do all older events of its key, and nothing is left to delete.

use super::Inner;
use super::commit::Commit;
use super::event::{Event, NewEvent};
use super::state::PUT;
use crate::error::{Error, Result};
use crate::format::frame::Frame;
use crate::index::KeyKind;
use crate::log::FIRST_FRAME;
use crate::types::{Durability, StreamVersion};

/// A log of fewer segments is not compacted.
const SEGMENTS_MIN: usize = 8;
/// Bytes, and events, that are copied in one commit, if there is more than one.
const COPY_BYTES_MAX: usize = 1024 * 1024;
const COPY_EVENTS_MAX: usize = 1024;

/// The compaction of one state store.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// In a log of fewer bytes nothing is looked at.
    bytes_min: u64,
    job: Option<Job>,
}

/// What to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Idle,
    More,
    /// Everything live before this segment was copied.
    Trim {
        first_kept: u64,
    },
}

#[derive(Debug)]
struct Job {
    first: u64,
    /// The first segment that is kept.
    first_kept: u64,
    /// The segment that is next.
    next: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Count { live_bytes: u64, bytes: u64 },
    Copy,
}

impl Compaction {
    pub(super) fn step(&mut self, state: &Inner) -> Result<Step> {
        match self.job.take() {
            None => Ok(self.begin(state)),
            Some(job) if job.next < job.first_kept => self.work(job, state),
            Some(job) => Ok(self.finish(&job, state)),
        }
    }

    /// Waits until the log has grown by a quarter: what failed, on a full disk for example, is not tried again at once,
    /// and half of what is left after a compaction is not worth a look before.
    pub(super) fn put_off(&mut self, state: &Inner) {
        let bytes = state.log.kept_bytes();
        self.bytes_min = bytes + bytes / 4;
    }

    fn begin(&mut self, state: &Inner) -> Step {
        let segments = state.log.segments();
        let mut numbers = segments.iter().map(|segment| segment.number);
        let (count, Some(first)) = (numbers.len(), numbers.next()) else { return Step::Idle };
        if count < SEGMENTS_MIN || state.log.kept_bytes() < self.bytes_min {
            return Step::Idle;
        }
        let work = Work::Count { live_bytes: 0, bytes: 0 };
        self.job = Some(Job { first, first_kept: first + count as u64 / 2, next: first, work });
        Step::More
    }

    fn work(&mut self, mut job: Job, state: &Inner) -> Result<Step> {
        match &mut job.work {
            Work::Count { live_bytes, bytes } => state.visit_state(job.next, &mut |event, is_live| {
                let event_bytes = (event.stream.len() + event.payload.len()) as u64;
                *bytes += event_bytes;
                *live_bytes += if is_live { event_bytes } else { 0 };
                Ok(())
            })?,
            Work::Copy => {
                let mut copies = Copies::default();
                state.visit_state(job.next, &mut |event, is_live| {
                    if is_live { copies.add(event, state) } else { Ok(()) }
                })?;
                copies.flush(state)?;
            }
        }
        job.next += 1;
        self.job = Some(job);
        Ok(Step::More)
    }

    /// The work on all segments of the job is done.
    fn finish(&mut self, job: &Job, state: &Inner) -> Step {
        match job.work {
            Work::Count { live_bytes, bytes } if live_bytes > bytes / 2 => {
                self.bytes_min = state.log.kept_bytes() * 2;
                Step::Idle
            }
            Work::Count { .. } => {
                self.job = Some(Job { next: job.first, work: Work::Copy, ..*job });
                Step::More
            }
            Work::Copy => Step::Trim { first_kept: job.first_kept },
        }
    }
}

/// Values that are to be written again together.
#[derive(Debug, Default)]
struct Copies {
    copies: Vec<Copied>,
    bytes: usize,
}

#[derive(Debug)]
struct Copied {
    key: String,
    position: u64,
    version: StreamVersion,
    event: NewEvent,
}

impl Copies {
    fn add(&mut self, event: &Event<'_>, state: &Inner) -> Result<()> {
        if self.bytes + event.payload.len() > COPY_BYTES_MAX || self.copies.len() == COPY_EVENTS_MAX {
            self.flush(state)?;
        }
        self.bytes += event.payload.len();
        // With its id, which is the version of the value, and its time.
        let copy = NewEvent::from_bytes(PUT, event.codec, event.payload);
        self.copies.push(Copied {
            key: event.stream.to_owned(),
            position: event.position,
            version: event.version(),
            event: copy.id(event.id()).time(event.time()),
        });
        Ok(())
    }

    fn flush(&mut self, state: &Inner) -> Result<()> {
        self.bytes = 0;
        while !self.copies.is_empty() {
            let begun = Commit::new().durability(Durability::Os);
            let mut commit = self
                .copies
                .iter()
                .fold(begun, |commit, copied| commit.append(&copied.key, copied.version, [copied.event.clone()]));
            match state.send(&mut commit) {
                Ok(_) => self.copies.clear(),
                // Somebody wrote one of the keys: what is older now need not be copied.
                Err(Error::Conflict(_)) => self.drop_stale(state)?,
                Err(error) => return Err(without_doubt(error)),
            }
        }
        Ok(())
    }

    fn drop_stale(&mut self, state: &Inner) -> Result<()> {
        let mut failure = None;
        self.copies.retain(|copied| match state.is_newest(&copied.key, copied.position) {
            Ok(is_newest) => is_newest,
            Err(error) => {
                failure = Some(error);
                true
            }
        });
        failure.map_or(Ok(()), Err)
    }
}

/// What is written here says what the log says already: nobody has sent anything that could be in doubt.
fn without_doubt(error: Error) -> Error {
    match error {
        Error::Indeterminate { cause } | Error::NotWritten { cause } => *cause,
        other => other,
    }
}

/// On the store that holds the state.
impl Inner {
    /// Visits the events of a segment, and says which of them are the value of their key.
    fn visit_state(&self, segment: u64, visit: &mut dyn FnMut(&Event<'_>, bool) -> Result<()>) -> Result<()> {
        self.log.scan(segment, FIRST_FRAME, self.log.visible(), &mut |offset, frame: &Frame<'_>| {
            for ordinal in 0..frame.header.count {
                let position = frame.header.link.first_position + u64::from(ordinal);
                let event = frame.record(ordinal).and_then(|bytes| Event::decode(&frame.header, position, bytes));
                let event = event.map_err(|reason| Error::corrupt(self.log.path(segment), offset, reason))?;
                let is_live = event.event_type == PUT && self.is_newest(event.stream, position)?;
                visit(&event, is_live)?;
            }
            Ok(())
        })
    }

    fn is_newest(&self, key: &str, position: u64) -> Result<bool> {
        Ok(self.visible_head_of(&self.seed.key(KeyKind::Stream, key))?.position == position)
    }

    /// Goes on without the segments before `first_kept`, of which nothing counts any more.
    pub(super) fn trim_before(&self, first_kept: u64) -> Result<()> {
        let appender = self.appender()?;
        let removed = self.log.trim_before(appender, first_kept, |entered| {
            self.index.roll(entered.number, entered.salt, entered.first_position);
        });
        if appender.failure().is_some() {
            // The next open may find the segments again, and must not find an index without them.
            self.index.stop_writing();
        }
        // Whatever came of it: nothing may lead to what the log does not have any more.
        let segments = self.log.segments();
        let first = segments.iter().next().expect("an open log has a segment");
        let forgotten = self.index.forget_before(first.number, first.first_position).map_err(Error::from);
        drop(segments);
        let removed = removed.map_err(without_doubt)?;
        // Neither has to succeed: what is left over is removed at the next open.
        self.log.remove_files(&removed).and(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::ErrorKind;
    use std::sync::Arc;

    use super::super::options::Options;
    use super::super::query::Query;
    use super::super::state::StateBatch;
    use super::super::verify::verify_on;
    use super::super::{ReadMode, Store};
    use super::*;
    use crate::error::ExpectedVersion;
    use crate::log::{Growth, LOG_DIR};
    use crate::randomness::SeededRandomness;
    use crate::storage::{Access, Call, Disk, Fault, FaultyDisk, MemoryDisk};
    use crate::types::Position;

    /// Of each key the length and the beginning of its value.
    type Values = BTreeMap<String, (usize, Vec<u8>)>;

    fn options() -> Options {
        Options {
            durability: Durability::Os,
            segment_bytes_first: 4096,
            segment_bytes_max: 64 * 1024,
            growth: Growth::Sixteenths,
            background: false,
            randomness: Arc::new(SeededRandomness::new(5)),
            ..Options::default()
        }
    }

    fn open(disk: impl Disk + 'static) -> Store {
        Store::open_on(Arc::new(disk), options(), true).unwrap()
    }

    fn put(store: &Store, key: &str, value: &[u8]) {
        store.handle.inner.write_state(StateBatch::new().put(key, value)).unwrap();
    }

    /// What every key is worth, its length and how it begins, by asking for each of those that are listed.
    fn values(store: &Store) -> Values {
        let state = &store.handle.inner;
        let short = |event: &Event<'_>| (event.payload.len(), event.payload[..event.payload.len().min(5)].to_vec());
        let keys = state.keys("").unwrap().into_iter();
        keys.map(|key| {
            let (_, value) = state.newest_of(&key, short).unwrap().unwrap();
            (key, value)
        })
        .collect()
    }

    fn compact(store: &Store, compaction: &mut Compaction) -> Result<()> {
        let state = &store.handle.inner;
        loop {
            match compaction.step(state)? {
                Step::Idle => return Ok(()),
                Step::More => {}
                Step::Trim { first_kept } => {
                    state.trim_before(first_kept)?;
                    compaction.put_off(state);
                }
            }
        }
    }

    /// A log of nine segments: values that stay as they were, one that changes all the time, and some that are deleted.
    fn fill(store: &Store) {
        for kept in 0..12 {
            put(store, &format!("kept-{kept}"), &[kept; 200]);
            put(store, &format!("gone-{kept}"), &[kept; 50]);
        }
        for gone in 0..12 {
            store.handle.inner.write_state(StateBatch::new().delete(format!("gone-{gone}"))).unwrap();
        }
        let mut step = 0_u32;
        while store.handle.inner.log.segments().iter().len() < 9 {
            put(store, "busy", &[&step.to_le_bytes()[..], &[1; 300]].concat());
            step += 1;
        }
    }

    fn segment_numbers(store: &Store) -> Vec<u64> {
        store.handle.inner.log.segments().iter().map(|segment| segment.number).collect()
    }

    fn files(disk: &dyn Disk) -> Vec<String> {
        let mut names = disk.list(LOG_DIR).unwrap();
        names.retain(|name| name.ends_with(".segment"));
        names.sort_unstable();
        names
    }

    #[test]
    fn what_counts_is_copied_and_the_oldest_half_goes() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        fill(&store);
        let before = values(&store);
        assert_eq!(before.len(), 13);
        let head = store.head().unwrap().unwrap().number();
        compact(&store, &mut Compaction::default()).unwrap();
        assert_eq!(values(&store), before);
        assert_eq!(segment_numbers(&store)[0], 5);
        assert_eq!(files(&disk)[0], "0000000005.segment");
        // The twelve that stayed were written once more, the deleted ones were not.
        assert_eq!(store.head().unwrap().unwrap().number(), head + 12);
        assert_eq!(store.version("gone-3").unwrap(), None);
        assert_eq!(store.version("kept-3").unwrap().unwrap().number(), 2);
        // A key that vanished begins anew.
        put(&store, "gone-3", b"back");
        assert_eq!(store.version("gone-3").unwrap().unwrap().number(), 1);
        let after = values(&store);
        drop(store);
        let store = open(disk);
        assert_eq!(values(&store), after);
        assert_eq!(segment_numbers(&store)[0], 5);
    }

    #[test]
    fn a_log_of_live_values_is_left_until_it_has_doubled() {
        let store = open(MemoryDisk::new());
        let mut compaction = Compaction::default();
        let mut key = 0_u32;
        let mut grow = |segments: usize| {
            while store.handle.inner.log.segments().iter().len() < segments {
                put(&store, &format!("key-{key}"), &[7; 300]);
                key += 1;
            }
        };
        grow(9);
        let bytes = store.handle.inner.log.kept_bytes();
        compact(&store, &mut compaction).unwrap();
        assert_eq!(segment_numbers(&store)[0], 1);
        assert_eq!(compaction.bytes_min, bytes * 2);
        grow(10);
        assert_eq!(compaction.step(&store.handle.inner).unwrap(), Step::Idle);
    }

    /// A filled store on a disk that can fail, and its values.
    fn filled() -> (MemoryDisk, FaultyDisk, Store, Values) {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(memory.clone());
        let store = open(disk.clone());
        fill(&store);
        // A reader sees no more than it knows to be synced: a mark says it.
        store.maintain().unwrap();
        let expected = values(&store);
        (memory, disk, store, expected)
    }

    /// At every call that changes something on the disk, the process is killed or the power fails: the values are those
    /// from before.
    #[test]
    fn a_crash_at_any_step_loses_nothing() {
        let run = |after: Option<u64>| {
            let (memory, disk, store, expected) = filled();
            let begun = disk.mutations();
            if let Some(after) = after {
                disk.inject(Fault::all_after(after));
            }
            let result = compact(&store, &mut Compaction::default());
            let steps = disk.mutations() - begun;
            // The fault keeps the store from tidying up when it is dropped.
            drop(store);
            (memory, disk, expected, result, steps)
        };
        let (_, disk, _, result, steps) = run(None);
        result.unwrap();
        assert!(steps > 10, "{steps} steps");
        assert!(disk.calls(Call::Remove) >= 4, "segments are removed");
        for after in 0..steps {
            let (memory, disk, expected, ..) = run(Some(after));
            for seed in 0..4 {
                check_after_crash(disk.power_cut(seed), &expected, &format!("power cut {seed} after {after}"));
            }
            check_after_crash(memory, &expected, &format!("killed after {after}"));
        }
    }

    /// A call fails, once or for ever: what can be read is what it was, and when the disk works again the store is opened
    /// and compacted as if nothing had been.
    #[test]
    fn a_call_that_fails_at_any_step_loses_nothing() {
        for (forever, kind) in [(false, ErrorKind::Other), (true, ErrorKind::Other), (false, ErrorKind::StorageFull)] {
            for after in 0.. {
                let (memory, disk, store, expected) = filled();
                disk.inject(Fault { forever, ..Fault::all_after(after) }.kind(kind));
                let mut compaction = Compaction::default();
                let what = format!("{kind:?} behind {after} calls, for ever: {forever}");
                match compact(&store, &mut compaction) {
                    Ok(()) => {}
                    // Not that anything is in doubt, as it was told once: nobody has sent a commit.
                    Err(Error::Io { .. } | Error::Full { .. }) => {
                        assert!(disk.failed_calls() > 0, "{what}");
                    }
                    Err(error) => panic!("{what}: {error:?}"),
                }
                assert_eq!(values(&store), expected, "{what}");
                drop(store);
                let is_over = disk.failed_calls() == 0;
                check_after_crash(memory, &expected, &what);
                if is_over {
                    break;
                }
            }
        }
    }

    /// Found by a crash history. The log went on in a new segment whose start frame could not be synced. The index still
    /// led to the segments that the log did not have any more: where the newest event of a key was a deletion in one of
    /// them, its value could not be looked up, and the state was called corrupt.
    #[test]
    fn a_deleted_key_has_no_value_also_where_a_compaction_has_failed() {
        for after in 0.. {
            let (_, disk, store, _) = filled();
            disk.inject(Fault { after, forever: true, ..Fault::next(Call::Sync) });
            let has_failed = compact(&store, &mut Compaction::default()).is_err();
            for gone in 0..12 {
                let newest = store.handle.inner.newest_of(&format!("gone-{gone}"), |event| event.event_type == PUT);
                let newest = newest.unwrap_or_else(|error| panic!("behind {after} syncs: {error}"));
                assert!(newest.is_none_or(|(_, is_put)| !is_put), "behind {after} syncs: {newest:?}");
            }
            if !has_failed {
                break;
            }
        }
    }

    /// Found by a crash history. The frame that removed segments could not be synced, and was lost. But the index had been
    /// merged without their events meanwhile: when the log had them again, no query found them.
    #[test]
    fn the_index_on_disk_keeps_what_a_compaction_has_failed_to_remove() {
        for after in 0.. {
            let (_, disk, store, _) = filled();
            (0..40).for_each(|_| put(&store, "busy", &[2; 300]));
            let inner = &store.handle.inner;
            inner.appender().unwrap().sync().unwrap();
            let expected = values(&store);
            disk.inject(Fault { after, ..Fault::next(Call::Sync).of(".segment") });
            let has_failed = compact(&store, &mut Compaction::default()).is_err();
            inner.index.freeze();
            inner.spill_index().unwrap();
            while inner.merge_index().unwrap() {}
            for seed in 0..8 {
                let left = disk.power_cut(seed);
                let what = format!("power cut {seed} behind {after} syncs");
                drop(open(left.clone()));
                let found: Arc<dyn Disk> = Arc::new(left.clone());
                assert_eq!(verify_on(&found, &mut |_| {}).unwrap().problems, [], "{what}");
                check_after_crash(left, &expected, &what);
            }
            if !has_failed {
                break;
            }
        }
    }

    fn check_after_crash(disk: MemoryDisk, expected: &Values, what: &str) {
        let reader = Store::open_read_only_on(Arc::new(disk.clone()), options()).unwrap();
        assert_eq!(&values(&reader), expected, "{what}, read only");
        let store = open(disk.clone());
        assert_eq!(&values(&store), expected, "{what}");
        // What a crash left of removed segments is gone, and the next compaction comes to its end.
        assert_eq!(files(&disk).len(), segment_numbers(&store).len(), "{what}");
        compact(&store, &mut Compaction::default()).unwrap();
        assert_eq!(&values(&store), expected, "{what}, compacted");
        drop(store);
        assert_eq!(&values(&open(disk)), expected, "{what}, opened again");
    }

    #[test]
    fn a_full_disk_leaves_everything_as_it_was() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        fill(&store);
        store.maintain().unwrap();
        let before = values(&store);
        disk.set_budget(disk.used());
        let mut compaction = Compaction::default();
        while compact(&store, &mut compaction).is_ok() {
            put(&store, "busy", &[2; 300]);
        }
        disk.set_budget(u64::MAX);
        assert_eq!(values(&store).len(), before.len());
        compact(&store, &mut Compaction::default()).unwrap();
        assert_eq!(values(&store).len(), before.len());
    }

    /// A key that is written while it is copied keeps the newer value.
    #[test]
    fn a_copy_gives_way_to_what_is_newer() {
        let store = open(MemoryDisk::new());
        let state = &store.handle.inner;
        put(&store, "a", b"1");
        put(&store, "b", b"1");
        let mut copies = Copies::default();
        state.visit_state(1, &mut |event, is_live| if is_live { copies.add(event, state) } else { Ok(()) }).unwrap();
        assert_eq!(copies.copies.len(), 2);
        put(&store, "a", b"2");
        copies.flush(state).unwrap();
        assert_eq!(
            values(&store),
            BTreeMap::from([("a".into(), (1, b"2".to_vec())), ("b".into(), (1, b"1".to_vec()))])
        );
        assert_eq!(store.version("a").unwrap().unwrap().number(), 2);
        assert_eq!(store.version("b").unwrap().unwrap().number(), 2);
    }

    /// A log that begins behind position 1 is read and indexed from where it begins, with an index, without one, and
    /// with a damaged one.
    #[test]
    fn a_trimmed_log_is_read_from_where_it_begins() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        fill(&store);
        store.maintain().unwrap();
        let first = store.handle.inner.log.segments().iter().nth(4).unwrap().first_position;
        let expected: Vec<_> =
            store.read(Query::all()).from(Position::new(first).unwrap()).owned().map(Result::unwrap).collect();
        let mut begun = store.read(Query::all());
        assert_eq!(begun.next().unwrap().unwrap().position, 1);
        store.handle.inner.trim_before(5).unwrap();
        // A read that holds a removed segment goes on with it.
        assert_eq!(begun.next().unwrap().unwrap().position, 2);
        drop(begun);
        check_trimmed(&store, &expected);
        drop(store);
        check_trimmed(&open(disk.clone()), &expected);
        for damage in [remove, flip] {
            let mut names = disk.list("index").unwrap();
            names.sort_unstable();
            for name in names {
                damage(&disk, &format!("index/{name}"));
            }
            let mut pread = options();
            pread.read_mode = ReadMode::Pread;
            check_trimmed(&Store::open_read_only_on(Arc::new(disk.clone()), pread).unwrap(), &expected);
            check_trimmed(&open(disk.clone()), &expected);
        }
    }

    fn remove(disk: &MemoryDisk, path: &str) {
        disk.remove(path).unwrap();
    }

    /// Damages each page of a file.
    fn flip(disk: &MemoryDisk, path: &str) {
        let file = disk.open(path, Access::ReadWrite).unwrap();
        for offset in (100..file.len().unwrap()).step_by(4096) {
            let mut byte = [0];
            file.read_at(&mut byte, offset).unwrap();
            file.write_at(&[byte[0] ^ 1], offset).unwrap();
        }
    }

    fn check_trimmed(store: &Store, expected: &[super::super::RecordedEvent]) {
        let all = |read: super::super::Read| read.owned().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(all(store.read(Query::all())), expected);
        assert_eq!(all(store.read(Query::all()).after(Position::FIRST)), expected);
        let mut reversed = all(store.read(Query::all()).reverse());
        reversed.reverse();
        assert_eq!(reversed, expected);
        for stream in ["busy", "kept-3", "kept-11", "gone-2"] {
            let own: Vec<_> = expected.iter().filter(|event| event.stream == stream).cloned().collect();
            assert_eq!(all(store.read(Query::stream(stream))), own);
            assert_eq!(store.version(stream).unwrap(), own.last().map(|event| event.version));
            let category = super::super::Read::new(&store.handle.inner, Query::category(own_category(stream)), None);
            assert!(all(category).iter().all(|event| expected.contains(event)));
        }
        assert_eq!(store.head().unwrap(), expected.last().map(|event| event.position));
    }

    fn own_category(stream: &str) -> &str {
        crate::types::category_of(stream)
    }

    /// All events of a log can be gone, and it goes on behind them.
    #[test]
    fn a_log_without_any_event_left_goes_on() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        for _ in 0..20 {
            put(&store, "a", &[1; 300]);
        }
        let head = store.head().unwrap().unwrap();
        let last = segment_numbers(&store).len() as u64;
        let state = &store.handle.inner;
        state.trim_before(last).unwrap();
        assert!(store.version("a").unwrap().is_some());
        state.trim_before(last + 2).unwrap();
        let check = |store: &Store| {
            assert_eq!(store.head().unwrap(), Some(head));
            assert_eq!(store.read(Query::all()).count().unwrap(), 0);
            assert_eq!(store.read(Query::all()).reverse().count().unwrap(), 0);
            assert_eq!(store.read(Query::stream("a")).count().unwrap(), 0);
            assert_eq!(store.version("a").unwrap(), None);
            assert!(store.handle.inner.keys("").unwrap().is_empty());
        };
        check(&store);
        drop(store);
        let store = open(disk.clone());
        check(&store);
        let commit = store.commit().append("b", ExpectedVersion::NoStream, [NewEvent::raw(PUT, "1")]);
        let appended = commit.unless(Query::all()).send().unwrap();
        assert_eq!(appended.first_position().number(), head.number() + 1);
        drop(store);
        let store = open(disk);
        assert_eq!(values(&store), BTreeMap::from([("b".into(), (1, b"1".to_vec()))]));
    }
}
