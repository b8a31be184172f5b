//! Who has which event: the state of the consumers of one subscription.
//!
//! Knows the log through a [`Follow`] and nothing durable. Consumers are numbers; see `group` for the rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::follow::Follow;
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::limits::UNACKNOWLEDGED_EVENTS_MAX;
use crate::sabotage::{Sabotage, sabotaged};
use crate::types::Position;
use crate::{Query, RecordedEvent};

/// What a consumer gets when it asks.
#[derive(Debug)]
pub(super) enum Taken {
    Event {
        event: Box<RecordedEvent>,
        attempt: u32,
    },
    CaughtUp,
    /// Nothing before an append, or before this time, when the lease of another may expire.
    Nothing {
        until: Option<Duration>,
    },
}

#[derive(Debug)]
pub(super) struct Progress {
    follow: Follow,
    tracking: Tracking,
    /// The events that were read and are not acknowledged, and acknowledged ones behind the first of those.
    entries: BTreeMap<Position, Entry>,
    /// The streams of those entries; only of a group that is shared.
    lanes: HashMap<Arc<str>, Lane>,
    /// Entries without an owner.
    orphans: BTreeSet<Position>,
    members: BTreeMap<u64, Member>,
    joined: u64,
}

/// What is remembered of events that are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracking {
    Nothing,
    Positions,
    /// Which stream they are of as well, because consumers share them.
    Streams,
}

#[derive(Debug)]
struct Entry {
    stream: Option<Arc<str>>,
    owner: u64,
    /// How often it was handed out.
    attempt: u32,
    state: EntryState,
}

#[derive(Debug, PartialEq, Eq)]
enum EntryState {
    Waiting,
    Out,
    Acknowledged,
}

#[derive(Debug)]
struct Lane {
    owner: u64,
    /// Its entries that are not acknowledged.
    pending: usize,
}

#[derive(Debug)]
struct Member {
    signal: Arc<Signal>,
    queue: BTreeSet<Position>,
    leased_until: Duration,
    /// It was told that it has caught up.
    is_told: bool,
}

/// The member that owns what has no owner: none.
const NOBODY: u64 = 0;

impl Progress {
    /// Without consumers yet.
    pub(super) fn new(follow: Follow, tracking: Tracking) -> Self {
        Self {
            follow,
            tracking,
            entries: BTreeMap::new(),
            lanes: HashMap::new(),
            orphans: BTreeSet::new(),
            members: BTreeMap::new(),
            joined: NOBODY,
        }
    }

    /// Adds a consumer that waits for this signal, and returns its number.
    pub(super) fn join(&mut self, signal: &Arc<Signal>, leased_until: Duration) -> u64 {
        self.joined += 1;
        let member = Member { signal: Arc::clone(signal), queue: BTreeSet::new(), leased_until, is_told: false };
        self.members.insert(self.joined, member);
        self.joined
    }

    /// Removes a consumer; whether it was the last.
    pub(super) fn leave(&mut self, number: u64) -> bool {
        self.orphan(number);
        self.members.remove(&number);
        self.members.is_empty()
    }

    pub(super) fn is_member(&self, number: u64) -> bool {
        self.members.contains_key(&number)
    }

    /// A consumer has asked, or was told something: what it has is its own until this time. Whether it had waited.
    pub(super) fn renew(&mut self, number: u64, leased_until: Duration) -> bool {
        let Some(member) = self.members.get_mut(&number) else { return false };
        std::mem::replace(&mut member.leased_until, leased_until) == Duration::MAX
    }

    /// A consumer has acknowledged something. If it waits, its lease goes on when the waiting is over.
    pub(super) fn prolong(&mut self, number: u64, leased_until: Duration) {
        if let Some(member) = self.members.get_mut(&number) {
            member.leased_until = member.leased_until.max(leased_until);
        }
    }

