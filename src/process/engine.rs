//! The steps of a process manager: react, record, dispatch, record what came of it.
//!
//! 1. An event is told to its instance, and the new state is recorded with everything that was asked for, in one commit.
//!    If the process dies before, the event comes again and finds nothing recorded; if it dies after, the event comes
//!    again and is found to be handled.
//! 2. What is recorded as pending is dispatched, under ids that were recorded with it. If the process dies before the
//!    outcome is recorded, it is dispatched again under the same ids.
//! 3. The outcome is recorded, with the reaction to a rejection, and the second step begins again.
//!
//! Before an instance is told anything, what it has pending is settled. So an instance that cannot get on holds back
//! whatever comes for it, and nothing overtakes, unless the policy parks: what is parked is told when it is retried.
//! The runner makes it durable, with its checkpoint, before the next event is told: the record of an instance that
//! begins does not say what was parked before it.

use std::error::Error as StdError;
use std::fmt;

use uuid::Uuid;

use super::dispatch::{Dispatch, DispatchError, Rejection};
use super::ids;
use super::instance::{Instance, Place, Timer};
use super::manager::ProcessManager;
use super::reactions::Reactions;
use super::record::{self, Cause, Rejected};
use super::streams::{Current, Step, Streams, check_instance};
use crate::error::Result;
use crate::{Event, EventCodec, HandlerError, Metadata, Query};

/// What carries out the commands of a process manager.
pub(super) type DispatchFn<C> = dyn FnMut(&C, &Dispatch<'_>) -> Result<(), DispatchError> + Send;

/// The shape of what is recorded of an instance of `P`.
pub(super) type CurrentOf<P> = Current<P, <P as ProcessManager>::Command>;

/// The streams of `P`.
pub(super) type StreamsOf<P> = Streams<P, <P as ProcessManager>::Command>;

type StepOf<P> = Step<P, <P as ProcessManager>::Command>;

/// A process manager, and what carries out its commands. It owns no state: every step begins with what the store has.
pub(super) struct Engine<P: ProcessManager> {
    pub(super) codec: EventCodec<P::Event>,
    pub(super) dispatch: Box<DispatchFn<P::Command>>,
    /// Whether what asks for a command is synced before it is dispatched.
    pub(super) syncs: bool,
}

/// An event that is told to an instance.
struct Told<'a, 'e, E> {
    event: &'a Event<'e>,
    place: Place,
    typed: &'a E,
    turn: Turn,
}

/// When an event comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Behind all that came before.
    InOrder,
    /// It was parked, and later ones overtook it.
    Overtaken,
}

/// What came of dispatching what was pending, from the first on.
struct Outcomes {
    dispatched: Vec<Uuid>,
    rejected: Option<(Uuid, Rejection)>,
    failure: Option<HandlerError>,
}

impl<P: ProcessManager> Engine<P> {
    /// What the process manager listens to: its events, and its own timers.
    pub(super) fn query(&self) -> Query {
        let timers = Query::category(P::NAME).and_types([record::TIMER_DUE]);
        P::query(&self.codec).or(timers)
    }

    pub(super) fn handle(&mut self, streams: &StreamsOf<P>, event: &Event<'_>, turn: Turn) -> Result<(), HandlerError> {
        if event.category() == P::NAME {
            return self.handle_own(streams, event);
        }
        if !self.codec.event_types().iter().any(|event_type| event_type == event.event_type()) {
            return Ok(());
        }
        for (ordinal, typed) in (0..).zip(self.codec.decode(event)?) {
            let Some(id) = P::instance_of(&typed, event) else { continue };
            check_instance(&id)?;
            let place = Place { position: event.position(), ordinal };
            self.handle_event(streams, &id, &Told { event, place, typed: &typed, turn })?;
        }
        Ok(())
    }

    fn handle_event(
        &mut self,
        streams: &StreamsOf<P>,
        id: &str,
        told: &Told<'_, '_, P::Event>,
    ) -> Result<(), HandlerError> {
        let mut current = self.settled(streams, id)?;
        // The timers of the instance may write to its stream meanwhile.
        while let Some(step) = step_of_event(streams, id, current, told)? {
            if let Some(written) = streams.write(id, step)? {
                return self.settle(streams, id, written).map(drop);
            }
            current = streams.read(id)?;
        }
        Ok(())
    }

    /// An event of a stream of the process manager's own: only timers that are due are of interest.
    fn handle_own(&mut self, streams: &StreamsOf<P>, event: &Event<'_>) -> Result<(), HandlerError> {
        let Some((_, id)) = event.stream().split_once('-') else { return Ok(()) };
        let Some(timer) = record::timer_due(event)? else { return Ok(()) };
        let mut current = self.settled(streams, id)?;
        while let Some(step) = step_of_timer::<P>(id, current, event, &timer)? {
            if let Some(written) = streams.write(id, step)? {
                return self.settle(streams, id, written).map(drop);
            }
            current = streams.read(id)?;
        }
        Ok(())
    }

