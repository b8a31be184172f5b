//! What a handler says when it could not handle an event.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

use crate::ReplayOutcome;
use crate::error::Error;
use crate::limits::DEAD_LETTER_ERROR_BYTES_MAX;

/// Why an event could not be handled. Every error becomes one with `?`, and so does a text.
///
/// One that is, or was caused by, [`Error::Full`] or [`Error::Unavailable`] is an [outage](HandlerError::outage): it is
/// not the event's. The handler waits and tries again, however long that takes, counts no attempt, and asks no policy.
///
/// ```
/// use annals::HandlerError;
///
/// fn send(address: &str) -> Result<(), HandlerError> {
///     let port: u16 = address.rsplit(':').next().unwrap_or_default().parse()?;
///     if port == 0 {
///         return Err(HandlerError::permanent("port 0 takes no mail"));
///     }
///     Ok(())
/// }
/// assert!(send("localhost:smtp").is_err_and(|error| !error.is_permanent()));
/// assert!(send("localhost:0").is_err_and(|error| error.is_permanent()));
/// ```
#[derive(Debug)]
pub struct HandlerError {
    reason: Box<dyn StdError + Send + Sync>,
    is_permanent: bool,
}

impl HandlerError {
    /// An error that no retry helps against: the policy goes straight to its last resort.
    pub fn permanent(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { reason: reason.into(), is_permanent: true }
    }

    /// Whether retries are pointless.
    pub fn is_permanent(&self) -> bool {
        self.is_permanent
    }

    /// What every event needs and is not there now, space or a database, if that is what went wrong; `None` for what is
    /// [permanent](HandlerError::permanent).
    pub fn outage(&self) -> Option<&Error> {
        let mut cause: Option<&(dyn StdError + 'static)> = (!self.is_permanent).then_some(&*self.reason);
        while let Some(error) = cause {
            if let Some(outage @ (Error::Full { .. } | Error::Unavailable { .. })) = error.downcast_ref() {
                return Some(outage);
            }
            cause = error.source();
        }
        None
    }

    /// What went wrong.
    pub fn reason(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.reason
    }

    /// The error that a panic is.
    pub(super) fn of_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::from(format!("it panicked: {}", text.unwrap_or("without a message")))
    }

    /// The text that is kept of it, with what it was caused by, cut at [`DEAD_LETTER_ERROR_BYTES_MAX`] bytes.
    pub(super) fn text(&self) -> String {
        let mut text = self.reason.to_string();
        let mut cause = self.reason.source();
        while let Some(error) = cause {
            let told = error.to_string();
            // Some errors tell their cause themselves.
            if !text.contains(&told) {
                text = format!("{text}: {told}");
            }
            cause = error.source();
        }
        cut(text)
    }
}

fn cut(mut text: String) -> String {
    if text.len() > DEAD_LETTER_ERROR_BYTES_MAX {
        let mut end = DEAD_LETTER_ERROR_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

// It is no `std::error::Error` itself, so that every other error can become one.
impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for HandlerError {
    fn from(reason: E) -> Self {
        Self { reason: reason.into(), is_permanent: false }
    }
}

/// What handles events handles those of a replay as well.
impl ReplayOutcome for Result<(), HandlerError> {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.map_err(|error| error.reason)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;

    use super::*;
    use crate::{AppendError, Commit, DispatchError, ExecuteError, ReplayError};

    #[test]
    fn errors_and_texts_become_one() {
        let parse = || -> Result<u8, HandlerError> { Ok("x".parse::<u8>()?) };
        assert!(parse().unwrap_err().to_string().contains("invalid digit"));
        assert_eq!(HandlerError::from("gone").text(), "gone");
        assert!(!HandlerError::from(Error::Closed).is_permanent());
    }

    #[test]
    fn an_outage_is_found_however_deep_it_lies_unless_it_is_called_permanent() {
        let full = || Error::Full { path: "log".into(), source: Arc::new(ErrorKind::StorageFull.into()) };
        let is_outage = |error: HandlerError| error.outage().is_some();
        assert!(is_outage(full().into()));
        assert!(is_outage(AppendError::new(full(), Commit::new()).into()));
        assert!(is_outage(DispatchError::failed(AppendError::new(full(), Commit::new())).into()));
        assert!(is_outage(ReplayError::Store(full()).into()));
        assert!(!is_outage(HandlerError::permanent(full())));
        assert!(!is_outage(Error::Closed.into()) && !is_outage("no space".into()));
    }

    /// What the domain could have said is part of the type of that error, which a handler does not know: a full disk was
    /// taken for a fault of the event, which was parked for it.
    #[test]
    fn an_outage_is_found_in_the_error_of_a_command_whatever_it_could_have_been_rejected_with() {
        let full = || Error::Full { path: "log".into(), source: Arc::new(ErrorKind::StorageFull.into()) };
        let failed = |error: HandlerError| (error.outage().is_some(), error.text());
        assert_eq!(failed(ExecuteError::<&str>::Store(full()).into()), (true, full().to_string()));
        assert_eq!(failed(ExecuteError::<String>::Store(full()).into()), (true, full().to_string()));
        assert_eq!(failed(ExecuteError::Rejected("overdrawn").into()), (false, "overdrawn".to_owned()));
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = Box::new(Error::ReadOnly);
        let text = HandlerError::from(Error::Poisoned { cause }).text();
        assert_eq!(text.matches("for reading only").count(), 1, "{text}");
    }

    #[test]
    fn a_panic_is_told_with_its_message() {
        let told = |payload: Box<dyn Any + Send>| HandlerError::of_panic(&*payload).text();
        assert_eq!(told(Box::new("static")), "it panicked: static");
        assert_eq!(told(Box::new("owned".to_owned())), "it panicked: owned");
        assert_eq!(told(Box::new(7)), "it panicked: without a message");
    }

    #[test]
    fn a_text_is_cut_at_its_limit_between_characters() {
        let exact = "x".repeat(DEAD_LETTER_ERROR_BYTES_MAX);
        assert_eq!(HandlerError::from(exact.clone()).text(), exact);
        assert_eq!(HandlerError::from(exact.clone() + "x").text(), exact);
        let wide = "x".repeat(DEAD_LETTER_ERROR_BYTES_MAX - 1) + "é";
        assert_eq!(HandlerError::from(wide).text().len(), DEAD_LETTER_ERROR_BYTES_MAX - 1);
    }
}
