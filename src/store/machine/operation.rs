//! Scripts: what is done to a store, as data.
//!
//! An operation means something in every state of the store, so that a script stays one when parts of it are left out.
//! What is relative, such as the version that a commit expects, is settled when the operation is done.

use std::io::ErrorKind;

use proptest::sample::Index;

use crate::storage::{Call, Dice, FileSystem};
use crate::store::{Query, ReadMode};
use crate::types::Durability;

pub(super) const STREAMS: [&str; 5] = ["a", "a-1", "a-2", "ab-1", "b-1"];
pub(super) const CATEGORIES: [&str; 4] = ["a", "ab", "b", "c"];
pub(super) const TYPES: [&str; 3] = ["One", "Two", "Three"];
pub(super) const TAGS: [&str; 4] = ["x", "y", "z", "xy"];
pub(super) const KEYS: [&str; 5] = ["lease", "job", "job-1", "job-2", "jobs-1"];
pub(super) const SUBSCRIPTIONS: [&str; 2] = ["mailer", "biller"];

/// A disk, a store, and what is done to it.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) setup: Setup,
    pub(super) operations: Vec<Operation>,
}

/// What stays the same for a whole script.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) file_system: FileSystem,
    /// Decides what a loss of power spares.
    pub(super) seed: u64,
    /// The cache writes a page back at about one of so many calls.
    pub(super) writes_back_in: Option<u64>,
    pub(super) segment_bytes: u64,
    pub(super) index_tail_bytes: u64,
    /// That of commits which name none.
    pub(super) durability: Durability,
    pub(super) mode: ReadMode,
}

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Send(CommitSpec),
    /// Through a handle that gives metadata to events without any.
    SendThrough(CommitSpec),
    SendAll(Vec<CommitSpec>),
    /// One of the commits that were sent before, again; perhaps with a change.
    Resend(Index, Change),
    /// From now on only commits of so many events are admitted.
    Admit(usize),
    Read(ReadSpec),
    Count,
    /// Remembers the place so many positions before the head.
    Remember(u64),
    Sync,
    Maintain,
    /// The store is opened for reading, and read from.
    LookBeside(ReadSpec),
    /// The reader that was opened longest ago reads on; there is one from now on.
    LookOn(ReadSpec),
    /// The log is followed from somewhere on, instead of what was followed before.
    Follow(FollowSpec),
    /// What follows the log reads on, to the head that there is now; everything is followed if nothing was.
    FollowOn,
    /// What follows the log goes on elsewhere.
    Seek(After),
    Replay(ReplaySpec),
    /// A handle with a guard is lent to somebody, who reads.
    Lend(ReadSpec),
    /// Somebody else tries to open the store for writing.
    OpenTwice,
    Verify,
    Backup,
    Put(BatchSpec),
    /// Changes a key of the state so often that the state is worth compacting, which is done.
    Wear(&'static str),
    SyncState,
    /// Of the version so many before that of the stream; of one that is not there yet if the number is negative.
    SaveSnapshot {
        stream: &'static str,
        back: i64,
        schema: u64,
    },
    LoadSnapshot {
        stream: &'static str,
        back: Option<u64>,
        schema: u64,
    },
    DeleteSnapshot(&'static str),
    Subscribe(SubscribeSpec),
    Unsubscribe(&'static str),
    /// Moves the clock by so many milliseconds; back, too.
    MoveClock(i64),
    Fail(FaultSpec),
    /// The power is lost in the middle of the call that comes after so many others that change something.
    LosePowerAfter(u64),
    /// The disk has so many bytes left.
    Fill(u64),
    Free,
    /// With `true` only a store that exists is opened.
    Reopen(End, ReadMode, bool),
}

/// How a life of the store ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Close,
    Drop,
    Kill,
    PowerLoss,
}

/// A fault of the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct FaultSpec {
    pub(super) call: Call,
    /// A part of the path.
    pub(super) path: &'static str,
    pub(super) after: u64,
    pub(super) forever: bool,
    pub(super) kind: ErrorKind,
}

/// An event. In a script it has no id yet: it gets one when it is first sent.
#[derive(Clone, PartialEq)]
pub(super) struct EventSpec {
    pub(super) id: u64,
    /// What the bytes of the payload depend on: the attempt, and nothing else of the event.
    pub(super) payload_seed: u64,
    pub(super) payload_bytes: usize,
    pub(super) event_type: &'static str,
    pub(super) schema: u32,
    pub(super) time: i64,
    pub(super) tags: Vec<&'static str>,
    pub(super) metadata: Option<&'static str>,
}

/// What is expected of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Any,
    NoStream,
    StreamExists,
    /// The version that it is at when the commit is sent, more or less.
    Near(i64),
    Exact(u64),
}

#[derive(Clone, Default)]
pub(super) struct ItemSpec {
    pub(super) stream: Option<&'static str>,
    pub(super) category: Option<&'static str>,
    pub(super) types: Vec<&'static str>,
    pub(super) tags: Vec<&'static str>,
}

/// No items for everything.
#[derive(Debug, Clone, Default)]
pub(super) struct QuerySpec(pub(super) Vec<ItemSpec>);

