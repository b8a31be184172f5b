//! Rules for upcasting, and events that they are applied to: whatever both say, the answer is events or an error.

#![no_main]

use annals::limits::UPCAST_EVENTS_MAX;
use annals_fuzz::allocation::within;
use annals_fuzz::upcasting;
use libfuzzer_sys::fuzz_target;

/// What is allocated whatever the rules are.
const BYTES_MAX: usize = 1 << 20;
/// An event may become many, each as large as what it is made of, and a value takes more than its text.
const FACTOR: usize = 64 * UPCAST_EVENTS_MAX;

fuzz_target!(|bytes: &[u8]| within(BYTES_MAX + FACTOR * bytes.len(), || upcasting::check(bytes)));
