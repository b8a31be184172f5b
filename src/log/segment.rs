//! A segment: one file of the log, and the list of all of them.
//!
//! A segment knows where it stands in the log and lends its published bytes. Sealed segments are opened when they are
//! first read.

use std::io;
use std::sync::{Arc, OnceLock};

use super::LOG_DIR;
use crate::error::{Error, Result};
use crate::format::checksum::Place;
use crate::format::frame::{ENTRY_BYTES, Frame, FrameHeader, HEADER_BYTES, record_in, record_range};
use crate::format::segment::{self, ALLOCATION_UNIT, SegmentHeader};
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::{Access, Disk, File, FileWriter, PublishedFile, ReadMode};
use crate::types::StoreId;

/// Offset of the first frame of a segment.
pub(crate) const FIRST_FRAME: u64 = segment::HEADER_BYTES as u64;
/// Bytes that a segment holds besides commits: its header and its start frame.
pub(crate) const OVERHEAD_BYTES: u64 = FIRST_FRAME + (HEADER_BYTES + segment::START_BODY_BYTES) as u64;
/// A short write that reaches new pages goes on with zeros up to a multiple of this: the pages that the next short
/// writes fall into are in the cache then, which makes those writes a tenth cheaper. More of them gain nothing.
const BLANK_BYTES: u64 = 16 * 1024;

/// The path of a segment's file.
pub(crate) fn path_of(number: u64) -> String {
    format!("{LOG_DIR}/{number:010}.segment")
}

/// The number in the name of a segment's file.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".segment")?.parse().ok()?;
    (name == format!("{number:010}.segment")).then_some(number)
}

/// Where a frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameAt {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// A verified record: the header of its frame, and where it stands in the segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordAt {
    pub(crate) header: FrameHeader,
    offset: u64,
    len: usize,
}

/// Where a segment stands in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) first_position: u64,
    /// Its log address.
    pub(crate) base: u64,
}

/// The right to write to a segment. There is one for each that grows, and it passes from hand to hand with the batch
/// that is written, so that writing takes no lock.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: FileWriter,
    /// Zeros were written up to here, behind the frames.
    blank_end: u64,
    /// Kept for the next time that zeros are written.
    blanked: Vec<u8>,
}

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    disk: Arc<dyn Disk>,
    mode: ReadMode,
    pub(crate) number: u64,
    pub(crate) salt: u64,
    /// The position that the first commit of this segment has.
    pub(crate) first_position: u64,
    /// Its log address.
    pub(crate) base: u64,
    pub(crate) path: String,
    file: OnceLock<Arc<PublishedFile>>,
    /// Offset behind its last frame, once another segment follows.
    sealed_end: OnceLock<u64>,
}

impl Segment {
    /// A segment that takes no more frames. Its file is opened when it is first read.
    pub(crate) fn sealed(
        disk: Arc<dyn Disk>,
        mode: ReadMode,
        header: &SegmentHeader,
        origin: Origin,
        sealed_end: u64,
    ) -> Self {
        let segment = Self::new(disk, mode, header, origin);
        segment.seal(sealed_end);
        segment
    }

    /// A segment that goes on growing behind its first `published` bytes, and what writes to it.
    pub(crate) fn growing(
        disk: Arc<dyn Disk>,
        mode: ReadMode,
        header: &SegmentHeader,
        origin: Origin,
        file: Arc<dyn File>,
        published: u64,
    ) -> Result<(Arc<Self>, SegmentWriter)> {
        let segment = Self::new(disk, mode, header, origin);
        let (file, writer) = PublishedFile::open_growing(file, mode, published)
            .map_err(|error| Error::io("map", segment.disk.locate(&segment.path), error))?;
        segment.file.get_or_init(|| file);
        Ok((Arc::new(segment), SegmentWriter { file: writer, blank_end: 0, blanked: Vec::new() }))
    }

    fn new(disk: Arc<dyn Disk>, mode: ReadMode, header: &SegmentHeader, origin: Origin) -> Self {
        Self {
            disk,
            mode,
            number: header.number,
            salt: header.salt,
            first_position: origin.first_position,
            base: origin.base,
            path: path_of(header.number),
            file: OnceLock::new(),
            sealed_end: OnceLock::new(),
        }
    }

