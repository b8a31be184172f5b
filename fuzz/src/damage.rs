//! Damage to the files of a store, built from the fuzzer's bytes.

use annals::fuzzing::{Files, repair};
use arbitrary::Arbitrary;

use crate::sample::Sample;

/// What happens to the files.
#[derive(Debug, Arbitrary)]
pub struct Damage {
    /// All checksums of what was touched are made to fit afterwards, so that more than checksums is tested.
    pub is_sealed: bool,
    pub mutations: Vec<Mutation>,
}

/// One change to one file.
#[derive(Debug, Arbitrary)]
pub struct Mutation {
    file: u8,
    at: u32,
    change: Change,
}

#[derive(Debug, Arbitrary)]
enum Change {
    Flip { mask: u8 },
    Number { value: u64, bytes: u8 },
    Insert { bytes: [u8; 8] },
    Remove { count: u16 },
    Zero { count: u16 },
    Copy { from: u32, count: u16 },
    Swap { with: u32, count: u16 },
    Truncate,
    Delete,
    Exchange { with: u8 },
    /// Another file gets the bytes of this one.
    Duplicate { to: u8 },
    /// The file as it was when the store was closed once before.
    Older,
}

/// Behind the last byte of a file that is not zero, so much is damaged as gladly as what is before it.
const MARGIN_BYTES: usize = 64;

impl Damage {
    /// The files of the sample with all changes made, to those alone whose path is `chosen`.
    pub fn apply(&self, sample: &Sample, chosen: impl Fn(&str) -> bool) -> Files {
        let mut files = sample.files.clone();
        for mutation in &self.mutations {
            let paths: Vec<String> = files.keys().filter(|path| chosen(path)).cloned().collect();
            if let Some(path) = pick(&paths, mutation.file) {
                mutation.apply(&mut files, &sample.earlier, &paths, path);
                if let Some(bytes) = files.get_mut(path).filter(|_| self.is_sealed) {
                    repair(path, bytes);
                }
            }
        }
        files
    }
}

fn pick(paths: &[String], number: u8) -> Option<&String> {
    paths.get(usize::from(number) % paths.len().max(1))
}

impl Mutation {
    fn apply(&self, files: &mut Files, earlier: &Files, paths: &[String], path: &str) {
        match self.change {
            Change::Delete => drop(files.remove(path)),
            Change::Older => drop(earlier.get(path).map(|bytes| files.insert(path.to_owned(), bytes.clone()))),
            Change::Duplicate { to } => {
                let Some(other) = pick(paths, to) else { return };
                files.insert(other.clone(), files[path].clone());
            }
            Change::Exchange { with } => {
                let Some(other) = pick(paths, with) else { return };
                let (mine, theirs) = (files[path].clone(), files[other].clone());
                files.insert(path.to_owned(), theirs);
                files.insert(other.clone(), mine);
            }
            _ => {
                let bytes = files.get_mut(path).expect("the path was picked from the files");
                if !bytes.is_empty() {
                    self.change_bytes(bytes);
                }
            }
        }
    }

    fn change_bytes(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        // Most of a segment is zeros, where there is little to damage.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let most = if self.at % 8 == 0 { len } else { len.min(used + MARGIN_BYTES) };
        let at = (self.at / 8) as usize % most;
        let end = |count: u16| (at + usize::from(count)).min(len);
        match self.change {
            Change::Flip { mask } => bytes[at] ^= mask,
            Change::Number { value, bytes: count } => {
                let count = usize::from(count % 9).min(len - at);
                bytes[at..at + count].copy_from_slice(&value.to_le_bytes()[..count]);
            }
            Change::Insert { bytes: new } => drop(bytes.splice(at..at, new)),
            Change::Remove { count } => drop(bytes.drain(at..end(count))),
            Change::Zero { count } => bytes[at..end(count)].fill(0),
            Change::Copy { from, count } => {
                let from = from as usize % len;
                let count = usize::from(count).min(len - at).min(len - from);
                bytes.copy_within(from..from + count, at);
            }
            Change::Swap { with, count } => {
                let with = with as usize % len;
                let (low, high) = (at.min(with), at.max(with));
                let count = usize::from(count).min(high - low).min(len - high);
                let (left, right) = bytes.split_at_mut(high);
                left[low..low + count].swap_with_slice(&mut right[..count]);
            }
            Change::Truncate => bytes.truncate(at),
            Change::Delete | Change::Exchange { .. } | Change::Duplicate { .. } | Change::Older => {}
        }
    }
}
