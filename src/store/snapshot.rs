//! Snapshots: what a stream amounted to at a version, kept in the state beside the log.
//!
//! A snapshot is a cache. It says which history it was made from, by the store's id and the checksum of the commit that
//! holds its last event, and is used only where that is still the history of the log. Whatever is wrong with one, the
//! way around it is to read the events; so a lookup never fails for what is in the state, and tells what it passed over.

use std::borrow::Cow;
#[cfg(feature = "zstd")]
use std::cell::RefCell;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_128;

use super::event::{Event, NewEvent};
use super::history::OtherHistory;
use super::query::name_problem;
use super::state::{PUT, StateBatch, StateVersion};
use super::{Inner, Store};
use crate::error::{Error, Invalid, Result, Violation};
use crate::format::snapshot::{Packing, SnapshotFault, SnapshotHeader};
use crate::index::KeyKind;
use crate::limits::{SNAPSHOT_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use crate::sabotage::{Sabotage, sabotaged};
use crate::types::{Codec, Durability, Position, StreamVersion};

/// How many values of a key are looked at before a lookup gives up: older ones than the newest are left over, until
/// compaction takes them.
const LOOKBACK_MAX: usize = 16;

/// A snapshot that is to be saved.
///
/// ```
/// use annals::{ExpectedVersion, NewEvent, NewSnapshot, SnapshotQuery, Store};
///
/// let store = Store::in_memory()?;
/// let opened = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
/// store.save_snapshot(&NewSnapshot::json("account-alice", opened.version(), &0)?)?;
///
/// let found = store.load_snapshot("account-alice", SnapshotQuery::new())?;
/// let snapshot = found.snapshot.expect("it was just saved");
/// let balance: u64 = snapshot.decode_state()?;
/// assert_eq!((snapshot.version, balance), (opened.version(), 0));
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a new snapshot is saved with Store::save_snapshot"]
pub struct NewSnapshot {
    stream: String,
    version: StreamVersion,
    schema: u64,
    codec: Codec,
    state: Vec<u8>,
}

/// A snapshot that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The stream.
    pub stream: String,
    /// The version of the last event that is in it: reading goes on behind it.
    pub version: StreamVersion,
    /// The position of that event.
    pub position: Position,
    /// What the application calls the shape of the state.
    pub schema: u64,
    /// How the state is encoded.
    pub codec: Codec,
    /// The state, as it was encoded.
    pub state: Vec<u8>,
}

/// Which snapshot of a stream is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotQuery {
    schema: u64,
    upto: Option<StreamVersion>,
}

/// What a lookup found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SnapshotLookup {
    /// The newest snapshot that can be used; `None` if the stream has to be read from its beginning.
    pub snapshot: Option<Snapshot>,
    /// What was passed over on the way, the newest first.
    pub ignored: Vec<IgnoredSnapshot>,
}

/// A snapshot that was passed over.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IgnoredSnapshot {
    /// The version that it says it has, if that could be read.
    pub version: Option<StreamVersion>,
    /// Why it cannot be used.
    pub reason: IgnoredReason,
}

/// Why a snapshot cannot be used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum IgnoredReason {
    /// The state, or the snapshot in it, cannot be read.
    Unreadable(Error),
    /// It is not what was saved.
    Damaged(String),
    /// A newer or another version of this program saved it.
    Unknown(String),
    /// Its state has another schema.
    OtherSchema(u64),
    /// It has events that the log does not have, or not any more.
    AheadOfLog,
    /// Its events are not those of this log: another history was put in its place, or part of it was lost.
    OtherHistory,
    /// It is of another stream, whose name has the same hash.
    OtherStream(String),
}

impl fmt::Display for IgnoredReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IgnoredReason::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            IgnoredReason::Damaged(what) => write!(f, "it is damaged: {what}"),
            IgnoredReason::Unknown(what) => write!(f, "it was saved by another version of this program: {what}"),
            IgnoredReason::OtherSchema(_) => f.write_str("its state has another schema"),
            IgnoredReason::AheadOfLog => f.write_str("it has events that the log does not have"),
            IgnoredReason::OtherHistory => f.write_str("its events are not those of this log"),
            IgnoredReason::OtherStream(stream) => write!(f, "it is of the stream {stream:?}"),
        }
    }
}