    /// The instance with nothing pending; `None` if it never began.
    fn settled(&mut self, streams: &StreamsOf<P>, id: &str) -> Result<Option<CurrentOf<P>>, HandlerError> {
        match streams.read(id)? {
            Some(current) => self.settle(streams, id, current).map(Some),
            None => Ok(None),
        }
    }

    /// Dispatches what is pending, until nothing is.
    fn settle(
        &mut self,
        streams: &StreamsOf<P>,
        id: &str,
        mut current: CurrentOf<P>,
    ) -> Result<CurrentOf<P>, HandlerError> {
        while !current.instance.pending.is_empty() {
            if self.syncs && streams.store.synced_head()? < streams.store.head()? {
                streams.store.sync()?;
            }
            let outcomes = self.dispatch_pending(id, &current);
            current = record_outcomes(streams, id, current, &outcomes)?;
            if let Some(failure) = outcomes.failure {
                return Err(failure);
            }
        }
        Ok(current)
    }

    /// Dispatches what is pending, up to the first command that does not succeed.
    fn dispatch_pending(&mut self, id: &str, current: &CurrentOf<P>) -> Outcomes {
        let mut outcomes = Outcomes { dispatched: Vec::new(), rejected: None, failure: None };
        for pending in &current.instance.pending {
            let dispatch = Dispatch::new(id, pending.id, &current.metadata);
            match (self.dispatch)(&pending.command, &dispatch) {
                Ok(()) => outcomes.dispatched.push(pending.id),
                Err(DispatchError::Rejected(rejection)) => {
                    outcomes.rejected = Some((pending.id, rejection));
                    break;
                }
                Err(DispatchError::Failed(error)) => {
                    let command = format!("{} of {}-{id}", pending.id, P::NAME);
                    outcomes.failure = Some(CommandFailed { command, error }.into());
                    break;
                }
            }
        }
        outcomes
    }
}

/// A failure with the command that it is of.
#[derive(Debug)]
struct CommandFailed {
    command: String,
    error: Box<dyn StdError + Send + Sync>,
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command {} failed: {}", self.command, self.error)
    }
}

impl StdError for CommandFailed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.error)
    }
}

impl Outcomes {
    /// The commands that they are of.
    fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.dispatched.iter().copied().chain(self.rejected.iter().map(|(id, _)| *id))
    }

    /// Whether they are of the commands that are pending first. They are not if somebody ended the instance meanwhile.
    fn are_of<S, C>(&self, instance: &Instance<S, C>) -> bool {
        self.ids().count() <= instance.pending.len()
            && self.ids().zip(&instance.pending).all(|(id, pending)| pending.id == id)
    }
}

/// Records what came of commands, with the reaction to a rejection.
fn record_outcomes<P: ProcessManager>(
    streams: &StreamsOf<P>,
    id: &str,
    mut current: CurrentOf<P>,
    outcomes: &Outcomes,
) -> Result<CurrentOf<P>> {
    let Some(first) = outcomes.ids().next() else { return Ok(current) };
    while outcomes.are_of(&current.instance) {
        let (version, metadata) = (current.version, current.metadata);
        let (instance, cause) = after_outcomes::<P>(streams, id, current.instance, outcomes)?;
        let step = Step { version: Some(version), id: ids::of_outcome(first), cause, instance, metadata };
        if let Some(written) = streams.write(id, step)? {
            return Ok(written);
        }
        current = streams.read(id)?.expect("an instance that was read has a stream");
    }
    Ok(current)
}

fn after_outcomes<P: ProcessManager>(
    streams: &StreamsOf<P>,
    id: &str,
    mut instance: Instance<P, P::Command>,
    outcomes: &Outcomes,
) -> Result<(Instance<P, P::Command>, Cause)> {
    let succeeded = outcomes.dispatched.iter().map(|_| instance.succeeded()).collect();
    if let Some((_, rejection)) = &outcomes.rejected
        && let Some(command) = instance.rejected(rejection.reason())
    {
        let mut reactions = Reactions::new(id, streams.store.clock().now());
        instance.state.on_rejected(&command.command, rejection, &mut reactions);
        instance.apply(ids::of_rejection(command.id), reactions)?;
    }
    let rejected = outcomes.rejected.as_ref();
    let rejected = rejected.map(|(id, rejection)| Rejected { id: *id, reason: rejection.reason().to_owned() });
    Ok((instance, Cause::Settled { succeeded, rejected }))
}

