#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod error;
mod format;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod index;
pub mod limits;
mod log;
mod observe;
mod randomness;
mod storage;
mod store;
mod types;

pub use clock::{Clock, ManualClock, Signal, SystemClock};
pub use error::{Conflict, Error, ExpectationFailure, ExpectedVersion, Invalid, Result, Violation};
pub use randomness::{Randomness, SeededRandomness, SystemRandomness};
pub use store::{
    AppendError, Appended, BackupReport, Commit, CommitBuilder, Event, IgnoredReason, IgnoredSnapshot, NewEvent,
    NewSnapshot, OpenReport, Options, OwnedEvents, Problem, Query, Read, ReadMode, RebuildProgress, RecordedEvent,
    Snapshot, SnapshotLookup, SnapshotQuery, State, StateBatch, StateValue, StateVersion, StateWritten, Stats, Store,
    Tags, VerifyProgress, VerifyReport, verify,
};
pub use types::{Codec, Durability, EventId, Position, StoreId, StreamVersion, Timestamp};
