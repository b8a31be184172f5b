//! Handlers: work that follows the events of a store in threads of its own, and what happens when it fails.
//!
//! A [`Runner`] drives [`Work`]: a projection, a reactor, a relay, a process manager. Each handler has a name, under which
//! its checkpoint, its dead letters and its registration are kept in the state of the store, and a thread, so that one that
//! fails or is slow keeps none of the others back.
//!
//! What a handler does about failures is its policy, [`OnError`]. Events are handled in order, each at least once. Work
//! whose state and checkpoint are saved in one step takes each into account exactly once; work with effects outside sees
//! an event again if the process or the power ended between the effect and the checkpoint.
//!
//! It never asks for the time or draws chance but from the store's clock and randomness, and uses the public API of the
//! store alone.

mod breaker;
mod dead_letters;
mod driver;
mod error;
mod handle;
mod health;
mod keys;
mod kind;
mod letters;
mod mark;
mod observe;
mod parking;
mod policy;
mod reactor;
mod registry;
mod relay;
mod runner;
mod shared;
mod sink;
#[cfg(test)]
mod tests;
mod work;

pub use dead_letters::DeadLetters;
pub use error::HandlerError;
pub use handle::{HandlerHandle, HandlerStatus, Remainder};
pub use health::{Health, ShutdownReport};
pub use kind::HandlerKind;
pub use letters::{DeadLetter, DeadLetterRequest, Skipped};
pub use policy::OnError;
pub use reactor::Reactor;
pub use registry::RegisteredHandler;
pub use relay::Relay;
pub use runner::Runner;
pub use shared::HandlerState;
pub use sink::{DeduplicationKey, DeliveryOrder, MemorySink, Outgoing, Sink};
pub use work::{Checkpoint, Work};
