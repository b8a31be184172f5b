//! One instance of a process manager: what its newest event says, and how each step changes it.
//!
//! Pure: no store, no clock, no dispatch. Every event of an instance's stream carries the instance as it is after it, so
//! that one event is all that has to be read. What is pending is always recorded before it is dispatched. An instance
//! that has ended has no timers, no compensations, and is never opened again.

use std::collections::VecDeque;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::ids;
use super::reactions::{Ending, Reactions, TimerChange};
use crate::error::{Invalid, Result, Violation};
use crate::limits::{
    COMMANDS_PER_REACTION_MAX, COMPENSATIONS_PER_INSTANCE_MAX, REASON_BYTES_MAX, REJECTIONS_IN_A_ROW_MAX,
    TIMER_NAME_BYTES_MAX, TIMERS_PER_INSTANCE_MAX,
};
use crate::types::{Position, Timestamp};

/// How far an instance of a process manager is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessStatus {
    /// It waits for events or timers.
    Running,
    /// It ends as completed once its last commands have succeeded.
    Completing,
    /// It undoes what it did.
    Compensating {
        /// Why it failed.
        reason: String,
    },
    /// It has ended, and reached its goal.
    Completed,
    /// It has ended, and undone what it did.
    Failed {
        /// Why.
        reason: String,
    },
}

impl ProcessStatus {
    /// Whether the instance has ended: it costs nothing any more, and later events do not change it.
    pub fn has_ended(&self) -> bool {
        matches!(self, ProcessStatus::Completed | ProcessStatus::Failed { .. })
    }
}

/// A timer that an instance has set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Timer {
    pub(super) due: Timestamp,
    pub(super) name: String,
}

/// The place of what an instance reacts to: an event, and which of those that upcasting made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) position: Position,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) ordinal: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A command that is recorded and not known to be carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending<C> {
    pub(super) id: Uuid,
    pub(super) command: C,
    /// What undoes it, if it succeeds.
    #[serde(default = "none", deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub(super) compensation: Option<C>,
}

/// A command that should have been carried out by an instance that had failed, and was rejected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NotCompensated<C> {
    pub(super) command: C,
    pub(super) reason: String,
}

/// An instance after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Instance<S, C> {
    pub(super) status: ProcessStatus,
    /// What it began with. Events before that are not part of it.
    pub(super) began: Place,
    /// The newest event that it reacted to.
    pub(super) handled: Place,
    #[serde(default = "VecDeque::new", skip_serializing_if = "VecDeque::is_empty")]
    pub(super) pending: VecDeque<Pending<C>>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub(super) compensations: Vec<C>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) timers: Vec<Timer>,
    /// Timers that were due and are not reacted to yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) fired: Vec<Timer>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub(super) not_compensated: Vec<NotCompensated<C>>,
    /// Rejections since the last event or timer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) rejections: u32,
    pub(super) state: S,
}

/// A reason as it is kept.
pub(super) fn cut(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        let boundary = (0..=REASON_BYTES_MAX).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(boundary.unwrap_or(0));
    }
    reason
}

fn none<T>() -> Option<T> {
    None
}

/// What is there is one, also where a command says nothing and looks like none.
fn some<'de, C: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<C>, D::Error> {
    C::deserialize(deserializer).map(Some)
}

impl<S, C> Instance<S, C> {
    pub(super) fn new(began: Place, state: S) -> Self {
        Self {
            status: ProcessStatus::Running,
            began,
            handled: began,
            pending: VecDeque::new(),
            compensations: Vec::new(),
            timers: Vec::new(),
            fired: Vec::new(),
            not_compensated: Vec::new(),
            rejections: 0,
            state,
        }
    }

    /// Takes in the reaction to an event or a timer at this place.
    pub(super) fn reacted(&mut self, place: Place, step: Uuid, reactions: Reactions<C>) -> Result<()> {
        self.handled = self.handled.max(place);
        self.rejections = 0;
        self.apply(step, reactions)
    }

    /// Takes in what a reaction asked for. `step` names the reaction.
    pub(super) fn apply(&mut self, step: Uuid, reactions: Reactions<C>) -> Result<()> {
        self.check(&reactions)?;
        let mut ordinals = 0..;
        let mut next_id = || ids::of_ordinal(step, ordinals.next().expect("ordinals do not end"));
        for issued in reactions.commands {
            let (command, compensation) = (issued.command, issued.compensation);
            self.pending.push_back(Pending { id: next_id(), command, compensation });
        }
        self.compensations.extend(reactions.compensations);
        reactions.timers.into_iter().for_each(|change| self.change_timer(change));
        match reactions.ending {
            None => {}
            Some(Ending::Completed) => self.status = ProcessStatus::Completing,
            Some(Ending::Failed { reason }) => self.fail(reason, next_id),
        }
        self.conclude();
        Ok(())
    }

