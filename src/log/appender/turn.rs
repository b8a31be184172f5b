//! A turn: the exclusive right to give the next positions, and what is staged with it.

use std::sync::Arc;

use super::{Appender, Sequencer, Ticket};
use crate::error::Result;
use crate::format::bytes::align8;
use crate::format::frame::{FrameKind, HEADER_BYTES, encode_commit, encode_control};
use crate::format::record::RecordFields;
use crate::format::segment::StartBody;
use crate::log::scan::Joint;
use crate::log::segment::{FIRST_FRAME, FrameAt, OVERHEAD_BYTES, Origin, Segment, SegmentWriter};
use crate::sabotage::{Sabotage, sabotaged};
use crate::sync::MutexGuard;
use crate::types::Durability;

/// A commit that was staged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Staged {
    pub(crate) at: FrameAt,
    /// Offset behind the frame.
    pub(crate) end: u64,
    pub(crate) checksum: u32,
    pub(crate) first_position: u64,
    pub(crate) commit_time: i64,
}

/// The exclusive right to give the next positions, held until it is dropped or its commit is seen through.
pub(crate) struct Turn<'a> {
    pub(super) appender: &'a Appender,
    pub(super) sequencer: MutexGuard<'a, Sequencer>,
}

impl Turn<'_> {
    /// The position that the next commit gets.
    #[cfg(test)]
    pub(crate) fn next_position(&self) -> u64 {
        self.sequencer.tip.next_position
    }

    /// Bytes of the log up to where the next frame goes: headers and frames.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.sequencer.tip.address()
    }

    /// Takes out what was kept with an earlier turn, if it is of this type.
    #[inline]
    pub(crate) fn take_kept<T: Send + 'static>(&mut self) -> Option<T> {
        self.sequencer.kept.as_mut()?.downcast_mut::<Option<T>>()?.take()
    }

    /// Keeps a value for later turns, under the same lock.
    #[inline]
    pub(crate) fn keep<T: Send + 'static>(&mut self, value: T) {
        let kept = &mut self.sequencer.kept;
        match kept.as_mut().and_then(|kept| kept.downcast_mut::<Option<T>>()) {
            Some(place) => *place = Some(value),
            None => *kept = Some(Box::new(Some(value))),
        }
    }

    /// Reserves allocated space for a frame, in a new segment if this one has not enough left. On an error nothing was
    /// given and nothing changed.
    pub(crate) fn reserve(&mut self, frame_len: usize) -> Result<()> {
        if self.sequencer.tip.offset + frame_len as u64 <= self.sequencer.capacity {
            return Ok(());
        }
        let rolled = self.roll(frame_len as u64, 0);
        if rolled.is_err() && sabotaged(Sabotage::FullAfterSequencing) {
            self.sequencer.tip.next_position += 1;
        }
        rolled
    }

    /// Stages a commit for which space was reserved.
    pub(crate) fn stage<'r>(
        &mut self,
        durability: Durability,
        now: i64,
        records: impl ExactSizeIterator<Item = RecordFields<'r>>,
    ) -> Staged {
        let sequencer = &mut *self.sequencer;
        sequencer.staged.discard_unfinished();
        let count = records.len() as u64;
        let tip = sequencer.tip;
        // A clock that went back repeats the last time.
        let commit_time = if sabotaged(Sabotage::ClockBackward) { now } else { now.max(tip.commit_time) };
        let is_early = sabotaged(Sabotage::DurableAddressEarly);
        let durable = if is_early { tip.address() } else { self.appender.syncer.synced_address() };
        let link = sequencer.link(durable, commit_time);
        let place = sequencer.segment.place(tip.offset);
        let bytes = &mut sequencer.staged.bytes;
        let before = bytes.len();
        let checksum = encode_commit(bytes, place, link, records);
        let frame_len = bytes.len() - before;
        assert!(tip.offset + frame_len as u64 <= sequencer.capacity, "space was reserved for the frame");
        sequencer.staged.wants_sync |= durability == Durability::Synced;
        sequencer.marked = false;
        sequencer.push(frame_len, count, checksum, commit_time);
        if sequencer.tip.offset > sequencer.capacity / 2 {
            self.appender.ask_for_spare(sequencer.segment.number);
        }
        Staged {
            at: FrameAt { segment: sequencer.segment.number, offset: tip.offset },
            end: sequencer.tip.offset,
            checksum,
            first_position: tip.next_position,
            commit_time,
        }
    }

    /// Ends the turn and returns when the staged commit is decided.
    pub(crate) fn see_through(self) -> Result<()> {
        let ticket = self.ticket();
        self.appender.see_through(self.sequencer, ticket)
    }

    /// Ends the turn before the staged commit is decided: it goes with the next batch, which whoever holds the ticket
    /// leads if nobody else does.
    pub(crate) fn leave(self) -> Ticket {
        self.ticket()
    }

    fn ticket(&self) -> Ticket {
        Ticket { batch: self.sequencer.staged.number, position: self.sequencer.tip.next_position - 1 }
    }

    /// Ends the turn and returns when everything that was staged is written and synced.
    pub(in crate::log) fn settle(mut self) -> Result<()> {
        let batch = self.sequencer.staged.number;
        self.sequencer.staged.wants_sync = !sabotaged(Sabotage::TrimBeforeSync);
        self.appender.see_batch_through(self.sequencer, batch)
    }

    pub(super) fn stage_mark(&mut self) {
        let sequencer = &mut *self.sequencer;
        sequencer.staged.wants_sync = true;
        sequencer.marked = true;
        let commit_time = sequencer.tip.commit_time;
        let link = sequencer.link(sequencer.tip.address(), commit_time);
        let place = sequencer.segment.place(sequencer.tip.offset);
        let checksum = encode_control(&mut sequencer.staged.bytes, place, link, FrameKind::Mark, &[]);
        sequencer.push(HEADER_BYTES, 0, checksum, commit_time);
    }

    /// Goes on in the next segment, with room for a frame of `needed` bytes. `first_kept` is the first segment that is
    /// kept from now on, 0 for no change.
    pub(crate) fn roll(&mut self, needed: u64, first_kept: u64) -> Result<()> {
        let appender = self.appender;
        let log = &appender.log;
        let number = self.sequencer.segment.number + 1;
        let needed = OVERHEAD_BYTES + needed;
        let mut slot = appender.spare.lock();
        let spare = match &mut *slot {
            Some(spare) => spare,
            None => slot.insert(appender.create_spare(number, needed)?),
        };
        debug_assert_eq!(spare.header.number, number);
        spare.grow(&**log.disk(), needed)?;
        let tip = self.sequencer.tip;
        let file = Arc::clone(&spare.file);
        let mode = log.options().read_mode;
        let origin = Origin { first_position: tip.next_position, base: tip.address() };
        let (segment, writer) = Segment::growing(Arc::clone(log.disk()), mode, &spare.header, origin, file, 0)?;
        self.enter(segment, writer, first_kept);
        // Only now, and with the slot locked until now: whoever makes spares sees either this one or a log that has
        // entered it. Otherwise it would put an empty file in the place of the active segment.
        *slot = None;
        Ok(())
    }

    fn enter(&mut self, segment: Arc<Segment>, writer: SegmentWriter, first_kept: u64) {
        let log = &self.appender.log;
        let segments = log.segments();
        let kept = segments.iter().next().map_or(1, |first| first.number).max(first_kept);
        let sequencer = &mut *self.sequencer;
        let tip = sequencer.tip;
        let base = tip.address();
        let body = StartBody {
            predecessor: sequencer.segment.number,
            predecessor_length: tip.offset,
            first_kept: kept,
            cut_bytes: 0,
            bytes_before: base,
            predecessor_salt: sequencer.segment.salt,
            predecessor_last: sequencer.last_frame,
        };
        sequencer.staged.discard_unfinished();
        sequencer.segment.seal(tip.offset);
        sequencer.marked = true;
        log.add(Arc::clone(&segment), kept);
        sequencer.segment = segment;
        sequencer.capacity = writer.capacity();
        sequencer.tip = Joint { base, offset: FIRST_FRAME, ..tip };
        let link = sequencer.link(base, tip.commit_time);
        let place = sequencer.segment.place(FIRST_FRAME);
        let checksum = encode_control(&mut sequencer.staged.bytes, place, link, FrameKind::Start, &body.encode());
        let frame_len = HEADER_BYTES + align8(crate::format::segment::START_BODY_BYTES);
        sequencer.push(frame_len, 0, checksum, tip.commit_time);
        sequencer.staged.begin_with(writer);
    }
}
