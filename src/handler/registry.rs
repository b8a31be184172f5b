//! Which handlers a store has: those that were ever started are registered in its state, those that run are known to the
//! process.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keys;
use super::kind::HandlerKind;
use super::letters::{decode, delete_all, encode};
use super::policy::OnError;
use super::shared::{HandlerState, Shared};
use crate::error::{Error, Invalid, Result};
use crate::types::Timestamp;
use crate::{Checkpoint, Query, StateBatch, Store};

/// The handlers of an open store that run, or have run and ended with an error.
#[derive(Debug, Default)]
pub(super) struct Registry {
    started: Mutex<Vec<Arc<Shared>>>,
}

/// What is remembered of a handler, whether it runs or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RegisteredHandler {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// What kind of work it does.
    pub kind: HandlerKind,
    /// The events that it handles.
    pub query: Query,
    /// What it does about events that it cannot handle.
    pub policy: OnError,
    /// When it was started for the first time.
    pub registered_at: Timestamp,
    /// What it does now; `None` if nobody has started it since the store was opened.
    #[serde(skip)]
    pub state: Option<HandlerState>,
}

impl RegisteredHandler {
    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.is_over())
    }
}

impl Registry {
    /// Notes that it runs. It takes the place of one that had its name before.
    pub(super) fn started(&self, shared: &Arc<Shared>) {
        let mut started = self.started.lock();
        started.retain(|other| other.name != shared.name);
        started.push(Arc::clone(shared));
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Shared>> {
        self.started.lock().iter().find(|shared| shared.name == name).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Shared>> {
        self.started.lock().clone()
    }

    fn forget(&self, name: &str) {
        self.started.lock().retain(|shared| shared.name != name);
    }
}

/// Remembers the handler, unless its name is that of something else. On a store that is open for reading nothing can be
/// remembered.
pub(super) fn register(store: &Store, shared: &Shared, query: &Query, policy: &OnError) -> Result<()> {
    let (state, key) = (store.state()?, keys::registration(&shared.name));
    let known = state.get(&key)?.map(|bytes| decode::<RegisteredHandler>("handler", &key, &bytes)).transpose()?;
    match &known {
        Some(known) => check_kind(&shared.name, known.kind, shared.kind)?,
        // The place of a subscription of this name would be lost.
        None => drop(Checkpoint::load(store, &shared.name)?),
    }
    let registered_at = known.as_ref().map_or_else(|| store.clock().now(), |known| known.registered_at);
    let (kind, query, policy) = (shared.kind, query.clone(), policy.clone());
    let handler = RegisteredHandler { name: String::new(), kind, query, policy, registered_at, state: None };
    if known.as_ref() == Some(&handler) {
        return Ok(());
    }
    match state.put(key, encode(&handler)) {
        Ok(_) | Err(Error::ReadOnly) => Ok(()),
        Err(error) => Err(error),
    }
}

/// One checkpoint, and one list of dead letters, cannot be those of two kinds of work: a model would be taken to be where
/// a reactor came to.
fn check_kind(name: &str, known: HandlerKind, started: HandlerKind) -> Result<()> {
    if known == started {
        return Ok(());
    }
    let problem = format!("{name:?} is that of a {known}: Store::forget_handler frees it for a {started}");
    Err(Invalid::of("name", problem).into())
}

impl Store {
    /// The handlers that were ever started on this store, by name: the registration survives a restart, the code does not.
    /// What is registered and not [running](RegisteredHandler::is_running) was perhaps forgotten to be started.
    ///
    /// ```
    /// use annals::{OnError, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let mailer = store.react("mailer", |event| Ok(println!("{}", event.event_type()))).policy(OnError::park()).start()?;
    /// assert!(store.handlers()?.iter().all(|handler| handler.is_running()));
    /// mailer.stop()?;
    /// let idle: Vec<_> = store.handlers()?.into_iter().filter(|handler| !handler.is_running()).collect();
    /// assert_eq!(idle[0].name, "mailer");
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Store::state`]; [`Error::Codec`] if a registration cannot be read.
    pub fn handlers(&self) -> Result<Vec<RegisteredHandler>> {
        let (state, registry) = (self.state()?, self.attachment::<Registry>());
        let mut handlers = Vec::new();
        for key in state.keys(keys::REGISTRATIONS)? {
            let Some(bytes) = state.get(&key)? else { continue };
            let name = key[keys::REGISTRATIONS.len()..].to_owned();
            let now = registry.find(&name).map(|shared| shared.state());
            let handler = decode::<RegisteredHandler>("handler", &key, &bytes)?;
            handlers.push(RegisteredHandler { name, state: now, ..handler });
        }
        Ok(handlers)
    }

    /// Forgets a handler that does not run: its registration, its checkpoint in the state of the store, and its dead
    /// letters. Under its name another can begin anew. What its work keeps elsewhere stays. It is forgotten for good when
    /// this returns, also if the power fails.
    ///
    /// # Errors
    /// [`Error::Held`] if it runs; [`Error::Invalid`] if that is no name; those of [`State::write`](crate::State::write) and
    /// [`State::sync`](crate::State::sync).
    pub fn forget_handler(&self, name: &str) -> Result<()> {
        keys::check_name(name)?;
        let _held = self.hold(name)?;
        let state = self.state()?;
        // The registration goes last: what is half forgotten is still listed, and can be forgotten again.
        state.write(StateBatch::new().delete(keys::checkpoint(name)).delete(keys::mark(name)))?;
        delete_all(&state, &[keys::all_parked(name), keys::all_skipped(name)])?;
        state.delete(keys::registration(name))?;
        state.sync()?;
        self.attachment::<Registry>().forget(name);
        Ok(())
    }
}