    /// Everything in a reaction that breaks a limit or a rule, at once.
    fn check(&self, reactions: &Reactions<C>) -> Result<()> {
        let mut violations = Vec::new();
        let mut add = |field: &str, problem: String| {
            let problem = format!("of the instance {:?}: {problem}", reactions.instance());
            violations.push(Violation::new(None, field, problem));
        };
        let mut check = |field: &str, count: usize, max: usize| {
            if count > max {
                add(field, format!("{count} given, at most {max} are allowed"));
            }
        };
        check("commands", reactions.commands.len(), COMMANDS_PER_REACTION_MAX);
        let attached = reactions.commands.iter().filter(|issued| issued.compensation.is_some()).count();
        let compensations = self.compensations.len() + reactions.compensations.len() + attached;
        check("compensations", compensations, COMPENSATIONS_PER_INSTANCE_MAX);
        let set = reactions.timers.iter().filter(|timer| timer.due.is_some()).count();
        check("timers", self.timers.len() + set, TIMERS_PER_INSTANCE_MAX);
        for timer in &reactions.timers {
            if timer.name.is_empty() || timer.name.len() > TIMER_NAME_BYTES_MAX {
                let len = timer.name.len();
                add("timer", format!("a name has 1 to {TIMER_NAME_BYTES_MAX} bytes, and one has {len}"));
            }
        }
        let asks_for_more = reactions.ending.is_some() || attached + reactions.compensations.len() > 0;
        if self.status.has_ended() && (asks_for_more || !reactions.timers.is_empty()) {
            add("reactions", "an instance that has ended can only ask for commands".into());
        }
        if violations.is_empty() { Ok(()) } else { Err(Invalid { violations }.into()) }
    }

    fn change_timer(&mut self, change: TimerChange) {
        self.timers.retain(|timer| timer.name != change.name);
        self.fired.retain(|timer| timer.name != change.name);
        self.timers.extend(change.due.map(|due| Timer { due, name: change.name }));
    }

    /// Begins to undo what was done, the last first. Commands that are pending still come before.
    fn fail(&mut self, reason: String, mut next_id: impl FnMut() -> Uuid) {
        self.status = ProcessStatus::Compensating { reason: cut(reason) };
        for command in self.compensations.drain(..).rev() {
            self.pending.push_back(Pending { id: next_id(), command, compensation: None });
        }
        self.timers.clear();
        self.fired.clear();
    }

    /// Ends the instance if that is asked for and nothing is pending.
    fn conclude(&mut self) {
        if !self.pending.is_empty() {
            return;
        }
        match &mut self.status {
            ProcessStatus::Completing => self.status = ProcessStatus::Completed,
            ProcessStatus::Compensating { reason } => {
                self.status = ProcessStatus::Failed { reason: std::mem::take(reason) };
            }
            _ => return,
        }
        self.compensations.clear();
        self.timers.clear();
        self.fired.clear();
    }

    /// Whether it has not ended, or still has something to do.
    pub(super) fn is_open(&self) -> bool {
        !self.status.has_ended() || !self.pending.is_empty()
    }

    /// Ends the instance as failed, at once: what is pending is not carried out, and nothing is undone. One that has
    /// ended stays as it ended.
    pub(super) fn abandon(&mut self, reason: &str) {
        self.pending.clear();
        if self.status.has_ended() {
            return;
        }
        self.status = ProcessStatus::Compensating { reason: cut(reason.to_owned()) };
        self.conclude();
    }

    /// The time of a timer has come. `false` if it is not set any more.
    pub(super) fn fire(&mut self, timer: &Timer) -> bool {
        let Some(index) = self.timers.iter().position(|own| own == timer) else { return false };
        self.fired.push(self.timers.remove(index));
        true
    }

    /// Whether a timer that was due waits for its reaction. It does not any more.
    pub(super) fn take_fired(&mut self, timer: &Timer) -> bool {
        let Some(index) = self.fired.iter().position(|own| own == timer) else { return false };
        self.fired.remove(index);
        true
    }

    /// The first pending command has succeeded. Returns its id.
    pub(super) fn succeeded(&mut self) -> Uuid {
        let done = self.pending.pop_front().expect("a command is pending");
        if matches!(self.status, ProcessStatus::Running | ProcessStatus::Completing) {
            self.compensations.extend(done.compensation);
        }
        self.conclude();
        done.id
    }

    /// The first pending command was rejected. Returns it if the instance is to react; those behind it are dropped then.
    /// An instance that compensates goes on with the next, and remembers which it could not carry out.
    pub(super) fn rejected(&mut self, reason: &str) -> Option<Pending<C>> {
        let rejected = self.pending.pop_front().expect("a command is pending");
        if !matches!(self.status, ProcessStatus::Running | ProcessStatus::Completing) {
            if self.not_compensated.len() < COMPENSATIONS_PER_INSTANCE_MAX {
                self.not_compensated.push(NotCompensated { command: rejected.command, reason: reason.to_owned() });
            }
            self.conclude();
            return None;
        }
        self.pending.clear();
        self.status = ProcessStatus::Running;
        self.rejections = self.rejections.saturating_add(1);
        if self.rejections > REJECTIONS_IN_A_ROW_MAX {
            let step = ids::of_rejection(rejected.id);
            let mut ordinals = 0..;
            let next_id = || ids::of_ordinal(step, ordinals.next().expect("ordinals do not end"));
            self.fail(format!("{REJECTIONS_IN_A_ROW_MAX} rejections in a row, the last: {reason}"), next_id);
            self.conclude();
            return None;
        }
        Some(rejected)
    }
}

#[cfg(test)]
mod tests;
