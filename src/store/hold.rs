//! Names that are in use: subscriptions and handlers share one space of names in each open store.

use std::collections::HashSet;
use std::sync::Arc;

use super::Store;
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// The names that are held, of one open store.
#[derive(Debug, Default)]
struct HeldNames(Mutex<HashSet<String>>);

/// A name that is held; it is free again when this is dropped.
#[derive(Debug)]
#[must_use = "the name is free again when this is dropped"]
pub struct HeldName {
    name: String,
    names: Arc<HeldNames>,
}

impl Store {
    /// Holds a name, so that nobody else does what only one may do under it: subscriptions, handlers and projections hold
    /// theirs while they are active. Since a store has one writer, it is enough to know this in one process.
    ///
    /// ```
    /// use annals::{Error, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let held = store.hold("mailer")?;
    /// assert!(matches!(store.hold("mailer"), Err(Error::Held { .. })));
    /// drop(held);
    /// assert!(store.hold("mailer").is_ok());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Held`] if somebody holds it.
    pub fn hold(&self, name: impl Into<String>) -> Result<HeldName> {
        let (name, names) = (name.into(), self.attachment::<HeldNames>());
        if !names.0.lock().insert(name.clone()) {
            return Err(Error::Held { name });
        }
        Ok(HeldName { name, names })
    }
}

impl HeldName {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for HeldName {
    fn drop(&mut self) {
        self.names.0.lock().remove(&self.name);
    }
}