impl NewSnapshot {
    /// A snapshot whose state is `state` as JSON.
    ///
    /// # Errors
    /// [`Error::Codec`] if it cannot be told in JSON.
    pub fn json(stream: impl Into<String>, version: StreamVersion, state: &impl Serialize) -> Result<Self> {
        Self::of(stream.into(), version, |what| NewEvent::json(what, state))
    }

    /// A snapshot whose state is `state` in the postcard format.
    ///
    /// # Errors
    /// [`Error::Codec`] if it cannot be told in postcard.
    #[cfg(feature = "postcard")]
    pub fn postcard(stream: impl Into<String>, version: StreamVersion, state: &impl Serialize) -> Result<Self> {
        Self::of(stream.into(), version, |what| NewEvent::postcard(what, state))
    }

    /// A snapshot whose state is `state` in the format of bincode 1 with fixed-size integers.
    ///
    /// # Errors
    /// [`Error::Codec`] if it cannot be told in bincode.
    #[cfg(feature = "bincode")]
    pub fn bincode(stream: impl Into<String>, version: StreamVersion, state: &impl Serialize) -> Result<Self> {
        Self::of(stream.into(), version, |what| NewEvent::bincode(what, state))
    }

    /// A snapshot whose state is these bytes, which only the application understands.
    pub fn raw(stream: impl Into<String>, version: StreamVersion, state: impl Into<Vec<u8>>) -> Self {
        Self::from_bytes(stream, version, Codec::Raw, state)
    }

    /// A snapshot whose state was encoded before.
    pub fn from_bytes(
        stream: impl Into<String>,
        version: StreamVersion,
        codec: Codec,
        state: impl Into<Vec<u8>>,
    ) -> Self {
        Self { stream: stream.into(), version, schema: 0, codec, state: state.into() }
    }

    /// Says which schema the state has: a number that changes whenever the shape of the state, or what events do to it,
    /// does. 0 otherwise.
    pub fn schema(mut self, schema: u64) -> Self {
        self.schema = schema;
        self
    }

    /// Encodes the state as events encode their payloads.
    fn of(
        stream: String,
        version: StreamVersion,
        encode: impl FnOnce(Cow<'static, str>) -> Result<NewEvent>,
    ) -> Result<Self> {
        match encode(Cow::Borrowed("")) {
            Ok(encoded) => Ok(Self::from_bytes(stream, version, encoded.codec, encoded.payload)),
            Err(Error::Codec { reason, .. }) => {
                Err(Error::Codec { what: format!("cannot encode a snapshot of stream {stream:?}"), reason })
            }
            Err(error) => Err(error),
        }
    }

    fn check(&self) -> Result<()> {
        let mut violations = check_stream(&self.stream);
        if self.state.len() > SNAPSHOT_BYTES_MAX {
            let problem = format!("has {} bytes, at most {SNAPSHOT_BYTES_MAX} are allowed", self.state.len());
            violations.push(Violation::new(None, "state", problem));
        }
        if violations.is_empty() { Ok(()) } else { Err(Invalid { violations }.into()) }
    }
}

fn check_stream(stream: &str) -> Vec<Violation> {
    let problem = name_problem(stream, STREAM_NAME_BYTES_MAX);
    problem.into_iter().map(|problem| Violation::new(None, "stream", problem)).collect()
}

impl Snapshot {
    /// Its state decoded by the codec that it was encoded with.
    ///
    /// # Errors
    /// [`Error::Codec`], naming the stream, if the state is not a `T`, or the codec is [`Codec::Raw`] or belongs to a
    /// feature that is not on. The caller reads the stream from its beginning then.
    pub fn decode_state<T: DeserializeOwned>(&self) -> Result<T> {
        self.codec.decode(&self.state).map_err(|error| {
            error.of(format!("cannot decode the snapshot of stream {:?} at version {}", self.stream, self.version))
        })
    }
}

impl SnapshotQuery {
    /// The newest snapshot of schema 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants a snapshot of this schema.
    #[must_use]
    pub fn schema(mut self, schema: u64) -> Self {
        self.schema = schema;
        self
    }

