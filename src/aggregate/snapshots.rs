//! When states are saved as snapshots, and what makes one usable: a schema that follows the code.
//!
//! A snapshot is a cache. Whatever is wrong with one, the events are read instead, and the problem is told.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fingerprint::{fingerprint, mixed};
use super::folded::{Fold, Folded};
use crate::error::{Error, Invalid, Result};
use crate::types::{Codec, Position, StreamVersion};
use crate::{IgnoredSnapshot, NewSnapshot, SnapshotQuery, Store};

/// When the state of an aggregate is saved, so that loading it does not read all of its events.
///
/// A snapshot that is due is saved by whoever loads the aggregate, or executes a command on it (after its events were
/// appended), on the thread that does so. It is handed to the operating system, not synced.
///
/// ```
/// use std::time::Duration;
/// use annals::{Codec, SnapshotPolicy};
///
/// let policies = [
///     SnapshotPolicy::every_events(100),
///     SnapshotPolicy::every(Duration::from_secs(24 * 60 * 60)),
///     SnapshotPolicy::every_bytes(1024 * 1024),
///     SnapshotPolicy::on_demand(),
///     SnapshotPolicy::never(),
/// ];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a policy is given to a repository"]
pub struct SnapshotPolicy {
    rule: Rule,
    codec: Codec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    EveryEvents(u64),
    Every(Duration),
    EveryBytes(u64),
    OnDemand,
    Never,
}

impl SnapshotPolicy {
    /// Whenever so many events, at least 1, have come since the last snapshot.
    pub fn every_events(events: u64) -> Self {
        Self::of(Rule::EveryEvents(events.max(1)))
    }

    /// Whenever the newest event was committed so much later than the newest one in the snapshot; without a snapshot,
    /// than the first event.
    pub fn every(time: Duration) -> Self {
        Self::of(Rule::Every(time))
    }

    /// Whenever the payloads of the events since the last snapshot take so many bytes, at least 1.
    pub fn every_bytes(payload_bytes: u64) -> Self {
        Self::of(Rule::EveryBytes(payload_bytes.max(1)))
    }

    /// Only when it is asked for: [`Repository::save_snapshot`](crate::Repository::save_snapshot).
    pub fn on_demand() -> Self {
        Self::of(Rule::OnDemand)
    }

    /// None are saved, and those that are there are not used.
    pub fn never() -> Self {
        Self::of(Rule::Never)
    }

    /// How states are encoded: JSON, unless said otherwise. Snapshots of another codec stay usable.
    pub fn encoded_as(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    fn of(rule: Rule) -> Self {
        Self { rule, codec: Codec::Json }
    }

    pub(super) fn is_never(self) -> bool {
        self.rule == Rule::Never
    }

    /// Whether a state is to be saved.
    pub(super) fn is_due<S>(self, folded: &Folded<S>) -> bool {
        if folded.is_saved() {
            return false;
        }
        let since = &folded.since;
        match self.rule {
            Rule::EveryEvents(events) => since.events >= events,
            Rule::EveryBytes(bytes) => since.payload_bytes >= bytes,
            Rule::Every(time) => {
                let newest = folded.last.map(|last| last.commit_time.nanos());
                let span = newest.zip(since.began).map(|(newest, began)| newest.saturating_sub(began.nanos()));
                since.events > 0 && span.is_some_and(|nanos| i128::from(nanos) >= time.as_nanos() as i128)
            }
            Rule::OnDemand | Rule::Never => false,
        }
    }
}

/// What was wrong with a snapshot. The state that was loaded is right all the same.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SnapshotProblem {
    /// It cannot be used: another schema or history, damaged, or unreadable.
    Ignored(IgnoredSnapshot),
    /// Its state cannot be decoded.
    Undecodable {
        /// The version that it was saved at.
        version: StreamVersion,
        /// What the codec said.
        error: Error,
    },
    /// Its state is not what its events amount to, as a sampled check found out. It was deleted. Either what events do
    /// to the state has changed, and neither the version of the state nor its fingerprint has; or something else than
    /// this program saved it.
    Mismatch {
        /// The version that it was saved at.
        version: StreamVersion,
    },
    /// One that was due could not be saved, or one that is wrong not be deleted.
    NotSaved(Error),
}

impl fmt::Display for SnapshotProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotProblem::Ignored(ignored) => write!(f, "a snapshot cannot be used: {}", ignored.reason),
            SnapshotProblem::Undecodable { version, error } => {
                write!(f, "the snapshot at version {version} cannot be decoded: {error}")
            }
            SnapshotProblem::Mismatch { version } => {
                write!(f, "the snapshot at version {version} is not what its events amount to")
            }
            SnapshotProblem::NotSaved(error) => write!(f, "a snapshot could not be saved: {error}"),
        }
    }
}

