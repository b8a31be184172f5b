//! Any bytes, taken apart as frames, records and headers, with their checksums repaired so that they get that far:
//! nothing panics, and nothing is accepted that no encoder writes.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| annals::fuzzing::decode(bytes));
