//! The durable checkpoints of named subscriptions, in the state beside the log.
//!
//! A checkpoint is handed to the operating system and not synced: one that is lost in a loss of power leads to events
//! that are delivered once more, never to one that is not delivered. So that this holds, the one that it falls back to
//! is synced: that of a subscription which does not begin at the beginning. It remembers its history.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Invalid, Result};
use crate::limits::SUBSCRIPTION_NAME_BYTES_MAX;
use crate::types::{Durability, Position};
use crate::{HistoryPoint, State, StateBatch, Store};

/// What the keys of checkpoints begin with.
const KEY_PREFIX: &str = "checkpoint-";

/// The checkpoint of one subscription.
#[derive(Debug)]
pub(super) struct Checkpoints {
    name: String,
    state: State,
    store: Store,
}

/// What is saved. The tag tells it from what others save under the same key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Saved {
    /// The last event that needs not be delivered again; `None` for a subscription that begins at the beginning.
    Subscription(Option<HistoryPoint>),
}

impl Checkpoints {
    /// The checkpoint of this name.
    pub(super) fn new(store: &Store, name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), state: store.state()?, store: store.clone() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn key(&self) -> String {
        format!("{KEY_PREFIX}{}", self.name)
    }

    /// What was saved; `None` if nothing was. The point inside is not checked.
    pub(super) fn load(&self) -> Result<Option<Saved>> {
        let Some(bytes) = self.state.get(&self.key())? else { return Ok(None) };
        let saved = serde_json::from_slice(&bytes).map_err(|error| Error::Codec {
            what: format!("the value of key {:?} is not the checkpoint of a subscription", self.key()),
            reason: error.to_string(),
        })?;
        Ok(Some(saved))
    }

    /// Saves where a subscription begins. No loss of power undoes it: the subscription would begin elsewhere then.
    pub(super) fn begin(&self, position: Option<Position>) -> Result<()> {
        let point = self.point(position)?;
        self.store.sync_upto(position)?;
        self.write(point, Durability::Synced)
    }

    pub(super) fn save(&self, position: Option<Position>) -> Result<()> {
        self.write(self.point(position)?, Durability::Os)
    }

    /// Makes what was loaded durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.state.sync_shown()
    }

    /// Whoever deletes it means that, and does not want it back after a loss of power.
    pub(super) fn delete(&self) -> Result<()> {
        let key = self.key();
        match self.state.versioned(&key)? {
            Some(_) => self.state.write(StateBatch::new().delete(key).durability(Durability::Synced)).map(drop),
            None => self.state.delete(key),
        }
    }

    fn point(&self, position: Option<Position>) -> Result<Option<HistoryPoint>> {
        position.map(|position| self.store.history_point(position)).transpose()
    }

    fn write(&self, point: Option<HistoryPoint>, durability: Durability) -> Result<()> {
        let json = serde_json::to_vec(&Saved::Subscription(point))
            .map_err(|error| Error::Codec { what: "cannot encode a checkpoint".into(), reason: error.to_string() })?;
        self.state.write(StateBatch::new().put(self.key(), json).durability(durability)).map(drop)
    }
}

fn check_name(name: &str) -> Result<()> {
    let problem = match name.len() {
        0 => "is empty".to_owned(),
        bytes if bytes > SUBSCRIPTION_NAME_BYTES_MAX => {
            format!("has {bytes} bytes, at most {SUBSCRIPTION_NAME_BYTES_MAX} are allowed")
        }
        _ => return Ok(()),
    };
    Err(Invalid::of("name", problem).into())
}
