//! Starting a handler: its options, its registration, and the thread that drives its work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::driver::{Driver, Loaded, Settings};
use super::handle::HandlerHandle;
use super::keys;
use super::kind::HandlerKind;
use super::policy::{LastResort, OnError};
use super::registry::{Registry, register};
use super::shared::{HandlerState, Shared, Trouble};
use super::work::{Checkpoint, Work};
use crate::error::{Error, Invalid, Result, Violation};
use crate::limits::{DEAD_LETTERS_MAX, HANDLER_BATCH_EVENTS_MAX};
use crate::sync::thread::OwnThread;
use crate::types::Position;
use crate::{Follow, Horizon, Query, Store};

/// Events that are handled between two checkpoints, unless something else is said.
const BATCH_EVENTS: usize = 1_000;

/// Starts [`Work`] under a name: a thread that follows the events of a query, handles them one by one, saves how far it
/// came, and deals with failures as its policy says.
///
/// Projections, reactors and relays have their own, shorter, ways to start one; this is for work of your own:
///
/// ```
/// use annals::{Checkpoint, Event, ExpectedVersion, HandlerError, HandlerKind, NewEvent, OnError, Runner, StateBatch, Store, Work};
///
/// /// Counts events, and saves the count together with how far it has counted.
/// struct Counter { store: Store, count: u64 }
///
/// impl Work for Counter {
///     fn load(&mut self, store: &Store) -> annals::Result<Option<Checkpoint>> {
///         self.roll_back()?;
///         Checkpoint::load(store, "counter")
///     }
///
///     fn handle(&mut self, _event: &Event<'_>) -> Result<(), HandlerError> {
///         self.count += 1;
///         Ok(())
///     }
///
///     fn save(&mut self, checkpoint: &Checkpoint) -> annals::Result<()> {
///         let batch = checkpoint.add_to(StateBatch::new().put("count", self.count.to_le_bytes()));
///         self.store.state()?.write(batch).map(drop)
///     }
///
///     fn roll_back(&mut self) -> annals::Result<()> {
///         let saved = self.store.state()?.get("count")?;
///         self.count = saved.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
///         Ok(())
///     }
///
///     fn has_effects_outside(&self) -> bool {
///         false
///     }
/// }
///
/// let store = Store::in_memory()?;
/// let work = Counter { store: store.clone(), count: 0 };
/// let runner = Runner::new("counter", HandlerKind::Projection).policy(OnError::retry(3).then_park());
/// let counter = runner.start(&store, Box::new(work))?;
/// let opened = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
/// counter.wait_for(opened.last_position())?;
/// assert_eq!(store.state()?.get("count")?, Some(1_u64.to_le_bytes().to_vec()));
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a runner runs nothing before it is started"]
pub struct Runner {
    name: String,
    kind: HandlerKind,
    query: Query,
    policy: OnError,
    batch_events: usize,
    save_within: Duration,
    horizon: Horizon,
    begin: Begin,
    dead_letters_max: usize,
    parks: bool,
    trouble: Option<Trouble>,
}

/// Where a handler begins that has no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    Start,
    End,
    After(Position),
}

