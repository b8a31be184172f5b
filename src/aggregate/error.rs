//! The error of executing a command: the domain said no, or the store did.

use std::convert::Infallible;
use std::fmt;

use crate::error::Error;

/// Why a command wrote nothing, or is not known to have.
///
/// `R` is the rejection of the domain; [`Infallible`] for decisions that cannot reject, whose error turns into an
/// [`Error`] with `?`.
#[derive(Debug, Clone)]
pub enum ExecuteError<R> {
    /// The domain rejected the command. Nothing was written.
    Rejected(R),
    /// The store could not do it. A [`Conflict`](Error::Conflict) means that all retries were used up. After
    /// [`Indeterminate`](Error::Indeterminate) it is unknown whether the events were written: reopen the store, and
    /// execute the command again under the same [`CommandId`](crate::CommandId).
    Store(Error),
}

impl<R> ExecuteError<R> {
    /// The rejection; `None` if it was the store.
    pub fn rejection(&self) -> Option<&R> {
        match self {
            ExecuteError::Rejected(rejection) => Some(rejection),
            ExecuteError::Store(_) => None,
        }
    }

    /// The error of the store; `None` if the domain rejected the command.
    pub fn store_error(&self) -> Option<&Error> {
        match self {
            ExecuteError::Rejected(_) => None,
            ExecuteError::Store(error) => Some(error),
        }
    }

    /// The same error with another rejection: where several kinds of them meet in one function.
    pub fn map_rejection<T>(self, map: impl FnOnce(R) -> T) -> ExecuteError<T> {
        match self {
            ExecuteError::Rejected(rejection) => ExecuteError::Rejected(map(rejection)),
            ExecuteError::Store(error) => ExecuteError::Store(error),
        }
    }
}

impl<R: fmt::Display> fmt::Display for ExecuteError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExecuteError::Rejected(rejection) => rejection.fmt(f),
            ExecuteError::Store(error) => error.fmt(f),
        }
    }
}

/// Any rejection that can be shown will do, so that a text or a plain enum needs no error type around it. The error of the
/// store is the cause: whoever looks for one finds it without having to know the type of the rejection.
impl<R: fmt::Debug + fmt::Display> std::error::Error for ExecuteError<R> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.store_error().map(|error| error as _)
    }
}

impl<R> From<Error> for ExecuteError<R> {
    fn from(error: Error) -> Self {
        ExecuteError::Store(error)
    }
}

impl From<ExecuteError<Infallible>> for Error {
    fn from(error: ExecuteError<Infallible>) -> Self {
        match error {
            ExecuteError::Rejected(never) => match never {},
            ExecuteError::Store(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_rejection_and_an_error_of_the_store_are_told_apart() {
        let rejected = ExecuteError::Rejected("overdrawn");
        assert_eq!((rejected.rejection(), rejected.to_string()), (Some(&"overdrawn"), "overdrawn".to_owned()));
        assert!(rejected.store_error().is_none() && rejected.source().is_none());
        let refused = ExecuteError::<&str>::from(Error::Closed);
        assert!(refused.rejection().is_none() && matches!(refused.store_error(), Some(Error::Closed)));
        assert_eq!(refused.to_string(), Error::Closed.to_string());
        assert!(matches!(rejected.map_rejection(str::len), ExecuteError::Rejected(9)));
        assert!(matches!(refused.map_rejection(str::len), ExecuteError::Store(Error::Closed)));
    }

    #[test]
    fn an_error_of_what_cannot_reject_is_one_of_the_store() {
        let read_only = ExecuteError::<Infallible>::Store(Error::ReadOnly);
        assert!(matches!(Error::from(read_only), Error::ReadOnly));
    }
}
