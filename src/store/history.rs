//! Histories: whether a position that somebody remembers still names the event that it named.
//!
//! Power that fails after an `Os` commit, a restore or another store in the same place can give a position to another
//! event. Whoever remembers one remembers with it the store's id and the checksum of the commit there.

use serde::{Deserialize, Serialize};

use super::{Inner, Store};
use crate::error::{Error, Invalid, Result};
use crate::types::{Position, StoreId};

/// A position together with what tells its history from every other: what a checkpoint consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryPoint {
    /// The position.
    pub position: Position,
    /// The store.
    pub store: StoreId,
    /// The checksum of the commit there, which covers all commits before it.
    pub checksum: u32,
}

/// Why something is not of the history of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherHistory {
    OtherStore,
    AheadOfLog,
    NotKept,
    OtherCommit,
}

impl OtherHistory {
    fn reason(self) -> &'static str {
        match self {
            OtherHistory::OtherStore => "it is of another store",
            OtherHistory::AheadOfLog => "the log ends before it",
            OtherHistory::NotKept => "the log does not keep it any more",
            OtherHistory::OtherCommit => "another commit is there",
        }
    }
}

impl Store {
    /// What to remember of a position that is visible.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is beyond the visible head; [`Error::Corrupt`] or [`Error::Io`] if its commit cannot be
    /// read.
    pub fn history_point(&self, position: Position) -> Result<HistoryPoint> {
        let inner = &self.handle.inner;
        inner.catch_up()?;
        let (first, head) = (inner.first_kept_position(), inner.log.visible());
        if !(first..=head).contains(&position.number()) {
            let problem = format!("{position} is not in the log, which has the positions {first} to {head}");
            return Err(Invalid::of("position", problem).into());
        }
        Ok(HistoryPoint { position, store: self.id(), checksum: inner.checksum_at(position.number())? })
    }

    /// Checks that what was remembered is still so.
    ///
    /// # Errors
    /// [`Error::HistoryChanged`] if the position is another store's, beyond the visible head, or holds another commit
    /// now; [`Error::Corrupt`] or [`Error::Io`] if its commit cannot be read.
    pub fn check_history(&self, point: &HistoryPoint) -> Result<()> {
        self.handle.inner.catch_up()?;
        match self.handle.inner.other_history(point.store, point.position.number(), point.checksum)? {
            None => Ok(()),
            Some(other) => Err(Error::HistoryChanged { position: point.position, reason: other.reason().into() }),
        }
    }
}

impl Inner {
    /// Why this is not the history of the log, if it is not.
    pub(super) fn other_history(&self, store: StoreId, position: u64, checksum: u32) -> Result<Option<OtherHistory>> {
        Ok(if store != self.log.store() {
            Some(OtherHistory::OtherStore)
        } else if position > self.log.visible() {
            Some(OtherHistory::AheadOfLog)
        } else if position < self.first_kept_position() {
            Some(OtherHistory::NotKept)
        } else {
            (self.checksum_at(position)? != checksum).then_some(OtherHistory::OtherCommit)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::ExpectedVersion;
    use crate::storage::MemoryDisk;
    use crate::store::{NewEvent, Options};

    fn open(disk: &MemoryDisk) -> Store {
        Store::open_on(Arc::new(disk.clone()), Options::new().without_background_work(), true).unwrap()
    }

    fn append(store: &Store, payload: &str) {
        store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", payload)]).unwrap();
    }

    fn reason(store: &Store, point: &HistoryPoint) -> String {
        match store.check_history(point) {
            Err(Error::HistoryChanged { position, reason }) if position == point.position => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_point_holds_across_appends_and_a_reopen() {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        append(&store, "1");
        let point = store.history_point(Position::FIRST).unwrap();
        append(&store, "2");
        store.check_history(&point).unwrap();
        store.close().unwrap();
        let store = open(&disk);
        store.check_history(&point).unwrap();
        assert_eq!(store.history_point(Position::FIRST).unwrap(), point);
        let json = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<HistoryPoint>(&json).unwrap(), point);
    }

    #[test]
    fn every_difference_is_noticed_and_named() {
        let (store, other) = (open(&MemoryDisk::new()), open(&MemoryDisk::new()));
        append(&store, "1");
        append(&other, "1");
        let point = store.history_point(Position::FIRST).unwrap();
        assert!(reason(&other, &point).contains("another store"));
        let ahead = HistoryPoint { position: Position::new(2).unwrap(), ..point };
        assert!(reason(&store, &ahead).contains("ends before"));
        let changed = HistoryPoint { checksum: !point.checksum, ..point };
        assert!(reason(&store, &changed).contains("another commit"));
    }

    #[test]
    fn a_position_beyond_the_head_is_no_point() {
        let store = open(&MemoryDisk::new());
        assert!(matches!(store.history_point(Position::FIRST), Err(Error::Invalid(_))));
        append(&store, "1");
        assert!(store.history_point(Position::FIRST).is_ok());
        assert!(matches!(store.history_point(Position::new(2).unwrap()), Err(Error::Invalid(_))));
    }
}
