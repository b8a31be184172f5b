//! Replays into a projection: a model that is folded once, on the calling thread, and belongs to the caller.
//!
//! Nothing is saved, and no running projection is touched.

use super::Projection;
use crate::error::Error;
use crate::{Replay, ReplayError, Replayed};

impl Replay {
    /// Folds the events into the model of a projection, as it would itself: brought to their current version, and without
    /// those of types that it does not declare.
    ///
    /// The model is the caller's: a read model as of a position or a time, or of one stream; one that is looked at before it
    /// is deployed; one for a report. With the [token](Replayed::token) of this replay, another one goes on with it.
    ///
    /// ```
    /// use annals::{Event, ExpectedVersion, NewEvent, Projection, Query, Store};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// enum AccountEvent { Deposited { cents: u64 } }
    ///
    /// #[derive(Default)]
    /// struct Totals { cents: u64 }
    ///
    /// impl Projection for Totals {
    ///     type Event = AccountEvent;
    ///
    ///     fn apply(&mut self, AccountEvent::Deposited { cents }: &AccountEvent, _recorded: &Event<'_>) {
    ///         self.cents += cents;
    ///     }
    /// }
    ///
    /// let store = Store::in_memory()?;
    /// let deposited = |cents| NewEvent::json("Deposited", &serde_json::json!({ "cents": cents }));
    /// let first = store.append("account-alice", ExpectedVersion::Any, [deposited(500)?])?;
    /// store.append("account-bob", ExpectedVersion::Any, [deposited(70)?])?;
    ///
    /// let mut totals = Totals::default();
    /// store.replay(Query::all()).upto(first.last_position()).project(&mut totals)?;
    /// assert_eq!(totals.cents, 500);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ReplayError::Store`] with [`Error::Invalid`] if the events of the projection are declared wrongly;
    /// [`ReplayError::Handler`] if an event cannot be decoded; those of [`Replay::run`].
    pub fn project<P: Projection>(self, model: &mut P) -> Result<Replayed, ReplayError> {
        let codec = P::event_types().check()?;
        self.run(|recorded| -> Result<(), Error> {
            if codec.event_types().iter().any(|event_type| event_type == recorded.event_type()) {
                codec.decode(recorded)?.for_each(|event| model.apply(&event, recorded));
            }
            Ok(())
        })
    }
}
