//! How lives end: a close, a kill, a loss of power; and the last one, on a disk that works.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::check;
use super::following::Following;
use super::operation::{End, ReadSpec};
use super::sending::last_commit;
use super::world::{Medium, World};
use crate::error::Error;
use crate::storage::SimulatedDisk;
use crate::store::Store;

impl World {
    pub(super) fn end(&mut self, end: End) {
        let (store, following) = (self.store.take(), self.following.take());
        match (end, &self.medium) {
            (End::Close, _) => {
                if let Some(store) = store {
                    self.close(store, following);
                }
            }
            (End::Drop, _) | (_, Medium::Directory(_)) => drop((store, following)),
            (End::Kill | End::PowerLoss, Medium::Simulated(disk)) => {
                let disk = disk.clone();
                disk.stop();
                drop((store, following));
                self.crash(end, &disk);
            }
        }
        (self.watch, self.synced_watch) = (None, None);
    }

    fn crash(&mut self, end: End, disk: &SimulatedDisk) {
        self.is_troubled = false;
        if end == End::Kill {
            self.counts.kills += 1;
            disk.kill();
        } else {
            self.counts.power_losses += 1;
            // Readers are of the same machine.
            self.follower = None;
            disk.cut_power();
            self.model.lose_power();
            self.journal.lose_power();
        }
    }

    /// Closes the store. Who has another handle of it goes on reading, and appends nothing.
    fn close(&mut self, store: Store, following: Option<Following>) {
        let other = store.clone();
        self.note_all_durable(store.close(), "close");
        self.send_closed(&other);
        let compared = check::compare(&other, &self.model, &ReadSpec::default(), self.model.head());
        self.excused(compared, "read what is closed");
        if let Some(following) = following.filter(|_| !self.is_troubled) {
            self.follow_to_the_end(following);
        }
        if let Some(watch) = self.watch.take() {
            // One last look is owed to who watches, and no more.
            let waited = [(); 2].map(|()| watch.wait(Some(Duration::ZERO)));
            let is_over = matches!(waited, [Ok(true) | Err(Error::Closed), Err(Error::Closed)]);
            assert!(is_over, "a watch of a closed store: {waited:?}");
        }
    }

    /// The disk works from now on: the store is sound, takes appends, and is closed and opened without a loss.
    pub(super) fn finish(&mut self) {
        self.end(End::Kill);
        self.is_troubled = false;
        self.must_exist = self.is_made;
        self.admitted.store(usize::MAX, Ordering::Relaxed);
        self.verify();
        let store = self.opened().expect("a disk that works");
        self.send_new(&store, &last_commit());
        drop(store);
        self.end(End::Close);
        self.verify();
        let store = self.opened().expect("a disk that works");
        assert_eq!(store.open_report().cut_bytes, 0, "something was cut behind a close");
        drop(store);
        self.count_compactions();
        self.end(End::Close);
    }

    fn count_compactions(&mut self) {
        let names = self.disk().list("state/log").unwrap_or_default();
        let is_compacted = !names.is_empty() && !names.iter().any(|name| name == "0000000001.segment");
        self.counts.compacted += u64::from(is_compacted);
    }
}
