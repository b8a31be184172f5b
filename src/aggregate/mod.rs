//! Aggregates and decisions: events are folded into a state, a decision on it comes to new events, and these are
//! appended if nothing has happened in between. If something has, it is decided again.
//!
//! Sits on the public API of the store. Owns no data of its own but snapshots and caches, which are never needed: a state
//! is what its events amount to. Holds no lock while code of the application runs.
//!
//! | an aggregate is | use |
//! |---|---|
//! | a struct with methods | [`Aggregate`], [`Store::repository`](crate::Store::repository) |
//! | plain functions | [`Decider`], [`Store::decider`](crate::Store::decider) |
//! | several of them in one commit | [`Store::transact`](crate::Store::transact) |
//! | whatever a query finds | [`DecisionModel`], [`Store::decide`](crate::Store::decide) |

mod cache;
mod category;
mod command;
mod decider;
mod decision;
mod error;
mod execution;
mod fingerprint;
mod folded;
mod model;
mod repository;
mod snapshots;
mod transaction;

#[cfg(test)]
mod tests;

pub use command::{CONFLICT_RETRIES, Command, CommandId, Executed};
pub use decider::{Decider, Deciders};
pub use decision::{CollectedEvents, Decision, IteratedEvents, OneEvent, ResultOf};
pub use error::ExecuteError;
pub use folded::Loaded;
pub use model::{DecisionModel, QueryDecision};
pub use repository::{Aggregate, Repository};
pub use snapshots::{SnapshotPolicy, SnapshotProblem};
pub use transaction::{Transaction, Work};
