//! Rules for upcasting, and events that they are applied to: whatever both say, the answer is events or an error.

#![no_main]

use annals_fuzz::upcasting::{self, Case};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(case) = Case::parse(bytes) else { return };
    // What was upcast can be upcast no further, and reads as an event of the enum or as an error that names it.
    for event in case.upcast() {
        assert!(!case.upcasters.takes(&event.event_type, event.schema_version));
        upcasting::check_decoding(&event);
    }
    upcasting::check_decoding(&case.event);
});
