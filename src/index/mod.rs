//! The index: from the names that events carry to their positions, and from positions to frames of the log.
//!
//! It is derived from the log and never trusted for what the record must decide: keys are hashes, and hashes collide.
//! What is missing of it, damaged or of another history is rebuilt.
//!
//! Newest positions are in memory, in *windows*: the active one, which grows, and frozen ones. Each is written to disk
//! as a *run*, an immutable file; adjacent runs are merged. Beside them each segment has a *positions file*, which says
//! where the frame of each position lies. Readers work on an [`IndexView`], a list of all these that never changes, and
//! take no lock but that of a window while they copy from it.
//!
//! Lock order: `spilling`, `merging`, `publishing`, then the lock of a window, then that of the heads. Readers take the
//! last two alone.

mod attach;
mod fault;
mod filter;
mod heads;
mod key;
mod merge;
mod open;
mod paged;
mod plan;
mod positions;
mod postings;
mod rebuild;
mod run;
mod verify;
mod view;
mod window;

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::sync::Arc;

use crate::error::Error;
use crate::format::frame::{Frame, FrameHeader};
use crate::randomness::Randomness;
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::{Disk, Owner, ReadMode};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{ArcSwap, Mutex, SwapGuard};
use crate::types::StoreId;

use fault::Result;
use heads::HeadCache;
use open::{Opening, spill};
use paged::Files;
use positions::Positions;
use rebuild::{FIRST_FRAME, Progress, Rebuilder};
use run::Run;
use view::{SegmentIndex, Source};
use window::{SegmentId, Spare};

pub(crate) use attach::checkpoints;
pub(crate) use fault::{DIRECTORY, IndexError, IndexFault, IndexFile};
pub(crate) use heads::StreamHead;
pub(crate) use key::{EventKeys, Key, KeyKind, KeySeed};
pub(crate) use plan::{AnyOf, Plan, PlanItem};
pub(crate) use postings::Direction;
pub(crate) use verify::{IndexAudit, IndexProblem};
pub(crate) use view::{Candidate, Candidates, EventPlace, IndexView, Located, StreamCandidates, TimeRange};
pub(crate) use window::{FrameAt, Window};

/// A segment of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentSpan {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) first_position: u64,
    /// The position behind its last; `None` for the active segment, which is the last one.
    pub(crate) end_position: Option<u64>,
}

/// What the index needs of the log.
pub(crate) trait FrameSource {
    /// The header of the frame at this offset, verified at its place.
    fn header(&self, segment: u64, offset: u64) -> Result<FrameHeader, Error>;

    /// Calls `visit` with each commit of a segment, from the frame at `offset` on, as long as its first position is not
    /// greater than `upto`. Records are verified.
    fn scan(
        &self,
        segment: u64,
        offset: u64,
        upto: u64,
        visit: &mut dyn FnMut(u64, &Frame<'_>) -> Result<(), Error>,
    ) -> Result<(), Error>;
}

/// How an index works.
#[derive(Debug, Clone)]
pub(crate) struct IndexOptions {
    /// Whether it may write to disk. If not, what is missing is rebuilt in memory, and nothing is ever written.
    pub(crate) writable: bool,
    /// The process that writes. One that was forked from it leaves the files alone, as a read-only index does.
    pub(crate) owner: Option<Owner>,
    pub(crate) read_mode: ReadMode,
    pub(crate) limits: WindowLimits,
    /// For the seeds of the pages.
    pub(crate) randomness: Arc<dyn Randomness>,
}

/// When a window is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowLimits {
    /// Bytes of memory.
    pub(crate) bytes_max: usize,
    /// Bytes of the log, which bounds what has to be read again after a crash.
    pub(crate) log_bytes_max: u64,
}

impl WindowLimits {
    fn is_reached_by(&self, window: &Window) -> bool {
        window.bytes() >= self.bytes_max || window.log_bytes() >= self.log_bytes_max
    }
}

