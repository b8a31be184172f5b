//! A small closed store whose index files are damaged: whatever they say, every answer is right.

#![no_main]

use annals_fuzz::damage::Damage;
use annals_fuzz::sample::{self, Loss};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|damage: Damage| {
    let files = damage.apply(&sample::get().files, |path| path.starts_with("index/"));
    // Pages that lie with checksums that fit are no damage that a disk does. They may hide events, and no more.
    sample::check(&files, if damage.is_sealed { Loss::Any } else { Loss::None });
    assert!(damage.is_sealed || sample::opens(&files), "the index is derived: without it a store opens");
});
