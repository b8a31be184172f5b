//! Any bytes, taken apart as frames, records and headers, with their checksums repaired so that they get that far:
//! nothing panics, and nothing is accepted that no encoder writes.

#![no_main]

use annals_fuzz::allocation::within;
use libfuzzer_sys::fuzz_target;

/// What is built again to be compared, and pages made whole.
const BYTES_MAX: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| within(BYTES_MAX + 16 * bytes.len(), || annals::fuzzing::decode(bytes)));
