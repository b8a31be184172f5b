//! Opening and closing a store: the lock, the log, the index, in this order.

use std::sync::Arc;

use super::attachments::Attachments;
use super::indexing::{FULL_WINDOWS_MAX, open_index};
use super::maintenance::Worker;
use super::options::{Options, RebuildProgress};
use super::state::StateSlot;
use super::{Handle, Inner, Phase, Running, Side, Store};
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::index::{self, IndexOptions, KeySeed, WindowLimits};
use crate::limits::COMMIT_BYTES_MAX;
use crate::log::{Follower, Log, OVERHEAD_BYTES, Opening, Recovered};
use crate::observe;
use crate::storage::{Disk, Owner};
use crate::sync::Mutex;
use crate::types::Position;

/// The file that the writer locks.
pub(super) const LOCK_PATH: &str = "lock";

/// What opening a store found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OpenReport {
    /// The store was created.
    pub created: bool,
    /// Bytes of a torn tail that were cut: a commit that was being written when the power failed, never acknowledged as
    /// synced.
    pub cut_bytes: u64,
    /// The last position that was kept when a torn tail was cut; `None` if nothing was cut or nothing was kept.
    pub cut_after: Option<Position>,
    /// Bytes of commits that were not known to be synced, and were written and synced once more.
    pub confirmed_bytes: u64,
    /// Events that a reader found behind what is known to be synced, and does not show.
    pub unconfirmed_events: u64,
    /// Events that were indexed again.
    pub indexed_events: u64,
}

impl Store {
    pub(crate) fn open_on(disk: Arc<dyn Disk>, options: Options, create: bool) -> Result<Self> {
        Self::open_signalling(disk, options, create, Arc::new(Signal::new()))
    }

    /// Opens a store that raises this signal when there is background work.
    #[expect(clippy::needless_pass_by_value, reason = "options are given up, as to the public functions")]
    pub(super) fn open_signalling(
        disk: Arc<dyn Disk>,
        options: Options,
        create: bool,
        signal: Arc<Signal>,
    ) -> Result<Self> {
        options.check()?;
        let bare = Arc::clone(&disk);
        let disk = observed(disk, &options);
        if !create && !disk.exists() {
            return Err(Error::NotFound { path: disk.locate("") });
        }
        if create {
            disk.create_dir("").map_err(|error| Error::io("create", disk.locate(""), error))?;
        } else if !is_store(&*disk)? {
            return Err(Error::NotFound { path: disk.locate("") });
        }
        let lock = disk.lock(LOCK_PATH).map_err(|error| Error::io("lock", disk.locate(LOCK_PATH), error))?;
        let Some(lock) = lock else { return Err(Error::Locked { path: disk.locate("") }) };
        let checkpoints = index::checkpoints(&disk)?;
        let opening = Opening {
            disk: &disk,
            options: options.log_options(),
            randomness: &options.randomness,
            signal: &signal,
            checkpoints: &checkpoints,
        };
        let Some(opened) = opening.open(create)? else {
            return Err(Error::NotFound { path: disk.locate("") });
        };
        let recovered = opened.recovered;
        // The state times its syncs itself.
        let state = StateSlot::new(&bare, &options, Arc::clone(&signal), true, lock.owner());
        let side = Side::Writing(Box::new(opened.appender));
        let inner = Inner::new(disk, &options, opened.log, side, state, lock.owner())?;
        let indexed_events = inner.rebuilt + inner.index_tail(inner.log.visible())?;
        let report = report_of(&recovered, &inner, indexed_events);
        observe::opened(&inner.disk.locate(""), report.cut_bytes, report.indexed_events);
        let inner = Arc::new(inner);
        let worker = options.background.then(|| Worker::start(&inner, &signal)).transpose()?;
        let phase = Mutex::new(Phase::Running(Running { worker, _lock: lock }));
        let handle = Handle { inner, phase, report, attachments: Attachments::default() };
        Ok(Store { handle: Arc::new(handle), metadata: None, guard: None })
    }