    /// Notes that no frame follows behind `end`.
    pub(crate) fn seal(&self, end: u64) {
        self.sealed_end.get_or_init(|| end);
    }

    pub(crate) fn sealed_end(&self) -> Option<u64> {
        self.sealed_end.get().copied()
    }

    /// Bytes up to which there are frames that can be read now.
    pub(crate) fn used_bytes(&self) -> Result<u64> {
        let published = self.file()?.published();
        Ok(self.sealed_end().map_or(published, |end| end.min(published)))
    }

    pub(crate) fn place(&self, offset: u64) -> Place {
        Place::of_frame(self.salt, self.number, offset)
    }

    pub(crate) fn file(&self) -> Result<&Arc<PublishedFile>> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = self.open_sealed()?;
        Ok(self.file.get_or_init(|| opened))
    }

    fn open_sealed(&self) -> Result<Arc<PublishedFile>> {
        let path = || self.disk.locate(&self.path);
        let file = self.disk.open(&self.path, Access::Read).map_err(|error| Error::io("open", path(), error))?;
        let length = file.len().map_err(|error| Error::io("read the length of", path(), error))?;
        if self.sealed_end().is_some_and(|end| length < end) {
            return Err(Error::corrupt(path(), length, "the file is shorter than its frames"));
        }
        PublishedFile::open_immutable(file, self.mode).map_err(|error| Error::io("map", path(), error))
    }

    /// The file, for reading by `pread`.
    pub(crate) fn open_file(&self) -> Result<Arc<dyn File>> {
        if let Some(file) = self.file.get().and_then(|file| file.file()) {
            return Ok(Arc::clone(file));
        }
        let opened = self.disk.open(&self.path, Access::Read);
        opened.map_err(|error| Error::io("open", self.disk.locate(&self.path), error))
    }

    /// Writes behind what is published. Nothing is visible before it is published.
    pub(crate) fn write(&self, writer: &mut SegmentWriter, bytes: &[u8], offset: u64) -> Result<()> {
        writer.write(bytes, offset).map_err(|error| Error::io("write to", self.disk.locate(&self.path), error))
    }

    /// Syncs what was written through this file: another descriptor might not be told of an error.
    pub(crate) fn sync(&self, file: &dyn File) -> Result<()> {
        let mut synced = file.sync();
        if sabotaged(Sabotage::RetrySync) {
            synced = synced.or_else(|_| file.sync());
        }
        synced.map_err(|error| Error::io("sync", self.disk.locate(&self.path), error))
    }

    pub(crate) fn corrupt(&self, offset: u64, reason: &str) -> Error {
        Error::corrupt(self.disk.locate(&self.path), offset, reason)
    }

    fn read_error(&self, offset: u64, error: std::io::Error) -> Error {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt(offset, "a frame reaches beyond the end of the log"),
            _ => Error::io("read", self.disk.locate(&self.path), error),
        }
    }

    /// The verified header of the frame at `offset`.
    pub(crate) fn header(&self, offset: u64) -> Result<FrameHeader> {
        let mut scratch = Vec::new();
        let bytes = self.file()?.read(offset, HEADER_BYTES, &mut scratch);
        let bytes = bytes.map_err(|error| self.read_error(offset, error))?;
        self.decode_header(bytes, offset)
    }

    fn decode_header(&self, bytes: &[u8], offset: u64) -> Result<FrameHeader> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or_else(|| self.corrupt(offset, "a short frame"))?;
        FrameHeader::decode(head, self.place(offset)).map_err(|fault| self.corrupt(offset, fault.reason()))
    }

    /// The frame at `offset`: header, directory and padding verified, records not yet.
    #[inline]
    pub(crate) fn frame<'a>(&'a self, offset: u64, scratch: &'a mut Vec<u8>) -> Result<Frame<'a>> {
        let file = self.file()?;
        let bytes = match file.slice_to_end(offset) {
            Some(bytes) => bytes,
            None => self.read_frame(file, offset, scratch)?,
        };
        Frame::decode(bytes, self.place(offset)).map_err(|fault| self.corrupt(offset, fault.reason()))
    }

    #[cold]
    fn read_frame<'a>(&self, file: &'a PublishedFile, offset: u64, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let head = file.read(offset, HEADER_BYTES, scratch).map_err(|error| self.read_error(offset, error))?;
        let header = self.decode_header(head, offset)?;
        file.read(offset, header.frame_len(), scratch).map_err(|error| self.read_error(offset, error))
    }

    /// The verified bytes of the record at `position`, in the commit frame at `offset`, with its header. Reads no more
    /// of a large frame than it needs.
    #[inline]
    pub(crate) fn record<'a>(
        &'a self,
        offset: u64,
        position: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Result<(FrameHeader, &'a [u8])> {
        let at = self.find_record(offset, position, scratch)?;
        Ok((at.header, self.lend(&at, scratch)?))
    }

    /// Verifies the record at `position`, in the commit frame at `offset`, and says where it stands.
    #[inline]
    pub(crate) fn find_record(&self, offset: u64, position: u64, scratch: &mut Vec<u8>) -> Result<RecordAt> {
        let file = self.file()?;
        let Some(bytes) = file.slice_to_end(offset) else { return self.read_record(file, offset, position, scratch) };
        let header = self.decode_header(bytes, offset)?;
        let ordinal = self.ordinal(&header, offset, position)?;
        let body = bytes.get(HEADER_BYTES..HEADER_BYTES + header.body_len as usize);
        let body = body.ok_or_else(|| self.corrupt(offset, "a frame reaches beyond the end of the log"))?;
        let range = record_in(body, header.count, self.place(offset), ordinal);
        let range = range.map_err(|reason| self.corrupt(offset, reason))?;
        Ok(RecordAt { header, offset: offset + (HEADER_BYTES + range.start) as u64, len: range.len() })
    }

    /// Asks the processor for the first bytes of a frame that will be read soon.
    #[inline]
    pub(crate) fn prefetch(&self, offset: u64, len: usize) {
        if let Some(file) = self.file.get() {
            file.prefetch(offset, len);
        }
    }

    /// The bytes of a record that was found with this scratch.
    #[inline]
    pub(crate) fn lend<'a>(&'a self, at: &RecordAt, scratch: &'a [u8]) -> Result<&'a [u8]> {
        Ok(self.file()?.slice(at.offset, at.len).unwrap_or(&scratch[..at.len.min(scratch.len())]))
    }

    #[cold]
    fn read_record(&self, file: &PublishedFile, offset: u64, position: u64, scratch: &mut Vec<u8>) -> Result<RecordAt> {
        let fault = |reason| self.corrupt(offset, reason);
        let header = self.header(offset)?;
        let ordinal = self.ordinal(&header, offset, position)?;
        let body_at = offset + HEADER_BYTES as u64;
        let directory = file.read(body_at, header.count as usize * ENTRY_BYTES, scratch);
        let directory = directory.map_err(|error| self.read_error(offset, error))?;
        let (range, checksum) = record_range(directory, header.count, ordinal).map_err(fault)?;
        if range.end > header.body_len as usize {
            return Err(fault("a record reaches beyond its frame"));
        }
        let at = RecordAt { header, offset: body_at + range.start as u64, len: range.len() };
        let record = file.read(at.offset, at.len, scratch).map_err(|error| self.read_error(offset, error))?;
        let is_whole = self.place(offset).of_record(ordinal).checksum(record) == checksum;
        match is_whole || sabotaged(Sabotage::TrustRecord) {
            true => Ok(at),
            false => Err(fault("the checksum of a record does not match")),
        }
    }

    fn ordinal(&self, header: &FrameHeader, offset: u64, position: u64) -> Result<u32> {
        match position.checked_sub(header.link.first_position) {
            Some(ordinal) if ordinal < u64::from(header.count) => Ok(ordinal as u32),
            _ => Err(self.corrupt(offset, "the frame does not hold the position that it was looked up for")),
        }
    }
}

