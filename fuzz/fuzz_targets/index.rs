//! A small closed store whose index files are damaged: whatever they say, every answer is right.

#![no_main]

use annals_fuzz::damage::Damage;
use annals_fuzz::{damaged, sample};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: { sample::get(); }, |damage: Damage| damaged::check_index(&damage));
