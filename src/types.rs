//! The small values that every layer speaks of: positions, versions, ids, times, codecs.
//!
//! Each is a type of its own, so that a version can never be passed for a position. They hold no logic beyond their
//! own validity.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The place of an event in the global order of a store: from 1, without gaps, in commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(NonZeroU64);

impl Position {
    /// The position of the first event of every store.
    pub const FIRST: Position = Position(NonZeroU64::MIN);

    /// The position with this number; `None` for 0, since positions count from 1.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number, from 1.
    pub const fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of an event in its stream: from 1, without gaps. The version of a stream is that of its last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamVersion(NonZeroU64);

impl StreamVersion {
    /// The version of the first event of every stream.
    pub const FIRST: StreamVersion = StreamVersion(NonZeroU64::MIN);

    /// The version with this number; `None` for 0, since versions count from 1 and an absent stream has none.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number, from 1.
    pub const fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for StreamVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an event: a UUID, version 7 unless the caller gave another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// The id with these bytes, in the usual order.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The bytes, in the usual order.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The id of the event of this ordinal among those that the event with this id was upcast into: the id itself for 0,
    /// else a UUID of version 5, the same every time.
    #[must_use]
    pub fn derived(self, ordinal: u32) -> Self {
        match ordinal {
            0 => self,
            _ => Self(Uuid::new_v5(&self.0, &ordinal.to_be_bytes())),
        }
    }

    /// The id that a text such as `018f4e2a-7c1b-7d2e-9f3a-0123456789ab` names; `None` if it names none.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl From<Uuid> for EventId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl From<EventId> for Uuid {
    fn from(id: EventId) -> Self {
        id.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a store, drawn when it is created. A restored backup has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(Uuid);

impl StoreId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time: nanoseconds since 1970-01-01 00:00 UTC, leap seconds not counted. Reaches from 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest time.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// The latest time.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// The time so many nanoseconds after 1970-01-01 00:00 UTC.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The time so many milliseconds after 1970-01-01 00:00 UTC, or the nearest one that can be told.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub const fn nanos(self) -> i64 {
        self.0
    }
}

/// How the payload of an event is encoded. Recorded with each event, so that one store can hold several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// Bytes that only the application understands.
    Raw,
    /// JSON text (the default).
    Json,
    /// The postcard format.
    Postcard,
    /// The format of bincode 1 with fixed-size integers, little-endian.
    Bincode,
}

impl Codec {
    /// The name under which exports and tools show the codec.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Raw => "raw",
            Codec::Json => "json",
            Codec::Postcard => "postcard",
            Codec::Bincode => "bincode1-fixint-le",
        }
    }

    /// The codec of this name; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        [Codec::Raw, Codec::Json, Codec::Postcard, Codec::Bincode].into_iter().find(|codec| codec.name() == name)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When an append returns, and what its commit survives from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// Returns when the commit was handed to the operating system: it survives a killed process, and a loss of power
    /// once it is synced in the background, by default within a second.
    Os,
    /// Returns when the commit was synced to the disk (the default): it survives a loss of power.
    #[default]
    Synced,
}

/// The category of a stream: the text before the first `-` of its name, or the whole name if there is none.
pub(crate) fn category_of(stream: &str) -> &str {
    // Byte by byte: the search for a character is made for longer texts, and every append comes by here.
    let end = stream.bytes().position(|byte| byte == b'-');
    end.map_or(stream, |end| &stream[..end])
}