impl SegmentWriter {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let is_short = (bytes.len() as u64) < BLANK_BYTES;
        match is_short && end > self.blank_end {
            true => self.write_and_blank(bytes, offset),
            false => self.file.write(bytes, offset),
        }
    }

    /// The file that it writes to.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        self.file.file()
    }

    /// Lets readers see the bytes before `end`, which never change again.
    pub(crate) fn publish(&mut self, end: u64) {
        self.file.publish(end);
    }

    /// How far the segment can be filled.
    pub(crate) fn capacity(&self) -> u64 {
        self.file.capacity()
    }

    /// Writes the bytes, and zeros behind them. What is there is blank: allocated space, or what recovery has looked at.
    #[cold]
    fn write_and_blank(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let blank_end = end.next_multiple_of(BLANK_BYTES).min(self.file.capacity()).max(end);
        let len = (blank_end - offset) as usize;
        self.blanked.resize(self.blanked.len().max(len), 0);
        self.blanked[..bytes.len()].copy_from_slice(bytes);
        let written = self.file.write(&self.blanked[..len], offset);
        // Zeros again, all of it.
        self.blanked[..bytes.len()].fill(0);
        written?;
        self.blank_end = blank_end;
        Ok(())
    }
}

/// All segments of the log, in order; immutable, replaced when one is added or removed.
#[derive(Debug, Clone, Default)]
pub(crate) struct SegmentList {
    segments: Vec<Arc<Segment>>,
}

