//! Subscriptions: the events of a store as they come, to whoever wants to know.
//!
//! - [`Follow`] reads what is there and then what comes, and remembers nothing. Everything else is built on it.
//! - A subscription that [`Store::subscribe`](crate::Store::subscribe) opens has a name and a durable checkpoint. It can
//!   be shared by several consumers, each of which has streams of its own for a while.
//!
//! - A [`Replay`] runs through what is there once more, in either direction and with any number of threads.
//!
//! Nothing here writes events, and no event that matches is ever skipped: what is not acknowledged is delivered again.

mod checkpoint;
mod consumer;
mod follow;
mod group;
mod parallel;
mod progress;
mod replay;
mod subscribe;

pub use consumer::{Batch, Delivery, Item, Stopper, Subscription};
pub use follow::{Follow, Horizon, Lag};
pub use parallel::ParallelReplay;
pub use replay::{Replay, ReplayError, ReplayOutcome, ReplayProgress, ReplayToken, Replayed};
pub use subscribe::Subscribe;
