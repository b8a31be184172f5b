//! What a history has sent, and what of it a store must show.
//!
//! A commit has a slot, its place among the commits, and an attempt, a number that never comes again. The slot decides
//! how long everything is, the attempt what the bytes are: a commit that takes the place of a lost one covers its bytes
//! exactly, so that what is left of the old one tells.

use std::collections::BTreeMap;

use super::super::{Commit, NewEvent, Query, RecordedEvent, Store};
use crate::error::{ExpectedVersion, Result};
use crate::storage::Dice;
use crate::types::{Durability, EventId, Position, StreamVersion};

pub(super) const STREAMS: u64 = 5;
const TYPES: [&str; 3] = ["Opened", "Deposited", "Withdrawn"];
const PAYLOAD_BYTES: [usize; 8] = [0, 1, 9, 60, 200, 464, 512, 900];
/// So many of the commits that are there, and of those that are not, are asked for by their tags.
const TAGS_ASKED: usize = 4;

/// An event as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) stream: String,
    id: EventId,
    event_type: &'static str,
    tags: Vec<String>,
    metadata: Vec<u8>,
    payload: Vec<u8>,
}

/// A commit as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    attempt: u64,
    pub(super) events: Vec<Sent>,
    guard: Guard,
}

/// What a commit expects, so that it is written once however often it is sent.
#[derive(Debug, Clone)]
enum Guard {
    /// Versions of its streams.
    Versions(Vec<ExpectedVersion>),
    /// The same, and that nothing of a type came behind a position.
    VersionsAndType(Vec<ExpectedVersion>, &'static str, Option<Position>),
    /// That no event has its tag.
    Tag,
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

impl Entry {
    pub(super) fn commit(&self, durability: Durability) -> Commit {
        let mut commit = Commit::new().durability(durability);
        for (index, events) in self.events.chunk_by(|a, b| a.stream == b.stream).enumerate() {
            let expected = match &self.guard {
                Guard::Versions(expected) | Guard::VersionsAndType(expected, ..) => expected[index],
                Guard::Tag => ExpectedVersion::Any,
            };
            commit = commit.append(events[0].stream.as_str(), expected, events.iter().map(Sent::event));
        }
        match &self.guard {
            Guard::Versions(_) => commit,
            Guard::VersionsAndType(_, event_type, after) => commit.unless_after(Query::types([*event_type]), *after),
            Guard::Tag => commit.unless(Query::tag(attempt_tag(self.attempt))),
        }
    }
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The next commit, for the slot behind all others. It expects of the store what the model knows of it.
    pub(super) fn next(&mut self, dice: &mut Dice) -> Entry {
        self.attempts += 1;
        let slot = self.entries.len() as u64;
        let mut shape = Dice::new(self.seed ^ (slot << 32));
        let count = 1 + shape.below(3);
        let mut events: Vec<Sent> =
            (0..count).map(|ordinal| Sent::new(&mut shape, slot, self.attempts, ordinal)).collect();
        // The events of a stream stand together in a commit.
        events.sort_by(|a, b| a.stream.cmp(&b.stream));
        let streams = events.chunk_by(|a, b| a.stream == b.stream).map(|same| &same[0].stream);
        let expected: Vec<ExpectedVersion> = streams.map(|stream| self.expected(stream)).collect();
        let guard = match dice.below(4) {
            0 => Guard::Tag,
            1 => Guard::VersionsAndType(expected, dice.pick(&TYPES), Position::new(self.head())),
            _ => Guard::Versions(expected),
        };
        Entry { attempt: self.attempts, events, guard }
    }

    fn expected(&self, stream: &str) -> ExpectedVersion {
        let version = StreamVersion::new(self.of_stream(stream).len() as u64);
        version.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact)
    }

    /// A commit that must not be written: another one is in its place, or has its tag.
    pub(super) fn next_in_vain(&mut self, dice: &mut Dice) -> Option<Commit> {
        let entry = self.next(dice);
        let other = &self.entries[dice.below(self.entries.len().max(1) as u64) as usize..].first()?;
        let event = entry.events[0].event();
        let stream = other.events[0].stream.as_str();
        let commit = Commit::new();
        Some(match dice.below(3) {
            0 => commit.append(stream, ExpectedVersion::NoStream, [event]),
            1 => commit.append("account-new", ExpectedVersion::Any, [event]).unless(Query::stream(stream)),
            _ => {
                let tagged = Query::tag(attempt_tag(other.attempt));
                commit.append(stream, ExpectedVersion::Any, [event]).unless(tagged)
            }
        })
    }

    /// Takes a commit that was lost and is there now.
    pub(super) fn push(&mut self, entry: Entry) {
        self.lost.retain(|attempt| *attempt != entry.attempt);
        self.entries.push(entry);
    }

    /// The last position.
    pub(super) fn head(&self) -> u64 {
        self.first_position(self.entries.len()) - 1
    }

    /// The position of the first event of the commit in a slot.
    pub(super) fn first_position(&self, slot: usize) -> u64 {
        1 + self.entries[..slot].iter().map(|entry| entry.events.len() as u64).sum::<u64>()
    }

    /// How many commits lie before a position, or end at it.
    pub(super) fn commits_upto(&self, position: u64) -> usize {
        (0..=self.entries.len()).rev().find(|slot| self.first_position(*slot) <= position + 1).unwrap_or(0)
    }

    /// The event at a position.
    pub(super) fn at(&self, position: u64) -> Option<&Sent> {
        self.events().nth(position as usize - 1)
    }

    fn events(&self) -> impl Iterator<Item = &Sent> {
        self.entries.iter().flat_map(|entry| &entry.events)
    }

    /// What the first so many events of a stream amount to.
    pub(super) fn digest(&self, stream: &str, version: u64) -> Vec<u8> {
        let events = self.events().filter(|event| event.stream == stream).take(version as usize);
        events.flat_map(|event| event.id.to_bytes()).collect()
    }

    /// The positions of the events of a stream.
    pub(super) fn of_stream(&self, stream: &str) -> Vec<u64> {
        self.positions(|event| event.stream == stream)
    }

    fn positions(&self, wanted: impl Fn(&Sent) -> bool) -> Vec<u64> {
        (1..).zip(self.events()).filter(|(_, event)| wanted(event)).map(|(position, _)| position).collect()
    }

    /// Forgets all commits but the first `kept`, and returns them.
    pub(super) fn keep(&mut self, kept: usize) -> Vec<Entry> {
        let lost: Vec<Entry> = self.entries.drain(kept..).collect();
        self.lost.extend(lost.iter().map(|entry| entry.attempt));
        lost
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
    pub(super) fn check_queries(&self, store: &Store, dice: &mut Dice, context: &str) -> Result<()> {
        for number in 0..STREAMS {
            let stream = stream_name(number);
            let positions = self.of_stream(&stream);
            let version = store.version(&stream)?.map_or(0, StreamVersion::number);
            assert_eq!(version, positions.len() as u64, "{context}: the version of {stream:?}");
            check_query(store, &Query::stream(stream), positions, dice, context)?;
        }
        for event_type in TYPES {
            let positions = self.positions(|event| event.event_type == event_type);
            check_query(store, &Query::types([event_type]), positions, dice, context)?;
        }
        check_query(store, &Query::category("account"), self.positions(|_| true), dice, context)?;
        let known: Vec<u64> = self.entries.iter().map(|entry| entry.attempt).collect();
        for attempts in [&known, &self.lost] {
            for _ in 0..TAGS_ASKED.min(attempts.len()) {
                let tag = attempt_tag(dice.pick(attempts));
                let positions = self.positions(|event| event.tags.contains(&tag));
                check_query(store, &Query::tag(tag), positions, dice, context)?;
            }
        }
        Ok(())
    }
}

/// Asks in one direction or the other.
fn check_query(store: &Store, query: &Query, mut expected: Vec<u64>, dice: &mut Dice, context: &str) -> Result<()> {
    let mut read = store.read(query.clone());
    if dice.one_in(2) {
        read = read.reverse();
        expected.reverse();
    }
    let mut positions = Vec::new();
    while let Some(event) = read.next()? {
        positions.push(event.position().number());
    }
    assert_eq!(positions, expected, "{context}: {query:?}");
    Ok(())
}

impl Sent {
    /// What the shape says alone is how long it is, and where it belongs.
    fn new(shape: &mut Dice, slot: u64, attempt: u64, ordinal: u64) -> Self {
        let mut payload = vec![0; shape.pick(&PAYLOAD_BYTES)];
        Dice::new(attempt << 8 | ordinal).fill(&mut payload, usize::MAX);
        Self {
            stream: stream_name(shape.below(STREAMS)),
            id: EventId::from_bytes((u128::from(attempt) << 64 | u128::from(ordinal)).to_be_bytes()),
            event_type: shape.pick(&TYPES),
            tags: vec![attempt_tag(attempt), format!("slot:{slot}")],
            metadata: format!("{{\"attempt\":\"{attempt:08}\"}}").into_bytes(),
            payload,
        }
    }

    fn event(&self) -> NewEvent {
        let event = NewEvent::raw(self.event_type, self.payload.as_slice()).id(self.id);
        event.tags(&self.tags).metadata_json(self.metadata.as_slice())
    }

    pub(super) fn is(&self, event: &RecordedEvent) -> bool {
        event.stream == self.stream
            && event.id == self.id
            && event.event_type == self.event_type
            && event.tags == self.tags
            && event.metadata.as_ref() == Some(&self.metadata)
            && event.payload == self.payload
    }
}

pub(super) fn stream_name(number: u64) -> String {
    format!("account-{number}")
}

fn attempt_tag(attempt: u64) -> String {
    format!("attempt:{attempt:08}")
}
