//! Accounts, as an application would write them, that count how often an event is applied.

use std::cell::Cell;
use std::fmt::Debug;

use annals::{Aggregate, Error, EventTypes, ExecuteError};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum AccountEvent {
    Opened { owner: String },
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}

pub(crate) use AccountEvent::{Deposited, Opened, Withdrawn};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) owner: Option<String>,
    pub(crate) cents: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refused {
    NotOpen,
    OpenAlready,
    Overdrawn,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        APPLIED.set(APPLIED.get() + 1);
        match event {
            Opened { owner } => self.owner = Some(owner.clone()),
            Deposited { cents } => self.cents += cents,
            Withdrawn { cents } => self.cents -= cents,
        }
    }

    fn event_types() -> EventTypes<AccountEvent> {
        EventTypes::new().samples([opened(), Deposited { cents: 3 }, Withdrawn { cents: 2 }])
    }
}

pub(crate) fn opened() -> AccountEvent {
    Opened { owner: "Alice".into() }
}

impl Account {
    pub(crate) fn open(&self) -> Result<AccountEvent, Refused> {
        if self.owner.is_some() { Err(Refused::OpenAlready) } else { Ok(opened()) }
    }

    pub(crate) fn deposit(&self, cents: u64) -> Result<AccountEvent, Refused> {
        if self.owner.is_none() { Err(Refused::NotOpen) } else { Ok(Deposited { cents }) }
    }

    pub(crate) fn withdraw(&self, cents: u64) -> Result<Option<AccountEvent>, Refused> {
        match cents {
            0 => Ok(None),
            _ if cents > self.cents => Err(Refused::Overdrawn),
            _ => Ok(Some(Withdrawn { cents })),
        }
    }
}

thread_local! {
    static APPLIED: Cell<u64> = const { Cell::new(0) };
}

/// How many events this thread applies to accounts while it does something.
pub(crate) fn applied<T>(action: impl FnOnce() -> T) -> (u64, T) {
    let before = APPLIED.get();
    let outcome = action();
    (APPLIED.get() - before, outcome)
}

/// The rejection that a command must have come to.
pub(crate) fn rejection<T: Debug, R: Debug>(executed: Result<T, ExecuteError<R>>) -> R {
    match executed {
        Err(ExecuteError::Rejected(rejection)) => rejection,
        other => panic!("expected a rejection, got {other:?}"),
    }
}

/// The error of the store that a command must have come to.
pub(crate) fn store_error<T: Debug, R: Debug>(executed: Result<T, ExecuteError<R>>) -> Error {
    match executed {
        Err(ExecuteError::Store(error)) => error,
        other => panic!("expected an error of the store, got {other:?}"),
    }
}
