//! A small closed store whose files are damaged: it opens with all of its events, with the first of them, or not at all.

#![no_main]

use annals_fuzz::damage::Damage;
use annals_fuzz::{damaged, sample};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: { sample::get(); }, |damage: Damage| damaged::check_all(&damage));
