//! Commits: what is sent, and what must come of it.

use std::sync::atomic::Ordering;

use proptest::sample::Index;

use super::model::{Decision, Model, Told};
use super::operation::{After, Change, CommitSpec, EventSpec, Expect, PartSpec};
use super::world::World;
use crate::error::Error;
use crate::store::{AppendError, Appended, Commit, Metadata, NewEvent, Store};
use crate::types::{Durability, EventId, Position, Timestamp};

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Written,
    /// It may be written.
    Doubtful,
    /// Nothing was written now.
    Nothing,
}

impl World {
    pub(super) fn send_new(&mut self, store: &Store, spec: &CommitSpec) {
        let commit = self.settled(spec.clone(), &self.model.clone());
        self.send(store, commit);
    }

    /// Through a handle that gives metadata to events without any.
    pub(super) fn send_through(&mut self, store: &Store, spec: &CommitSpec) {
        let bare = self.settled(spec.clone(), &self.model.clone());
        let mut commit = bare.clone();
        commit.events_mut().for_each(|event| event.metadata = event.metadata.or(Some("{\"who\":2}")));
        let giving = store.with_metadata(&Metadata::new().set("who", 2)).unwrap();
        self.send_as(&giving, &bare, commit);
    }

    pub(super) fn resend(&mut self, store: &Store, index: Index, change: Change) {
        if self.sent.is_empty() {
            return;
        }
        let commit = index.get(&self.sent).clone().changed(change);
        let commit = self.settled(commit, &self.model.clone());
        self.send(store, commit);
    }

    /// Sends a commit whose expectations are settled.
    pub(super) fn send(&mut self, store: &Store, commit: CommitSpec) {
        self.send_as(store, &commit.clone(), commit);
    }

    /// Sends a commit that becomes `commit` on its way.
    fn send_as(&mut self, store: &Store, bare: &CommitSpec, commit: CommitSpec) {
        let was_poisoned = is_poisoned(store);
        let sent = store.send(commit_of(bare));
        let is_poisoned = is_poisoned(store);
        assert!(!was_poisoned || sent.is_err(), "a poisoned store took {commit:?}");
        let has_failed = matches!(&sent, Err(error) if self.excuses(error.error()));
        let mut model = self.model.clone();
        let decision = model.decide(&commit);
        let fate = self.judge(&mut model, &commit, sent, is_poisoned);
        if has_failed && decision == Decision::Write {
            assert_eq!(is_poisoned, was_poisoned, "an error that says that nothing was written");
        }
        if fate == Fate::Doubtful {
            assert!(!was_poisoned, "a poisoned store doubts {commit:?}");
            model.doubt_behind(self.model.head());
            self.doubtful.push(commit.clone());
        }
        self.model = model;
        self.sent.push(commit);
    }

    /// Each of the commits is decided on its own, behind those before it.
    pub(super) fn send_all(&mut self, store: &Store, specs: &[CommitSpec]) {
        let mut plan = self.model.without_doubt();
        let mut commits = Vec::new();
        for spec in specs {
            let commit = self.settled(spec.clone(), &plan);
            if plan.decide(&commit) == Decision::Write && self.admits(&commit) {
                plan.write(&commit, None);
            }
            commits.push(commit);
        }
        let was_poisoned = is_poisoned(store);
        let results = store.send_all(commits.iter().map(commit_of));
        let is_poisoned = is_poisoned(store);
        assert_eq!(results.len(), commits.len());
        let mut model = self.model.clone();
        let mut decided = None;
        for (commit, sent) in commits.into_iter().zip(results) {
            assert!(!was_poisoned || sent.is_err(), "a poisoned store took {commit:?}");
            let head = model.head();
            let fate = self.judge(&mut model, &commit, sent, is_poisoned);
            if fate == Fate::Doubtful {
                decided.get_or_insert(head);
                self.doubtful.push(commit.clone());
            }
            assert!(fate != Fate::Written || decided.is_none(), "written behind a commit that is in doubt");
            self.sent.push(commit);
        }
        if let Some(head) = decided {
            model.doubt_behind(head);
        }
        self.model = model;
    }

    /// A closed store takes nothing.
    pub(super) fn send_closed(&mut self, store: &Store) {
        let commit = self.settled(last_commit(), &self.model.clone());
        let refused = store.send(commit_of(&commit)).map_err(Error::from);
        let is_right = matches!(refused, Err(Error::Closed | Error::Poisoned { .. }));
        assert!(is_right, "an append behind the close: {refused:?}");
    }

    fn admits(&self, commit: &CommitSpec) -> bool {
        commit.events().len() <= self.admitted.load(Ordering::Relaxed)
    }