impl SegmentList {
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> Self {
        debug_assert!(segments.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
        Self { segments }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Segment>> {
        self.segments.iter()
    }

    pub(crate) fn last(&self) -> Option<&Arc<Segment>> {
        self.segments.last()
    }

    /// The segment with this number.
    #[inline]
    pub(crate) fn numbered(&self, number: u64) -> Option<&Arc<Segment>> {
        let first = self.segments.first()?.number;
        self.segments.get(number.checked_sub(first)? as usize)
    }

    /// The segment that holds this position, or would.
    pub(crate) fn holding(&self, position: u64) -> Option<&Arc<Segment>> {
        let behind = self.segments.partition_point(|segment| segment.first_position <= position);
        // Segments without commits share their first position with the next: the last of them holds it.
        self.segments.get(behind.checked_sub(1)?)
    }

    pub(crate) fn with(&self, segment: Arc<Segment>) -> Self {
        let mut segments = self.segments.clone();
        segments.push(segment);
        Self::new(segments)
    }

    pub(crate) fn without_before(&self, number: u64) -> Self {
        Self::new(self.segments.iter().filter(|segment| segment.number >= number).cloned().collect())
    }
}

/// A segment file that was made before it was needed: header written, space allocated, name durable.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
}

impl Spare {
    /// Makes a spare. `first_frame` is written behind the header if it is not empty.
    ///
    /// The file gets its name after its bytes are synced, and the name is synced as well: no crash leaves a segment
    /// without a whole header under a segment's name.
    pub(crate) fn create(
        disk: &dyn Disk,
        store: StoreId,
        number: u64,
        salt: u64,
        bytes: u64,
        first_frame: &[u8],
    ) -> Result<Self> {
        let bytes = bytes.next_multiple_of(ALLOCATION_UNIT);
        let header = SegmentHeader { store, number, salt, allocated: bytes };
        let path = path_of(number);
        let temporary = format!("{path}.tmp");
        let failed = |operation, error| Error::io_or_full(operation, disk.locate(&path), error);
        let create = || -> Result<Arc<dyn File>> {
            let file = disk.create(&temporary).map_err(|error| failed("create", error))?;
            file.allocate(bytes).map_err(|error| failed("allocate", error))?;
            let mut head = header.encode().to_vec();
            head.extend_from_slice(first_frame);
            file.write_at(&head, 0).map_err(|error| failed("write to", error))?;
            if !sabotaged(Sabotage::RenameBeforeSync) {
                file.sync().map_err(|error| failed("sync", error))?;
            }
            disk.rename(&temporary, &path).map_err(|error| failed("rename", error))?;
            if !sabotaged(Sabotage::NoDirectorySync) {
                disk.sync_dir(LOG_DIR).map_err(|error| failed("sync the directory of", error))?;
            }
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Self { header, file, bytes }),
            Err(error) => {
                // The space goes back; what cannot be removed now is removed at the next open.
                let _ = disk.remove(&temporary);
                Err(error)
            }
        }
    }

    /// Makes room for at least `bytes`.
    pub(crate) fn grow(&mut self, disk: &dyn Disk, bytes: u64) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let path = disk.locate(&path_of(self.header.number));
        self.file.allocate(bytes).map_err(|error| Error::io_or_full("allocate", path, error))?;
        self.bytes = bytes;
        Ok(())
    }
}
