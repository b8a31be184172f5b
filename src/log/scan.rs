//! Reading a segment file front to back by `pread`, trusting nothing: what recovery and verification see.
//!
//! A truncated or unreadable file is an error here, never a signal.

use std::io;

use super::segment::FIRST_FRAME;
use crate::format::bytes::is_zero;
use crate::format::checksum::Place;
use crate::format::frame::{FRAME_BYTES_MAX, Frame, FrameFault, FrameHeader, FrameKind, HEADER_BYTES};
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::File;

/// How much is read at first: most scanners want a frame or two.
const CHUNK_BYTES_FIRST: usize = 16 * 1024;
/// How much is read at once by those that go on: each time twice as much, up to this.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A window over a file that slides forward.
pub(crate) struct Scanner<'a> {
    file: &'a dyn File,
    salt: u64,
    number: u64,
    buffer: Vec<u8>,
    /// How many bytes of the buffer were read; the rest is left from before.
    filled: usize,
    /// Offset in the file of the first byte of the buffer.
    start: u64,
    /// The end of the file was reached: the buffer holds all there is behind `start`.
    ended: bool,
    /// How much is read next.
    chunk_bytes: usize,
}

/// The point that a valid frame has to continue from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Joint {
    /// Log address of the segment.
    pub(crate) base: u64,
    pub(crate) offset: u64,
    /// Header checksum of the frame before.
    pub(crate) previous: u32,
    pub(crate) next_position: u64,
    pub(crate) commit_time: i64,
}

impl Joint {
    /// The point behind a frame at this one.
    pub(crate) fn behind(&self, header: &FrameHeader) -> Joint {
        Joint {
            base: self.base,
            offset: self.offset + header.frame_len() as u64,
            previous: header.checksum,
            next_position: header.next_position(),
            commit_time: header.link.commit_time,
        }
    }

    /// The log address of the point.
    pub(crate) fn address(&self) -> u64 {
        self.base + self.offset
    }

    /// Why a frame does not continue from here, if it does not. One of another life of the file breaks the chain; one
    /// that continues the chain and breaks another rule was written by rules that this version does not know.
    fn fault(&self, header: &FrameHeader) -> Option<FrameFault> {
        let link = &header.link;
        if link.previous != self.previous && !sabotaged(Sabotage::ReuseTornPoint) {
            Some(FrameFault::Damaged("a frame does not continue the chain"))
        } else if (header.kind == FrameKind::Start) != (self.offset == FIRST_FRAME) {
            Some(FrameFault::Unknown("a start frame where none belongs, or none where one does"))
        } else if link.first_position != self.next_position {
            Some(FrameFault::Unknown("a frame does not continue the positions"))
        } else if link.commit_time < self.commit_time {
            Some(FrameFault::Unknown("a frame was committed before the one before it"))
        } else if link.durable > self.address() {
            Some(FrameFault::Unknown("a frame says that what follows it was synced"))
        } else {
            None
        }
    }
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(file: &'a dyn File, number: u64, salt: u64) -> Self {
        let chunk_bytes = CHUNK_BYTES_FIRST;
        Self { file, salt, number, buffer: Vec::new(), filled: 0, start: 0, ended: false, chunk_bytes }
    }

