//! Opening: what of the files on disk can be used, and what has to be rebuilt.
//!
//! In order: list the files; drop what is left over; tie each positions file, and then each run, to the log by the
//! checksum of a frame; rebuild the positions that runs lie over, then the ranges that no run covers; begin the active
//! window behind all that. A read-only index does the same in memory and leaves the disk as it is.

use std::sync::Arc;

use super::SegmentSpan;
use super::fault::{DIRECTORY, IndexFile, Result, TEMPORARY, refused};
use super::paged::{Files, Unusable};
use super::positions::{Positions, PositionsFile};
use super::rebuild::{FIRST_FRAME, Rebuilder};
use super::run::{self, Run};
use super::view::{IndexView, Part, SegmentIndex, Source};
use super::window::{SegmentId, Window};
use crate::error::Error;
use crate::format::frame::FrameHeader;
use crate::storage::is_shortage;

/// How often a read-only index lists the directory again, because a writer replaced files meanwhile.
const LISTINGS_MAX: usize = 16;

/// An index that is being opened.
pub(super) struct Opening<'a> {
    pub(super) files: &'a Files,
    pub(super) writable: bool,
    pub(super) spans: &'a [SegmentSpan],
    pub(super) rebuilder: Rebuilder<'a>,
    /// Whether anything was rebuilt.
    pub(super) is_changed: bool,
}

/// Files that can be opened.
struct Loaded {
    runs: Vec<Arc<Run>>,
    segments: Vec<SegmentIndex>,
    /// The names of what is of no use.
    garbage: Vec<String>,
}

