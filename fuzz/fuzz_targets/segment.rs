//! Any bytes as the last segment of a log, with their checksums repaired: it is recovered as the format says, refused
//! where synced data are gone, and takes appends afterwards.

#![no_main]

use annals_fuzz::{sample, segments};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(init: { sample::get(); }, |bytes: &[u8]| segments::check_segment(bytes));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    segments::mutate(data, size, max_size, seed, fuzzer_mutate)
});
