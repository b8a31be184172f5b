//! The testing kit: what the tests of an application need, with the feature `testing`.
//!
//! Stores on a clock that the test moves and with ids that repeat, a disk that fails when it is told to, events by hand,
//! given/when/then for what is decided and what is shown, and the suite that every backend must pass.
//!
//! It stands on the public API, and a failure is a panic that says what was given, done, expected and found.

pub mod conformance;

mod aggregates;
mod contract;
mod outcome;
mod processes;
mod projections;
mod recorded;
mod store;
mod story;

pub use crate::FaultyDisk;
pub use aggregates::{Given, GivenEvents, GivenModel, GivenTo, given, given_events, given_to};
pub use contract::{assert_contract, write_contract};
pub use outcome::Outcome;
pub use processes::{ProcessTest, process};
pub use projections::{ProjectionTest, projection};
pub use recorded::{RecordedBuilder, recorded, recorded_as};
pub use store::{START, TestStore, clock, options, store};