/// The step in which an instance reacts to an event; `None` if there is nothing to do.
fn step_of_event<P: ProcessManager>(
    streams: &StreamsOf<P>,
    id: &str,
    current: Option<CurrentOf<P>>,
    told: &Told<'_, '_, P::Event>,
) -> Result<Option<StepOf<P>>> {
    let mut reactions = Reactions::new(id, told.event.commit_time());
    let (version, mut instance) = match current {
        Some(current) => {
            if was_handled(streams, id, &current.instance, told)? {
                return Ok(None);
            }
            (Some(current.version), current.instance)
        }
        None => (None, Instance::new(told.place, P::default())),
    };
    if instance.status.has_ended() {
        instance.state.on_late_event(told.typed, &mut reactions);
    } else {
        instance.state.on_event(told.typed, &mut reactions);
    }
    let is_of_no_account = match version {
        Some(_) => instance.status.has_ended(),
        None => is_default(&instance.state)?,
    };
    if is_of_no_account && reactions.is_empty() {
        return Ok(None);
    }
    let (event, place) = (told.event, told.place);
    let step = ids::of_reaction(P::NAME, id, event.id(), place.ordinal);
    let cause = Cause::Event { id: event.id(), place, event_type: event.event_type().to_owned() };
    instance.reacted(place, step, reactions)?;
    Ok(Some(Step { version, id: step, cause, instance, metadata: Metadata::caused_by(event) }))
}

/// The step in which an instance reacts to a timer that is due; `None` if it was cancelled or reacted to.
fn step_of_timer<P: ProcessManager>(
    id: &str,
    current: Option<CurrentOf<P>>,
    event: &Event<'_>,
    timer: &Timer,
) -> Result<Option<StepOf<P>>> {
    let Some(Current { version, mut instance, .. }) = current else { return Ok(None) };
    if !instance.take_fired(timer) {
        return Ok(None);
    }
    let mut reactions = Reactions::new(id, event.commit_time());
    instance.state.on_timer(&timer.name, &mut reactions);
    let place = Place { position: event.position(), ordinal: 0 };
    let step = ids::of_reaction(P::NAME, id, event.id(), 0);
    let cause = Cause::Timer { id: event.id(), place, timer: timer.name.clone() };
    instance.reacted(place, step, reactions)?;
    Ok(Some(Step { version: Some(version), id: step, cause, instance, metadata: Metadata::caused_by(event) }))
}

/// Whether an instance has reacted to an event, or passed it over before it began.
///
/// Events come in the order of their positions, but for those that were parked and are retried later: only for these, and
/// for those that come again after a crash, the stream is looked through.
fn was_handled<P: ProcessManager>(
    streams: &StreamsOf<P>,
    id: &str,
    instance: &Instance<P, P::Command>,
    told: &Told<'_, '_, P::Event>,
) -> Result<bool> {
    let place = told.place;
    if place > instance.handled {
        return Ok(false);
    }
    if place == instance.handled || (place < instance.began && told.turn == Turn::InOrder) {
        return Ok(true);
    }
    streams.any(id, |event| Ok(record::place_of_reaction(event)? == Some(place)))
}

/// Whether a state is that of an instance that nothing happened to.
fn is_default<P: ProcessManager>(state: &P) -> Result<bool> {
    let encoded = |state: &P| {
        serde_json::to_value(state).map_err(|error| crate::Error::Codec {
            what: format!("cannot encode the state of the process manager {:?}", P::NAME),
            reason: error.to_string(),
        })
    };
    Ok(encoded(state)? == encoded(&P::default())?)
}

/// Writes that a timer is due, if it is set; otherwise what is known of the instance is corrected.
pub(super) fn fire<P: ProcessManager>(streams: &StreamsOf<P>, id: &str, timer: &Timer) -> Result<()> {
    while let Some(mut current) = streams.read(id)? {
        if !current.instance.fire(timer) {
            break;
        }
        let step = Step {
            version: Some(current.version),
            id: ids::of_timer(P::NAME, id, &timer.name, timer.due, current.version.number()),
            cause: Cause::Due { timer: timer.name.clone(), due: timer.due },
            instance: current.instance,
            metadata: current.metadata,
        };
        if streams.write(id, step)?.is_some() {
            return Ok(());
        }
    }
    streams.look_again(id)
}

/// Ends an instance as failed, whatever it has pending; `false` if there is none that is open.
pub(super) fn abandon<P: ProcessManager>(streams: &StreamsOf<P>, id: &str, reason: &str) -> Result<bool> {
    while let Some(mut current) = streams.read(id)? {
        if !current.instance.is_open() {
            break;
        }
        current.instance.abandon(reason);
        let step = Step {
            version: Some(current.version),
            id: ids::of_end(P::NAME, id, current.version.number()),
            cause: Cause::Abandoned { reason: reason.to_owned() },
            instance: current.instance,
            metadata: current.metadata,
        };
        if streams.write(id, step)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
