//! Commands: their ids, how they are sent, and what came of them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::randomness::event_id;
use crate::types::{Durability, Position, StreamVersion};
use crate::{AppendError, Appended, Commit, Metadata, NewEvent, Query, Store};

/// How often a command is decided again after a conflict, unless said otherwise. Every conflict means that another
/// command went through, so that so many failures in a row take many writers on one aggregate.
pub const CONFLICT_RETRIES: u32 = 100;

/// The id of a command: one that is sent again under the same id is applied once.
///
/// The caller keeps it until the command is known to have gone through: a form field, an `Idempotency-Key` header, the
/// id of a message. Its events carry it as a tag, and their ids are derived from it.
///
/// ```
/// use annals::CommandId;
///
/// let from_a_header = CommandId::of_name("8e03978e-40d5-43dd-bc93-6894a57f9324");
/// assert_eq!(from_a_header, CommandId::of_name("8e03978e-40d5-43dd-bc93-6894a57f9324"));
/// assert_ne!(from_a_header.derive("refund"), from_a_header);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(Uuid);

/// The namespace of ids that are made from names. Frozen: commands that are sent again depend on it.
const NAMES: Uuid = Uuid::from_u128(0x8f2d_6a0c_51e7_5b3b_9c44_1f7e_90d3_b6a2);

impl CommandId {
    /// The id that a UUID in a text stands for; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The id that stands for a name, always the same one: for keys that are not UUIDs.
    pub fn of_name(name: &str) -> Self {
        Self(Uuid::new_v5(&NAMES, name.as_bytes()))
    }

    /// An id that follows from this one and a name, always the same one: for the commands that a command leads to.
    #[must_use]
    pub fn derive(self, name: &str) -> Self {
        Self(Uuid::new_v5(&self.0, name.as_bytes()))
    }

    /// The tag that the events of the command carry: `command:` and the id.
    pub fn tag(self) -> String {
        format!("command:{}", self.0)
    }

    /// The id of the event with this number, from 0, among those that the command writes.
    fn event(self, stream: &str, number: usize) -> Uuid {
        let mut name = Vec::with_capacity(stream.len() + 9);
        name.extend_from_slice(stream.as_bytes());
        name.push(0);
        name.extend_from_slice(&(number as u64).to_le_bytes());
        Uuid::new_v5(&self.0, &name)
    }
}

impl From<Uuid> for CommandId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl From<CommandId> for Uuid {
    fn from(id: CommandId) -> Self {
        id.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Store {
    /// A new id for a command, from the clock and the randomness of the store: a UUID of version 7.
    pub fn new_command_id(&self) -> CommandId {
        CommandId(event_id(&**self.randomness(), self.clock().now()).into())
    }
}

/// A command with an id, on the aggregates of a [`Repository`](crate::Repository) or of [`Deciders`](crate::Deciders). It does nothing
/// before it is executed.
#[must_use = "a command that is not executed does nothing"]
pub struct Command<'r, R> {
    pub(super) on: &'r R,
    pub(super) terms: Terms,
}

impl<'r, R> Command<'r, R> {
    pub(super) fn new(on: &'r R, terms: &Terms, id: CommandId) -> Self {
        Self { on, terms: Terms { id: Some(id), ..terms.clone() } }
    }

    /// Gives this metadata to the events.
    pub fn metadata(mut self, metadata: &Metadata) -> Self {
        self.terms.metadata = Some(Arc::new(metadata.clone()));
        self
    }

    /// Sets how often the command is decided again after a conflict.
    pub fn retries(mut self, retries: u32) -> Self {
        self.terms.retries = retries;
        self
    }

    /// Sets the durability of what is appended. One that was applied before is made as durable.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.terms.durability = Some(durability);
        self
    }
}

impl<R> fmt::Debug for Command<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("terms", &self.terms).finish_non_exhaustive()
    }
}

/// How a command is sent: what a caller may say about it.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) retries: u32,
    pub(super) durability: Option<Durability>,
    pub(super) id: Option<CommandId>,
    pub(super) metadata: Option<Arc<Metadata>>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { retries: CONFLICT_RETRIES, durability: None, id: None, metadata: None }
    }
}

impl Terms {
    /// The store that the command is sent through.
    pub(super) fn sender(&self, store: &Store) -> Result<Store> {
        match &self.metadata {
            Some(metadata) => store.with_metadata(metadata),
            None => Ok(store.clone()),
        }
    }