/// How much of the index was rebuilt, in positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RebuildProgress {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// The index of a log.
#[derive(Debug)]
pub(crate) struct Index {
    files: Files,
    options: IndexOptions,
    seed: KeySeed,
    view: ArcSwap<IndexView>,
    /// Held while the view is replaced.
    publishing: Mutex<()>,
    /// Held while positions files are written.
    spilling: Mutex<()>,
    /// Held while runs are put in the place of others.
    merging: Mutex<()>,
    /// The memory of the last window that was written to disk, for the next one.
    spare: Mutex<Option<Spare>>,
    /// No merge goes on.
    merges_no_more: AtomicBool,
    /// Files are changed, and not the view alone. Changes under both locks.
    writes: AtomicBool,
    heads: HeadCache,
}

impl Index {
    /// Loads what the disk has of the index and rebuilds what is missing of the sealed segments. `spans` are the
    /// segments of the log in order, the active one last. The caller inserts the commits behind [`Index::covered`].
    ///
    /// A writable index removes what is of no use; a read-only one changes nothing.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        store: StoreId,
        options: IndexOptions,
        spans: &[SegmentSpan],
        source: &dyn FrameSource,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<Self> {
        Self::open_with(disk, store, KeySeed::of(store), options, spans, source, progress)
    }

    fn open_with(
        disk: Arc<dyn Disk>,
        store: StoreId,
        seed: KeySeed,
        options: IndexOptions,
        spans: &[SegmentSpan],
        source: &dyn FrameSource,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<Self> {
        assert!(!spans.is_empty(), "a log has at least one segment");
        let randomness = Arc::clone(&options.randomness);
        let files = Files { disk, store, mode: options.read_mode, randomness };
        if options.writable {
            files.create_directory()?;
        }
        let progress = Progress::new(progress);
        let rebuilder = Rebuilder { source, seed, limits: options.limits, progress };
        let opening = Opening { files: &files, writable: options.writable, spans, rebuilder, is_changed: false };
        let view = opening.open()?;
        let heads = HeadCache::new(view.run_end(), options.limits.bytes_max);
        let writes = AtomicBool::new(options.writable);
        Ok(Self {
            files,
            options,
            seed,
            view: ArcSwap::from_pointee(view),
            publishing: Mutex::new(()),
            spilling: Mutex::new(()),
            merging: Mutex::new(()),
            spare: Mutex::new(None),
            merges_no_more: AtomicBool::new(false),
            writes,
            heads,
        })
    }

    /// The same index as the disk has it now, beside this one: for a reader whose writer has written more of it.
    pub(crate) fn open_again(&self, spans: &[SegmentSpan], source: &dyn FrameSource) -> Result<Self> {
        let disk = Arc::clone(&self.files.disk);
        let mut ignore = |_| {};
        Self::open_with(disk, self.files.store, self.seed, self.options.clone(), spans, source, &mut ignore)
    }

    /// Goes on with the view of another index of the same log, which covers at least as much.
    pub(crate) fn adopt(&self, other: &Index) {
        let view = other.view();
        self.heads.restart(view.run_end());
        let _publishing = self.publishing.lock();
        self.view.store(view);
    }

    /// What the keys of this store are made with.
    #[cfg(test)]
    pub(crate) fn seed(&self) -> KeySeed {
        self.seed
    }

    /// The last position that is indexed; 0 if none is. The next insertion continues there.
    pub(crate) fn covered(&self) -> u64 {
        self.view.load().last()
    }

    /// The index as it stands now. A reader takes its upper bound first, the view second.
    pub(crate) fn view(&self) -> Arc<IndexView> {
        self.view.load_full()
    }

    /// The same, for so short a time that it is not worth a count.
    #[inline]
    pub(crate) fn view_briefly(&self) -> SwapGuard<Arc<IndexView>> {
        self.view.load()
    }

    /// The active window.
    pub(crate) fn active(&self) -> Arc<Window> {
        Arc::clone(self.view.load().active())
    }

    /// Whether a window is full.
    #[inline]
    pub(crate) fn is_full(&self, window: &Window) -> bool {
        self.options.limits.is_reached_by(window)
    }

    /// Adds a commit, which need not be visible yet. Callers of this, `roll` and `freeze` take turns.
    #[inline]
    pub(crate) fn insert<'e>(&self, frame: FrameAt, events: impl IntoIterator<Item = impl Borrow<EventKeys<'e>>>) {
        self.view.load().active().insert(frame, events);
    }

