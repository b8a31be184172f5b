//! Process managers, also called sagas: they listen to events, tell aggregates what to do, wait, and undo what was done
//! when something fails.
//!
//! Each instance lives in a stream of its own, `<name>-<instance>`, of the same store. What happened to it, its new
//! state, and everything that it asked for are one event in one commit; commands are dispatched after that, and the
//! outcome is recorded. All ids follow from the name, the instance, and the event that was reacted to, so that what is
//! done again after a crash is recognised. See [`ProcessManager`] and [`Store::process`](crate::Store::process).
//!
//! Never reads a clock but that of the store, never acts on what is not recorded, and keeps nothing that could not be
//! found in the log again. An instance that has ended costs nothing but its events.
//!
//! | file | role |
//! |---|---|
//! | `manager` | what an application writes |
//! | `reactions` | what it asks for |
//! | `instance` | one instance, and how each step changes it: pure |
//! | `record`, `ids` | what is written, and the ids of it |
//! | `streams` | reading and writing instances |
//! | `engine` | the steps: react, record, dispatch, record the outcome |
//! | `open_instances`, `timers` | what is open and due, and the thread that fires it |
//! | `work`, `handle` | how it is run |
//! | `dispatch`, `inspect` | what a dispatcher is given; looking at instances |

mod dispatch;
mod engine;
mod handle;
mod ids;
mod inspect;
mod instance;
mod manager;
mod open_instances;
mod reactions;
mod record;
mod streams;
mod timers;
mod work;

#[cfg(test)]
mod tests;

pub use dispatch::{Dispatch, DispatchError, Rejection};
pub use handle::{ProcessBuilder, ProcessHandle};
pub use inspect::{ProcessInstance, ProcessInstances, ProcessTimer};
pub use instance::ProcessStatus;
pub use manager::ProcessManager;
pub use reactions::{Ending, Issued, Reactions};