    /// Holds what was told of a commit against what the model says of it, and takes what was written, or may be.
    fn judge(
        &mut self,
        model: &mut Model,
        commit: &CommitSpec,
        sent: Result<Appended, AppendError>,
        is_poisoned: bool,
    ) -> Fate {
        let decision = model.decide(commit);
        let error = match sent {
            Ok(appended) => return self.judge_success(model, commit, &decision, &appended),
            Err(error) => Error::from(error),
        };
        let is_refused = decision == Decision::Write && !self.admits(commit);
        let is_right = match (&error, &decision) {
            (Error::Invalid(_), decision) => *decision == Decision::Invalid,
            (Error::Conflict(conflict), Decision::Conflict(failures)) => conflict.failures == *failures,
            (Error::Stopped, _) => is_refused,
            (Error::Indeterminate { .. }, decision) => *decision == Decision::Write && is_poisoned && self.is_troubled,
            (Error::Poisoned { .. } | Error::NotWritten { .. }, _) => is_poisoned && self.is_troubled,
            (error, _) => self.excuses(error),
        };
        assert!(is_right, "{commit:?}\nis to come to {decision:?}\nbut: {error:?}");
        match error {
            Error::Conflict(_) => self.counts.conflicts += 1,
            Error::Indeterminate { .. } => {
                self.counts.doubts += 1;
                model.write(commit, None);
                return Fate::Doubtful;
            }
            _ => self.counts.failed_calls += u64::from(self.is_troubled),
        }
        Fate::Nothing
    }

    fn judge_success(
        &mut self,
        model: &mut Model,
        commit: &CommitSpec,
        decision: &Decision,
        appended: &Appended,
    ) -> Fate {
        let (fate, told) = match decision {
            Decision::Write => {
                assert!(self.admits(commit), "{commit:?} is not admitted");
                let first = model.head() + 1;
                model.write(commit, Some(appended.commit_time().nanos()));
                self.counts.commits += 1;
                (Fate::Written, model.told(first, commit, false))
            }
            Decision::Known(first) => {
                self.counts.deduplicated += 1;
                (Fate::Nothing, model.told(*first, commit, true))
            }
            other => panic!("{commit:?}\nis to come to {other:?}\nbut: {appended:?}"),
        };
        assert_eq!(told_by(appended), told, "{commit:?}");
        if commit.durability.unwrap_or(self.durability()) == Durability::Synced {
            self.model.synced = self.model.synced.max(told.last);
            model.synced = model.synced.max(told.last);
        }
        fate
    }

    /// The commit with what is relative made absolute, as an application does that has loaded before, and with ids for
    /// the events that have none.
    fn settled(&mut self, mut commit: CommitSpec, model: &Model) -> CommitSpec {
        let settle = |stream: &str, expect: &mut Expect| {
            if let Expect::Near(offset) = *expect {
                let version = model.version(stream).saturating_add_signed(offset);
                *expect = if version == 0 { Expect::NoStream } else { Expect::Exact(version) };
            }
        };
        commit.parts.iter_mut().for_each(|part| settle(part.stream, &mut part.expect));
        commit.checks.iter_mut().for_each(|(stream, expect)| settle(stream, expect));
        for condition in &mut commit.conditions {
            condition.after = condition.after.settled(model.head());
        }
        for event in commit.events_mut().filter(|event| event.id == 0) {
            self.drawn += 1;
            (event.id, event.payload_seed) = (self.drawn, self.drawn);
        }
        commit
    }
}

pub(super) fn is_poisoned(store: &Store) -> bool {
    store.condition().expect("a simulated disk tells its free space").failure.is_some()
}

/// A commit that every store takes that works.
pub(super) fn last_commit() -> CommitSpec {
    let event = EventSpec {
        id: 0,
        payload_seed: 0,
        payload_bytes: 10,
        event_type: "One",
        schema: 1,
        time: 1,
        tags: vec!["x"],
        metadata: None,
    };
    let part = PartSpec { stream: "a-1", expect: Expect::Near(0), events: vec![event] };
    CommitSpec { parts: vec![part], checks: Vec::new(), conditions: Vec::new(), durability: None }
}

fn commit_of(spec: &CommitSpec) -> Commit {
    let mut commit = Commit::new();
    for part in &spec.parts {
        commit = commit.append(part.stream, part.expect.expected(), part.events.iter().map(event_of));
    }
    for (stream, expect) in &spec.checks {
        commit = commit.expect(*stream, expect.expected());
    }
    for condition in &spec.conditions {
        commit = match condition.after {
            After::Beginning => commit.unless(condition.query.query()),
            after => commit.unless_after(condition.query.query(), Position::new(after.position())),
        };
    }
    spec.durability.map_or(commit.clone(), |durability| commit.durability(durability))
}

fn event_of(spec: &EventSpec) -> NewEvent {
    let event = NewEvent::raw(spec.event_type, spec.payload()).id(id_of(spec.id));
    let event = event.schema_version(spec.schema).time(Timestamp::from_nanos(spec.time));
    let event = event.tags(spec.tags.iter().copied());
    spec.metadata.map_or(event.clone(), |metadata| event.metadata_json(metadata))
}

pub(super) fn id_of(id: u64) -> EventId {
    EventId::from_bytes(u128::from(id).to_be_bytes())
}

fn told_by(appended: &Appended) -> Told {
    Told {
        first: appended.first_position().number(),
        last: appended.last_position().number(),
        versions: appended.versions().map(|(stream, version)| (stream.to_owned(), version.number())).collect(),
        deduplicated: appended.deduplicated(),
    }
}
