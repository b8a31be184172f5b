//! Any bytes, taken apart as frames, records and headers, with their checksums repaired so that they get that far:
//! nothing panics, and nothing is accepted that no encoder writes.

#![no_main]

use annals_fuzz::allocation::within;
use libfuzzer_sys::fuzz_target;

/// A page that is made whole, of 4 KiB, and what is said of it.
const BYTES_MAX: usize = 8 << 10;
/// What is copied, encoded again, and told as tags of a byte or two, each of which is a string of its own.
const FACTOR: usize = 16;

fuzz_target!(|bytes: &[u8]| within(BYTES_MAX + FACTOR * bytes.len(), || annals::fuzzing::decode(bytes)));
