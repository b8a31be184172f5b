//! Any lines, imported as the program does: bad ones are told with their number, good ones are written as they say, and
//! come back from their export.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| annals_fuzz::importing::check(text));