    /// The lease of a consumer that has waited goes on: the others do not know that it may expire.
    pub(super) fn tell_others(&self, number: u64) {
        if self.lanes.values().any(|lane| lane.owner == number) {
            let others = self.members.iter().filter(|(other, _)| **other != number);
            others.for_each(|(_, member)| member.signal.raise());
        }
    }

    /// The next event for a consumer, if there is any now.
    pub(super) fn take(&mut self, number: u64, now: Duration) -> Result<Option<Taken>> {
        if self.tracking == Tracking::Streams {
            self.expire(now);
            if let Some(position) = self.assigned_to(number) {
                return self.hand_out_again(position, number).map(Some);
            }
        }
        self.pull(number)
    }

    /// What to tell a consumer for which there is no event.
    pub(super) fn nothing_for(&mut self, number: u64) -> Result<Taken> {
        let is_full = self.is_full();
        let member = self.members.get_mut(&number).ok_or(Error::Stopped)?;
        if !is_full && !std::mem::replace(&mut member.is_told, true) {
            return Ok(Taken::CaughtUp);
        }
        // Who waits for more is alive. The lease goes on when the waiting is over.
        member.leased_until = Duration::MAX;
        Ok(Taken::Nothing { until: self.first_expiry(number) })
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= UNACKNOWLEDGED_EVENTS_MAX
    }

    /// Reads on until there is an event for this consumer.
    fn pull(&mut self, number: u64) -> Result<Option<Taken>> {
        while !self.is_full() {
            let Self { follow, tracking, entries, lanes, members, .. } = self;
            let Some(event) = follow.next()? else {
                if follow.is_caught_up()? {
                    return Ok(None);
                }
                continue;
            };
            let stream = (*tracking == Tracking::Streams).then(|| enter_lane(lanes, event.stream(), number));
            let owner = stream.as_ref().map_or(number, |stream| lanes[stream].owner);
            let position = event.position();
            if owner == number {
                if *tracking != Tracking::Nothing {
                    entries.insert(position, Entry { stream, owner, attempt: 1, state: EntryState::Out });
                }
                return Ok(Some(Taken::Event { event: Box::new(event.to_recorded()), attempt: 1 }));
            }
            entries.insert(position, Entry { stream, owner, attempt: 0, state: EntryState::Waiting });
            let owner = members.get_mut(&owner).expect("a lane belongs to a member");
            owner.queue.insert(position);
            owner.signal.raise();
        }
        Ok(None)
    }

    /// Notes that events were handled which a consumer was given at these attempts. Returns the first that went to
    /// somebody else meanwhile.
    pub(super) fn acknowledge_all(
        &mut self,
        number: u64,
        events: impl Iterator<Item = (Position, u32)>,
    ) -> Option<Position> {
        let was_full = self.is_full();
        let mut lost = None;
        for (position, attempt) in events {
            if !self.acknowledge(number, position, attempt) {
                lost.get_or_insert(position);
            }
        }
        self.forget_acknowledged();
        if was_full && !self.is_full() {
            self.members.values().for_each(|member| member.signal.raise());
        }
        lost
    }

    /// Everything up to here is acknowledged or does not match.
    pub(super) fn checkpoint(&self) -> Option<Position> {
        if sabotaged(Sabotage::CheckpointBeforeAck) {
            return self.follow.looked();
        }
        match self.entries.first_key_value() {
            Some((first, _)) => Position::new(first.number() - 1),
            None => self.follow.looked(),
        }
    }

    /// Takes everything that a member has from it.
    fn orphan(&mut self, number: u64) {
        let Some(member) = self.members.get_mut(&number) else { return };
        member.queue.clear();
        for (position, entry) in &mut self.entries {
            if entry.owner == number && entry.state != EntryState::Acknowledged {
                entry.owner = NOBODY;
                entry.state = EntryState::Waiting;
                self.orphans.insert(*position);
            }
        }
        self.lanes.values_mut().filter(|lane| lane.owner == number).for_each(|lane| lane.owner = NOBODY);
        if !self.orphans.is_empty() {
            self.members.values().for_each(|member| member.signal.raise());
        }
    }

