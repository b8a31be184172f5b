//! Ids that follow from what they name, so that what is done again after a crash is recognised as the same.
//!
//! A step is told by the process, the instance, and the event that it reacts to; a command by its step and its ordinal
//! in it. Nothing here depends on time or chance. Frozen: commands in flight while a program is upgraded depend on it.

use uuid::Uuid;

use crate::types::{EventId, Timestamp};

/// The namespace of all ids of process managers.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_2f0e_83a1_4b57_9a6d_c1f1_7e90_42b8);

/// The step in which an instance reacts to an event, of which upcasting may have made several.
pub(super) fn of_reaction(process: &str, instance: &str, event: EventId, ordinal: u32) -> Uuid {
    derive(&NAMESPACE, &[b"event", process.as_bytes(), instance.as_bytes(), &event.to_bytes(), &ordinal.to_be_bytes()])
}

/// The step in which an instance reacts to the rejection of a command.
pub(super) fn of_rejection(command: Uuid) -> Uuid {
    derive(&command, &[b"rejected"])
}

/// The event that says that a timer is due. The version tells two of one name and time apart.
pub(super) fn of_timer(process: &str, instance: &str, timer: &str, due: Timestamp, version: u64) -> Uuid {
    let (due, version) = (due.nanos().to_be_bytes(), version.to_be_bytes());
    derive(&NAMESPACE, &[b"timer", process.as_bytes(), instance.as_bytes(), timer.as_bytes(), &due, &version])
}

/// The event that says what came of commands, of which this is the first.
pub(super) fn of_outcome(first: Uuid) -> Uuid {
    derive(&first, &[b"outcome"])
}

/// The event that says that somebody ended the instance at this version.
pub(super) fn of_end(process: &str, instance: &str, version: u64) -> Uuid {
    derive(&NAMESPACE, &[b"end", process.as_bytes(), instance.as_bytes(), &version.to_be_bytes()])
}

/// What an ordinal of a step names: a command, or one of several executions that a command takes.
pub(super) fn of_ordinal(step: Uuid, ordinal: u32) -> Uuid {
    derive(&step, &[b"ordinal", &ordinal.to_be_bytes()])
}

/// Each part is told with its length, so that no two lists of parts are the same bytes.
fn derive(namespace: &Uuid, parts: &[&[u8]]) -> Uuid {
    let mut name = Vec::new();
    for part in parts {
        name.extend_from_slice(&(part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    }
    Uuid::new_v5(namespace, &name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_follow_from_what_they_name_and_nothing_else() {
        let event = EventId::from_bytes([7; 16]);
        let id = of_reaction("order", "o1", event, 0);
        assert_eq!(id, of_reaction("order", "o1", event, 0));
        assert_eq!(id.to_string(), "149e404e-663b-5840-b97f-13f3aa9a8846");
    }

    #[test]
    fn different_things_have_different_ids() {
        let (one, two) = (EventId::from_bytes([1; 16]), EventId::from_bytes([2; 16]));
        let step = of_reaction("order", "o1", one, 0);
        let ids = [
            step,
            of_reaction("order", "o1", one, 1),
            of_reaction("order", "o1", two, 0),
            of_reaction("order", "o", one, 0),
            of_reaction("ordero", "1", one, 0),
            of_rejection(step),
            of_outcome(step),
            of_end("order", "o1", 1),
            of_timer("order", "o1", "late", Timestamp::from_millis(1), 1),
            of_timer("order", "o1", "late", Timestamp::from_millis(1), 2),
            of_timer("order", "o1", "late", Timestamp::from_millis(2), 1),
            of_ordinal(step, 0),
            of_ordinal(step, 1),
        ];
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }
}
