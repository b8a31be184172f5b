//! What a handler says when it could not handle an event.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

use crate::limits::DEAD_LETTER_ERROR_BYTES_MAX;

/// Why an event could not be handled. Every error becomes one with `?`, and so does a text.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn errors_and_texts_become_one() {
        let parse = || -> Result<u8, HandlerError> { Ok("x".parse::<u8>()?) };
        assert!(parse().unwrap_err().to_string().contains("invalid digit"));
        assert_eq!(HandlerError::from("gone").text(), "gone");
        assert!(!HandlerError::from(Error::Closed).is_permanent());
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