    #[expect(clippy::needless_pass_by_value, reason = "options are given up, as to the public functions")]
    pub(crate) fn open_read_only_on(disk: Arc<dyn Disk>, options: Options) -> Result<Self> {
        options.check()?;
        let opened = match disk.exists() && is_store(&*disk)? {
            true => Follower::open(&disk, options.log_options(), &|| index::checkpoints(&disk))?,
            false => None,
        };
        let Some((follower, unconfirmed)) = opened else {
            return Err(Error::NotFound { path: disk.locate("") });
        };
        let log = Arc::clone(follower.log());
        let side = Side::Reading { follower: Box::new(follower), windows_max: Mutex::new(FULL_WINDOWS_MAX) };
        let state = StateSlot::new(&disk, &options, Arc::new(Signal::new()), false, None);
        let inner = Inner::new(disk, &options, log, side, state, None)?;
        let indexed_events = inner.rebuilt + inner.index_tail(inner.log.visible())?;
        let report = OpenReport { unconfirmed_events: unconfirmed, indexed_events, ..OpenReport::default() };
        let attachments = Attachments::default();
        let phase = Mutex::new(Phase::Closed(Ok(())));
        let handle = Handle { inner: Arc::new(inner), phase, report, attachments };
        Ok(Store { handle: Arc::new(handle), metadata: None, guard: None })
    }
}

/// The disk with its syncs timed, if anybody wants to know.
#[cfg(feature = "metrics")]
fn observed(disk: Arc<dyn Disk>, options: &Options) -> Arc<dyn Disk> {
    Arc::new(crate::storage::ObservedDisk::new(disk, Arc::clone(&options.clock), options.label.clone()))
}

#[cfg(not(feature = "metrics"))]
fn observed(disk: Arc<dyn Disk>, _options: &Options) -> Arc<dyn Disk> {
    disk
}

/// Whether the directory holds a log, or what is left of one.
pub(super) fn is_store(disk: &dyn Disk) -> Result<bool> {
    let names = disk.list(crate::log::LOG_DIR);
    let names = names.map_err(|error| Error::io("list", disk.locate(crate::log::LOG_DIR), error))?;
    let head = disk.open(crate::log::SYNCED_HEAD_PATH, crate::storage::Access::Read).is_ok();
    Ok(head || names.iter().any(|name| name.ends_with(".segment")))
}

fn report_of(recovered: &Recovered, inner: &Inner, indexed_events: u64) -> OpenReport {
    let cut = recovered.cut_bytes > 0;
    OpenReport {
        created: recovered.created,
        cut_bytes: recovered.cut_bytes,
        cut_after: if cut { Position::new(inner.log.visible()) } else { None },
        confirmed_bytes: recovered.confirmed_bytes,
        unconfirmed_events: 0,
        indexed_events,
    }
}

impl Inner {
    fn new(
        disk: Arc<dyn Disk>,
        options: &Options,
        log: Arc<Log>,
        side: Side,
        state: StateSlot,
        owner: Option<Owner>,
    ) -> Result<Self> {
        let limits =
            WindowLimits { bytes_max: options.index_memory_bytes_max, log_bytes_max: options.index_tail_bytes_max };
        let index_options = IndexOptions {
            writable: matches!(side, Side::Writing(_)),
            owner,
            read_mode: options.storage_mode(),
            limits,
            randomness: Arc::clone(&options.randomness),
        };
        let mut rebuilt = 0;
        let mut progress = |progress: index::RebuildProgress| {
            rebuilt = rebuilt.max(progress.done);
            if let Some(on_rebuild) = &options.on_rebuild {
                on_rebuild(RebuildProgress { done: progress.done, total: progress.total });
            }
        };
        let index = open_index(&disk, &log, index_options, &mut progress)?;
        Ok(Self {
            disk,
            owner,
            seed: KeySeed::of(log.store()),
            log,
            index,
            side,
            state,
            durability: options.durability,
            commit_bytes_max: COMMIT_BYTES_MAX.min((options.segment_bytes_max - OVERHEAD_BYTES) as usize),
            sync_delay: options.sync_delay,
            mark_delay: options.mark_delay,
            clock: Arc::clone(&options.clock),
            randomness: Arc::clone(&options.randomness),
            admission: options.admission.clone(),
            label: options.label.clone(),
            rebuilt,
        })
    }
}
