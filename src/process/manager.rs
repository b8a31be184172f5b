//! What an application writes: the process manager itself, as a plain struct with pure functions.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dispatch::Rejection;
use super::reactions::Reactions;
use crate::{Event, EventCodec, EventTypes, Query};

/// A process manager, also called a saga: the state of one instance, and how it reacts to what happens.
///
/// The struct is the state. Its functions change it and say what should be done; they do nothing themselves, so that
/// the whole process can be read in one place and tested without a store.
///
/// ```
/// use std::time::Duration;
/// use annals::{Event, ProcessManager, Reactions};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Signup { confirmed: bool }
///
/// #[derive(Deserialize)]
/// enum SignupEvent { Registered { user: String }, Confirmed { user: String } }
///
/// #[derive(Serialize, Deserialize, Debug, PartialEq)]
/// enum SignupCommand { SendMail { user: String }, Forget { user: String } }
///
/// impl ProcessManager for Signup {
///     const NAME: &'static str = "signup";
///     type Event = SignupEvent;
///     type Command = SignupCommand;
///
///     fn instance_of(event: &SignupEvent, _: &Event<'_>) -> Option<String> {
///         let (SignupEvent::Registered { user } | SignupEvent::Confirmed { user }) = event;
///         Some(user.clone())
///     }
///
///     fn on_event(&mut self, event: &SignupEvent, reactions: &mut Reactions<SignupCommand>) {
///         match event {
///             SignupEvent::Registered { user } => {
///                 reactions.execute(SignupCommand::SendMail { user: user.clone() });
///                 reactions.after(Duration::from_secs(86_400), "expired");
///             }
///             SignupEvent::Confirmed { .. } => {
///                 self.confirmed = true;
///                 reactions.complete();
///             }
///         }
///     }
///
///     fn on_timer(&mut self, _: &str, reactions: &mut Reactions<SignupCommand>) {
///         reactions.execute(SignupCommand::Forget { user: reactions.instance().to_owned() });
///         reactions.fail("never confirmed");
///     }
/// }
/// ```
///
/// What the functions do must follow from their arguments alone. They may be called again for the same event, if the
/// first call was not recorded.
pub trait ProcessManager: Default + Serialize + DeserializeOwned + Send + 'static {
    /// The name: the category of the streams `<name>-<instance>` that the instances live in, and the name of the
    /// handler. 1 to [`PROCESS_NAME_BYTES_MAX`](crate::limits::PROCESS_NAME_BYTES_MAX) bytes without a `-`. No aggregate
    /// may have it too.
    const NAME: &'static str;

    /// The events that it listens to, of any aggregates: an enum with a variant for each type, which needs no fields but
    /// those that are of interest.
    type Event: DeserializeOwned + Send + Sync + 'static;

    /// The commands that it asks for. They are recorded before they are dispatched.
    type Command: Serialize + DeserializeOwned + Send + 'static;

    /// How events are named and upcast.
    fn event_types() -> EventTypes<Self::Event> {
        EventTypes::new()
    }

    /// Which events are read: all of the types that can be decoded. Narrow it where other categories use the same names.
    /// Events of other types are passed over.
    fn query(events: &EventCodec<Self::Event>) -> Query {
        events.query()
    }

    /// The instance that an event belongs to; `None` if it is of no interest. 1 to
    /// [`PROCESS_INSTANCE_BYTES_MAX`](crate::limits::PROCESS_INSTANCE_BYTES_MAX) bytes.
    fn instance_of(event: &Self::Event, recorded: &Event<'_>) -> Option<String>;

    /// Reacts to an event. The first event of an instance meets the default state; if it leaves that as it is and asks
    /// for nothing, the instance does not begin.
    fn on_event(&mut self, event: &Self::Event, reactions: &mut Reactions<Self::Command>);

    /// Reacts to a timer whose time has come. Not called for one that was cancelled meanwhile.
    fn on_timer(&mut self, timer: &str, reactions: &mut Reactions<Self::Command>) {
        let _ = (timer, reactions);
    }

    /// Reacts to the rejection of a command. Fails, unless it is written otherwise. The commands asked for behind it are
    /// dropped. Not called for compensations: their rejections are listed with the instance.
    fn on_rejected(
        &mut self,
        command: &Self::Command,
        rejection: &Rejection,
        reactions: &mut Reactions<Self::Command>,
    ) {
        let _ = command;
        reactions.fail(rejection.reason());
    }

    /// Reacts to an event that comes after the end of its instance, with commands if need be: a payment for an order that
    /// was cancelled is to be given back. Ignores it, unless it is written otherwise. Not told of rejections.
    fn on_late_event(&self, event: &Self::Event, reactions: &mut Reactions<Self::Command>) {
        let _ = (event, reactions);
    }
}
