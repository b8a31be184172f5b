//! Process managers on both stores: the money transfer, the order with compensation, timers, late and repeated events,
//! failures, and what can be seen of them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod failures;
mod inspection;
mod migrating;
mod orders;
mod repeated;
#[path = "../sagas/mod.rs"]
mod sagas;
mod timers;
mod transfers;

use annals::{Position, ProcessHandle, ProcessManager, ProcessStatus};

use sagas::Application;

fn failed(reason: &str) -> ProcessStatus {
    ProcessStatus::Failed { reason: reason.into() }
}

fn status<P: ProcessManager>(process: &ProcessHandle<P>, id: &str) -> ProcessStatus {
    process.instances().get(id).unwrap().unwrap().status().clone()
}

fn head(application: &Application) -> u64 {
    application.store.head().unwrap().map_or(0, Position::number)
}