    /// Wants a snapshot of this version or an earlier one. `None` is no bound.
    #[must_use]
    pub fn upto(mut self, version: impl Into<Option<StreamVersion>>) -> Self {
        self.upto = version.into();
        self
    }
}

impl Store {
    /// Saves a snapshot, unless a newer one of the same schema is there; whether it was saved.
    ///
    /// It is handed to the operating system, not synced: losing it in a loss of power costs no more than reading the
    /// events again.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the stream does not have this version, or the state is too large; otherwise those of
    /// [`State::write`](super::State::write), but for conflicts. The log is as it was, whatever happens.
    pub fn save_snapshot(&self, snapshot: &NewSnapshot) -> Result<bool> {
        let inner = &self.handle.inner;
        inner.appender()?;
        snapshot.check()?;
        let (key, value) = (key_of(&snapshot.stream), inner.encode_snapshot(snapshot)?);
        let state = self.state()?;
        loop {
            let current = inner.state.look(|state| {
                let place = |event: &Event<'_>| inner.judge_saved(event, snapshot);
                Ok(state.newest_of(&key, place)?.map(|(_, judged)| judged))
            })?;
            let current = match current {
                Some(Saved::Newer) => return Ok(false),
                Some(Saved::Older(version)) => Some(version),
                Some(Saved::Deleted) | None => None,
            };
            let batch = StateBatch::new().expect(&key, current).put(&key, value.as_slice());
            match state.write(batch.durability(Durability::Os)) {
                Ok(_) => return Ok(true),
                // Somebody saved another one in between, which may be newer.
                Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks up the newest snapshot of a stream that can be used.
    ///
    /// Only the newest is sure to be kept: with an upper bound an older one may be found, or none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the stream's name breaks a limit; those of reading the log. What is wrong with the state or
    /// a snapshot is no error: it is told in [`SnapshotLookup::ignored`].
    pub fn load_snapshot(&self, stream: &str, wanted: SnapshotQuery) -> Result<SnapshotLookup> {
        let violations = check_stream(stream);
        if !violations.is_empty() {
            return Err(Invalid { violations }.into());
        }
        let inner = &self.handle.inner;
        inner.catch_up()?;
        let key = key_of(stream);
        // The error inside is the log's, the one outside the state's.
        let found = inner.state.look(|state| {
            let mut lookup = Lookup { inner, stream, wanted, result: Ok(SnapshotLookup::default()) };
            state.visit_newest(&key, LOOKBACK_MAX, &mut |event| lookup.visit(event))?;
            Ok(Some(lookup.result))
        });
        match found {
            Ok(found) => found.unwrap_or_else(|| Ok(SnapshotLookup::default())),
            Err(error) => {
                let ignored = IgnoredSnapshot { version: None, reason: IgnoredReason::Unreadable(error) };
                Ok(SnapshotLookup { snapshot: None, ignored: vec![ignored] })
            }
        }
    }

    /// Deletes the snapshots of a stream.
    ///
    /// # Errors
    /// Those of [`State::delete`](super::State::delete).
    pub fn delete_snapshot(&self, stream: &str) -> Result<()> {
        let violations = check_stream(stream);
        if !violations.is_empty() {
            return Err(Invalid { violations }.into());
        }
        self.state()?.delete(key_of(stream))
    }
}

/// The key of the snapshots of a stream, in the state. Names can be as long as keys: their hash stands for them, and the
/// name inside decides.
pub(super) fn key_of(stream: &str) -> String {
    format!("snapshot-{:032x}", xxh3_128(stream.as_bytes()))
}

/// What is saved of a stream, beside a snapshot that is to be saved.
enum Saved {
    Newer,
    /// Or of no use.
    Older(StateVersion),
    Deleted,
}

/// A lookup on its way from the newest value of the key to older ones.
struct Lookup<'a> {
    inner: &'a Inner,
    stream: &'a str,
    wanted: SnapshotQuery,
    result: Result<SnapshotLookup>,
}

impl Lookup<'_> {
    /// Looks at a value; whether to look at an older one.
    fn visit(&mut self, event: Result<&Event<'_>>) -> bool {
        let Ok(lookup) = &mut self.result else { return false };
        let event = match event {
            Ok(event) if event.event_type != PUT => return false,
            Ok(event) => event,
            Err(error) => {
                lookup.ignored.push(IgnoredSnapshot { version: None, reason: IgnoredReason::Unreadable(error) });
                return true;
            }
        };
        let (header, packed) = match SnapshotHeader::decode(event.payload) {
            Ok(decoded) => decoded,
            Err(fault) => {
                lookup.ignored.push(IgnoredSnapshot { version: None, reason: fault.into() });
                return true;
            }
        };
        let version = StreamVersion::new(header.version);
        if self.wanted.upto.is_some_and(|upto| header.version > upto.number()) {
            return true;
        }
        match self.inner.open_snapshot(&header, packed, self.stream, self.wanted.schema) {
            Ok(Ok(snapshot)) => lookup.snapshot = Some(snapshot),
            Ok(Err(reason)) => lookup.ignored.push(IgnoredSnapshot { version, reason }),
            Err(error) => self.result = Err(error),
        }
        self.result.as_ref().is_ok_and(|lookup| lookup.snapshot.is_none())
    }
}

impl From<SnapshotFault> for IgnoredReason {
    fn from(fault: SnapshotFault) -> Self {
        match fault {
            SnapshotFault::Damaged(reason) => IgnoredReason::Damaged(reason.into()),
            SnapshotFault::Unknown(reason) => IgnoredReason::Unknown(reason.into()),
        }
    }
}

/// On the store that the snapshots are of.
impl Inner {
    fn encode_snapshot(&self, snapshot: &NewSnapshot) -> Result<Vec<u8>> {
        let (stream, version) = (&snapshot.stream, snapshot.version);
        let position = self.position_of_version(&self.seed.key(KeyKind::Stream, stream), version.number())?;
        let position = position.ok_or_else(|| {
            let problem = format!("stream {stream:?} has no version {version}");
            Invalid::of("version", problem)
        })?;
        let (packing, packed) = pack(&snapshot.state);
        let header = SnapshotHeader {
            store: self.log.store(),
            position,
            checksum: self.checksum_at(position)?,
            codec: snapshot.codec,
            packing,
            version: version.number(),
            schema: snapshot.schema,
            state_bytes: snapshot.state.len() as u32,
            stream,
        };
        Ok(header.encode(&packed))
    }

