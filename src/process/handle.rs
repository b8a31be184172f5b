//! Starting a process manager, and what its owner holds while it runs.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::dispatch::{Dispatch, DispatchError};
use super::engine::{self, DispatchFn, Engine, StreamsOf};
use super::inspect::ProcessInstances;
use super::manager::ProcessManager;
use super::streams::{Streams, check_instance};
use super::timers::TimerControl;
use super::work::ProcessWork;
use crate::error::{Error, Invalid, Result};
use crate::limits::PROCESS_NAME_BYTES_MAX;
use crate::types::Position;
use crate::{HandlerHandle, HandlerKind, Horizon, OnError, Remainder, Runner, Store};

/// A checkpoint is saved so long after an event was handled at the latest. What was handled since then is found in the
/// log when the events come again.
const SAVE_WITHIN: Duration = Duration::from_secs(1);

/// A process manager that is described first, and then started. See [`Store::process`].
#[must_use = "a process manager does nothing before it is started"]
pub struct ProcessBuilder<P: ProcessManager> {
    store: Store,
    dispatch: Box<DispatchFn<P::Command>>,
    policy: OnError,
    from_end: bool,
    syncs: bool,
}

/// A process manager that runs, until this is dropped. Everything of [`HandlerHandle`] can be asked of it.
#[must_use = "the process manager stops when this is dropped"]
pub struct ProcessHandle<P: ProcessManager> {
    handler: HandlerHandle,
    streams: Arc<StreamsOf<P>>,
    timers: Arc<TimerControl>,
}

impl Store {
    /// Begins to describe how a process manager is run. `dispatch` carries out its commands.
    ///
    /// `dispatch` runs on the thread of the process manager, one command at a time. It may be called again for a command
    /// that was carried out already, if the process died before the outcome was recorded: what it does through
    /// [`Dispatch::execute`] is done once all the same; what it does by itself has
    /// [`Dispatch::command_id`] to be recognised by.
    ///
    /// ```
    /// use annals::{Aggregate, Event, ProcessManager, ProcessStatus, Reactions, Store};
    /// use serde::{Deserialize, Serialize};
    ///
    /// # #[derive(Serialize, Deserialize)]
    /// # enum AccountEvent { Deposited { cents: u64 }, Withdrawn { cents: u64 } }
    /// # #[derive(Default)]
    /// # struct Account { cents: u64 }
    /// # impl Aggregate for Account {
    /// #     const CATEGORY: &'static str = "account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, event: &AccountEvent) {
    /// #         match event {
    /// #             AccountEvent::Deposited { cents } => self.cents += cents,
    /// #             AccountEvent::Withdrawn { cents } => self.cents -= cents,
    /// #         }
    /// #     }
    /// # }
    /// # impl Account {
    /// #     fn withdraw(&self, cents: u64) -> Result<AccountEvent, &'static str> {
    /// #         if cents > self.cents { Err("overdrawn") } else { Ok(AccountEvent::Withdrawn { cents }) }
    /// #     }
    /// # }
    /// # #[derive(Serialize, Deserialize)]
    /// # enum RequestEvent { TransferRequested { from: String, to: String, cents: u64 } }
    /// # #[derive(Default)]
    /// # struct Request;
    /// # impl Aggregate for Request {
    /// #     const CATEGORY: &'static str = "request";
    /// #     type Event = RequestEvent;
    /// #     fn apply(&mut self, _: &RequestEvent) {}
    /// # }
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Transfer {}
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Command { Withdraw(String, u64), Deposit(String, u64) }
    ///
    /// impl ProcessManager for Transfer {
    ///     const NAME: &'static str = "transfer";
    ///     type Event = RequestEvent;
    ///     type Command = Command;
    ///
    ///     fn instance_of(_: &RequestEvent, recorded: &Event<'_>) -> Option<String> {
    ///         Some(recorded.stream().to_owned())
    ///     }
    ///
    ///     fn on_event(&mut self, event: &RequestEvent, reactions: &mut Reactions<Command>) {
    ///         let RequestEvent::TransferRequested { from, to, cents } = event;
    ///         let give_back = Command::Deposit(from.clone(), *cents);
    ///         reactions.execute(Command::Withdraw(from.clone(), *cents)).compensated_by(give_back);
    ///         reactions.execute(Command::Deposit(to.clone(), *cents));
    ///         reactions.complete();
    ///     }
    /// }
    ///
    /// let store = Store::in_memory()?;
    /// let accounts = store.repository::<Account>()?;
    /// accounts.execute("alice", |_| AccountEvent::Deposited { cents: 100 })?;
    ///
    /// let own = accounts.clone();
    /// let transfers = store.process::<Transfer>(move |command, dispatch| match command {
    ///     Command::Withdraw(id, cents) => dispatch.execute(&own, id, |account| account.withdraw(*cents)),
    ///     Command::Deposit(id, cents) => dispatch.execute(&own, id, |_| AccountEvent::Deposited { cents: *cents }),
    /// });
    /// let transfers = transfers.start()?;
    ///
    /// let requests = store.repository::<Request>()?;
    /// let requested = || RequestEvent::TransferRequested { from: "alice".into(), to: "bob".into(), cents: 30 };
    /// requests.execute("7", |_| requested())?;
    /// transfers.settle()?;
    /// assert_eq!((accounts.load("alice")?.cents, accounts.load("bob")?.cents), (70, 30));
    /// let transfer = transfers.instances().get("request-7")?.expect("it began");
    /// assert_eq!(transfer.status(), &ProcessStatus::Completed);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn process<P: ProcessManager>(
        &self,
        dispatch: impl FnMut(&P::Command, &Dispatch<'_>) -> Result<(), DispatchError> + Send + 'static,
    ) -> ProcessBuilder<P> {
        let (store, dispatch) = (self.clone(), Box::new(dispatch));
        ProcessBuilder { store, dispatch, policy: OnError::default(), from_end: false, syncs: true }
    }
}

