//! The errors of the crate: few variants, each a different thing for the caller to do.
//!
//! An error names what failed, where, and which limit or expectation it broke. No caller needs to read its text to
//! decide what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{EventId, Position, StreamVersion};

/// The result of what can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input breaks a rule or a limit. Nothing was written; correct it and try again.
    #[error("{0}")]
    Invalid(#[from] Invalid),

    /// An expectation did not hold. Nothing was written; load again, decide again.
    #[error("{0}")]
    Conflict(#[from] Conflict),

    /// There is no store at this path.
    #[error("there is no store at {}", path.display())]
    NotFound {
        /// Where one was looked for.
        path: PathBuf,
    },

    /// Another writer has the store open. It is free as soon as that one is closed, dropped or killed. In a process that was
    /// forked, the handle that it inherited says so: the store is that of the process it was forked from.
    #[error("the store at {} is open for writing elsewhere", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },

    /// The store was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,

    /// The store was closed through another handle.
    #[error("the store is closed")]
    Closed,

    /// The store was written by a newer or another program. It was left untouched.
    #[error("{} cannot be read by this version: {reason}", file.display())]
    Incompatible {
        /// The file.
        file: PathBuf,
        /// What in it is unknown.
        reason: String,
    },

    /// Bytes on disk are not what was written, and cannot be explained by a crash. Nothing was changed.
    #[error("{} is corrupt at offset {offset}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },

    /// There is no space for the commit. Nothing was assigned or written; try again when there is space.
    #[error("no space on the device for {}: {source}", path.display())]
    Full {
        /// The file that could not be allocated.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },

    /// A database beside the store did not do it now: another connection has it locked, or its disk failed. Nothing was
    /// changed; try again.
    #[error("cannot {operation} {} now: {source}", path.display())]
    Unavailable {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What the database said.
        source: Arc<io::Error>,
    },

    /// The operating system refused. Nothing was acknowledged.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },

    /// A write or sync of this commit failed: it may be on disk or not. Reopen the store and send the same commit again:
    /// it is written once.
    #[error("it is unknown whether the commit was written: {cause}")]
    Indeterminate {
        /// The write or sync that failed.
        cause: Box<Error>,
    },

    /// The commit was not written, because one before it failed to be. The store is poisoned; reopen it and try again.
    #[error("the commit was not written: {cause}")]
    NotWritten {
        /// The write or sync that failed.
        cause: Box<Error>,
    },

    /// An earlier write or sync failed, so that this handle takes no more appends. What was visible can still be read.
    /// Reopen the store.
    #[error("the store takes no more appends after an error: {cause}")]
    Poisoned {
        /// The write or sync that failed.
        cause: Box<Error>,
    },

    /// What was remembered of a position is of another history: another store is in its place, or it lost its end.
    /// Nothing was skipped; a read model has to be built anew, effects outside have to be judged by somebody.
    #[error("position {position} is of another history: {reason}")]
    HistoryChanged {
        /// The position that was remembered.
        position: Position,
        /// What is different.
        reason: String,
    },

    /// The name is in use elsewhere: in this process, where it is free as soon as that one is stopped or dropped, or in
    /// another one, whose SQL projection has gone on with the tables.
    #[error("{name:?} is active elsewhere")]
    Held {
        /// The name of the subscription or handler.
        name: String,
    },

    /// The lease of a consumer ran out, and the event went to another one, which acknowledges it.
    #[error("the lease of {name:?} ran out: the event at position {position} went to another consumer")]
    LeaseExpired {
        /// The name of the subscription.
        name: String,
        /// The event.
        position: Position,
    },

    /// A handler has stopped because of an error, or the rebuild of its model was given up. What it failed at is tried
    /// again when it is started again.
    #[error("the handler {name:?} has failed{}: {reason}", at(*position))]
    HandlerFailed {
        /// The name of the handler.
        name: String,
        /// The event that it failed at, if it was one.
        position: Option<Position>,
        /// What went wrong.
        reason: String,
    },

    /// It was stopped from another thread, or stopped itself, before it was done.
    #[error("it was stopped")]
    Stopped,

    /// What was waited for did not happen in time. It may still.
    #[error("{what} did not happen in time")]
    TimedOut {
        /// What was waited for.
        what: String,
    },

    /// A tenant has used up what it may use. Nothing was written; try again later, or with a larger quota.
    #[error("{what} of {tenant:?} would be {used}, at most {limit} are allowed")]
    Quota {
        /// The tenant.
        tenant: String,
        /// What is limited.
        what: Quota,
        /// How much there would be.
        used: u64,
        /// How much is allowed.
        limit: u64,
    },

    /// A payload could not be encoded or decoded.
    #[error("{what}: {reason}")]
    Codec {
        /// Which payload, with the event's place where it has one.
        what: String,
        /// What the codec said.
        reason: String,
    },

    /// An event of a type, or of a schema version of its type, that the reading program does not know. Declare it, give
    /// an upcaster, or ask for fewer types.
    #[error(
        "the event at position {position} of stream {stream:?} has the unknown type {event_type:?} in schema version \
         {schema_version} (event {id})"
    )]
    UnknownEvent {
        /// Its type.
        event_type: String,
        /// The schema version of its payload.
        schema_version: u32,
        /// Its stream.
        stream: String,
        /// Its place in the store.
        position: Position,
        /// Its id.
        id: EventId,
    },
}