impl Opening<'_> {
    pub(super) fn open(mut self) -> Result<IndexView> {
        let Loaded { mut runs, mut segments, mut garbage } = self.load()?;
        self.check_positions(&mut segments, &mut garbage)?;
        // Before positions are rebuilt: what is made again gets the name of what was dropped.
        self.discard(&mut garbage);
        self.check_runs(&mut runs, &mut segments, &mut garbage)?;
        self.discard(&mut garbage);
        self.complete_positions(&runs, &mut segments)?;
        let sources = self.fill_gaps(&runs, &mut segments)?;
        if self.writable && self.is_changed {
            self.files.sync_directory()?;
        }
        self.rebuilder.progress.finish();
        Ok(self.view(sources, segments))
    }

    fn discard(&self, garbage: &mut Vec<String>) {
        garbage.drain(..).filter(|_| self.writable).for_each(|name| self.files.discard(&name));
    }

    fn kept_from(&self) -> u64 {
        self.spans[0].first_position
    }

    /// Everything that is whole and of this store, whatever the log says to it.
    fn load(&self) -> Result<Loaded> {
        let mut listing = 0;
        loop {
            listing += 1;
            let (loaded, is_complete) = self.load_once()?;
            // Only a writer beside a reader takes files away, and then others stand in their place.
            if is_complete || self.writable || listing == LISTINGS_MAX {
                return Ok(loaded);
            }
        }
    }

    fn load_once(&self) -> Result<(Loaded, bool)> {
        let mut loaded = Loaded { runs: Vec::new(), segments: self.segments(), garbage: Vec::new() };
        let mut is_complete = true;
        for name in self.files.list()? {
            let usable = match IndexFile::parse(&name) {
                Some(IndexFile::Run { first, last }) => {
                    Run::open(self.files, first, last).map(|run| loaded.runs.push(Arc::new(run)))
                }
                Some(IndexFile::Positions { segment }) => self.load_positions(segment, &mut loaded.segments),
                None if name.ends_with(TEMPORARY) => Err(Unusable::Bad),
                // Not of the index: not ours to remove.
                None => Ok(()),
            };
            match usable {
                Ok(()) => {}
                Err(Unusable::Gone) => is_complete = false,
                Err(Unusable::Bad | Unusable::Unreadable(_)) => loaded.garbage.push(name),
                Err(Unusable::Refused(error)) => {
                    let place = self.files.disk.locate(&format!("{DIRECTORY}/{name}"));
                    return Err(refused("open", &place, error));
                }
            }
        }
        self.drop_leftovers(&mut loaded);
        Ok((loaded, is_complete))
    }

    fn segments(&self) -> Vec<SegmentIndex> {
        let id = |span: &SegmentSpan| SegmentId { number: span.number, salt: span.salt, first: span.first_position };
        self.spans.iter().map(|span| SegmentIndex { id: id(span), positions: Positions::None }).collect()
    }

    fn load_positions(&self, segment: u64, segments: &mut [SegmentIndex]) -> Result<(), Unusable> {
        let index = segments.binary_search_by_key(&segment, |segment| segment.id.number);
        let place = index.map_err(|_| Unusable::Bad)?;
        let file = PositionsFile::open(self.files, segment)?;
        segments[place].positions = Positions::File(file.into());
        Ok(())
    }

    /// Leaves the runs that are not part of another one and reach into what the log keeps, in order.
    fn drop_leftovers(&self, loaded: &mut Loaded) {
        loaded.runs.sort_by_key(|run| run.order());
        let mut next = 0;
        let kept_from = self.kept_from();
        let garbage = &mut loaded.garbage;
        loaded.runs.retain(|run| {
            let is_needed = run.first() >= next && run.last() >= kept_from;
            if is_needed {
                next = run.last() + 1;
            } else {
                garbage.push(file_name(run.id()));
            }
            is_needed
        });
    }

    /// Drops the positions files that are not of this log.
    fn check_positions(&self, segments: &mut [SegmentIndex], garbage: &mut Vec<String>) -> Result<()> {
        for (segment, span) in segments.iter_mut().zip(self.spans) {
            let Positions::File(file) = &segment.positions else { continue };
            if !self.is_of_log(file, span)? {
                garbage.push(file_name(IndexFile::Positions { segment: span.number }));
                segment.positions = Positions::None;
            }
        }
        Ok(())
    }

    fn is_of_log(&self, file: &PositionsFile, span: &SegmentSpan) -> Result<bool> {
        let header = file.header();
        let checkpoint = header.checkpoint;
        let is_inside = span.end_position.is_none_or(|end| header.last() < end);
        if header.salt != span.salt || header.first != span.first_position || !is_inside {
            return Ok(false);
        }
        let frame = self.frame_at(span.number, checkpoint.offset)?;
        Ok(frame.is_some_and(|frame| {
            frame.checksum == checkpoint.checksum
                && frame.next_position() == header.last() + 1
                && checkpoint.offset + frame.frame_len() as u64 == checkpoint.end
        }))
    }

    /// A frame of the log; `None` if it cannot be read, whatever keeps it from being: the rebuild reads it again, and reports
    /// what is wrong with the log. That there are too few files or maps left to look is nothing that is wrong.
    fn frame_at(&self, segment: u64, offset: u64) -> Result<Option<FrameHeader>> {
        match self.rebuilder.source.header(segment, offset) {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if matches!(&error, Error::Io { source, .. } if is_shortage(source)) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Drops the runs that are not of this log.
    fn check_runs(
        &mut self,
        runs: &mut Vec<Arc<Run>>,
        segments: &mut [SegmentIndex],
        garbage: &mut Vec<String>,
    ) -> Result<()> {
        let mut checked = Vec::with_capacity(runs.len());
        let newest = runs.last().map_or(0, |run| run.last());
        for run in runs.drain(..) {
            match self.is_run_of_log(&run, newest, segments)? {
                true => checked.push(run),
                false => garbage.push(file_name(run.id())),
            }
        }
        *runs = checked;
        Ok(())
    }

    /// `newest` is the last position of all runs: positions that are missing are read from the log but once.
    fn is_run_of_log(&mut self, run: &Run, newest: u64, segments: &mut [SegmentIndex]) -> Result<bool> {
        let last = run.last();
        let place = segments.partition_point(|segment| segment.id.first <= last).saturating_sub(1);
        let segment = &mut segments[place];
        let mut offset = segment.positions.offset_of(last).ok().flatten();
        if offset.is_none() {
            let upto = self.spans[place].end_position.map_or(newest, |end| end - 1);
            self.restore_positions(segment, upto)?;
            offset = segment.positions.offset_of(last)?;
        }
        let number = segment.id.number;
        let frame = offset.map(|offset| self.frame_at(number, offset)).transpose()?.flatten();
        Ok(frame.is_some_and(|frame| frame.checksum == run.header().checksum && frame.next_position() == last + 1))
    }

    /// Rebuilds the positions of the segments that runs lie over and that have none, or too few.
    fn complete_positions(&mut self, runs: &[Arc<Run>], segments: &mut [SegmentIndex]) -> Result<()> {
        for (segment, span) in segments.iter_mut().zip(self.spans) {
            let end = span.end_position.unwrap_or(u64::MAX);
            let reach = runs.iter().rev().find(|run| run.first() < end && run.last() >= span.first_position);
            let Some(upto) = reach.map(|run| run.last().min(end - 1)) else { continue };
            if segment.id.first + segment.positions.count() <= upto {
                self.restore_positions(segment, upto)?;
            }
            if segment.id.first + segment.positions.count() <= upto {
                return Err(self.files.missing(span.number));
            }
        }
        Ok(())
    }

    fn restore_positions(&mut self, segment: &mut SegmentIndex, upto: u64) -> Result<()> {
        self.rebuilder.progress.expect((upto + 1).saturating_sub(segment.id.first));
        let table = self.rebuilder.positions(segment.id, upto)?;
        segment.positions = match self.writable {
            _ if table.next() == segment.id.first => Positions::None,
            true => Positions::File(Positions::None.write(self.files, segment.id, &table)?.into()),
            false => Positions::Memory(table.into()),
        };
        self.is_changed = true;
        Ok(())
    }

    /// The runs, and between them what was rebuilt, up to what is known to be synced.
    fn fill_gaps(&mut self, runs: &[Arc<Run>], segments: &mut [SegmentIndex]) -> Result<Vec<Source>> {
        let gaps = self.gaps(runs, segments);
        for (_, from, upto) in &gaps {
            self.rebuilder.progress.expect(upto - from + 1);
        }
        let mut sources: Vec<Source> = runs.iter().cloned().map(Source::run).collect();
        for (place, from, upto) in gaps {
            self.fill_gap(&mut segments[place], from, upto, &mut sources)?;
        }
        sources.sort_by_key(|source| source.first);
        Ok(sources)
    }

    /// The ranges that no run covers, each inside of one segment, given by its place.
    fn gaps(&self, runs: &[Arc<Run>], segments: &[SegmentIndex]) -> Vec<(usize, u64, u64)> {
        let mut gaps = Vec::new();
        let mut next = self.kept_from();
        for (place, (segment, span)) in segments.iter().zip(self.spans).enumerate() {
            // In the active segment the positions file may reach further than the runs, after a crash between the two.
            let end = span.end_position.unwrap_or(segment.id.first + segment.positions.count());
            for run in runs.iter().filter(|run| run.last() >= span.first_position && run.first() < end) {
                if run.first() > next {
                    gaps.push((place, next, run.first() - 1));
                }
                next = next.max(run.last() + 1);
            }
            if next < end {
                gaps.push((place, next, end - 1));
                next = end;
            }
        }
        gaps
    }

    fn fill_gap(&mut self, segment: &mut SegmentIndex, from: u64, upto: u64, sources: &mut Vec<Source>) -> Result<()> {
        self.make_extensible(segment)?;
        self.is_changed = true;
        let offset = segment.positions.offset_of(from).ok().flatten().unwrap_or(FIRST_FRAME);
        let (files, writable, id) = (self.files, self.writable, segment.id);
        let positions = &mut segment.positions;
        let mut end = from;
        self.rebuilder.windows(id, offset, (from, upto), &mut |window| {
            end = window.next_position();
            sources.push(match writable {
                true => Source::run(spill(files, id, positions, &window)?),
                false => Source::window(window.into()),
            });
            Ok(())
        })?;
        match end > upto {
            true => Ok(()),
            false => Err(self.files.missing(id.number)),
        }
    }

    /// Makes sure that a positions file which is about to grow can be read to its end. All of it is kept: runs may lie
    /// behind the gap that is filled, and need their positions.
    fn make_extensible(&mut self, segment: &mut SegmentIndex) -> Result<()> {
        let Positions::File(file) = &segment.positions else { return Ok(()) };
        if self.writable && !file.verify().is_empty() {
            let last = file.header().last();
            segment.positions = Positions::None;
            self.restore_positions(segment, last)?;
        }
        Ok(())
    }

    /// Adds the active window.
    fn view(&self, mut sources: Vec<Source>, segments: Vec<SegmentIndex>) -> IndexView {
        let active = segments[segments.len() - 1].id;
        let next = sources.last().map_or(active.first, |source| source.last() + 1).max(active.first);
        sources.push(Source::window(Window::new(active, next).into()));
        debug_assert!(sources.windows(2).all(|pair| pair[0].last() + 1 == pair[1].first));
        debug_assert!(matches!(sources[sources.len() - 1].part, Part::Window(_)));
        IndexView { kept_from: self.kept_from(), sources, segments }
    }
}

/// Writes a window to disk: its positions first, unless they are there, then its run.
pub(super) fn spill(files: &Files, id: SegmentId, positions: &mut Positions, window: &Window) -> Result<Arc<Run>> {
    if id.first + positions.count() < window.next_position() {
        let file = positions.write(files, id, window.read().positions())?;
        *positions = Positions::File(file.into());
    }
    run::write(files, window).map(Arc::new)
}

fn file_name(file: IndexFile) -> String {
    file.path().rsplit('/').next().unwrap_or_default().to_owned()
}