impl<P: ProcessManager> ProcessBuilder<P> {
    /// What is done about events that cannot be handled and commands that fail for other reasons than a rejection. Stops,
    /// unless this is called.
    ///
    /// Whatever is done about it, the instance is not told anything else before its pending commands are through.
    ///
    /// When the history of the store changes, such as by a restore, or a [migration](crate::Migration) copies it, dead
    /// letters are forgotten: what was parked is not told any more to an instance that began behind it.
    pub fn policy(mut self, policy: OnError) -> Self {
        self.policy = policy;
        self
    }

    /// Begins with what is appended after the process manager was started for the first time, and not with the first
    /// event of the store. If the history of the store changes, such as by a restore, it does not start any more, since it
    /// cannot tell where its beginning is.
    pub fn from_end(mut self) -> Self {
        self.from_end = true;
        self
    }

    /// Dispatches a command when what asks for it is visible, instead of when it is synced: the event, the timer, and the
    /// record. For commands that do nothing outside of the store; what they do in it is lost together with what asked for
    /// it, if it is lost. For others it would be wrong: a loss of power may take away events of
    /// [`Durability::Os`](crate::Durability::Os), and timers that were due, of which the outside knows already.
    ///
    /// Saves a sync for each event that leads to commands.
    pub fn visible(mut self) -> Self {
        self.syncs = false;
        self
    }

    /// Starts the process manager: it goes on where it stopped, dispatches what is pending, and fires the timers whose
    /// time came meanwhile, in the order in which they were due. Costs the open instances, however many have ended.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) with everything that is wrong with the name and the event types;
    /// [`Error::Held`](crate::Error::Held) if it runs already; those of [`Runner::start`].
    pub fn start(self) -> Result<ProcessHandle<P>> {
        check_name(P::NAME)?;
        let codec = P::event_types().check()?;
        let engine = Engine::<P> { codec, dispatch: self.dispatch, syncs: self.syncs };
        let streams = Arc::new(Streams::new(self.store.clone(), P::NAME));
        let timers = Arc::new(TimerControl::default());
        let runner = Runner::new(P::NAME, HandlerKind::ProcessManager)
            .query(engine.query())
            .policy(self.policy)
            .upto(Horizon::Visible)
            .save_within(SAVE_WITHIN);
        let runner = if self.from_end { runner.from_end() } else { runner };
        let troubled = Arc::clone(&timers);
        let runner =
            runner.trouble(move || troubled.failure().map(|error| format!("a timer cannot be fired: {error}")));
        let (streams_of_work, control) = (Arc::clone(&streams), Arc::clone(&timers));
        let starts_over = !self.from_end;
        let work = ProcessWork {
            engine,
            streams: streams_of_work,
            control,
            thread: None,
            starts_over,
            covered: None,
            newest: None,
        };
        let handler = runner.start(&self.store, Box::new(work))?;
        Ok(ProcessHandle { handler, streams, timers })
    }
}

