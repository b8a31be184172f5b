//! Any sequence of appends, commits on conditions, reads and background work, beside a model of forty lines: same answers.

#![no_main]

use annals_fuzz::model::{self, Operation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|operations: Vec<Operation>| model::check(&operations));
