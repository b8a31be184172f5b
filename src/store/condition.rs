//! The condition of an open store: whether it takes appends, and how much space is left.

use super::{Phase, Side, Store};
use crate::error::{Error, Result};
use crate::log::LOG_DIR;

/// The condition of an open store.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Condition {
    /// Whether it takes appends: it was opened for writing, by this process and not by one that it was forked from, is not
    /// closed, and no write or sync has failed.
    pub is_writable: bool,
    /// The write or sync that failed, after which it takes no more appends until it is opened again.
    pub failure: Option<Error>,
    /// Bytes that the file system of the store has left; `None` where the operating system does not say, and for a store
    /// in memory.
    pub free_bytes: Option<u64>,
}

impl Store {
    /// The condition of the store, as of now. Costs a system call and reads nothing.
    ///
    /// ```
    /// use annals::Store;
    ///
    /// let store = Store::in_memory()?;
    /// assert!(store.condition()?.is_writable);
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if the operating system does not tell the free space.
    pub fn condition(&self) -> Result<Condition> {
        let inner = &self.handle.inner;
        // In a forked process a thread that was not forked with it may hold the locks behind this for ever.
        let (failure, is_running) = match &inner.side {
            Side::Writing(appender) if !inner.is_inherited() => {
                (appender.failure(), matches!(*self.handle.phase.lock(), Phase::Running(_)))
            }
            Side::Writing(_) | Side::Reading { .. } => (None, false),
        };
        let failed = |error| Error::io("ask for the free space of", inner.disk.locate(LOG_DIR), error);
        let free_bytes = inner.disk.free_bytes().map_err(failed)?;
        Ok(Condition { is_writable: is_running && failure.is_none(), failure, free_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::ExpectedVersion;
    use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
    use crate::store::{NewEvent, Options};

    fn append(store: &Store) -> bool {
        store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", "1")]).is_ok()
    }

    #[test]
    fn a_failed_sync_and_a_closed_store_are_told() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let options = Options::new().without_background_work();
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        assert!(append(&store) && store.condition().unwrap().is_writable);
        disk.inject(Fault::next(Call::Sync));
        assert!(!append(&store));
        let condition = store.condition().unwrap();
        assert!(!condition.is_writable && matches!(condition.failure, Some(Error::Io { .. })), "{condition:?}");
        let other = store.clone();
        let _ = store.close();
        assert!(!other.condition().unwrap().is_writable);
    }

    #[test]
    fn the_space_that_is_left_is_what_the_disk_says() {
        let disk = MemoryDisk::new();
        let options = Options::new().without_background_work();
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        assert_eq!(store.condition().unwrap().free_bytes, None);
        disk.set_budget(disk.used() + 1000);
        assert_eq!(store.condition().unwrap().free_bytes, Some(1000));
    }

    #[test]
    #[cfg(not(miri))]
    #[cfg(unix)]
    fn a_real_disk_has_some_left_and_a_reader_cannot_write() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(store.condition().unwrap().free_bytes.unwrap() > 0);
        let reader = Store::open_read_only(directory.path()).unwrap();
        assert!(!reader.condition().unwrap().is_writable);
    }
}
