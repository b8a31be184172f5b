//! SQL projections: read models in a SQLite database, whose tables and checkpoint change in one transaction.
//!
//! The checkpoint lies in a table of the same database, so that the tables say themselves what they have seen: an event
//! is in them exactly once after a kill at any time, also where the store and the database were on different disks.
//!
//! Write-ahead logging lets readers go on while the projection writes, and shows them each transaction as a whole. With
//! `synchronous = NORMAL` no commit waits for the disk: a loss of power can take the newest transactions away, tables and
//! checkpoint together, and their events come again. A dead letter that was retried does not: it is deleted only when what
//! it has changed is on the disk.

mod builder;
mod database;
#[cfg(test)]
mod tests;
mod work;

pub use builder::{SqlProjectionBuilder, SqlProjectionHandle};
pub use database::SqlSource;