impl Error {
    /// Whether the same call may succeed later without a change of the input: the store was busy, full or locked, or a
    /// new decision on fresh state is called for.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Conflict(_) | Error::Locked { .. } | Error::Full { .. } | Error::Unavailable { .. } => true,
            Error::Quota { what, .. } => matches!(what, Quota::Rate { retry_after: Some(_) } | Quota::OpenStores),
            _ => false,
        }
    }

    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io { operation, path: path.into(), source: Arc::new(source) }
    }

    /// The same for what takes space: a full disk, or a used-up quota, is an error of its own.
    pub(crate) fn io_or_full(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::Full { path: path.into(), source: Arc::new(source) }
            }
            _ => Self::io(operation, path, source),
        }
    }

    /// The same error of a codec, about something that the caller can name better.
    pub(crate) fn of(self, what: impl Into<String>) -> Self {
        match self {
            Error::Codec { reason, .. } => Error::Codec { what: what.into(), reason },
            other => other,
        }
    }

    pub(crate) fn corrupt(file: impl Into<PathBuf>, offset: u64, reason: impl Into<String>) -> Self {
        Error::Corrupt { file: file.into(), offset, reason: reason.into() }
    }
}

/// What of a tenant is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Quota {
    /// Events in its store.
    Events,
    /// Bytes of its log.
    Bytes,
    /// Events appended within the time that the limit is for.
    Rate {
        /// How long to wait until this commit would be let through; `None` if it is too large for that ever to happen.
        retry_after: Option<Duration>,
    },
    /// Stores of all tenants that are open at once, none of which can be closed now because all are in use.
    OpenStores,
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quota::Events => "the events",
            Quota::Bytes => "the bytes",
            Quota::Rate { .. } => "the events appended at once",
            Quota::OpenStores => "the open stores, with that",
        })
    }
}

fn at(position: Option<Position>) -> String {
    position.map_or_else(String::new, |position| format!(" at position {position}"))
}

/// Everything that is wrong with an input, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The violations, in the order of the input; never empty.
    pub violations: Vec<Violation>,
}

impl Invalid {
    /// One thing is wrong, and no event's.
    pub(crate) fn of(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { violations: vec![Violation::new(None, field, problem)] }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid input: ")?;
        for (index, violation) in self.violations.iter().enumerate() {
            write!(f, "{}{violation}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The index of the event in its commit, from 0, if it is one event's.
    pub event: Option<usize>,
    /// The field, such as `stream` or `tags[2]`.
    pub field: String,
    /// The rule or limit that it breaks, and by how much.
    pub problem: String,
}

impl Violation {
    pub(crate) fn new(event: Option<usize>, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { event, field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some(index) => write!(f, "event {index}, {}: {}", self.field, self.problem),
            None => write!(f, "{}: {}", self.field, self.problem),
        }
    }
}

/// All the expectations of a commit that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The failures, streams first, in the order in which the commit named them; never empty.
    pub failures: Vec<ExpectationFailure>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conflict: ")?;
        for (index, failure) in self.failures.iter().enumerate() {
            write!(f, "{}{failure}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Conflict {}

/// One expectation that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpectationFailure {
    /// A stream was not at the version that was expected.
    Stream {
        /// The stream.
        stream: String,
        /// What was expected.
        expected: ExpectedVersion,
        /// Its version; `None` if it does not exist.
        actual: Option<StreamVersion>,
        /// Where the first event lies that contradicts the expectation, if one does.
        position: Option<Position>,
    },
    /// A key of the state does not have the value that was expected.
    Key {
        /// The key.
        key: String,
        /// Whether it has a value, which is another one then.
        exists: bool,
    },
    /// An event matches a query that none was to match.
    Condition {
        /// The index of the condition in the commit, from 0.
        condition: usize,
        /// Where the first match lies.
        position: Position,
    },
}

impl fmt::Display for ExpectationFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpectationFailure::Stream { stream, expected, actual, .. } => {
                write!(f, "stream {stream:?} was expected {expected}, ")?;
                match actual {
                    Some(version) => write!(f, "and is at version {version}"),
                    None => write!(f, "and does not exist"),
                }
            }
            ExpectationFailure::Key { key, exists: true } => write!(f, "key {key:?} has another value than expected"),
            ExpectationFailure::Key { key, exists: false } => write!(f, "key {key:?} has no value"),
            ExpectationFailure::Condition { condition, position } => {
                write!(f, "condition {condition} is met by the event at position {position}")
            }
        }
    }
}

/// What a commit expects of a stream before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExpectedVersion {
    /// Nothing.
    Any,
    /// That the stream does not exist.
    NoStream,
    /// That the stream exists, at whatever version.
    StreamExists,
    /// That the stream is at this version.
    Exact(StreamVersion),
}

impl From<StreamVersion> for ExpectedVersion {
    fn from(version: StreamVersion) -> Self {
        ExpectedVersion::Exact(version)
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpectedVersion::Any => write!(f, "to be anything"),
            ExpectedVersion::NoStream => write!(f, "not to exist"),
            ExpectedVersion::StreamExists => write!(f, "to exist"),
            ExpectedVersion::Exact(version) => write!(f, "to be at version {version}"),
        }
    }
}
