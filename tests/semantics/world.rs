//! The worlds that a case runs in: what it proves must not depend on where events happen to lie.

use std::ops::Deref;
use std::path::Path;

use annals::{Durability, Options, ReadMode, Store};
use tempfile::TempDir;

/// A store, and what happens to it between the steps of a case.
pub(crate) struct World {
    name: &'static str,
    options: Options,
    /// `None` for a store in memory.
    directory: Option<TempDir>,
    /// `None` only while the store is opened again.
    store: Option<Store>,
    between: Between,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    /// All background work is done, so that events go from windows to runs and runs are merged.
    Maintain,
    /// The store is closed and opened.
    Reopen,
    /// The store is dropped and opened.
    Drop,
}

/// Segments and indexes so small that a handful of events spreads over all of their parts.
pub(crate) fn tiny() -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(65_536)
        .index_tail_bytes_max(1024)
        .index_memory_bytes_max(64 * 1024)
}

/// Runs a case in every world.
pub(crate) fn check(case: impl Fn(&mut World)) {
    check_roomy(&case);
    let quiet = || tiny().without_background_work();
    run("tiny, in memory, maintained", quiet(), false, Between::Maintain, &case);
    run("tiny, in memory, never maintained", quiet(), false, Between::Nothing, &case);
    run("tiny, pread, reopened", tiny().read_mode(ReadMode::Pread), true, Between::Reopen, &case);
    run("tiny, mapped, not synced, dropped", tiny().durability(Durability::Os), true, Between::Drop, &case);
    let os = quiet().durability(Durability::Os);
    run("tiny, mapped, not synced, maintained", os, true, Between::Maintain, &case);
}

/// Runs a case in the worlds where a commit may have megabytes.
pub(crate) fn check_roomy(case: impl Fn(&mut World)) {
    run("in memory", Options::new(), false, Between::Nothing, &case);
    run("mapped, reopened", Options::new(), true, Between::Reopen, &case);
    let os = Options::new().durability(Durability::Os).read_mode(ReadMode::Pread);
    run("pread, not synced, maintained", os, true, Between::Maintain, &case);
}

fn run(name: &'static str, options: Options, on_disk: bool, between: Between, case: &dyn Fn(&mut World)) {
    let directory = on_disk.then(|| tempfile::tempdir().unwrap());
    let mut world = World { name, options, directory, store: None, between };
    world.store = Some(world.open());
    case(&mut world);
}

impl World {
    /// What may happen to a store between two steps happens.
    pub(crate) fn pause(&mut self) {
        match self.between {
            Between::Nothing => {}
            Between::Maintain => self.maintain().unwrap(),
            Between::Reopen => self.reopen(),
            Between::Drop => {
                if self.directory.is_some() {
                    self.store = None;
                    self.store = Some(self.open());
                }
            }
        }
    }

    /// Closes and opens the store, if it can be opened again.
    pub(crate) fn reopen(&mut self) {
        if self.directory.is_some() {
            self.store.take().unwrap().close().unwrap();
            self.store = Some(self.open());
        }
    }

    /// Holds an observation against the store in every state that its events can be read in: as they are, after all
    /// background work, after reopening it for either way of reading, and by readers beside the writer.
    pub(crate) fn observe(&mut self, observation: impl Fn(&Store)) {
        observation(self);
        self.maintain().unwrap();
        observation(self);
        if self.directory.is_none() {
            return;
        }
        for mode in [ReadMode::Map, ReadMode::Pread] {
            self.store.take().unwrap().close().unwrap();
            let options = self.options.clone().read_mode(mode);
            self.store = Some(options.clone().open_existing(self.path()).unwrap());
            observation(self);
            observation(&options.open_read_only(self.path()).unwrap());
        }
        self.reopen();
    }

    fn open(&self) -> Store {
        match &self.directory {
            None => self.options.clone().in_memory().unwrap(),
            Some(_) => self.options.clone().open(self.path()).unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }
}

impl Deref for World {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the world {:?}", self.name);
        }
    }
}
