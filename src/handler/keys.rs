//! Where the durable things of a handler are kept in the state of the store. Names have no `/`, so that no prefix of one
//! handler is one of another.

use crate::error::{Invalid, Result};
use crate::limits::HANDLER_NAME_BYTES_MAX;
use crate::types::Position;

pub(super) fn checkpoint(name: &str) -> String {
    format!("checkpoint-{name}")
}

/// The prefix of all registrations.
pub(super) const REGISTRATIONS: &str = "handler-";

pub(super) fn registration(name: &str) -> String {
    format!("{REGISTRATIONS}{name}")
}

pub(super) fn mark(name: &str) -> String {
    format!("mark-{name}")
}

/// The prefix of the dead letters of a handler. Their keys sort by position.
pub(super) fn all_parked(name: &str) -> String {
    format!("parked-{name}/")
}

pub(super) fn parked(name: &str, position: Position) -> String {
    format!("parked-{name}/{:020}", position.number())
}

/// The prefix of the records of skipped events.
pub(super) fn all_skipped(name: &str) -> String {
    format!("skipped-{name}/")
}

pub(super) fn skipped(name: &str, slot: u64) -> String {
    format!("skipped-{name}/{slot:020}")
}

/// What is wrong with the name of a handler, if anything.
pub(super) fn check_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > HANDLER_NAME_BYTES_MAX {
        format!("has {} bytes, at most {HANDLER_NAME_BYTES_MAX} are allowed", name.len())
    } else if name.contains(|letter: char| letter == '/' || letter.is_control()) {
        format!("{name:?} contains a '/' or a control character")
    } else {
        return Ok(());
    };
    Err(Invalid::of("name", problem).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_their_limit() {
        assert!(check_name("mailer-2 ü").is_ok());
        assert!(check_name(&"x".repeat(HANDLER_NAME_BYTES_MAX)).is_ok());
        for name in ["", "a/b", "a\nb", &"x".repeat(HANDLER_NAME_BYTES_MAX + 1)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_longest_keys_fit_into_the_state() {
        let name = "x".repeat(HANDLER_NAME_BYTES_MAX);
        let position = Position::new(u64::MAX).unwrap();
        for key in [checkpoint(&name), registration(&name), mark(&name), parked(&name, position), skipped(&name, 0)] {
            assert!(key.len() <= crate::limits::STATE_KEY_BYTES_MAX);
        }
        assert!(parked("a", position).starts_with(&all_parked("a")));
        assert!(!parked("a-b", position).starts_with(&all_parked("a")));
        assert!(skipped("a", 1).starts_with(&all_skipped("a")));
    }
}
