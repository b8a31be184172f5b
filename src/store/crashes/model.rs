//! What a history has sent, and what of it a store must show.
//!
//! A commit has a slot, its place among the commits, and an attempt, a number that never comes again. The slot decides
//! how long everything is, the attempt what the bytes are: a commit that takes the place of a lost one covers its bytes
//! exactly, so that what is left of the old one tells.

use std::collections::BTreeMap;

use super::super::{Commit, NewEvent, Query, RecordedEvent, Store};
use crate::error::{ExpectedVersion, Result};
use crate::storage::Dice;
use crate::types::{Durability, StreamVersion};

const STREAMS: u64 = 5;
const TYPES: [&str; 3] = ["Opened", "Deposited", "Withdrawn"];
const PAYLOAD_BYTES: [usize; 8] = [0, 1, 9, 60, 200, 464, 512, 900];

/// An event as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    stream: String,
    event_type: &'static str,
    tags: Vec<String>,
    metadata: Vec<u8>,
    payload: Vec<u8>,
}

/// A commit as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    attempt: u64,
    events: Vec<Sent>,
}

/// The commits of a history, in order.
#[derive(Debug, Default)]
pub(super) struct Model {
    seed: u64,
    pub(super) entries: Vec<Entry>,
    /// The attempts that were lost.
    lost: Vec<u64>,
    attempts: u64,
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The next commit, for the slot behind all others.
    pub(super) fn next(&mut self) -> Entry {
        self.attempts += 1;
        let slot = self.entries.len() as u64;
        let mut shape = Dice::new(self.seed ^ (slot << 32));
        let count = 1 + shape.below(3);
        let mut events: Vec<Sent> =
            (0..count).map(|ordinal| Sent::new(&mut shape, slot, self.attempts, ordinal)).collect();
        // The events of a stream stand together in a commit.
        events.sort_by(|a, b| a.stream.cmp(&b.stream));
        Entry { attempt: self.attempts, events }
    }

    /// The commit, which expects of each stream what the model knows of it.
    pub(super) fn commit(&self, entry: &Entry, durability: Durability) -> Commit {
        let mut commit = Commit::new().durability(durability);
        for events in entry.events.chunk_by(|a, b| a.stream == b.stream) {
            let stream = &events[0].stream;
            let expected = StreamVersion::new(self.of_stream(stream).len() as u64);
            let expected = expected.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact);
            commit = commit.append(stream.as_str(), expected, events.iter().map(Sent::event));
        }
        commit
    }

    /// The positions of the events of a stream.
    fn of_stream(&self, stream: &str) -> Vec<u64> {
        self.positions(|event| event.stream == stream)
    }

    fn positions(&self, wanted: impl Fn(&Sent) -> bool) -> Vec<u64> {
        let events = self.entries.iter().flat_map(|entry| &entry.events);
        (1..).zip(events).filter(|(_, event)| wanted(event)).map(|(position, _)| position).collect()
    }

    /// Forgets all commits but the first `kept`.
    pub(super) fn keep(&mut self, kept: usize) {
        self.lost.extend(self.entries.drain(kept..).map(|entry| entry.attempt));
    }

    /// The log is a beginning of what was sent, at the end of a commit, with at least `least` commits: how many it has.
    pub(super) fn check_log(&self, store: &Store, least: usize, context: &str) -> Result<usize> {
        let events = store.read(Query::all()).owned().collect::<Result<Vec<RecordedEvent>>>()?;
        let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
        for (position, event) in (1..).zip(&events) {
            assert_eq!(event.position.number(), position, "{context}: a gap");
            let version = versions.entry(&event.stream).or_default();
            *version += 1;
            assert_eq!(event.version.number(), *version, "{context}: a version of {:?}", event.stream);
        }
        assert!(events.is_sorted_by_key(|event| event.commit_time), "{context}: time went back");
        let commits: Vec<&[RecordedEvent]> = events.chunk_by(|a, b| a.commit == b.commit).collect();
        let (found, sent) = (commits.len(), self.entries.len());
        assert!(found >= least, "{context}: {found} commits of {least} that must be there");
        assert!(found <= sent, "{context}: {found} commits of {sent} that were sent");
        for (slot, (commit, entry)) in commits.iter().zip(&self.entries).enumerate() {
            let is_same = commit.len() == entry.events.len()
                && commit.iter().zip(&entry.events).all(|(event, sent)| sent.is(event));
            assert!(is_same, "{context}: the commit in slot {slot} is {commit:?}, and {entry:?} was sent");
        }
        Ok(found)
    }

    /// Every way to ask gives what the log holds, which is all of the model.
    pub(super) fn check_queries(&self, store: &Store, context: &str) -> Result<()> {
        for number in 0..STREAMS {
            let stream = stream_name(number);
            let positions = self.of_stream(&stream);
            let version = store.version(&stream)?.map_or(0, StreamVersion::number);
            assert_eq!(version, positions.len() as u64, "{context}: the version of {stream:?}");
            check_query(store, &Query::stream(stream), &positions, context)?;
        }
        for event_type in TYPES {
            let positions = self.positions(|event| event.event_type == event_type);
            check_query(store, &Query::types([event_type]), &positions, context)?;
        }
        check_query(store, &Query::category("account"), &self.positions(|_| true), context)?;
        for entry in &self.entries {
            let tag = attempt_tag(entry.attempt);
            let positions = self.positions(|event| event.tags.contains(&tag));
            check_query(store, &Query::tag(tag), &positions, context)?;
        }
        for attempt in &self.lost {
            check_query(store, &Query::tag(attempt_tag(*attempt)), &[], context)?;
        }
        Ok(())
    }
}

fn check_query(store: &Store, query: &Query, positions: &[u64], context: &str) -> Result<()> {
    let found = |reverse: bool| -> Result<Vec<u64>> {
        let read = store.read(query.clone());
        let read = if reverse { read.reverse() } else { read };
        read.owned().map(|event| event.map(|event| event.position.number())).collect()
    };
    assert_eq!(found(false)?, positions, "{context}: {query:?}");
    let mut backwards = found(true)?;
    backwards.reverse();
    assert_eq!(backwards, positions, "{context}: {query:?}, backwards");
    Ok(())
}

impl Sent {
    /// What the shape says alone is how long it is, and where it belongs.
    fn new(shape: &mut Dice, slot: u64, attempt: u64, ordinal: u64) -> Self {
        let mut payload = vec![0; shape.pick(&PAYLOAD_BYTES)];
        Dice::new(attempt << 8 | ordinal).fill(&mut payload, usize::MAX);
        Self {
            stream: stream_name(shape.below(STREAMS)),
            event_type: shape.pick(&TYPES),
            tags: vec![attempt_tag(attempt), format!("slot:{slot}")],
            metadata: format!("{{\"attempt\":\"{attempt:08}\"}}").into_bytes(),
            payload,
        }
    }

    fn event(&self) -> NewEvent {
        let event = NewEvent::raw(self.event_type, self.payload.as_slice());
        event.tags(&self.tags).metadata_json(self.metadata.as_slice())
    }

    fn is(&self, event: &RecordedEvent) -> bool {
        event.stream == self.stream
            && event.event_type == self.event_type
            && event.tags == self.tags
            && event.metadata.as_ref() == Some(&self.metadata)
            && event.payload == self.payload
    }
}

fn stream_name(number: u64) -> String {
    format!("account-{number}")
}

fn attempt_tag(attempt: u64) -> String {
    format!("attempt:{attempt:08}")
}
