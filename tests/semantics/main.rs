//! What the store promises, case by case. The number in the name of a test is that of its group:
//!
//! | groups | what | module |
//! |---|---|---|
//! | 1 to 10 | appending: versions, several streams, check-only streams, results | `appending`, `limits` (8, 10), `concurrency` (3, 4) |
//! | 11 to 15 | retrying: the same commit sent again is written once | `retrying` |
//! | 16 to 22 | conditions: queries that no event may match | `conditions`, `concurrency` (19, 20, 22) |
//! | 23 | what a check costs: nothing public counts it, so it is a benchmark | - |
//! | 24 to 28 | reading: queries, ranges, directions, names, consistency | `reading`, `limits` (27), `concurrency` (28) |
//! | 29 | typed reads: unknown events, upcasters, migrations | `typed` |
//! | 30 to 33, 38 | subscribing: backlog and live events, checkpoints, competing consumers, histories; replays | `subscribing`, `replaying` |
//! | 1 to 10, 15, 21, 29 | the same of aggregates: executing, several in one commit, resending | `aggregates`, `commands` (4, 15) |
//! | 21, 22 | decisions over a query: the worked examples | `decisions` |
//! | 37, 38 | snapshots and caches of aggregates | `aggregate_snapshots` |
//! | 34 to 36, 38 | handlers: failures, effects outside, waiting, other histories | `handling` |
//! | 35, 36, 38 | projecting: rebuilds, reading your own writes, other histories | `projecting` |
//! | words | visibility, durability, opening, closing, locks, readers beside a writer | `opening` |
//!
//! Every case runs in the worlds of `world`: in memory and in a directory, with usual and with tiny segments and index
//! budgets, mapped and with `pread`, with background work and without, and reopened in between.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use files and time directly")]

mod aggregate_snapshots;
mod aggregates;
mod appending;
mod bank;
mod commands;
mod concurrency;
mod conditions;
mod decisions;
mod handling;
mod limits;
mod opening;
mod projecting;
mod reading;
mod replaying;
mod retrying;
mod subscribing;
mod support;
mod typed;
mod world;
