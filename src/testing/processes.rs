//! Given/when/then for process managers, on the engine that runs them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::aggregates::refused;
use super::store::{TestStore, store};
use super::story::{Story, Told, lines};
use crate::error::{Error, ExpectedVersion, Result};
use crate::{Aggregate, Dispatch, DispatchError, ProcessHandle, ProcessInstance, ProcessManager};

/// Begins a test of a process manager, on a store of its own whose clock moves when the test moves it.
///
/// Its commands are carried out by nobody and succeed, unless [`ProcessTest::rejecting`] says otherwise: what the test is
/// about is which commands it asks for. Events happen with [`happens`](ProcessTest::happens), time passes with
/// [`passes`](ProcessTest::passes); what was asked for since the last `then` is compared with the next.
///
/// ```
/// use std::time::Duration;
/// use annals::{Aggregate, Event, ProcessManager, Reactions, testing};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum UserEvent { Registered, Confirmed }
///
/// #[derive(Default)]
/// struct User;
///
/// impl Aggregate for User {
///     const CATEGORY: &'static str = "user";
///     type Event = UserEvent;
///     fn apply(&mut self, _: &UserEvent) {}
/// }
///
/// #[derive(Serialize, Deserialize)]
/// enum Mail { Welcome, Reminder }
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Signup;
///
/// impl ProcessManager for Signup {
///     const NAME: &'static str = "signup";
///     type Event = UserEvent;
///     type Command = Mail;
///
///     fn instance_of(_: &UserEvent, recorded: &Event<'_>) -> Option<String> {
///         Some(recorded.stream().to_owned())
///     }
///
///     fn on_event(&mut self, event: &UserEvent, reactions: &mut Reactions<Mail>) {
///         match event {
///             UserEvent::Registered => {
///                 reactions.execute(Mail::Welcome);
///                 reactions.after(Duration::from_secs(3_600), "not confirmed");
///             }
///             UserEvent::Confirmed => reactions.complete(),
///         }
///     }
///
///     fn on_timer(&mut self, _: &str, reactions: &mut Reactions<Mail>) {
///         reactions.execute(Mail::Reminder);
///     }
/// }
///
/// testing::process::<Signup>()
///     .happens::<User>("alice", [UserEvent::Registered])
///     .then([Mail::Welcome])
///     .passes(Duration::from_secs(3_599))
///     .then_nothing()
///     .passes(Duration::from_secs(1))
///     .then([Mail::Reminder])
///     .happens::<User>("alice", [UserEvent::Confirmed])
///     .then_nothing()
///     .then_instance("user-alice", |signup| assert!(signup.status().has_ended()));
/// ```
///
/// # Panics
/// If the process manager cannot be started.
#[track_caller]
#[must_use = "nothing is tested before something happens"]
pub fn process<P: ProcessManager>() -> ProcessTest<P> {
    let store = store();
    let dispatched = Arc::new(Dispatched::default());
    let dispatch = {
        let dispatched = Arc::clone(&dispatched);
        move |command: &P::Command, _: &Dispatch<'_>| dispatched.take(Told::new(command))
    };
    let started = store.process::<P>(dispatch).start();
    let handle = started.unwrap_or_else(|error| refused("the process manager", &error));
    ProcessTest { store, handle, dispatched, story: Story::default() }
}

/// The commands that were asked for and not looked at yet, and those that are rejected.
#[derive(Default)]
struct Dispatched {
    commands: Mutex<Vec<Told>>,
    rejected: Mutex<Vec<(Told, String)>>,
}

impl Dispatched {
    fn take(&self, command: Told) -> Result<(), DispatchError> {
        let rejected = self.rejected.lock().iter().find(|(rejected, _)| *rejected == command).cloned();
        self.commands.lock().push(command);
        rejected.map_or(Ok(()), |(_, reason)| Err(DispatchError::rejected(reason)))
    }
}

/// A process manager to which things happen. It stops when this is dropped.
pub struct ProcessTest<P: ProcessManager> {
    story: Story,
    dispatched: Arc<Dispatched>,
    // Before the store: it is stopped while the store is open.
    handle: ProcessHandle<P>,
    store: TestStore,
}

#[allow(clippy::return_self_not_must_use, reason = "one thing is said after the other, and any may be the last")]
impl<P: ProcessManager> ProcessTest<P> {
    /// From now on this command is rejected, for this reason.
    pub fn rejecting(self, command: &P::Command, reason: impl Into<String>) -> Self {
        self.dispatched.rejected.lock().push((Told::new(command), reason.into()));
        self
    }

    /// These events happen to an aggregate, and are handled together with all that comes of them.
    ///
    /// # Panics
    /// If they cannot be recorded or handled.
    #[track_caller]
    pub fn happens<A: Aggregate>(mut self, id: &str, events: impl IntoIterator<Item = A::Event>) -> Self {
        let events: Vec<A::Event> = events.into_iter().collect();
        let told = events.iter().map(|event| format!("{}-{id} {}", A::CATEGORY, Told::new(event).line()));
        self.begin(told.collect());
        let repository = self.store.repository::<A>();
        let appended = repository.and_then(|repository| repository.append(id, ExpectedVersion::Any, events));
        appended.unwrap_or_else(|error| refused("what happens", &error));
        self.settle()
    }

    /// Time passes, and the timers whose time has come are handled.
    ///
    /// # Panics
    /// If a timer cannot be handled.
    #[track_caller]
    pub fn passes(mut self, time: Duration) -> Self {
        self.begin(vec![format!("{time:?} pass")]);
        self.store.clock.advance(time);
        self.settle()
    }

    /// These commands were asked for since the last `then`, in this order, and no others.
    ///
    /// # Panics
    /// If other commands were asked for.
    #[track_caller]
    pub fn then(self, commands: impl IntoIterator<Item = P::Command>) -> Self {
        let expected: Vec<Told> = commands.into_iter().map(|command| Told::new(&command)).collect();
        let actual = std::mem::take(&mut *self.dispatched.commands.lock());
        if actual != expected {
            self.story.fail(&lines(&expected), &lines(&actual));
        }
        self
    }

    /// No commands were asked for since the last `then`.
    ///
    /// # Panics
    /// If commands were asked for.
    #[track_caller]
    pub fn then_nothing(self) -> Self {
        self.then([])
    }

    /// Looks at an instance: its state, how far it is, what it waits for. Assertions that fail are preceded by the story.
    ///
    /// # Panics
    /// If it never began.
    #[track_caller]
    pub fn then_instance(self, id: &str, assertions: impl FnOnce(&ProcessInstance<P>)) -> Self {
        let found = self.handle.instances().get(id);
        match found.unwrap_or_else(|error| refused("the instance", &error)) {
            Some(instance) => self.story.around(|| assertions(&instance)),
            None => self.story.fail(&[format!("an instance {id:?}")], &["no such instance".into()]),
        }
        self
    }

    /// What happened so far becomes the beginning of the story.
    fn begin(&mut self, when: Vec<String>) {
        let before = std::mem::replace(&mut self.story.when, when);
        self.story.given.extend(before);
    }

    #[track_caller]
    fn settle(self) -> Self {
        let settled: Result<(), Error> = self.handle.settle();
        settled.unwrap_or_else(|error| refused("what happens", &error));
        self
    }
}
