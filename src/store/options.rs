//! How a store is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Store;
use super::admission::{Admission, Rule};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Invalid, Result, Violation};
use crate::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::log::{Growth, LogOptions};
use crate::observe::Label;
use crate::randomness::{Randomness, SystemRandomness};
use crate::storage;
use crate::types::Durability;

/// How events are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// From a memory map (the default): the fastest, without copying. A disk that fails under a mapped page, or another
    /// program that truncates a file of the store, ends the process with a signal (SIGBUS).
    #[default]
    Map,
    /// With a system call for each read, so that a failing disk is an error. Each segment that was read, and its part of
    /// the index, stay open: a store of many segments needs a limit on open files above twice their number. The others
    /// need one for a few dozen files, whatever the size of the store.
    Pread,
}

/// How far a rebuild of the index has come, in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Events that were indexed.
    pub done: u64,
    /// Events that are to be indexed.
    pub total: u64,
}

type OnRebuild = Arc<dyn Fn(RebuildProgress) + Send + Sync>;

/// Options of a store. The defaults are safe, and good for most.
///
/// ```no_run
/// use annals::{Durability, Options};
///
/// let store = Options::new().durability(Durability::Os).segment_bytes_max(64 * 1024 * 1024).open("events")?;
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    pub(super) durability: Durability,
    pub(super) read_mode: ReadMode,
    pub(super) segment_bytes_first: u64,
    pub(super) segment_bytes_max: u64,
    pub(super) growth: Growth,
    pub(super) index_memory_bytes_max: usize,
    pub(super) index_tail_bytes_max: u64,
    pub(super) sync_delay: Duration,
    pub(super) mark_delay: Duration,
    pub(super) background: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) randomness: Arc<dyn Randomness>,
    pub(super) on_rebuild: Option<OnRebuild>,
    pub(super) admission: Option<Rule>,
    pub(super) label: Option<Label>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("durability", &self.durability)
            .field("read_mode", &self.read_mode)
            .field("segment_bytes_first", &self.segment_bytes_first)
            .field("segment_bytes_max", &self.segment_bytes_max)
            .field("index_memory_bytes_max", &self.index_memory_bytes_max)
            .field("index_tail_bytes_max", &self.index_tail_bytes_max)
            .field("sync_delay", &self.sync_delay)
            .field("mark_delay", &self.mark_delay)
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            read_mode: ReadMode::Map,
            segment_bytes_first: 1024 * 1024,
            segment_bytes_max: 256 * 1024 * 1024,
            growth: Growth::Doubling,
            index_memory_bytes_max: 32 * 1024 * 1024,
            index_tail_bytes_max: 32 * 1024 * 1024,
            sync_delay: Duration::from_secs(1),
            mark_delay: Duration::from_millis(100),
            background: true,
            clock: Arc::new(SystemClock),
            randomness: Arc::new(SystemRandomness::new()),
            on_rebuild: None,
            admission: None,
            label: None,
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The durability of appends that do not name their own. [`Durability::Synced`] by default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How events are read. [`ReadMode::Map`] by default.
    #[must_use]
    pub fn read_mode(mut self, read_mode: ReadMode) -> Self {
        self.read_mode = read_mode;
        self
    }

    /// Size of the first segment file, in bytes; each next one is twice as large, or four times where events come faster
    /// than they are synced. 1 MiB by default.
    #[must_use]
    pub fn segment_bytes_first(mut self, bytes: u64) -> Self {
        self.segment_bytes_first = bytes;
        self
    }

    /// Size at which segment files stop growing, in bytes, which also bounds a commit. 256 MiB by default.
    #[must_use]
    pub fn segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }

    /// Memory that the index of the newest events may take, in bytes, before it is written to disk. Older ones are read
    /// from disk. 32 MiB by default; while one part is written the next is filled.
    #[must_use]
    pub fn index_memory_bytes_max(mut self, bytes: usize) -> Self {
        self.index_memory_bytes_max = bytes;
        self
    }

    /// Bytes of the log that are indexed again, at most about, when the store is opened after a crash. 32 MiB by
    /// default.
    #[must_use]
    pub fn index_tail_bytes_max(mut self, bytes: u64) -> Self {
        self.index_tail_bytes_max = bytes;
        self
    }

    /// How long a commit appended with [`Durability::Os`] waits for its sync in the background. A second by default.
    #[must_use]
    pub fn sync_delay(mut self, delay: Duration) -> Self {
        self.sync_delay = delay;
        self
    }

    /// How long after the last append a mark is written that everything is synced. 100 ms by default.
    #[must_use]
    pub fn mark_delay(mut self, delay: Duration) -> Self {
        self.mark_delay = delay;
        self
    }

    /// Starts no thread for background work: what it would do is done when [`Store::maintain`] is called, and what
    /// cannot wait is done by the appends. For tests, and for those who schedule work themselves.
    #[must_use]
    pub fn without_background_work(mut self) -> Self {
        self.background = false;
        self
    }

    /// The clock. The system's by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The source of randomness, for ids and salts. The system's by default.
    #[must_use]
    pub fn randomness(mut self, randomness: impl Randomness) -> Self {
        self.randomness = Arc::new(randomness);
        self
    }

    /// Is told how far the index is, when it has to be rebuilt while the store is opened.
    #[must_use]
    pub fn on_rebuild(mut self, on_rebuild: impl Fn(RebuildProgress) + Send + Sync + 'static) -> Self {
        self.on_rebuild = Some(Arc::new(on_rebuild));
        self
    }

    /// Asks a rule about every commit that is about to be written: expectations hold and there is space. An error of the
    /// rule is the error of the append, and nothing is written; what the rule lets pass is written next. Not asked for the
    /// state beside the log.
    ///
    /// The rule is called while no other append of the store goes on. It must be quick and must not use the store.
    ///
    /// ```
    /// use annals::{Error, ExpectedVersion, NewEvent, Options};
    ///
    /// let frozen = Options::new().admission(|commit| match commit.events() {
    ///     0..=2 => Ok(()),
    ///     _ => Err(Error::Stopped),
    /// });
    /// let store = frozen.in_memory()?;
    /// let event = || NewEvent::raw("Deposited", "50");
    /// store.append("account-alice", ExpectedVersion::Any, [event(), event()])?;
    /// assert!(store.append("account-alice", ExpectedVersion::Any, [event(), event(), event()]).is_err());
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn admission(mut self, rule: impl Fn(&Admission<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        self.admission = Some(Rule::new(rule));
        self
    }

    /// Puts a label on the metrics of the store, such as the tenant that it belongs to. Does nothing without the feature
    /// `metrics`. Few stores should have one of their own: each value is a time series.
    #[must_use]
    pub fn metric_label(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        self.label = Some(Label::new(name, value.as_ref()));
        self
    }

    /// Opens a store, creating it if there is none. See [`Store::open`].
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`Error::Invalid`] if an option is out of range.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        Store::open_on(Arc::new(storage::RealDisk::new(path.as_ref())), self, true)
    }

    /// Opens a store that exists. See [`Store::open_existing`].
    ///
    /// # Errors
    /// Those of [`Store::open_existing`], and [`Error::Invalid`] if an option is out of range.
    pub fn open_existing(self, path: impl AsRef<Path>) -> Result<Store> {
        Store::open_on(Arc::new(storage::RealDisk::new(path.as_ref())), self, false)
    }

    /// Opens a store for reading only. See [`Store::open_read_only`].
    ///
    /// # Errors
    /// Those of [`Store::open_read_only`], and [`Error::Invalid`] if an option is out of range.
    pub fn open_read_only(self, path: impl AsRef<Path>) -> Result<Store> {
        Store::open_read_only_on(Arc::new(storage::RealDisk::new(path.as_ref())), self)
    }

    /// Opens an empty store in memory. See [`Store::in_memory`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is out of range.
    pub fn in_memory(self) -> Result<Store> {
        Store::open_on(Arc::new(storage::MemoryDisk::new()), self, true)
    }

    pub(super) fn check(&self) -> Result<()> {
        let mut violations = Vec::new();
        let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        for (field, bytes) in
            [("segment_bytes_first", self.segment_bytes_first), ("segment_bytes_max", self.segment_bytes_max)]
        {
            if !range.contains(&bytes) {
                let problem = format!("is {bytes}, from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} are allowed");
                violations.push(Violation::new(None, field, problem));
            }
        }
        if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(Invalid { violations })) }
    }

    pub(super) fn log_options(&self) -> LogOptions {
        LogOptions {
            segment_bytes_first: self.segment_bytes_first.min(self.segment_bytes_max),
            segment_bytes_max: self.segment_bytes_max,
            growth: self.growth,
            read_mode: self.storage_mode(),
        }
    }

    pub(super) fn storage_mode(&self) -> storage::ReadMode {
        match self.read_mode {
            ReadMode::Map => storage::ReadMode::Map,
            ReadMode::Pread => storage::ReadMode::Pread,
        }
    }
}
