//! Counting what a store holds.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_128;

use super::event::Event;
use super::{Inner, Store};
use crate::error::{Error, Result};
use crate::format::frame::Frame;
use crate::log::{FIRST_FRAME, LOG_DIR};
use crate::storage::Access;
use crate::types::Position;

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Events.
    pub events: u64,
    /// Streams that have events.
    pub streams: u64,
    /// Different categories of these streams.
    pub categories: u64,
    /// Different types of events.
    pub types: u64,
    /// The last position; `None` if the store is empty.
    pub head: Option<Position>,
    /// The last position that is known to survive a loss of power.
    pub synced_head: Option<Position>,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes of the live log: its headers and frames.
    pub bytes: u64,
    /// Bytes of the segment files, which are allocated ahead of use.
    pub bytes_allocated: u64,
}

impl Store {
    /// Counts what the store holds, as of now.
    ///
    /// Reads the whole log once, front to back: it takes as long as a replay. Memory grows by about 30 bytes for each
    /// category and each type, not with events or streams.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`] if a part of the log cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let inner = &self.handle.inner;
        inner.catch_up()?;
        // Read first: the visible head may only grow meanwhile.
        let synced = inner.log.synced();
        let head = inner.log.visible();
        let mut stats = Stats {
            head: Position::new(head),
            synced_head: Position::new(synced),
            bytes_allocated: inner.bytes_allocated()?,
            ..Stats::default()
        };
        inner.count_events(head, &mut stats)?;
        Ok(stats)
    }
}

impl Store {
    /// Bytes of the live log: its headers and frames. Looks at each segment, and at no event.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`] if a segment cannot be read.
    pub fn log_bytes(&self) -> Result<u64> {
        self.handle.inner.catch_up()?;
        self.handle.inner.log.segments().iter().map(|segment| segment.used_bytes()).sum()
    }
}

impl Inner {
    fn count_events(&self, head: u64, stats: &mut Stats) -> Result<()> {
        let mut tally = Tally::default();
        for segment in self.log.segments().iter() {
            stats.segments += 1;
            stats.bytes += segment.used_bytes()?;
            self.log.scan(segment.number, FIRST_FRAME, head, &mut |offset, frame| {
                tally.add(frame).map_err(|reason| segment.corrupt(offset, reason))
            })?;
        }
        stats.events = tally.events;
        stats.streams = tally.streams;
        stats.categories = tally.categories.len() as u64;
        stats.types = tally.types.len() as u64;
        Ok(())
    }

    /// Bytes of the segment files, with that of the segment that is made in advance.
    fn bytes_allocated(&self) -> Result<u64> {
        let failed = |error| Error::io("read the sizes in", self.disk.locate(LOG_DIR), error);
        let mut bytes = 0;
        for name in self.disk.list(LOG_DIR).map_err(failed)? {
            if !name.ends_with(".segment") {
                continue;
            }
            match self.disk.open(&format!("{LOG_DIR}/{name}"), Access::Read).and_then(|file| file.len()) {
                Ok(length) => bytes += length,
                // A segment that was made in advance and is not needed goes away when its writer closes.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(bytes)
    }
}

/// What was counted so far. Names are told apart by hashes of 128 bits, which do not collide by chance.
#[derive(Default)]
struct Tally {
    events: u64,
    streams: u64,
    categories: HashSet<u128>,
    types: HashSet<u128>,
}

impl Tally {
    fn add(&mut self, frame: &Frame<'_>) -> Result<(), &'static str> {
        for ordinal in 0..frame.header.count {
            let position = frame.header.link.first_position + u64::from(ordinal);
            let event = Event::decode(&frame.header, position, frame.record(ordinal)?)?;
            self.events += 1;
            // The first event of each stream has the first version: to count those is to count streams.
            if event.version == 1 {
                self.streams += 1;
                self.categories.insert(xxh3_128(event.category().as_bytes()));
            }
            self.types.insert(xxh3_128(event.event_type.as_bytes()));
        }
        Ok(())
    }
}