impl Runner {
    /// A runner for all events from the first on, that stops at the first error.
    pub fn new(name: impl Into<String>, kind: HandlerKind) -> Self {
        Self {
            name: name.into(),
            kind,
            query: Query::all(),
            policy: OnError::default(),
            batch_events: BATCH_EVENTS,
            save_within: Duration::ZERO,
            horizon: Horizon::default(),
            begin: Begin::Start,
            dead_letters_max: DEAD_LETTERS_MAX,
            parks: true,
            trouble: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Handles only events that match.
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// What is done about an event that cannot be handled.
    pub fn policy(mut self, policy: OnError) -> Self {
        self.policy = policy;
        self
    }

    /// Saves after so many events at the latest: 1,000 unless this is called, 1 to [`HANDLER_BATCH_EVENTS_MAX`].
    pub fn batch(mut self, events_max: usize) -> Self {
        self.batch_events = events_max;
        self
    }

    /// Saves so long after an event was handled at the latest, on the clock of the store, instead of whenever there is
    /// nothing more to handle. Meanwhile the work must show what it has handled all the same, because
    /// [`HandlerHandle::wait_for`] does not wait for it to be saved.
    pub fn save_within(mut self, delay: Duration) -> Self {
        self.save_within = delay;
        self
    }

    /// Handles events up to this head: the synced one unless this is called, so that nothing was done because of an
    /// event that a loss of power takes away.
    pub fn upto(mut self, horizon: Horizon) -> Self {
        self.horizon = horizon;
        self
    }

    /// Begins with the first event when the handler is new. This is so unless something else is said.
    pub fn from_start(mut self) -> Self {
        self.begin = Begin::Start;
        self
    }

    /// Begins with what is appended after the handler was started for the first time. Where that is does not change any
    /// more, also if the power fails, provided that the work keeps its checkpoint in the state of the store, or saves it
    /// as durably elsewhere.
    pub fn from_end(mut self) -> Self {
        self.begin = Begin::End;
        self
    }

    /// Begins behind this position when the handler is new. What is said of [`Runner::from_end`] holds.
    pub fn after(mut self, position: Position) -> Self {
        self.begin = Begin::After(position);
        self
    }

    /// Keeps at most so many dead letters, at most [`DEAD_LETTERS_MAX`]: the handler stops at the event that would be one
    /// more.
    pub fn dead_letters(mut self, letters_max: usize) -> Self {
        self.dead_letters_max = letters_max;
        self
    }

    /// Refuses policies that park: the order of all events matters, and not only that within streams.
    pub fn in_global_order(mut self) -> Self {
        self.parks = false;
        self
    }

    /// Asks the work whenever [`HandlerStatus::trouble`] and [`Store::health`] are told: what keeps it from getting on
    /// beside its events, if anything does. Must be quick, and not wait for the handler.
    ///
    /// [`HandlerStatus::trouble`]: super::HandlerStatus::trouble
    pub fn trouble(mut self, trouble: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.trouble = Some(Trouble::new(trouble));
        self
    }

    /// Starts the handler: registers it, loads its work, and handles from where it came to. Returns once its thread runs.
    ///
    /// A handler that begins at the end sees every event that is appended after this returned.
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong with the options, or if the name is that of a handler of another
    /// kind; [`Error::Codec`] if it is that of a subscription; [`Error::Held`] if it is in use;
    /// [`Error::HistoryChanged`] if the checkpoint is of another history than the store's and the work does not
    /// [start over](Work::start_over); what the work says when it is loaded; those of [`Store::state`]; unless it begins with the
    /// first event, those of [`Store::sync`]; [`Error::Io`] if the operating system gives no thread.
    pub fn start(self, store: &Store, work: Box<dyn Work>) -> Result<HandlerHandle> {
        self.check(store)?;
        let follow = store.follow(self.query.clone()).upto(self.horizon);
        let (clock, events) = (Arc::clone(store.clock()), Arc::clone(follow.signal()));
        let shared = Arc::new(Shared::new(&self.name, self.kind, self.trouble.clone(), clock, events));
        let ending = Ending(Arc::clone(&shared));
        let held = store.hold(&self.name)?;
        register(store, &shared, &self.query, &self.policy)?;
        // Before the handler looks for what it was asked to do: whoever asks from here on finds it, and calls it.
        store.attachment::<Registry>().started(&shared);
        let driver = self.driver(store, work, &shared);
        let thread = driver.and_then(|driver| spawn(driver, follow, held, ending)).inspect_err(|error| {
            shared.set_state(HandlerState::Failed { position: None, error: error.to_string() });
        })?;
        Ok(HandlerHandle::new(store, shared, thread))
    }

    fn driver(&self, store: &Store, mut work: Box<dyn Work>, shared: &Arc<Shared>) -> Result<Driver> {
        let loaded = self.load(store, &mut *work)?;
        let driver = Driver::new(store, work, self.settings(), Arc::clone(shared), loaded)?;
        if self.begin != Begin::Start {
            // If the checkpoint were lost with the power, it would begin elsewhere, and miss events.
            store.state()?.sync_shown()?;
        }
        Ok(driver)
    }

    fn settings(&self) -> Settings {
        Settings {
            policy: self.policy.clone(),
            batch_events: self.batch_events,
            save_within: self.save_within,
            horizon: self.horizon,
            dead_letters_max: self.dead_letters_max,
        }
    }

    fn check(&self, store: &Store) -> Result<()> {
        keys::check_name(&self.name)?;
        self.policy.check()?;
        let mut violations = Vec::new();
        let mut add = |field: &str, problem: String| violations.push(Violation::new(None, field, problem));
        if !(1..=HANDLER_BATCH_EVENTS_MAX).contains(&self.batch_events) {
            let problem = format!("{} events, 1 to {HANDLER_BATCH_EVENTS_MAX} are allowed", self.batch_events);
            add("batch", problem);
        }
        if self.dead_letters_max > DEAD_LETTERS_MAX {
            let problem = format!("{}, at most {DEAD_LETTERS_MAX} are allowed", self.dead_letters_max);
            add("dead_letters", problem);
        }
        if !self.parks && self.policy.last_resort() == LastResort::Park {
            let problem = "an event cannot be parked where the order of all events matters: others would overtake it";
            add("policy", problem.into());
        }
        if !violations.is_empty() {
            return Err(Invalid { violations }.into());
        }
        // A query that breaks a limit is told now, and not by the thread.
        store.read(self.query.clone()).limit(0).count().map(drop)
    }

    /// What the work has saved, if it is of this history, and where it is to begin otherwise.
    fn load(&self, store: &Store, work: &mut dyn Work) -> Result<Loaded> {
        let saved = work.load(store)?;
        let Some(checkpoint) = saved else {
            return Ok(Loaded {
                checkpoint: self.first(store)?,
                rebuilt: None,
                is_first: self.begin != Begin::Start,
                forgets: !work.has_effects_outside(),
            });
        };
        let checked = checkpoint.point().map_or(Ok(()), |point| store.check_history(point));
        match checked {
            Ok(()) => Ok(Loaded { checkpoint, rebuilt: None, is_first: false, forgets: false }),
            Err(Error::HistoryChanged { position, reason }) if work.start_over()? => {
                let rebuilt = Some(format!("position {position} was of another history: {reason}"));
                Ok(Loaded { checkpoint: Checkpoint::new(&self.name, None), rebuilt, is_first: false, forgets: true })
            }
            Err(error) => Err(error),
        }
    }

    fn first(&self, store: &Store) -> Result<Checkpoint> {
        let position = match self.begin {
            Begin::Start => None,
            Begin::End => store.head()?,
            Begin::After(position) => Some(position),
        };
        let point = position.map(|position| store.history_point(position)).transpose()?;
        store.sync_upto(position)?;
        Ok(Checkpoint::new(&self.name, point))
    }
}

/// Tells the end of a handler when it is dropped, however that comes about: nobody must wait for it for ever.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.0.state().is_over() {
            let error = "it was not started".to_owned();
            self.0.set_state(HandlerState::Failed { position: None, error });
        }
        self.0.end();
    }
}

fn spawn(mut driver: Driver, mut follow: Follow, held: crate::HeldName, ending: Ending) -> Result<OwnThread> {
    let run = move || {
        // Everything is let go of before the end is told: who waits for it may use the name at once.
        let Ending(shared) = &ending;
        let ended = catch_unwind(AssertUnwindSafe(|| driver.run(&mut follow)));
        shared.set_state(ended.unwrap_or_else(|payload| HandlerState::of_panic(&*payload)));
        let let_go = catch_unwind(AssertUnwindSafe(|| drop((driver, follow, held))));
        if let Err(payload) = let_go {
            shared.set_state(HandlerState::of_panic(&*payload));
        }
    };
    let failed = |error: std::io::Error| Error::Io {
        operation: "start a thread for",
        path: "a handler".into(),
        source: Arc::new(error),
    };
    OwnThread::spawn("annals-handler".into(), run).map_err(failed)
}
