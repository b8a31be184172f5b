//! What a simulated disk holds of one file: the durable bytes, and the writes that came since the last sync.
//!
//! It decides which of those writes a loss of power spares, and never looks at what the bytes mean.

use super::{Dice, FileSystem};

/// The disk's unit of writing: whole or not at all.
const SECTOR_BYTES: usize = 512;
/// The unit in which the cache writes back.
const PAGE_BYTES: usize = 4096;

/// Which of the pending changes of a file or of the names reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Nothing,
    Everything,
    /// The first few.
    Beginning,
    /// Any of them.
    Some,
    /// Any of them, in any order.
    Shuffled,
}

/// A file on the disk, without its name.
#[derive(Debug, Default)]
pub(super) struct Image {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    Extend {
        len: usize,
    },
    /// The file was created again.
    Empty,
}

impl Fate {
    pub(super) fn choose(dice: &mut Dice) -> Self {
        dice.pick(&[Fate::Nothing, Fate::Everything, Fate::Beginning, Fate::Some, Fate::Some, Fate::Shuffled])
    }

    /// Which of so many pending changes come true, in their order.
    pub(super) fn survivors(self, count: usize, dice: &mut Dice) -> Vec<usize> {
        let mut survivors: Vec<usize> = match self {
            Fate::Nothing => Vec::new(),
            Fate::Everything => (0..count).collect(),
            Fate::Beginning => (0..dice.below(count as u64 + 1) as usize).collect(),
            Fate::Some | Fate::Shuffled => {
                let luck = 1 + dice.below(3);
                (0..count).filter(|_| dice.happens(luck)).collect()
            }
        };
        if self == Fate::Shuffled {
            for last in (1..survivors.len()).rev() {
                survivors.swap(last, dice.below(last as u64 + 1) as usize);
            }
        }
        survivors
    }
}

impl Image {
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self { durable: bytes, pending: Vec::new() }
    }

    pub(super) fn push(&mut self, change: Change) {
        self.pending.push(change);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.pending.is_empty()
    }

    /// Everything that was written reaches the disk.
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable, &Filler::Zeros);
        }
    }

    /// The cache writes a page back, as it may at any time: what is pending of it is durable now, and the rest is not.
    pub(super) fn write_back(&mut self, dice: &mut Dice) {
        let writes: Vec<(usize, usize)> = self.pending.iter().filter_map(Change::range).collect();
        // What a file held before it was created again goes at some other time.
        if writes.is_empty() || self.pending.iter().any(|change| matches!(change, Change::Empty)) {
            return;
        }
        let (from, to) = dice.pick(&writes);
        let page = (from + dice.below((to - from) as u64) as usize) / PAGE_BYTES * PAGE_BYTES;
        for change in std::mem::take(&mut self.pending) {
            let (inside, outside) = change.cut(page, page + PAGE_BYTES);
            if let Some(inside) = inside {
                inside.apply(&mut self.durable, &Filler::Zeros);
            }
            self.pending.extend(outside);
        }
    }

    /// A sync failed: any part has reached the disk, and the rest never will, although the cache shows it.
    pub(super) fn lose_pending(&mut self, file_system: FileSystem, stale: &[Vec<u8>], dice: &mut Dice) {
        self.durable = self.after_power_cut(Fate::choose(dice), file_system, stale, dice);
        self.pending.clear();
    }

    /// What was last written.
    pub(super) fn newest(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.pending {
            change.apply(&mut bytes, &Filler::Zeros);
        }
        bytes
    }

    /// What a loss of power leaves.
    pub(super) fn after_power_cut(
        &self,
        fate: Fate,
        file_system: FileSystem,
        stale: &[Vec<u8>],
        dice: &mut Dice,
    ) -> Vec<u8> {
        let filler = match file_system {
            FileSystem::Strict => Filler::choose(stale, dice),
            FileSystem::Ext4 => Filler::Zeros,
        };
        let is_torn = fate != Fate::Everything && dice.one_in(2);
        let mut bytes = self.durable.clone();
        for survivor in fate.survivors(self.pending.len(), dice) {
            match &self.pending[survivor] {
                Change::Write { offset, bytes: written } if is_torn => {
                    write_torn(&mut bytes, *offset, written, &filler, dice);
                }
                change => change.apply(&mut bytes, &filler),
            }
        }
        bytes
    }
}

impl Change {
    /// The bytes that it writes, if there are any.
    fn range(&self) -> Option<(usize, usize)> {
        match self {
            Change::Write { offset, bytes } if !bytes.is_empty() => Some((*offset, offset + bytes.len())),
            _ => None,
        }
    }

    /// What of it lies between two offsets, and what does not.
    fn cut(self, from: usize, to: usize) -> (Option<Change>, Vec<Change>) {
        let Change::Write { offset, bytes } = self else { return (None, vec![self]) };
        let piece = |from: usize, to: usize| {
            let (from, to) = (from.max(offset), to.min(offset + bytes.len()));
            (from < to).then(|| Change::Write { offset: from, bytes: bytes[from - offset..to - offset].to_vec() })
        };
        (piece(from, to), piece(0, from).into_iter().chain(piece(to, usize::MAX)).collect())
    }

    fn apply(&self, bytes: &mut Vec<u8>, filler: &Filler<'_>) {
        match self {
            Change::Empty => bytes.clear(),
            Change::Extend { len } => extend(bytes, *len, filler),
            Change::Write { offset, bytes: written } => {
                extend(bytes, offset + written.len(), filler);
                bytes[*offset..offset + written.len()].copy_from_slice(written);
            }
        }
    }
}

fn extend(bytes: &mut Vec<u8>, len: usize, filler: &Filler<'_>) {
    let from = bytes.len();
    if len > from {
        bytes.append(&mut vec![0; len - from]);
        filler.fill(&mut bytes[from..], from);
    }
}

/// Writes some sectors and leaves others out. The file gets its new length all the same.
fn write_torn(bytes: &mut Vec<u8>, offset: usize, written: &[u8], filler: &Filler<'_>, dice: &mut Dice) {
    let luck = 1 + dice.below(3);
    let (mut from, end) = (offset, offset + written.len());
    extend(bytes, end, filler);
    while from < end {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if dice.happens(luck) {
            bytes[from..to].copy_from_slice(&written[from - offset..to - offset]);
        }
        from = to;
    }
}

/// What extended space shows that was never written: nothing is promised of it before a sync.
enum Filler<'a> {
    Zeros,
    Rubbish(u64),
    /// What the blocks held for another file.
    Stale(&'a [u8]),
}

impl<'a> Filler<'a> {
    fn choose(stale: &'a [Vec<u8>], dice: &mut Dice) -> Self {
        match dice.below(4) {
            0 | 1 => Filler::Zeros,
            2 if !stale.is_empty() => Filler::Stale(&stale[dice.below(stale.len() as u64) as usize]),
            _ => Filler::Rubbish(dice.below(u64::MAX)),
        }
    }

    fn fill(&self, space: &mut [u8], offset: usize) {
        match self {
            Filler::Zeros => {}
            Filler::Rubbish(seed) => Dice::new(seed.wrapping_add(offset as u64)).fill(space, usize::MAX),
            Filler::Stale(old) => {
                let old = old.get(offset..).unwrap_or_default();
                let count = old.len().min(space.len());
                space[..count].copy_from_slice(&old[..count]);
            }
        }
    }
}
