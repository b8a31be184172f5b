//! Projections: read models that are folded from events, saved together with how far they came.
//!
//! An embedded projection keeps its model in memory and saves it in the state of the store; a SQL projection (feature
//! `sqlite`) keeps it in a SQLite database. Both run on a handler's thread, apply each event exactly once, and are
//! rebuilt from the events when what was saved does not fit the program or the history any more. A projection has no
//! effect besides its model: applying an event again, from the beginning, is always right.

mod builder;
mod handle;
mod model;
mod rebuild;
mod replaying;
mod saving;
#[cfg(feature = "sqlite")]
mod sql;
mod work;

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::DeserializeOwned;

use crate::types::Position;
use crate::{Event, EventCodec, EventTypes, Query};

pub use builder::ProjectionBuilder;
pub use handle::{ProjectionHandle, View};
pub use model::{Parts, ReadModel};
#[cfg(feature = "sqlite")]
pub use sql::{SqlProjectionBuilder, SqlProjectionHandle, SqlSource};

/// A read model that is folded from events: the state is the implementing type.
///
/// ```
/// use annals::{Event, ExpectedVersion, NewEvent, Projection, Store};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// enum AccountEvent { Deposited { cents: u64 } } // only what it wants to see
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Totals { deposits: u64, cents: u64 }
///
/// impl Projection for Totals {
///     type Event = AccountEvent;
///
///     fn apply(&mut self, event: &AccountEvent, _recorded: &Event<'_>) {
///         let AccountEvent::Deposited { cents } = event;
///         self.deposits += 1;
///         self.cents += cents;
///     }
/// }
///
/// let store = Store::in_memory()?;
/// let totals = store.projection("totals", Totals::default()).start()?;
/// let deposited = NewEvent::json("Deposited", &serde_json::json!({ "cents": 500 }))?;
/// let appended = store.append("account-alice", ExpectedVersion::Any, [deposited])?;
/// totals.wait_for(appended.last_position())?;
/// assert_eq!(totals.read(|totals| totals.cents), 500);
/// # Ok::<(), annals::Error>(())
/// ```
pub trait Projection {
    /// The events that it folds: an enum that may list only the variants that matter here. Events of other types are
    /// passed over without a look.
    type Event: DeserializeOwned;

    /// The version of the logic. When it is another than that of the saved state, the projection is rebuilt, and
    /// [`ProjectionHandle::start_report`] says so. Change it whenever the same events lead to another state.
    const VERSION: u32 = 1;

    /// Applies one event. Must depend on nothing but the state and the event. `recorded` tells its position, stream, time
    /// and tags; events that were upcast from one recorded event share it.
    fn apply(&mut self, event: &Self::Event, recorded: &Event<'_>);

    /// How the events are recorded, their upcasters included.
    fn event_types() -> EventTypes<Self::Event> {
        EventTypes::new()
    }

    /// Which events are read: all of the types that can be decoded. Narrow it where other categories use the same names.
    fn query(events: &EventCodec<Self::Event>) -> Query {
        events.query()
    }
}

/// How a projection began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StartReport {
    /// The last event that the saved state has seen; `None` if the projection began with the first event.
    pub resumed_behind: Option<Position>,
    /// Why it began with the first event although something was saved, if it did.
    pub rebuilt: Option<RebuildCause>,
}

/// Why what was saved of a projection was not used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebuildCause {
    /// The logic has another version.
    NewVersion {
        /// The version that the saved state was made by.
        saved: u32,
        /// The version of the program.
        current: u32,
    },
    /// The read model names other parts.
    OtherParts,
    /// The history that it was made from is not that of the store.
    OtherHistory,
    /// The process died in the middle of a save that was larger than one commit.
    TornSave,
    /// It could not be read.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for RebuildCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RebuildCause::NewVersion { saved, current } => {
                write!(f, "it was saved by version {saved} of the projection, which is at version {current}")
            }
            RebuildCause::OtherParts => f.write_str("it was saved with other parts than the read model has"),
            RebuildCause::OtherHistory => f.write_str("it was made from another history than the store has"),
            RebuildCause::TornSave => f.write_str("its last save was not completed"),
            RebuildCause::Unreadable { reason } => write!(f, "it cannot be read: {reason}"),
        }
    }
}

/// What a rebuild did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// The last event that the model has seen when it took over; `None` if it has seen none.
    pub position: Option<Position>,
    /// Events that were applied.
    pub events: u64,
    /// Events that were left out: dead letters, and those that failed again and that the policy of the projection had let
    /// pass before.
    pub left_out: u64,
}
