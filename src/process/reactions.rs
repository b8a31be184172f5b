//! What a process manager asks for in answer to something that happened.
//!
//! Collects and does nothing: what was asked for is recorded by the instance, and carried out after that.

use std::time::Duration;

use crate::types::Timestamp;

/// What a process manager asks for: commands, compensations, timers, and its own end.
///
/// Given to the functions of a [`ProcessManager`](crate::ProcessManager), which only say what should be done. All of it
/// is recorded in one commit with the new state before the first command is dispatched.
///
/// ```
/// use std::time::Duration;
/// use annals::{Reactions, Timestamp};
///
/// let mut reactions = Reactions::new("order-1", Timestamp::from_millis(0));
/// reactions.execute("take the payment").compensated_by("give it back");
/// reactions.after(Duration::from_secs(60), "payment-timeout");
/// assert_eq!(reactions.commands().collect::<Vec<_>>(), [&"take the payment"]);
/// ```
#[derive(Debug, Clone)]
pub struct Reactions<C> {
    instance: String,
    now: Timestamp,
    pub(super) commands: Vec<Issued<C>>,
    pub(super) compensations: Vec<C>,
    pub(super) timers: Vec<TimerChange>,
    pub(super) ending: Option<Ending>,
}

/// A command that was asked for.
#[derive(Debug, Clone)]
pub struct Issued<C> {
    pub(super) command: C,
    pub(super) compensation: Option<C>,
}

/// A timer that was set, or cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimerChange {
    pub(super) name: String,
    pub(super) due: Option<Timestamp>,
}

/// How an instance asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// It reached its goal.
    Completed,
    /// It gave up; what it did is compensated.
    Failed {
        /// Why.
        reason: String,
    },
}

impl<C> Reactions<C> {
    /// No reactions yet, of this instance at this time. A running process manager is given them; a test makes its own.
    pub fn new(instance: impl Into<String>, now: Timestamp) -> Self {
        Self {
            instance: instance.into(),
            now,
            commands: Vec::new(),
            compensations: Vec::new(),
            timers: Vec::new(),
            ending: None,
        }
    }

    /// The id of the instance that reacts.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// When that happened which is reacted to: the commit time of the event. After a rejection, the time of the store's
    /// clock.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Asks for a command. Commands are dispatched in the order in which they were asked for; one that is rejected drops
    /// those behind it.
    ///
    /// With [`Issued::compensated_by`], what undoes it is remembered as soon as it succeeds.
    pub fn execute(&mut self, command: C) -> &mut Issued<C> {
        self.commands.push(Issued { command, compensation: None });
        self.commands.last_mut().expect("one was pushed")
    }

    /// Remembers a command that is dispatched if the instance fails: the last one remembered first.
    pub fn compensate_with(&mut self, command: C) {
        self.compensations.push(command);
    }

    /// Sets a timer that fires so long after [`now`](Self::now). One of this name that is set already is moved.
    pub fn after(&mut self, delay: Duration, timer: impl Into<String>) {
        let delay = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
        self.at(Timestamp::from_nanos(self.now.nanos().saturating_add(delay)), timer);
    }

    /// Sets a timer that fires at a time, or at once if that is past. One of this name that is set already is moved.
    pub fn at(&mut self, due: Timestamp, timer: impl Into<String>) {
        self.timers.push(TimerChange { name: timer.into(), due: Some(due) });
    }

    /// Cancels a timer. One that is due and was not reacted to yet is cancelled too.
    pub fn cancel(&mut self, timer: impl Into<String>) {
        self.timers.push(TimerChange { name: timer.into(), due: None });
    }

    /// Ends the instance once its commands have succeeded. Its timers are gone with it.
    pub fn complete(&mut self) {
        self.ending.get_or_insert(Ending::Completed);
    }

    /// Ends the instance as failed: after the commands of this reaction, what was remembered to compensate is
    /// dispatched in reverse order. Counts more than [`complete`](Self::complete).
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.ending = Some(Ending::Failed { reason: reason.into() });
    }

    /// The commands asked for, in order.
    pub fn commands(&self) -> impl Iterator<Item = &C> {
        self.commands.iter().map(|issued| &issued.command)
    }

    /// The commands remembered for a failure by [`compensate_with`](Self::compensate_with), in order.
    pub fn compensations(&self) -> impl Iterator<Item = &C> {
        self.compensations.iter()
    }

    /// The timers set, with when they are due, and cancelled, with none; in order.
    pub fn timers(&self) -> impl Iterator<Item = (&str, Option<Timestamp>)> {
        self.timers.iter().map(|timer| (timer.name.as_str(), timer.due))
    }

    /// How the instance asked to end, if it did.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.compensations.is_empty() && self.timers.is_empty() && self.ending.is_none()
    }
}

impl<C> Issued<C> {
    /// The command that undoes this one, if the instance fails after this one has succeeded.
    pub fn compensated_by(&mut self, command: C) {
        self.compensation = Some(command);
    }

    /// The command.
    pub fn command(&self) -> &C {
        &self.command
    }

    /// What undoes it, if anything does.
    pub fn compensation(&self) -> Option<&C> {
        self.compensation.as_ref()
    }
}
