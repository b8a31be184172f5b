//! Values in the place of snapshots, and damage to the files that they are in: only what was saved is used, and the log
//! beside it is whole.

#![no_main]

use annals_fuzz::snapshots::{self, Case};
use annals_fuzz::{damaged, sample};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: { sample::get(); }, |case: Case| match case {
    Case::Values { values, upto } => snapshots::check_values(&values, upto),
    Case::Files(damage) => damaged::check_state(&damage),
});
