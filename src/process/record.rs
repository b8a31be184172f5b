//! What is written to the stream of an instance: what happened, and the instance after it.
//!
//! One type of event for each kind of cause, in JSON, so that the stream of an instance reads as its history. Only the
//! newest event of a stream counts; the older ones say what was reacted to.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::instance::{Instance, Place, ProcessStatus, Timer};
use crate::error::Result;
use crate::types::{EventId, Timestamp};
use crate::{Event, NewEvent};

/// The instance reacted to an event, or to a timer that was due.
const REACTED: &str = "ProcessReacted";
/// The time of a timer has come. The runner delivers it like any other event.
pub(super) const TIMER_DUE: &str = "ProcessTimerDue";
/// Commands were carried out or rejected.
const SETTLED: &str = "ProcessCommandsSettled";
/// Somebody ended the instance from outside.
const ABANDONED: &str = "ProcessAbandoned";

/// What an event in the stream of an instance is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
    /// The instance reacted to this event.
    Event { id: EventId, place: Place, event_type: String },
    /// The instance reacted to a timer.
    Timer { id: EventId, place: Place, timer: String },
    /// A timer is due.
    Due { timer: String, due: Timestamp },
    /// Commands were dispatched; the last may have been rejected.
    Settled {
        succeeded: Vec<Uuid>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rejected: Option<Rejected>,
    },
    /// The instance was given up.
    Abandoned { reason: String },
}

/// A command that was rejected, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Rejected {
    pub(super) id: Uuid,
    pub(super) reason: String,
}

#[derive(Serialize, Deserialize)]
struct Entry<C, I> {
    cause: C,
    instance: I,
}

impl Cause {
    fn event_type(&self) -> &'static str {
        match self {
            Cause::Event { .. } | Cause::Timer { .. } => REACTED,
            Cause::Due { .. } => TIMER_DUE,
            Cause::Settled { .. } => SETTLED,
            Cause::Abandoned { .. } => ABANDONED,
        }
    }

    /// The place of the event that was reacted to.
    fn place(&self) -> Option<Place> {
        match self {
            Cause::Event { place, .. } | Cause::Timer { place, .. } => Some(*place),
            _ => None,
        }
    }
}

/// The event that records a cause and the instance after it.
pub(super) fn encode<S: Serialize, C: Serialize>(cause: &Cause, instance: &Instance<S, C>) -> Result<NewEvent> {
    NewEvent::json(cause.event_type(), &Entry { cause, instance })
}

/// The instance after an event of its stream.
pub(super) fn decode<S: DeserializeOwned, C: DeserializeOwned>(event: &Event<'_>) -> Result<Instance<S, C>> {
    let entry: Entry<IgnoredAny, Instance<S, C>> = event.decode_payload()?;
    Ok(entry.instance)
}

/// What is known of an instance without its state and its commands, whatever types they were written with. That of one
/// that never began is the default.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Outline {
    /// Whether it still has to do something: it has not ended, or commands are pending that it asked for later.
    pub(super) is_open: bool,
    pub(super) timers: Vec<Timer>,
}

/// As much of an instance as its outline needs.
#[derive(Deserialize)]
struct Sketch {
    status: ProcessStatus,
    #[serde(default)]
    pending: Vec<IgnoredAny>,
    #[serde(default)]
    timers: Vec<Timer>,
}

impl Outline {
    pub(super) fn of<S, C>(instance: &Instance<S, C>) -> Self {
        Self { is_open: instance.is_open(), timers: instance.timers.clone() }
    }

    pub(super) fn decode(event: &Event<'_>) -> Result<Self> {
        let entry: Entry<IgnoredAny, Sketch> = event.decode_payload()?;
        let Sketch { status, pending, timers } = entry.instance;
        Ok(Self { is_open: !status.has_ended() || !pending.is_empty(), timers })
    }
}

/// The place of the event that the instance reacted to in this entry of its stream, if that is what the entry is about.
pub(super) fn place_of_reaction(event: &Event<'_>) -> Result<Option<Place>> {
    if event.event_type() != REACTED {
        return Ok(None);
    }
    let entry: Entry<Cause, IgnoredAny> = event.decode_payload()?;
    Ok(entry.cause.place())
}

/// The timer whose time has come, if that is what this entry is about.
pub(super) fn timer_due(event: &Event<'_>) -> Result<Option<Timer>> {
    if event.event_type() != TIMER_DUE {
        return Ok(None);
    }
    let entry: Entry<Cause, IgnoredAny> = event.decode_payload()?;
    let Cause::Due { timer, due } = entry.cause else { return Ok(None) };
    Ok(Some(Timer { due, name: timer }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Position;
    use crate::{ExpectedVersion, Query, RecordedEvent, Store};

    fn recorded(cause: &Cause, instance: &Instance<u32, String>) -> RecordedEvent {
        let store = Store::in_memory().unwrap();
        store.append("order-o1", ExpectedVersion::Any, [encode(cause, instance).unwrap()]).unwrap();
        store.read(Query::all()).owned().next().unwrap().unwrap()
    }

    fn place() -> Place {
        Place { position: Position::new(7).unwrap(), ordinal: 1 }
    }

    #[test]
    fn an_entry_gives_the_instance_and_its_cause_again() {
        let mut instance: Instance<u32, String> = Instance::new(place(), 5);
        let timer = Timer { due: Timestamp::from_millis(3), name: "late".into() };
        instance.timers.push(timer.clone());
        let id = EventId::from_bytes([3; 16]);
        let reacted = Cause::Event { id, place: place(), event_type: "OrderPlaced".into() };
        let event = recorded(&reacted, &instance);
        let event = event.as_event();
        assert_eq!(decode::<u32, String>(&event).unwrap(), instance);
        assert_eq!(place_of_reaction(&event).unwrap(), Some(place()));
        let outline = Outline { is_open: true, timers: vec![timer] };
        assert_eq!(Outline::decode(&event).unwrap(), outline);
    }

    #[test]
    fn only_reactions_have_a_place_and_only_due_timers_are_due() {
        let instance: Instance<u32, String> = Instance::new(place(), 5);
        let due = Cause::Due { timer: "late".into(), due: Timestamp::from_millis(3) };
        let event = recorded(&due, &instance);
        assert_eq!(place_of_reaction(&event.as_event()).unwrap(), None);
        let timer = Timer { due: Timestamp::from_millis(3), name: "late".into() };
        assert_eq!(timer_due(&event.as_event()).unwrap(), Some(timer));
        let settled = Cause::Settled { succeeded: vec![Uuid::nil()], rejected: None };
        let event = recorded(&settled, &instance);
        assert_eq!(place_of_reaction(&event.as_event()).unwrap(), None);
        assert_eq!(timer_due(&event.as_event()).unwrap(), None);
    }

    #[test]
    fn a_damaged_entry_is_an_error_that_names_its_place() {
        let mut event = recorded(&Cause::Abandoned { reason: String::new() }, &Instance::new(place(), 5));
        event.payload = b"{}".to_vec();
        let error = Outline::decode(&event.as_event()).unwrap_err().to_string();
        assert!(error.contains("order-o1") && error.contains("position 1"), "{error}");
    }
}
