//! A segment of any bytes at the end of a log: what recovery makes of it is what the format says.

use annals::fuzzing::{Files, repair};

use crate::damaged::{bounded, of_log};
use crate::reader;
use crate::sample::{self, check};

/// Bytes before the segment: which synced head stands beside it, and at which of its frames.
const CONTROL_BYTES: usize = 2;
/// Header and start frame.
const SEGMENT_BYTES_MIN: usize = 64 + 48 + 64;
/// A file is made as long as its header says that it was made, up to here.
const ALLOCATED_BYTES_MAX: usize = 64 * 1024;

/// Puts the segment where its number says that it stands, behind those of the sample, and opens the log.
pub fn check_segment(input: &[u8]) {
    let Some((control, segment)) = input.split_at_checked(CONTROL_BYTES) else { return };
    let Some(head) = segment.get(..64) else { return };
    let number = u64::from_le_bytes(head[40..48].try_into().expect("8 bytes"));
    let allocated = u32::from_le_bytes(head[56..60].try_into().expect("4 bytes")) as usize;
    let mut segment = segment.to_vec();
    if let Some(bytes) = allocated.checked_mul(4096).filter(|bytes| *bytes <= ALLOCATED_BYTES_MAX) {
        segment.resize(segment.len().max(bytes), 0);
    }
    let path = path_of(number.min(9_999_999_999));
    let mut files: Files = sample::get().files.clone();
    files.retain(|other, _| other.starts_with("log/") && *other < path);
    let frames = reader::frames(&segment);
    if let Some(frame) = frames.get(usize::from(control[1]) % frames.len().max(1)).filter(|_| control[0] % 4 > 0) {
        files.insert("synced-head".into(), reader::synced_head(&segment, frame, control[0] % 4 == 1));
    }
    files.insert(path, segment);
    bounded(&files, || check(&files, &of_log(&files, false)));
}

fn path_of(number: u64) -> String {
    format!("log/{number:010}.segment")
}

/// Changes an input as the fuzzer does, and mostly makes its checksums fit again, and its positions as well.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    change: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let size = match size < CONTROL_BYTES + SEGMENT_BYTES_MIN {
        true => begin(data, max_size, seed),
        false => change(data, size, max_size),
    };
    if let Some(segment) = data.get_mut(CONTROL_BYTES..size).filter(|_| seed % 8 != 0) {
        repair(".segment", segment);
        if seed % 8 > 4 {
            renumber(segment);
            repair(".segment", segment);
        }
    }
    size
}

/// A segment of the sample, without the zeros behind it.
fn begin(data: &mut [u8], max_size: usize, seed: u32) -> usize {
    let segments = sample::get().files.iter().filter(|(path, _)| path.starts_with("log/"));
    let segments: Vec<&Vec<u8>> = segments.map(|(_, bytes)| bytes).collect();
    let segment = segments[seed as usize / 8 % segments.len()];
    let used = segment.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let used = used.min(max_size.min(data.len()).saturating_sub(CONTROL_BYTES));
    data[..CONTROL_BYTES].copy_from_slice(&[(seed >> 8) as u8, (seed >> 16) as u8]);
    data[CONTROL_BYTES..CONTROL_BYTES + used].copy_from_slice(&segment[..used]);
    CONTROL_BYTES + used
}

/// Gives each frame the position that follows from the one before.
fn renumber(segment: &mut [u8]) {
    let mut next = None;
    for frame in reader::frames(segment) {
        let at = frame.offset as usize + 16;
        let first = next.unwrap_or(frame.first_position);
        segment[at..at + 8].copy_from_slice(&u64::to_le_bytes(first));
        next = Some(first.wrapping_add(frame.count.into()));
    }
}