#[derive(Debug, Clone)]
pub(super) struct ConditionSpec {
    pub(super) query: QuerySpec,
    pub(super) after: After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Beginning,
    /// So many positions before the head when the operation is done; a negative number lies beyond it.
    BeforeHead(i64),
    Position(u64),
}

#[derive(Clone)]
pub(super) struct PartSpec {
    pub(super) stream: &'static str,
    pub(super) expect: Expect,
    pub(super) events: Vec<EventSpec>,
}

#[derive(Clone)]
pub(super) struct CommitSpec {
    pub(super) parts: Vec<PartSpec>,
    pub(super) checks: Vec<(&'static str, Expect)>,
    pub(super) conditions: Vec<ConditionSpec>,
    pub(super) durability: Option<Durability>,
}

/// What is changed of a commit that is sent again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Nothing,
    /// The last event is left out.
    Shorter,
    /// The expectations are those of now.
    Expectations(Expect),
    /// Another payload.
    Payload,
    /// The first two events have one id.
    OneId,
}

#[derive(Clone, Default)]
pub(super) struct ReadSpec {
    pub(super) query: QuerySpec,
    /// A position, and whether it is included.
    pub(super) begin: Option<(u64, bool)>,
    pub(super) upto: Option<u64>,
    pub(super) limit: Option<u64>,
    pub(super) reverse: bool,
    pub(super) since: Option<i64>,
    pub(super) until: Option<i64>,
}

/// What is followed, and from where on.
#[derive(Debug, Clone)]
pub(super) struct FollowSpec {
    pub(super) query: QuerySpec,
    pub(super) after: After,
    pub(super) visible: bool,
}

/// A replay of what a read finds, and another that goes on where that one has ended.
#[derive(Debug, Clone)]
pub(super) struct ReplaySpec {
    pub(super) read: ReadSpec,
    pub(super) handling: Handling,
}

/// How a replay handles its events.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handling {
    Whole,
    /// On so many threads.
    Parallel(usize),
    /// It is stopped after so many events.
    Stopped(usize),
    /// The handler fails at the event that comes after so many.
    Failing(usize),
}

/// A subscription that is opened, pulled until it has caught up, and closed.
#[derive(Debug, Clone)]
pub(super) struct SubscribeSpec {
    pub(super) name: &'static str,
    pub(super) query: QuerySpec,
    /// Where it begins if it has no checkpoint.
    pub(super) start: Start,
    pub(super) visible: bool,
    /// Events come in batches of so many at most, instead of one by one.
    pub(super) batch: Option<usize>,
    /// So many of the first events or batches are acknowledged.
    pub(super) acknowledged: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing is said.
    Usual,
    Beginning,
    After(After),
    End,
}

/// Changes of the state.
#[derive(Debug, Clone)]
pub(super) struct BatchSpec {
    /// Keys with the length of their new value; without for a deletion.
    pub(super) changes: Vec<(&'static str, Option<usize>)>,
    /// A key of which something is expected, and whether that is so.
    pub(super) expected: Option<(&'static str, bool)>,
    pub(super) durability: Option<Durability>,
}

impl CommitSpec {
    /// The events with their streams, in order.
    pub(super) fn events(&self) -> Vec<(&'static str, &EventSpec)> {
        self.parts.iter().flat_map(|part| part.events.iter().map(|event| (part.stream, event))).collect()
    }

    /// What is expected of streams, in order; of one that is named twice, twice.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, Expect)> {
        self.parts.iter().map(|part| (part.stream, part.expect)).chain(self.checks.iter().copied())
    }

    pub(super) fn changed(mut self, change: Change) -> Self {
        match change {
            Change::Nothing => {}
            Change::Shorter => drop(self.parts.last_mut().and_then(|part| part.events.pop())),
            Change::Expectations(expect) => self.parts.iter_mut().for_each(|part| part.expect = expect),
            Change::Payload => self.events_mut().take(1).for_each(|event| event.payload_seed ^= 1 << 63),
            Change::OneId => {
                let first = self.events_mut().next().map_or(0, |event| event.id);
                self.events_mut().take(2).for_each(|event| event.id = first);
            }
        }
        self
    }

    pub(super) fn events_mut(&mut self) -> impl Iterator<Item = &mut EventSpec> {
        self.parts.iter_mut().flat_map(|part| &mut part.events)
    }
}

impl EventSpec {
    pub(super) fn payload(&self) -> Vec<u8> {
        let mut payload = vec![0; self.payload_bytes];
        Dice::new(self.payload_seed).fill(&mut payload, usize::MAX);
        payload
    }
}

impl QuerySpec {
    pub(super) fn query(&self) -> Query {
        self.0.iter().map(ItemSpec::query).reduce(Query::or).unwrap_or_else(Query::all)
    }
}

impl ItemSpec {
    fn query(&self) -> Query {
        let query = Query::types(self.types.iter().copied());
        let query = self.tags.iter().fold(query, |query, tag| query.and_tag(*tag));
        let query = self.category.map_or(query.clone(), |category| query.and_category(category));
        self.stream.map_or(query.clone(), |stream| query.and_stream(stream))
    }
}