/// How the states of a repository are saved and found again.
pub(super) struct Snapshots<S> {
    pub(super) policy: SnapshotPolicy,
    schema: u64,
    encode: fn(&S, Codec) -> Result<Vec<u8>>,
    decode: fn(Codec, &[u8]) -> Result<S>,
    fingerprint: fn(&S) -> Result<u64>,
}

impl<S: Serialize + DeserializeOwned> Snapshots<S> {
    /// Works out the schema: the version of the state, and what the samples make of it one after the other. Makes sure
    /// as well that states survive the codec: a snapshot that cannot be read again would never be used, and nobody would
    /// notice.
    pub(super) fn new<F: Fold<State = S>>(
        policy: SnapshotPolicy,
        state_version: u32,
        fold: &F,
        samples: &[F::Event],
    ) -> Result<Self> {
        let mut state = fold.initial();
        let (mut print, mut restored) = proved_fingerprint(&state, policy.codec)?;
        let mut schema = mixed(u64::from(state_version), print);
        for sample in samples {
            fold.apply(&mut state, sample);
            fold.apply(&mut restored, sample);
            let of_restored = fingerprint(&restored)?;
            (print, restored) = proved_fingerprint(&state, policy.codec)?;
            if of_restored != print {
                return Err(refused::<S>(policy.codec, "events do something else to it when it comes back"));
            }
            schema = mixed(schema, print);
        }
        let encode = |state: &S, codec: Codec| codec.encode(state);
        let decode = |codec: Codec, state: &[u8]| codec.decode(state);
        Ok(Self { policy, schema, encode, decode, fingerprint: |state| fingerprint(state) })
    }
}

/// The fingerprint of a state that is the same after it was encoded and decoded, and the state that came back.
fn proved_fingerprint<S: Serialize + DeserializeOwned>(state: &S, codec: Codec) -> Result<(u64, S)> {
    let print = fingerprint(state)?;
    let encoded = codec.encode(state).map_err(|error| refused::<S>(codec, error))?;
    let decoded: S = codec.decode(&encoded).map_err(|error| refused::<S>(codec, error))?;
    if fingerprint(&decoded)? == print {
        Ok((print, decoded))
    } else {
        Err(refused::<S>(codec, "it comes back as another one"))
    }
}

fn refused<S>(codec: Codec, problem: impl fmt::Display) -> Error {
    let problem = format!("a state of {} cannot be saved as {codec}: {problem}", std::any::type_name::<S>());
    Invalid::of("state", problem).into()
}

/// The state of a snapshot that was found.
pub(super) struct Saved<S> {
    pub(super) state: S,
    pub(super) version: StreamVersion,
    pub(super) position: Position,
}

impl<S> Snapshots<S> {
    /// The newest snapshot that can be used, of this version at most. What cannot is added to the problems.
    pub(super) fn find(
        &self,
        store: &Store,
        stream: &str,
        upto: Option<StreamVersion>,
        problems: &mut Vec<SnapshotProblem>,
    ) -> Result<Option<Saved<S>>> {
        let lookup = store.load_snapshot(stream, SnapshotQuery::new().schema(self.schema).upto(upto))?;
        problems.extend(lookup.ignored.into_iter().map(SnapshotProblem::Ignored));
        let Some(snapshot) = lookup.snapshot else { return Ok(None) };
        match (self.decode)(snapshot.codec, &snapshot.state) {
            Ok(state) => Ok(Some(Saved { state, version: snapshot.version, position: snapshot.position })),
            Err(error) => {
                problems.push(SnapshotProblem::Undecodable { version: snapshot.version, error });
                Ok(None)
            }
        }
    }

    /// Saves a state; whether it was saved, which it is not if a newer one is there.
    pub(super) fn save(&self, store: &Store, stream: &str, folded: &Folded<S>) -> Result<bool> {
        let Some(version) = folded.version() else { return Ok(false) };
        let state = (self.encode)(&folded.state, self.policy.codec)?;
        let snapshot = NewSnapshot::from_bytes(stream, version, self.policy.codec, state).schema(self.schema);
        let was_saved = store.save_snapshot(&snapshot)?;
        folded.note_saved();
        Ok(was_saved)
    }

