//! Looking at the instances of a process manager: which are open, what they wait for, which failed.
//!
//! Reads the store and nothing else, so that it can be done beside a running process manager, without one, and on a store
//! that is open for reading.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::engine::{CurrentOf, StreamsOf};
use super::instance::ProcessStatus;
use super::manager::ProcessManager;
use super::open_instances::OpenInstances;
use super::streams::{Streams, failed_tag};
use crate::error::Result;
use crate::types::{StreamVersion, Timestamp};
use crate::{Query, Store};

/// The instances of a process manager, as the store has them. See [`Store::processes`].
pub struct ProcessInstances<P: ProcessManager> {
    streams: Arc<StreamsOf<P>>,
}

/// An instance of a process manager.
pub struct ProcessInstance<P: ProcessManager> {
    id: String,
    current: CurrentOf<P>,
}

/// A timer that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessTimer {
    /// The id of the instance that set it.
    pub instance: String,
    /// Its name.
    pub name: String,
    /// When it fires.
    pub due: Timestamp,
}

impl Store {
    /// The instances of a process manager, whether it runs or not.
    ///
    /// ```
    /// # use annals::{Event, ProcessManager, Reactions, Store};
    /// # #[derive(Default, serde::Serialize, serde::Deserialize)]
    /// # struct Orders;
    /// # #[derive(serde::Deserialize)]
    /// # enum OrderEvent { OrderPlaced { order: String } }
    /// # impl ProcessManager for Orders {
    /// #     const NAME: &'static str = "orders";
    /// #     type Event = OrderEvent;
    /// #     type Command = String;
    /// #     fn instance_of(_: &OrderEvent, _: &Event<'_>) -> Option<String> { None }
    /// #     fn on_event(&mut self, _: &OrderEvent, _: &mut Reactions<String>) {}
    /// # }
    /// let store = Store::in_memory()?;
    /// let orders = store.processes::<Orders>();
    /// for timer in orders.timers()? {
    ///     println!("{} waits for {} until {:?}", timer.instance, timer.name, timer.due);
    /// }
    /// assert!(orders.open()?.is_empty() && orders.failed()?.is_empty());
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn processes<P: ProcessManager>(&self) -> ProcessInstances<P> {
        ProcessInstances { streams: Arc::new(Streams::new(self.clone(), P::NAME)) }
    }
}

impl<P: ProcessManager> ProcessInstances<P> {
    pub(super) fn new(streams: Arc<StreamsOf<P>>) -> Self {
        Self { streams }
    }

    /// The instance with this id, open or ended; `None` if it never began.
    ///
    /// # Errors
    /// [`Error::Codec`](crate::Error::Codec) if its state cannot be decoded; [`Error::Corrupt`](crate::Error::Corrupt) or
    /// [`Error::Io`](crate::Error::Io) if it cannot be read.
    pub fn get(&self, id: &str) -> Result<Option<ProcessInstance<P>>> {
        let current = self.streams.read(id)?;
        Ok(current.map(|current| ProcessInstance { id: id.to_owned(), current }))
    }

    /// The ids of the instances that have not ended, ascending. Costs the open ones, however many have ended.
    ///
    /// # Errors
    /// Those of [`Store::state`](crate::Store::state), and of reading the log.
    pub fn open(&self) -> Result<Vec<String>> {
        Ok(self.load()?.ids().map(str::to_owned).collect())
    }

    /// The timers that are waited for, the first that is due first.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn timers(&self) -> Result<Vec<ProcessTimer>> {
        let open = self.load()?;
        let timers = open.timers().map(|(timer, instance)| ProcessTimer {
            instance: instance.to_owned(),
            name: timer.name.clone(),
            due: timer.due,
        });
        Ok(timers.collect())
    }

    /// The ids of the instances that ended as failed, ascending. Costs the failed ones.
    ///
    /// # Errors
    /// Those of reading the log.
    pub fn failed(&self) -> Result<Vec<String>> {
        let query = Query::tag(failed_tag(P::NAME)).and_category(P::NAME);
        let mut read = self.streams.store.read(query);
        let mut failed = BTreeSet::new();
        while let Some(event) = read.next()? {
            failed.extend(event.stream().split_once('-').map(|(_, instance)| instance.to_owned()));
        }
        Ok(failed.into_iter().collect())
    }

    fn load(&self) -> Result<OpenInstances> {
        OpenInstances::load(&self.streams.store, P::NAME)
    }
}

impl<P: ProcessManager> ProcessInstance<P> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The state that it has come to.
    pub fn state(&self) -> &P {
        &self.current.instance.state
    }

    /// How far it is.
    pub fn status(&self) -> &ProcessStatus {
        &self.current.instance.status
    }

    /// The version of its stream.
    pub fn version(&self) -> StreamVersion {
        self.current.version
    }

    /// The commands that are recorded and not known to be carried out, in order. An instance that still has some while
    /// nothing is going on is held up by the first.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &P::Command> {
        self.current.instance.pending.iter().map(|pending| &pending.command)
    }

    /// The commands that would be dispatched if it failed now, in that order.
    pub fn compensations(&self) -> impl ExactSizeIterator<Item = &P::Command> {
        self.current.instance.compensations.iter().rev()
    }

    /// The commands that it asked for when it had ended or while it compensated, and that were rejected, with the reason:
    /// what somebody has to look after. At most
    /// [`COMPENSATIONS_PER_INSTANCE_MAX`](crate::limits::COMPENSATIONS_PER_INSTANCE_MAX) are kept.
    pub fn not_compensated(&self) -> impl ExactSizeIterator<Item = (&P::Command, &str)> {
        self.current.instance.not_compensated.iter().map(|left| (&left.command, left.reason.as_str()))
    }

    /// The timers that it waits for: names, and when they fire.
    pub fn timers(&self) -> impl ExactSizeIterator<Item = (&str, Timestamp)> {
        self.current.instance.timers.iter().map(|timer| (timer.name.as_str(), timer.due))
    }
}

impl<P: ProcessManager> fmt::Debug for ProcessInstances<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessInstances").field("name", &P::NAME).finish_non_exhaustive()
    }
}

impl<P: ProcessManager> fmt::Debug for ProcessInstance<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessInstance")
            .field("name", &P::NAME)
            .field("id", &self.id)
            .field("status", self.status())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}
