//! Typed events: plain serde enums as event types, declared once, checked, encoded and decoded by any codec.
//!
//! Sits on the public API of the store. Never writes or reads an event by itself, and never changes what is recorded:
//! old events are upcast each time that they are read.

mod capture;
mod chain;
mod codec;
mod declaration;
mod migrate;
mod names;
mod read;
mod rules;
#[cfg(feature = "schema")]
mod schema;
mod trap;
mod upcaster;
mod variant;

#[cfg(test)]
mod tests;

pub use chain::Upcasters;
pub use codec::{Decoded, EventCodec};
pub use declaration::EventTypes;
pub use migrate::{Migration, MigrationReport, TypeChange};
pub use read::{TypedEvent, TypedRead};
pub use rules::UpcastRules;
#[cfg(feature = "schema")]
pub use schema::{Breaks, ChangeKind, EventSchemas, SchemaChange, TypeSchema};
pub use upcaster::{Upcast, UpcastError, Upcaster};
