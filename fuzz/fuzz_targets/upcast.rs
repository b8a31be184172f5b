//! Rules for upcasting, and events that they are applied to: whatever both say, the answer is events or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| annals_fuzz::upcasting::check(bytes));
