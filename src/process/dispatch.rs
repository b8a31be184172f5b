//! Carrying out one command: what the function that does it is given, and how it answers.
//!
//! A command may be dispatched more than once, after a crash or a failure, with the same ids each time.

use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids;
use super::instance::cut;
use crate::error::Error;
use crate::{Aggregate, CommandId, Decision, ExecuteError, Metadata, Repository};

/// What a command is dispatched with: its id, what caused it, and the shortest way to an aggregate.
///
/// Whatever is done under the ids it gives is done once, however often the command is dispatched.
#[derive(Debug)]
pub struct Dispatch<'a> {
    instance: &'a str,
    id: Uuid,
    metadata: &'a Metadata,
    executions: Cell<u32>,
}

/// That a command is refused for a reason of the domain. Trying again changes nothing: the process manager reacts to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rejection {
    reason: String,
}

/// Why a command was not carried out.
#[derive(Debug)]
#[non_exhaustive]
pub enum DispatchError {
    /// The domain rejected it. The process manager is told.
    Rejected(Rejection),
    /// It failed for a reason that may pass. The failure policy decides; the process manager is not told.
    Failed(Box<dyn StdError + Send + Sync>),
}

impl<'a> Dispatch<'a> {
    pub(super) fn new(instance: &'a str, id: Uuid, metadata: &'a Metadata) -> Self {
        Self { instance, id, metadata, executions: Cell::new(0) }
    }

    /// The id of the instance that asked for the command.
    pub fn instance(&self) -> &str {
        self.instance
    }

    /// The id of the command: the idempotency key for what is done outside of the store.
    pub fn command_id(&self) -> CommandId {
        CommandId::from(self.id)
    }

    /// What caused the command: correlation id, causation id, trace. [`execute`](Self::execute) passes it on.
    pub fn metadata(&self) -> &Metadata {
        self.metadata
    }

    /// Executes a decision on an aggregate, once. A command may execute several, always in the same order. If a later one
    /// is rejected, the command is, and its compensation is not dispatched: what the earlier ones did stays. Where each
    /// has to be undone by itself, each is a command of its own.
    ///
    /// # Errors
    /// [`DispatchError::Rejected`] if the aggregate rejects it, with the text of the rejection as the reason;
    /// [`DispatchError::Failed`] if the store fails.
    pub fn execute<A, D, M>(
        &self,
        repository: &Repository<A>,
        id: &str,
        decide: impl FnMut(&A) -> D,
    ) -> Result<(), DispatchError>
    where
        A: Aggregate,
        D: Decision<A::Event, M>,
        D::Rejection: fmt::Display,
    {
        let ordinal = self.executions.replace(self.executions.get() + 1);
        let command = repository.command(ids::of_ordinal(self.id, ordinal).into()).metadata(self.metadata);
        command.execute(id, decide)?;
        Ok(())
    }
}

impl Rejection {
    /// A rejection for this reason, of which [`REASON_BYTES_MAX`](crate::limits::REASON_BYTES_MAX) bytes are kept.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()) }
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl StdError for Rejection {}

impl DispatchError {
    /// A rejection for this reason.
    pub fn rejected(reason: impl fmt::Display) -> Self {
        DispatchError::Rejected(Rejection::new(reason.to_string()))
    }

    /// A failure that may pass.
    pub fn failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        DispatchError::Failed(error.into())
    }
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DispatchError::Rejected(rejection) => write!(f, "the command was rejected: {rejection}"),
            DispatchError::Failed(error) => write!(f, "the command failed: {error}"),
        }
    }
}

impl StdError for DispatchError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            DispatchError::Rejected(rejection) => Some(rejection),
            DispatchError::Failed(error) => Some(&**error),
        }
    }
}

impl From<Rejection> for DispatchError {
    fn from(rejection: Rejection) -> Self {
        DispatchError::Rejected(rejection)
    }
}

impl From<Error> for DispatchError {
    fn from(error: Error) -> Self {
        DispatchError::failed(error)
    }
}

impl<R: fmt::Display> From<ExecuteError<R>> for DispatchError {
    fn from(error: ExecuteError<R>) -> Self {
        match error {
            ExecuteError::Rejected(rejection) => DispatchError::rejected(rejection),
            ExecuteError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_of_the_domain_and_a_failure_of_the_store_are_told_apart() {
        let rejected = DispatchError::from(ExecuteError::Rejected("overdrawn"));
        assert!(matches!(&rejected, DispatchError::Rejected(rejection) if rejection.reason() == "overdrawn"));
        let failed = DispatchError::from(ExecuteError::<&str>::Store(Error::Closed));
        assert!(matches!(&failed, DispatchError::Failed(error) if error.to_string() == Error::Closed.to_string()));
        assert_eq!(rejected.source().unwrap().to_string(), "overdrawn");
        assert!(failed.to_string().contains(&Error::Closed.to_string()));
    }
}