    /// What the same command wrote before, if it did: on this stream, or on any.
    ///
    /// What it tells meets the durability that is asked for now.
    pub(super) fn find_applied(&self, store: &Store, stream: Option<&str>) -> Result<Option<Executed>> {
        let Some(id) = self.id else { return Ok(None) };
        let mut read = store.read(query_of(id, stream)).reverse().limit(1);
        let Some(event) = read.next()? else { return Ok(None) };
        let (position, version) = (event.position(), stream.map(|_| event.version()));
        if self.durability.unwrap_or(store.durability()) == Durability::Synced && store.synced_head()? < Some(position)
        {
            store.sync()?;
        }
        Ok(Some(Executed { outcome: Outcome::AppliedBefore, position: Some(position), version }))
    }

    /// What a decision to do nothing comes to. As for a rejection, the same command may have been applied since it was
    /// looked for, so that the decision rests on what it did.
    pub(super) fn do_nothing(&self, store: &Store, stream: Option<&str>, nothing: Executed) -> Result<Executed> {
        Ok(self.find_applied(store, stream)?.unwrap_or(nothing))
    }

    /// What a command comes to that is not to be decided again: the conflict, unless it was with itself.
    pub(super) fn give_up(&self, store: &Store, stream: Option<&str>, conflict: Error) -> Result<Executed> {
        self.find_applied(store, stream)?.ok_or(conflict)
    }

    /// Makes an event of a command recognisable, so that the command can be sent again.
    pub(super) fn mark(&self, stream: &str, number: usize, event: NewEvent) -> NewEvent {
        match self.id {
            Some(id) => event.id(id.event(stream, number).into()).tag(id.tag()),
            None => event,
        }
    }

    pub(super) fn mark_all(&self, stream: &str, events: Vec<NewEvent>) -> Vec<NewEvent> {
        if self.id.is_none() {
            return events;
        }
        events.into_iter().enumerate().map(|(number, event)| self.mark(stream, number, event)).collect()
    }

    /// What is said of the commit as a whole, and sends it.
    pub(super) fn send(
        &self,
        store: &Store,
        mut commit: Commit,
        stream: Option<&str>,
    ) -> Result<Appended, AppendError> {
        if let Some(durability) = self.durability {
            commit = commit.durability(durability);
        }
        if let Some(id) = self.id {
            commit = commit.unless(query_of(id, stream));
        }
        store.send(commit)
    }
}

fn query_of(id: CommandId, stream: Option<&str>) -> Query {
    let query = Query::tag(id.tag());
    match stream {
        Some(stream) => query.and_stream(stream),
        None => query,
    }
}

/// Tells a conflict, the inner error, after which a new decision is called for, from every other failure.
pub(super) fn settle(sent: Result<Appended, AppendError>) -> Result<Result<Executed, Error>> {
    match sent.map_err(Error::from) {
        Ok(appended) => Ok(Ok(Executed::appended_now(appended))),
        Err(conflict @ Error::Conflict(_)) => Ok(Err(conflict)),
        Err(error) => Err(error),
    }
}

/// What came of a command that was not rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    outcome: Outcome,
    position: Option<Position>,
    version: Option<StreamVersion>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Appended(Appended),
    Nothing,
    AppliedBefore,
}

impl Executed {
    pub(super) fn appended_now(appended: Appended) -> Self {
        let (position, version) = (Some(appended.last_position()), Some(appended.version()));
        let outcome = match appended.deduplicated() {
            // By somebody else, after it was looked for and before this was sent.
            true => Outcome::AppliedBefore,
            false => Outcome::Appended(appended),
        };
        Self { outcome, position, version }
    }

    pub(super) fn nothing(head: Option<Position>, version: Option<StreamVersion>) -> Self {
        Self { outcome: Outcome::Nothing, position: head, version }
    }

    /// What was appended; `None` if the decision was to do nothing, or the command had been applied before.
    pub fn appended(&self) -> Option<&Appended> {
        match &self.outcome {
            Outcome::Appended(appended) => Some(appended),
            Outcome::Nothing | Outcome::AppliedBefore => None,
        }
    }

    /// The position that a read model must have reached to show what came of the command: that of its last event, also
    /// if it was applied before; the head that the decision rests on, if it was to do nothing. `None` if that was an
    /// empty store.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The version of the aggregate with the last event of the command, or the one that the decision to do nothing rests
    /// on. Of several streams it is that of the first, and `None` if the command had been applied before it was decided.
    pub fn version(&self) -> Option<StreamVersion> {
        self.version
    }

    /// Whether the same command had been applied before, so that it was not decided again.
    pub fn was_applied_before(&self) -> bool {
        matches!(self.outcome, Outcome::AppliedBefore)
    }
}
