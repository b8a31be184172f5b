//! An embedded event store, and what event-sourced applications are made of on top of it.
//!
//! | What you want to do | Where it begins |
//! |---|---|
//! | append events and read them | [`Store::open`], [`Store::append`], [`Store::commit`]; [`Store::read`] with a [`Query`] |
//! | decide on the events of one stream | [`Aggregate`] or [`Decider`]; [`Store::repository`], [`Repository::execute`] |
//! | decide on several streams, or on a query | [`Store::transact`]; [`DecisionModel`] with [`Store::decide`] |
//! | report every mistake of an input at once | [`Problems`] |
//! | declare events: names, versions, tags, codecs, upcasters | [`EventTypes`], [`Upcaster`]; [`Migration`] copies a store |
//! | keep a read model in memory and query it | [`Projection`] and [`Store::projection`]; [`Table`], [`field`], [`path()`] |
#![cfg_attr(feature = "sqlite", doc = "| keep a read model in SQLite | [`Store::sql_projection`] |")]
//! | act on events outside of the store | [`Store::react`], [`Store::relay`] to a [`Sink`]; [`OnError`], [`Store::dead_letters`] |
//! | pull events, from what has happened to what comes | [`Store::subscribe`], [`Store::replay`] |
//! | let one thing lead to another, and undo it | [`ProcessManager`] and [`Store::process`] |
//! | keep many stores apart | [`Tenants`], [`Quotas`] |
#![cfg_attr(
    feature = "tokio",
    doc = "| await appends and events | [`Store::append_async`], [`Subscription::into_stream`] |"
)]
#![cfg_attr(feature = "schema", doc = "| see what a change of events breaks | [`EventSchemas`] |")]
#![cfg_attr(feature = "testing", doc = "| test it | [`testing`] |")]
//! | run it | [`Options`], [`Store::health`], [`Store::shutdown`], [`Store::backup`], [`verify()`]; all [`limits`] |
//!
//! What fails says so with [`Error`]; where a decision can also be refused, with [`ExecuteError`].
//!
//! [docs/GUIDE.md]: https://docs.rs/crate/annals/latest/source/docs/GUIDE.md
//! [examples/]: https://docs.rs/crate/annals/latest/source/examples/
//! [assumed]: https://docs.rs/crate/annals/latest/source/docs/FORMAT.md#10-what-is-assumed-of-the-media
//! [the benches]: https://docs.rs/crate/annals/latest/source/docs/BENCHMARKS.md
//! [docs/FORMAT.md]: https://docs.rs/crate/annals/latest/source/docs/FORMAT.md
//! [docs/ARCHITECTURE.md]: https://docs.rs/crate/annals/latest/source/docs/ARCHITECTURE.md
//! [docs/RELIABILITY.md]: https://docs.rs/crate/annals/latest/source/docs/RELIABILITY.md
//! [docs/adr]: https://docs.rs/crate/annals/latest/source/docs/adr
//!
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod aggregate;
#[cfg(feature = "tokio")]
mod asynchronous;
mod clock;
mod codec;
mod error;
mod event;
mod format;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod index;
pub mod limits;
mod log;
mod observe;
mod process;
mod projection;
mod randomness;
mod sabotage;
#[cfg(test)]
mod seeds;
mod storage;
mod store;
mod subscription;
mod sync;
mod table;
mod tenants;
#[cfg(feature = "testing")]
pub mod testing;
mod types;
mod validation;

pub use aggregate::{
    Aggregate, CONFLICT_RETRIES, CollectedEvents, Command, CommandId, Decider, Deciders, Decision, DecisionModel,
    ExecuteError, Executed, IteratedEvents, Loaded, OneEvent, QueryDecision, Repository, ResultOf, SnapshotPolicy,
    SnapshotProblem, Transaction, Work as UnitOfWork,
};
#[cfg(feature = "tokio")]
pub use asynchronous::{AppendFuture, EventStream};
pub use clock::{Clock, ManualClock, Signal, SystemClock};
pub use error::{Conflict, Error, ExpectationFailure, ExpectedVersion, Invalid, Quota, Result, Violation};
#[cfg(feature = "schema")]
pub use event::{Breaks, ChangeKind, EventSchemas, SchemaChange, TypeSchema};
pub use event::{
    Decoded, EventCodec, EventTypes, Migration, MigrationReport, TypeChange, TypedEvent, TypedRead, Upcast,
    UpcastError, UpcastRules, Upcaster, Upcasters,
};
pub use handler::{
    Checkpoint, DeadLetter, DeadLetterRequest, DeadLetters, DeduplicationKey, DeliveryOrder, HandlerError,
    HandlerHandle, HandlerKind, HandlerState, HandlerStatus, Health, MemorySink, OnError, Outgoing, Reactor,
    RegisteredHandler, Relay, Remainder, Runner, ShutdownReport, Sink, Skipped, Work,
};
pub use process::{
    Dispatch, DispatchError, Ending, Issued, ProcessBuilder, ProcessHandle, ProcessInstance, ProcessInstances,
    ProcessManager, ProcessStatus, ProcessTimer, Reactions, Rejection,
};
pub use projection::{
    Parts, Projection, ProjectionBuilder, ProjectionHandle, ReadModel, RebuildCause, Rebuilt, StartReport, View,
};
#[cfg(feature = "sqlite")]
pub use projection::{SqlProjectionBuilder, SqlProjectionHandle, SqlSource};
pub use randomness::{Randomness, SeededRandomness, SystemRandomness};
/// The version of `rusqlite` whose connections read models in SQL are given.
#[cfg(feature = "sqlite")]
pub use rusqlite;
#[cfg(feature = "testing")]
pub use store::FaultyDisk;
pub use store::{
    Admission, AppendError, Appended, BackupReport, Commit, CommitBuilder, Condition, Event, HeldName, HistoryPoint,
    IgnoredReason, IgnoredSnapshot, Metadata, NewEvent, NewSnapshot, OpenReport, Options, OwnedEvents, Problem, Query,
    Read, ReadMode, RebuildProgress, RecordedEvent, Snapshot, SnapshotLookup, SnapshotQuery, State, StateBatch,
    StateValue, StateVersion, StateWritten, Stats, Store, StoreDirectory, Tags, VerifyProgress, VerifyReport, Watch,
    verify,
};
pub use subscription::{
    Batch, Delivery, Follow, Horizon, Item, Lag, ParallelReplay, Replay, ReplayError, ReplayOutcome, ReplayProgress,
    ReplayToken, Replayed, Stopper, Subscribe, Subscription,
};
pub use table::{
    Access, Explain, FieldKind, FieldRef, FieldType, FieldValue, Filter, RowMut, Table, TableQuery, Unsaved, field,
    path,
};
pub use tenants::{Quotas, TenantOptions, Tenants, TenantsOptions, Usage};
pub use types::{Codec, Durability, EventId, Position, StoreId, StreamVersion, Timestamp};
pub use validation::{FieldProblems, LocatedProblem, OutOfLimit, Problems};