    /// Compares what is saved with what is to be saved. What cannot be used gives way.
    fn judge_saved(&self, event: &Event<'_>, new: &NewSnapshot) -> Saved {
        if event.event_type != PUT {
            return Saved::Deleted;
        }
        let is_newer = SnapshotHeader::decode(event.payload).is_ok_and(|(header, _)| {
            let rivals = header.stream == new.stream && header.schema == new.schema;
            rivals && header.version > new.version.number() && matches!(self.history_fault(&header), Ok(None))
        });
        if is_newer { Saved::Newer } else { Saved::Older(StateVersion::of(event)) }
    }

    /// Why a snapshot is not of the history of this log, if it is not.
    fn history_fault(&self, header: &SnapshotHeader<'_>) -> Result<Option<IgnoredReason>> {
        if sabotaged(Sabotage::TrustSnapshot) {
            return Ok(None);
        }
        let other = self.other_history(header.store, header.position, header.checksum)?;
        Ok(other.map(|other| match other {
            OtherHistory::AheadOfLog => IgnoredReason::AheadOfLog,
            _ => IgnoredReason::OtherHistory,
        }))
    }

    /// The snapshot, or why it cannot be used; an error is one of the log.
    fn open_snapshot(
        &self,
        header: &SnapshotHeader<'_>,
        packed: &[u8],
        stream: &str,
        schema: u64,
    ) -> Result<Result<Snapshot, IgnoredReason>> {
        if header.stream != stream {
            return Ok(Err(IgnoredReason::OtherStream(header.stream.to_owned())));
        }
        if header.schema != schema {
            return Ok(Err(IgnoredReason::OtherSchema(header.schema)));
        }
        if let Some(reason) = self.history_fault(header)? {
            return Ok(Err(reason));
        }
        let numbers = StreamVersion::new(header.version).zip(Position::new(header.position));
        let Some((version, position)) = numbers else {
            return Ok(Err(IgnoredReason::Damaged("its position or version is 0".into())));
        };
        Ok(unpack(header, packed).map(|state| Snapshot {
            stream: stream.to_owned(),
            version,
            position,
            schema,
            codec: header.codec,
            state,
        }))
    }
}

/// Packs a state if that makes it smaller.
#[cfg(feature = "zstd")]
fn pack(state: &[u8]) -> (Packing, Cow<'_, [u8]>) {
    /// Less is not worth the time.
    const PACKED_BYTES_MIN: usize = 512;
    if state.len() < PACKED_BYTES_MIN {
        return (Packing::Plain, state.into());
    }
    match zstd::bulk::compress(state, zstd::DEFAULT_COMPRESSION_LEVEL) {
        Ok(packed) if packed.len() < state.len() => (Packing::Zstd, packed.into()),
        _ => (Packing::Plain, state.into()),
    }
}

#[cfg(not(feature = "zstd"))]
fn pack(state: &[u8]) -> (Packing, Cow<'_, [u8]>) {
    (Packing::Plain, state.into())
}

fn unpack(header: &SnapshotHeader<'_>, packed: &[u8]) -> Result<Vec<u8>, IgnoredReason> {
    match header.packing {
        Packing::Plain => Ok(packed.to_vec()),
        Packing::Zstd => unpack_zstd(packed, header.state_bytes as usize),
    }
}

/// Never more than a snapshot may have, nor more than can be packed into so few bytes, whatever the header says.
#[cfg(feature = "zstd")]
fn unpack_zstd(packed: &[u8], state_bytes: usize) -> Result<Vec<u8>, IgnoredReason> {
    /// A block of four bytes can stand for 128 KiB, and none for more.
    const RATIO_MAX: usize = 32 * 1024;
    thread_local! {
        /// Kept, since making one takes longer than unpacking a small state with it.
        static UNPACKER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    if packed.is_empty() {
        return Err(IgnoredReason::Damaged("its state is said to be packed, and there is none".into()));
    }
    if state_bytes > packed.len().saturating_mul(RATIO_MAX).min(SNAPSHOT_BYTES_MAX) {
        return Err(IgnoredReason::Damaged("its state is larger than any that is packed so".into()));
    }
    let unpacked = UNPACKER.with_borrow_mut(|kept| match kept {
        Some(unpacker) => unpacker.decompress(packed, state_bytes),
        None => kept.insert(zstd::bulk::Decompressor::new()?).decompress(packed, state_bytes),
    });
    match unpacked {
        Ok(state) if state.len() == state_bytes => Ok(state),
        Ok(_) => Err(IgnoredReason::Damaged("its state has another length than it says".into())),
        Err(error) => Err(IgnoredReason::Damaged(format!("its state cannot be unpacked: {error}"))),
    }
}

#[cfg(not(feature = "zstd"))]
fn unpack_zstd(_packed: &[u8], _state_bytes: usize) -> Result<Vec<u8>, IgnoredReason> {
    Err(IgnoredReason::Unknown("it is packed with zstd, a feature that is off".into()))
}