    /// The frame that continues from `joint`, all of it verified; the inner error says why there is none.
    pub(crate) fn frame(&mut self, joint: &Joint) -> io::Result<Result<Frame<'_>, FrameFault>> {
        Ok(self.any_frame(joint.offset)?.and_then(|frame| match joint.fault(&frame.header) {
            None => Ok(frame),
            Some(fault) => Err(fault),
        }))
    }

    /// Whatever whole frame stands at `offset`, all of it verified.
    pub(crate) fn any_frame(&mut self, offset: u64) -> io::Result<Result<Frame<'_>, FrameFault>> {
        let place = self.place(offset);
        let Some(head) = self.bytes(offset, HEADER_BYTES)?.first_chunk::<HEADER_BYTES>() else {
            return Ok(Err(FrameFault::Short));
        };
        let header = match FrameHeader::decode(head, place) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        let bytes = self.bytes(offset, header.frame_len())?;
        Ok(Frame::decode(bytes, place).and_then(|frame| {
            frame.verify_records().map_err(FrameFault::Damaged)?;
            Ok(frame)
        }))
    }

    /// What is behind `end`: how many bytes up to the last that is not zero within `span`, and the greatest durable
    /// address that an intact frame header tells there. The header is enough: what it says was known when it was built,
    /// whatever became of its body.
    pub(crate) fn search(&mut self, end: u64, span: u64) -> io::Result<Leftover> {
        let mut leftover = Leftover::default();
        let mut offset = end;
        while offset < end + span {
            let chunk = self.bytes(offset, 4096)?;
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len();
            let last = if is_zero(chunk) { None } else { chunk.iter().rposition(|byte| *byte != 0) };
            if let Some(last) = last {
                leftover.nonzero_bytes = offset + last as u64 + 1 - end;
                leftover.durable = leftover.durable.max(self.durable_within(offset, length)?);
            }
            offset += length as u64;
            if last.is_none() {
                offset = self.file.skip_hole(offset)?;
            }
        }
        Ok(leftover)
    }

    fn durable_within(&mut self, from: u64, length: usize) -> io::Result<u64> {
        let mut durable = 0;
        for offset in (from.next_multiple_of(8)..from + length as u64).step_by(8) {
            let place = self.place(offset);
            let head = self.bytes(offset, HEADER_BYTES)?.first_chunk::<HEADER_BYTES>();
            if let Some(head) = head.filter(|head| looks_like_a_header(head))
                && let Ok(header) = FrameHeader::decode(head, place)
            {
                durable = durable.max(header.link.durable);
            }
        }
        Ok(durable)
    }

    fn place(&self, offset: u64) -> Place {
        Place::of_frame(self.salt, self.number, offset)
    }

    /// Up to `length` bytes from `offset`; fewer only at the end of the file.
    pub(crate) fn bytes(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        debug_assert!(length <= FRAME_BYTES_MAX);
        let inside = offset >= self.start && offset - self.start <= self.filled as u64;
        if !inside || (!self.ended && self.behind(offset).len() < length) {
            self.slide(offset, length.max(self.chunk_bytes))?;
            self.chunk_bytes = (2 * self.chunk_bytes).min(CHUNK_BYTES);
        }
        let bytes = self.behind(offset);
        Ok(&bytes[..length.min(bytes.len())])
    }

    fn behind(&self, offset: u64) -> &[u8] {
        &self.buffer[(offset - self.start) as usize..self.filled]
    }

    fn slide(&mut self, offset: u64, length: usize) -> io::Result<()> {
        (self.filled, self.ended) = (0, false);
        // A header says how long its frame is before anything else of the frame is seen: what the file does not have gets
        // no memory.
        let left = self.file.len()?.saturating_sub(offset);
        let readable = left.min(length as u64) as usize;
        if self.buffer.len() < readable {
            self.buffer = vec![0; readable];
        }
        self.filled = self.file.read_at(&mut self.buffer[..readable], offset)?;
        self.start = offset;
        self.ended = self.filled < length;
        Ok(())
    }
}

/// What lies behind the last valid frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Leftover {
    /// Bytes up to the last that is not zero.
    pub(crate) nonzero_bytes: u64,
    /// The greatest log address that a frame header there says was synced.
    pub(crate) durable: u64,
}

/// A cheap look before the checksum: the kind is known, the reserved bytes are zero.
fn looks_like_a_header(bytes: &[u8; HEADER_BYTES]) -> bool {
    (1..=3).contains(&bytes[44]) && bytes[45..] == [0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::{Link, encode_control};
    use crate::storage::{Disk, MemoryDisk};

    const SALT: u64 = 7;

    /// The header of a commit of one event, whose body has so many bytes if it is believed.
    fn commit_header(body_len: u32) -> Vec<u8> {
        let (mut header, place) = (Vec::new(), Place::of_frame(SALT, 1, FIRST_FRAME));
        let link = Link { previous: 0, first_position: 1, commit_time: 0, durable: 0 };
        encode_control(&mut header, place, link, FrameKind::Mark, &[]);
        header[4..8].copy_from_slice(&body_len.to_le_bytes());
        header[40..45].copy_from_slice(&[1, 0, 0, 0, 2]);
        let checksum = place.checksum(&header[4..]);
        header[..4].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    /// Found when the bounds of the fuzz targets were made tight. A header whose checksum holds was believed that its
    /// frame is as long as any can be, and a file of 8 KiB was read into 16 MiB of zeros.
    #[test]
    fn a_frame_that_says_it_is_longer_than_its_file_gets_no_more_memory_than_the_file() {
        const FILE_BYTES: usize = 8 * 1024;
        let disk = MemoryDisk::new();
        disk.create_dir("").unwrap();
        let file = disk.create("file").unwrap();
        file.write_at(&[0; FILE_BYTES], 0).unwrap();
        file.write_at(&commit_header((FRAME_BYTES_MAX - HEADER_BYTES) as u32), FIRST_FRAME).unwrap();

        let mut scanner = Scanner::new(&*file, 1, SALT);
        assert_eq!(scanner.any_frame(FIRST_FRAME).unwrap().map(drop), Err(FrameFault::Short));
        assert!(scanner.buffer.capacity() <= FILE_BYTES, "{} bytes", scanner.buffer.capacity());
    }
}