fn check_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() || name.len() > PROCESS_NAME_BYTES_MAX {
        format!("{name:?} has {} bytes, 1 to {PROCESS_NAME_BYTES_MAX} are allowed", name.len())
    } else if name.contains('-') {
        format!("{name:?} contains a '-', which ends the category of a stream")
    } else {
        return Ok(());
    };
    Err(Invalid::of("name", problem).into())
}

impl<P: ProcessManager> ProcessHandle<P> {
    /// The instances.
    pub fn instances(&self) -> ProcessInstances<P> {
        ProcessInstances::new(Arc::clone(&self.streams))
    }

    /// Waits until there is nothing left to do for now: every event and every timer that is due was handled, and so was
    /// everything that came of them. Waits for ever while it is paused.
    ///
    /// # Errors
    /// What keeps a timer from being fired; those of [`HandlerHandle::wait_for`].
    pub fn settle(&self) -> Result<()> {
        loop {
            match self.timers.fire_due() {
                // The timers end with the handler, which knows why.
                Err(_) if self.timers.was_stopped() => {
                    return self.handler.wait_for(Position::new(u64::MAX).expect("it is not 0"));
                }
                fired => fired?,
            }
            let head = self.streams.store.head()?;
            if let Some(head) = head {
                self.handler.wait_for(head)?;
            }
            let is_due = self.streams.open().is_due(self.streams.store.clock().now());
            if !is_due && self.streams.store.head()? == head {
                return Ok(());
            }
        }
    }

    /// What keeps a timer from firing that is due; `None` if nothing does. It is tried again every second, and other
    /// timers fire meanwhile. [`Store::health`] tells it as the [trouble](crate::HandlerStatus::trouble) of the handler.
    pub fn timer_failure(&self) -> Option<Error> {
        self.timers.failure()
    }

    /// Ends an instance as failed, at once: its pending commands are not dispatched, and nothing is compensated. For one
    /// that can never get on, or whose event was skipped or discarded while commands were pending. `false` if it never
    /// began, or has ended with nothing pending.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the id breaks a limit; those of [`Store::append`].
    pub fn abandon(&self, instance: &str, reason: &str) -> Result<bool> {
        check_instance(instance)?;
        engine::abandon::<P>(&self.streams, instance, reason)
    }

    /// Handles what is there now, and stops; reports what is left if that takes longer than `time` on the clock of the
    /// store.
    ///
    /// # Errors
    /// Those of [`HandlerHandle::drain`].
    pub fn drain(self, time: Duration) -> Result<Remainder> {
        self.handler.drain(time)
    }

    /// Lets the process manager run on without a handle, until the store is closed.
    pub fn detach(self) {
        self.handler.detach();
    }

    /// Stops the process manager: the event that it is at is finished. What is pending goes on at the next start.
    ///
    /// # Errors
    /// Those of [`HandlerHandle::stop`].
    pub fn stop(self) -> Result<()> {
        self.handler.stop()
    }
}

impl<P: ProcessManager> Deref for ProcessHandle<P> {
    type Target = HandlerHandle;

    fn deref(&self) -> &HandlerHandle {
        &self.handler
    }
}

impl<P: ProcessManager> std::fmt::Debug for ProcessBuilder<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessBuilder").field("name", &P::NAME).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<P: ProcessManager> std::fmt::Debug for ProcessHandle<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessHandle").field("name", &P::NAME).field("handler", &self.handler).finish_non_exhaustive()
    }
}