    /// Takes from the members whose leases have expired what they have.
    fn expire(&mut self, now: Duration) {
        let expired = |(number, member): (&u64, &Member)| (member.leased_until <= now).then_some(*number);
        let expired: Vec<u64> = self.members.iter().filter_map(expired).collect();
        for number in expired {
            self.orphan(number);
            // It has nothing now that could expire again before it is renewed.
            self.renew(number, Duration::MAX);
        }
    }

    /// When the first lease of another member that has something expires.
    fn first_expiry(&self, number: u64) -> Option<Duration> {
        let owners: BTreeSet<u64> = self.lanes.values().map(|lane| lane.owner).collect();
        let others = self.members.iter().filter(|(other, _)| **other != number && owners.contains(other));
        others.map(|(_, member)| member.leased_until).min()
    }

    /// The first event that waits for this member or for anybody.
    fn assigned_to(&mut self, number: u64) -> Option<Position> {
        let queued = self.members.get(&number)?.queue.first().copied();
        queued.or_else(|| {
            let orphan = self.orphans.first().copied()?;
            self.adopt(orphan, number);
            Some(orphan)
        })
    }

    /// Gives the stream of an orphan, with all of its events that wait, to a member.
    fn adopt(&mut self, orphan: Position, number: u64) {
        let Some(stream) = self.entries.get(&orphan).and_then(|entry| entry.stream.clone()) else { return };
        if let Some(lane) = self.lanes.get_mut(&stream) {
            lane.owner = number;
        }
        let Some(member) = self.members.get_mut(&number) else { return };
        let entries = &mut self.entries;
        self.orphans.retain(|position| {
            let entry = entries.get_mut(position).filter(|entry| entry.stream.as_ref() == Some(&stream));
            let Some(entry) = entry else { return true };
            entry.owner = number;
            member.queue.insert(*position);
            false
        });
    }

    /// Hands out an event that waits for this member, read once more.
    fn hand_out_again(&mut self, position: Position, number: u64) -> Result<Taken> {
        let mut read = self.follow.store().read(Query::all()).from(position).limit(1);
        let event = Box::new(read.next()?.expect("an entry is an event of the log").to_recorded());
        let entry = self.entries.get_mut(&position).expect("what waits has an entry");
        entry.state = EntryState::Out;
        entry.attempt += 1;
        if let Some(member) = self.members.get_mut(&number) {
            member.queue.remove(&position);
        }
        Ok(Taken::Event { event, attempt: entry.attempt })
    }

    /// Notes that an event was handled; `false` if it went to somebody else meanwhile.
    fn acknowledge(&mut self, number: u64, position: Position, attempt: u32) -> bool {
        let entry = self.entries.get_mut(&position);
        let is_own =
            |entry: &&mut Entry| entry.owner == number && entry.attempt == attempt && entry.state == EntryState::Out;
        let Some(entry) = entry.filter(is_own) else { return false };
        entry.state = EntryState::Acknowledged;
        if let Some(stream) = entry.stream.take()
            && let Some(lane) = self.lanes.get_mut(&stream)
        {
            lane.pending -= 1;
            if lane.pending == 0 {
                self.lanes.remove(&stream);
            }
        }
        true
    }

    fn forget_acknowledged(&mut self) {
        while let Some(first) = self.entries.first_entry()
            && first.get().state == EntryState::Acknowledged
        {
            first.remove();
        }
    }
}

/// Counts one more event in the lane of a stream, which is given to this member if nobody has it.
fn enter_lane(lanes: &mut HashMap<Arc<str>, Lane>, stream: &str, number: u64) -> Arc<str> {
    let name = lanes.get_key_value(stream).map_or_else(|| stream.into(), |(name, _)| Arc::clone(name));
    lanes.entry(Arc::clone(&name)).or_insert(Lane { owner: number, pending: 0 }).pending += 1;
    name
}
