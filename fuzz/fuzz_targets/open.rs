//! A small closed store whose files are damaged: it opens with all of its events, with the first of them, or not at all.

#![no_main]

use annals_fuzz::damage::Damage;
use annals_fuzz::sample::{self, Loss};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|damage: Damage| {
    let files = damage.apply(&sample::get().files, |_| true);
    let loss = match damage {
        _ if damage.is_sealed => Loss::Any,
        // One fault at a time is told apart from a crash.
        _ if damage.mutations.len() <= 1 => Loss::None,
        _ => Loss::Tail,
    };
    sample::check(&files, loss);
});
