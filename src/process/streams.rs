//! Reading and writing the streams of a process manager, and what is known of its open instances: what the thread that
//! handles events and the one that watches timers share.
//!
//! An instance is written only at the version at which it was read. Who is second reads it again.
//!
//! Lock order: `writing`, then `open`.

use std::marker::PhantomData;

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::instance::{Instance, ProcessStatus};
use super::open_instances::OpenInstances;
use super::record::{self, Cause, Outline};
use crate::error::{Error, ExpectedVersion, Invalid, Result};
use crate::limits::PROCESS_INSTANCE_BYTES_MAX;
use crate::types::{Durability, EventId, Position, StreamVersion};
use crate::{Event, Metadata, Query, StateBatch, Store};

/// The streams `<process>-<instance>` of a process manager with the state `S` and the commands `C`.
pub(super) struct Streams<S, C> {
    pub(super) store: Store,
    pub(super) process: &'static str,
    open: Mutex<OpenInstances>,
    /// Held from before an event is written until `open` knows it: if two threads told of their events in another order
    /// than they wrote them, a timer would be lost.
    writing: Mutex<()>,
    types: PhantomData<fn() -> (S, C)>,
}

/// An instance as its newest event says.
pub(super) struct Current<S, C> {
    pub(super) version: StreamVersion,
    pub(super) instance: Instance<S, C>,
    /// That of what this instance causes next.
    pub(super) metadata: Metadata,
}

/// What is to be written of an instance.
pub(super) struct Step<S, C> {
    /// The version that it was read at; `None` if it begins.
    pub(super) version: Option<StreamVersion>,
    /// The id of the event, the same each time that the step is tried.
    pub(super) id: Uuid,
    pub(super) cause: Cause,
    pub(super) instance: Instance<S, C>,
    pub(super) metadata: Metadata,
}

impl<S, C> Streams<S, C>
where
    S: Serialize + DeserializeOwned,
    C: Serialize + DeserializeOwned,
{
    pub(super) fn new(store: Store, process: &'static str) -> Self {
        Self { store, process, open: Mutex::default(), writing: Mutex::new(()), types: PhantomData }
    }

    /// What is known of the open instances, for as long as it is locked: never while something is written or dispatched.
    pub(super) fn open(&self) -> MutexGuard<'_, OpenInstances> {
        self.open.lock()
    }

    /// Finds the open instances in the state and the log.
    pub(super) fn find_open(&self) -> Result<()> {
        let _nobody_writes = self.writing.lock();
        let open = OpenInstances::load(&self.store, self.process)?;
        *self.open() = open;
        Ok(())
    }

    /// Saves what is known of the open instances, the last of it in one step with `add`.
    ///
    /// The log is synced first: what it lost with the power would never be done again if the checkpoint were kept.
    pub(super) fn save_open(&self, add: impl FnOnce(StateBatch) -> StateBatch) -> Result<()> {
        let (head, unsaved) = {
            let _all_written_is_known = self.writing.lock();
            let head = self.store.head()?;
            let point = head.map(|head| self.store.history_point(head)).transpose()?;
            (head, self.open().take_unsaved(self.process, point))
        };
        let saved = self.save(head, unsaved.batches, add);
        if saved.is_err() {
            self.open().keep_unsaved(unsaved.instances);
        }
        saved
    }

    fn save(
        &self,
        head: Option<Position>,
        mut batches: Vec<StateBatch>,
        add: impl FnOnce(StateBatch) -> StateBatch,
    ) -> Result<()> {
        if self.store.synced_head()? < head {
            self.store.sync()?;
        }
        let (state, last) = (self.store.state()?, batches.pop().unwrap_or_default());
        for batch in batches {
            state.write(batch.durability(Durability::Os))?;
        }
        state.write(add(last))?;
        Ok(())
    }

    /// Corrects what is known of an instance by what its stream says.
    pub(super) fn look_again(&self, instance: &str) -> Result<()> {
        let _nobody_writes = self.writing.lock();
        let outline = self.read(instance)?.map(|current| Outline::of(&current.instance));
        self.open().update(instance, &outline.unwrap_or_default());
        Ok(())
    }

    fn stream(&self, instance: &str) -> String {
        format!("{}-{instance}", self.process)
    }

    /// The instance as it is; `None` if it never began.
    pub(super) fn read(&self, instance: &str) -> Result<Option<Current<S, C>>> {
        let mut read = self.store.read(Query::stream(self.stream(instance))).reverse().limit(1);
        let Some(event) = read.next()? else { return Ok(None) };
        let instance = record::decode(&event)?;
        Ok(Some(Current { version: event.version(), instance, metadata: Metadata::caused_by(&event) }))
    }

    /// Whether any event of the stream of the instance is of this kind.
    pub(super) fn any(&self, instance: &str, mut is_it: impl FnMut(&Event<'_>) -> Result<bool>) -> Result<bool> {
        let mut read = self.store.read(Query::stream(self.stream(instance))).reverse();
        while let Some(event) = read.next()? {
            if is_it(&event)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a step; `None` if the instance was changed since it was read.
    pub(super) fn write(&self, instance: &str, step: Step<S, C>) -> Result<Option<Current<S, C>>> {
        let id = EventId::from(step.id);
        let mut event = record::encode(&step.cause, &step.instance)?.id(id).metadata_json(step.metadata.to_json()?);
        if matches!(step.instance.status, ProcessStatus::Failed { .. }) {
            event = event.tag(failed_tag(self.process));
        }
        let expected = step.version.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact);
        let _known_before_others_write = self.writing.lock();
        // The next synced commit makes it durable too, that of a command above all. What is lost with the power is lost
        // together with everything that came of it.
        let commit = self.store.commit().append(self.stream(instance), expected, [event]).durability(Durability::Os);
        let appended = match commit.send().map_err(Error::from) {
            Ok(appended) => appended,
            Err(Error::Conflict(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        self.open().update(instance, &Outline::of(&step.instance));
        let metadata = step.metadata.causation_id(id.to_string());
        Ok(Some(Current { version: appended.version(), instance: step.instance, metadata }))
    }
}

/// The tag of the events with which instances ended as failed.
pub(super) fn failed_tag(process: &str) -> String {
    format!("process-failed:{process}")
}

/// Checks the id of an instance.
pub(super) fn check_instance(instance: &str) -> Result<()> {
    if !instance.is_empty() && instance.len() <= PROCESS_INSTANCE_BYTES_MAX {
        return Ok(());
    }
    let problem = format!("the id has {} bytes, 1 to {PROCESS_INSTANCE_BYTES_MAX} are allowed", instance.len());
    Err(Invalid::of("instance", problem).into())
}