    /// Whether two states say the same.
    pub(super) fn is_same(&self, saved: &S, replayed: &S) -> Result<bool> {
        Ok((self.fingerprint)(saved)? == (self.fingerprint)(replayed)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;
    use crate::aggregate::folded::Last;
    use crate::types::Timestamp;

    #[derive(Serialize, Deserialize, Default)]
    struct Sum(u64);

    #[derive(Serialize, Deserialize, Default)]
    struct Keyed(HashMap<(u8, u8), u8>);

    #[derive(Clone)]
    struct Adding(u64);

    impl Fold for Adding {
        type State = Sum;
        type Event = u64;

        fn initial(&self) -> Sum {
            Sum::default()
        }

        fn apply(&self, state: &mut Sum, event: &u64) {
            state.0 += event * self.0;
        }
    }

    #[derive(Clone)]
    struct Keying;

    impl Fold for Keying {
        type State = Keyed;
        type Event = u8;

        fn initial(&self) -> Keyed {
            Keyed::default()
        }

        fn apply(&self, state: &mut Keyed, event: &u8) {
            state.0.insert((*event, *event), *event);
        }
    }

    fn schema(state_version: u32, factor: u64, samples: &[u64]) -> u64 {
        Snapshots::new(SnapshotPolicy::on_demand(), state_version, &Adding(factor), samples).unwrap().schema
    }

    #[test]
    fn the_schema_follows_the_version_of_the_state_and_what_samples_make_of_it() {
        assert_eq!(schema(1, 1, &[1, 2]), schema(1, 1, &[1, 2]));
        assert_ne!(schema(1, 1, &[1, 2]), schema(2, 1, &[1, 2]));
        assert_ne!(schema(1, 1, &[1, 2]), schema(1, 2, &[1, 2]));
        assert_ne!(schema(1, 1, &[1, 2]), schema(1, 1, &[2, 1]), "what lies between counts as well");
        assert_eq!(schema(1, 1, &[]), schema(1, 2, &[]), "without samples nothing is known of events");
    }

    #[test]
    fn a_state_that_does_not_survive_its_codec_is_refused() {
        let refused = Snapshots::new(SnapshotPolicy::on_demand(), 1, &Keying, &[1]).err().unwrap();
        assert!(matches!(&refused, Error::Invalid(_)), "{refused:?}");
        assert!(refused.to_string().contains("cannot be saved as json"), "{refused}");
        let raw = SnapshotPolicy::on_demand().encoded_as(Codec::Raw);
        assert!(matches!(Snapshots::new(raw, 1, &Adding(1), &[]).err().unwrap(), Error::Invalid(_)));
    }

    /// Remembers what is not saved with it.
    #[derive(Serialize, Deserialize, Default)]
    struct Forgetful {
        sum: u64,
        #[serde(skip)]
        factor: u64,
    }

    #[derive(Clone)]
    struct Forgetting;

    impl Fold for Forgetting {
        type State = Forgetful;
        type Event = u64;

        fn initial(&self) -> Forgetful {
            Forgetful::default()
        }

        fn apply(&self, state: &mut Forgetful, event: &u64) {
            state.sum += state.factor;
            state.factor = *event;
        }
    }

    #[test]
    fn a_state_that_leaves_out_what_events_go_by_is_refused() {
        let snapshots = |samples: &[u64]| Snapshots::new(SnapshotPolicy::on_demand(), 1, &Forgetting, samples);
        assert!(snapshots(&[2]).is_ok(), "one sample does not show it");
        let refused = snapshots(&[2, 3]).err().unwrap();
        assert!(refused.to_string().contains("when it comes back"), "{refused}");
    }

    #[test]
    fn each_policy_is_due_at_its_number_and_not_before() {
        let mut folded = Folded::new(());
        let mut due = |policy: SnapshotPolicy, events: u64, payload_bytes: u64, nanos: i64| {
            let (began, commit_time) = (Some(Timestamp::from_nanos(0)), Timestamp::from_nanos(nanos));
            folded.since = super::super::folded::SinceSnapshot { events, payload_bytes, began };
            folded.last = Some(Last { version: StreamVersion::FIRST, position: Position::FIRST, commit_time });
            policy.is_due(&folded)
        };
        let day = Duration::from_nanos(100);
        assert!(!due(SnapshotPolicy::every_events(3), 2, 99, 99) && due(SnapshotPolicy::every_events(3), 3, 0, 0));
        assert!(!due(SnapshotPolicy::every_events(0), 0, 99, 99) && due(SnapshotPolicy::every_events(0), 1, 0, 0));
        assert!(!due(SnapshotPolicy::every_bytes(9), 9, 8, 99) && due(SnapshotPolicy::every_bytes(9), 1, 9, 0));
        assert!(!due(SnapshotPolicy::every(day), 9, 99, 99) && due(SnapshotPolicy::every(day), 1, 0, 100));
        assert!(!due(SnapshotPolicy::every(Duration::ZERO), 0, 0, 100), "nothing is new");
        for never in [SnapshotPolicy::on_demand(), SnapshotPolicy::never()] {
            assert!(!due(never, u64::MAX, u64::MAX, i64::MAX));
        }
    }
}
