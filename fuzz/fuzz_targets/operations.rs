//! Any sequence of appends, commits on conditions, reads and background work, beside a model of forty lines: same answers.

#![no_main]

use annals_fuzz::allocation::within;
use annals_fuzz::damaged::STORE_BYTES;
use annals_fuzz::model::{Model, Operation};
use libfuzzer_sys::fuzz_target;

/// What an operation may leave behind, in the store and in the model.
const OPERATION_BYTES: usize = 256 << 10;

fuzz_target!(|operations: Vec<Operation>| within(STORE_BYTES + OPERATION_BYTES * operations.len(), || {
    let mut model = Model::new();
    for operation in &operations {
        model.run(operation);
    }
    model.check_everything();
}));