    /// Goes on in a new segment.
    pub(crate) fn roll(&self, segment: u64, salt: u64, first_position: u64) {
        let id = SegmentId { number: segment, salt, first: first_position };
        let spare = self.spare();
        self.change(|view| {
            assert_eq!(first_position, view.last() + 1, "segments have no gaps");
            view.segments.push(SegmentIndex { id, positions: Positions::None });
            view.begin_window(id, spare);
        });
    }

    /// Whether the active window is full.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.is_full(self.view.load().active())
    }

    /// Freezes the active window, so that it can be spilled, and goes on in a new one.
    pub(crate) fn freeze(&self) {
        let spare = self.spare();
        self.change(|view| {
            let segment = view.active().segment;
            view.begin_window(segment, spare);
        });
    }

    /// Memory for a new window. One that grows stands still for milliseconds each time its table is doubled, so it is as
    /// large as that of the last.
    fn spare(&self) -> Spare {
        let spare = self.spare.lock().take();
        spare.unwrap_or_else(|| self.view.load().active().sized_alike())
    }

    /// Writes the oldest frozen window to disk, if all of it is synced; `false` if there is none. After an error, such
    /// as a full disk, the window stays in memory and the next call tries again.
    pub(crate) fn spill(&self, synced: u64) -> Result<bool> {
        let _spilling = self.spilling.lock();
        if !self.writes() {
            return Ok(false);
        }
        let view = self.view();
        let is_ready =
            |window: &&Arc<Window>| window.next_position() - 1 <= synced || sabotaged(Sabotage::IndexBeforeLog);
        let Some(window) = view.oldest_frozen().filter(is_ready).cloned() else {
            return Ok(false);
        };
        let mut positions = view.positions_of(window.segment.number);
        let run = spill(&self.files, window.segment, &mut positions, &window)?;
        self.files.sync_directory()?;
        self.heads.take_over(window.next_position() - 1, window.read().heads(window.first));
        self.change(|view| {
            // Gone, if its segment was removed meanwhile.
            if view.replace(&Source::window(Arc::clone(&window)), vec![Source::run(run)]) {
                view.set_positions(window.segment.number, positions);
            }
        });
        drop(view);
        // Readers may still hold it; then its memory goes with the last of them.
        if let Some(window) = Arc::into_inner(window) {
            *self.spare.lock() = Some(window.into_spare());
        }
        Ok(true)
    }

    /// The head of a stream among the runs up to `run_end`, if it was found there not long ago.
    pub(crate) fn known_head(&self, stream: &Key<'_>, run_end: u64) -> Option<StreamHead> {
        self.heads.get(stream, run_end)
    }

    /// Remembers the head of a stream that was found among the runs up to `run_end`.
    pub(crate) fn remember_head(&self, stream: &Key<'_>, head: StreamHead, run_end: u64) {
        self.heads.remember(stream, head, run_end);
    }

    /// Merges runs, once; `false` if they are fine or it was told to stop.
    pub(crate) fn merge(&self) -> Result<bool> {
        let _merging = self.merging.lock();
        if !self.writes() {
            return Ok(false);
        }
        let (runs, kept_from) = self.due_merge();
        if runs.is_empty() {
            return Ok(false);
        }
        let Some(merged) = merge::merge(&self.files, &runs, kept_from, &self.merges_no_more)? else {
            return Ok(false);
        };
        self.files.sync_directory()?;
        let file = merged.id();
        let is_used = self.change(|view| view.replace_runs(&runs, Arc::new(merged)));
        match is_used {
            true => runs.iter().for_each(|run| self.files.discard_file(run.id())),
            // Some of the inputs are gone, since their segments were removed.
            false => self.files.discard_file(file),
        }
        Ok(true)
    }

    /// The runs to merge, and the first position to keep of them. No more of the view than that: a merge takes long, and
    /// windows that are written to disk meanwhile should be gone.
    fn due_merge(&self) -> (Vec<Arc<Run>>, u64) {
        let view = self.view();
        (view.runs_to_merge(), view.kept_from)
    }

    /// Whether there are runs to merge.
    pub(crate) fn wants_merge(&self) -> bool {
        !self.due_merge().0.is_empty()
    }

    /// Makes a merge that is under way return soon, and all later ones at once: the store is being closed.
    pub(crate) fn stop_merging(&self) {
        self.merges_no_more.store(true, Ordering::Relaxed);
    }

    /// Leaves the files as they are from now on, like an index that is open for reading: they are another's, or the log
    /// does not have on disk what it says. Waits for what is being written.
    pub(crate) fn stop_writing(&self) {
        self.stop_merging();
        let _spilling = self.spilling.lock();
        let _merging = self.merging.lock();
        self.writes.store(false, Ordering::Relaxed);
    }

    fn writes(&self) -> bool {
        self.writes.load(Ordering::Relaxed) && !self.is_inherited()
    }

    fn is_inherited(&self) -> bool {
        Owner::is_another(self.options.owner)
    }

    /// Rebuilds a damaged file from the log. Readers go on with the new view. Nothing happens if another caller has
    /// done it already.
    pub(crate) fn repair(&self, fault: &IndexFault, source: &dyn FrameSource) -> Result<()> {
        // What a forked process repairs is in its memory alone, where two repairs of one file do no harm. A thread of the
        // other process may hold these locks for ever.
        let takes_turns = !self.is_inherited();
        let _spilling = takes_turns.then(|| self.spilling.lock());
        // A merge takes long, and has nothing to do with positions files, of which whoever writes a window needs one.
        let waits_for_merges = takes_turns && matches!(fault.file, IndexFile::Run { .. });
        let _merging = waits_for_merges.then(|| self.merging.lock());
        let mut ignore = |_| {};
        let progress = Progress::new(&mut ignore);
        let mut rebuilder = Rebuilder { source, seed: self.seed, limits: self.options.limits, progress };
        match fault.file {
            IndexFile::Positions { segment } => self.repair_positions(segment, fault, &mut rebuilder),
            IndexFile::Run { first, last } => self.repair_run(first, last, fault, &mut rebuilder),
        }
    }

    fn repair_positions(&self, segment: u64, fault: &IndexFault, rebuilder: &mut Rebuilder<'_>) -> Result<()> {
        let Positions::File(file) = self.view().positions_of(segment) else { return Ok(()) };
        if file.seed() != fault.seed {
            return Ok(());
        }
        let header = file.header();
        let id = SegmentId { number: segment, salt: header.salt, first: header.first };
        let table = rebuilder.positions(id, header.last())?;
        if table.next() <= header.last() {
            return Err(self.files.missing(segment));
        }
        let positions = match self.writes() {
            true => Positions::File(Positions::None.write(&self.files, id, &table)?.into()),
            false => Positions::Memory(table.into()),
        };
        self.sync_if_writable()?;
        self.change(|view| {
            // Not where a reader has gone on with another index meanwhile.
            if matches!(view.positions_of(segment), Positions::File(file) if file.seed() == fault.seed) {
                view.set_positions(segment, positions);
            }
        });
        Ok(())
    }

    fn repair_run(&self, first: u64, last: u64, fault: &IndexFault, rebuilder: &mut Rebuilder<'_>) -> Result<()> {
        let view = self.view();
        let Some(damaged) = view.run_with(fault) else { return Ok(()) };
        let from = first.max(view.kept_from);
        let mut pieces = Vec::new();
        for (index, segment) in view.segments.iter().enumerate() {
            let end = view.segments.get(index + 1).map_or(u64::MAX, |next| next.id.first);
            let range = (from.max(segment.id.first), last.min(end - 1));
            if range.0 > range.1 {
                continue;
            }
            let offset = segment.positions.offset_of(range.0).ok().flatten().unwrap_or(FIRST_FRAME);
            rebuilder.windows(segment.id, offset, range, &mut |window| {
                pieces.push(self.keep_window(window)?);
                Ok(())
            })?;
        }
        if pieces.last().is_none_or(|piece| piece.last() < last) {
            return Err(self.files.missing(fault_segment(&view, last)));
        }
        self.sync_if_writable()?;
        let damaged = Source::run(Arc::clone(damaged));
        let replaced_itself = pieces.len() == 1 && pieces[0].first == first;
        self.change(|view| view.replace(&damaged, pieces));
        // A piece that covers the same positions has the same name, and took its place already.
        if self.writes() && !replaced_itself {
            self.files.discard_file(fault.file);
        }
        Ok(())
    }

    /// A window that was rebuilt, in the form in which it is kept.
    fn keep_window(&self, window: Window) -> Result<Source> {
        match self.writes() {
            true => run::write(&self.files, &window).map(|run| Source::run(run.into())),
            false => Ok(Source::window(window.into())),
        }
    }

    fn sync_if_writable(&self) -> Result<()> {
        if self.writes() { self.files.sync_directory() } else { Ok(()) }
    }

    /// Forgets the segments before `segment`, which were removed on purpose and whose last position is the one before
    /// `first_position`. Later merges leave out what runs still hold of them.
    pub(crate) fn forget_before(&self, segment: u64, first_position: u64) -> Result<()> {
        let _spilling = self.spilling.lock();
        self.heads.clear();
        let before = self.change(|view| {
            let before = IndexView::clone(view);
            view.kept_from = first_position;
            view.segments.retain(|known| known.id.number >= segment);
            let active = view.sources.len() - 1;
            let mut place = 0..;
            view.sources.retain(|source| place.next() == Some(active) || source.last() >= first_position);
            before
        });
        debug_assert!(self.options.writable, "only a writer removes segments");
        if !self.writes() {
            return Ok(());
        }
        for known in before.segments.iter().filter(|known| known.id.number < segment) {
            self.files.discard_file(IndexFile::Positions { segment: known.id.number });
        }
        let runs = before.sources.iter().filter_map(Source::as_run);
        runs.filter(|run| run.last() < first_position).for_each(|run| self.files.discard_file(run.id()));
        self.files.sync_directory()
    }

    /// Every fault of every page of every file, read from the disk.
    #[cfg(test)]
    pub(crate) fn verify(&self) -> Vec<IndexFault> {
        let view = self.view();
        let runs = view.sources.iter().filter_map(Source::as_run).flat_map(|run| run.verify());
        let positions = view.segments.iter().flat_map(|segment| match &segment.positions {
            Positions::File(file) => file.verify(),
            Positions::None | Positions::Memory(_) => Vec::new(),
        });
        positions.chain(runs).collect()
    }

    /// Puts an edited copy in the place of the view.
    fn change<T>(&self, edit: impl FnOnce(&mut IndexView) -> T) -> T {
        let _publishing = self.publishing.lock();
        let mut view = IndexView::clone(&self.view.load());
        let result = edit(&mut view);
        self.view.store(Arc::new(view));
        result
    }
}

fn fault_segment(view: &IndexView, position: u64) -> u64 {
    view.segment_of(position).map_or(0, |segment| segment.id.number)
}
