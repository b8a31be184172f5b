//! The conformance suite holds for this crate's stores, and catches stores that do not conform.

#![cfg(feature = "testing")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use files directly")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use annals::testing::conformance::{self, Backend, Batch, EventStore, Refused, Selection, Written};
use annals::testing::{FaultyDisk, clock, options};
use annals::{Durability, ExpectedVersion, Options, ReadMode, RecordedEvent, Store};
use tempfile::TempDir;

struct InMemory;

impl Backend for InMemory {
    type Store = Store;

    fn make(&self) -> Store {
        Store::in_memory().unwrap()
    }

    fn reopen(&self, store: Store) -> Store {
        store
    }
}

/// A store in a directory that goes away with it.
struct OnDisk {
    store: Store,
    path: PathBuf,
    directory: Option<TempDir>,
}

impl EventStore for OnDisk {
    fn append(&self, batch: &Batch) -> Result<Written, Refused> {
        EventStore::append(&self.store, batch)
    }

    fn read(&self, selection: &Selection) -> Result<Vec<RecordedEvent>, String> {
        EventStore::read(&self.store, selection)
    }

    fn head(&self) -> Result<u64, String> {
        EventStore::head(&self.store)
    }

    fn version(&self, stream: &str) -> Result<u64, String> {
        EventStore::version(&self.store, stream)
    }
}

struct Directories(Options);

impl Backend for Directories {
    type Store = OnDisk;

    fn make(&self) -> OnDisk {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        OnDisk { store: self.0.clone().open(&path).unwrap(), path, directory: Some(directory) }
    }

    fn reopen(&self, mut store: OnDisk) -> OnDisk {
        let directory = store.directory.take();
        let path = store.path.clone();
        store.store.close().unwrap();
        OnDisk { store: self.0.clone().open_existing(&path).unwrap(), path, directory }
    }
}

/// A disk that loses power at each reopening.
struct Powerless;

struct OnFaultyDisk {
    store: Store,
    disk: FaultyDisk,
}

impl EventStore for OnFaultyDisk {
    fn append(&self, batch: &Batch) -> Result<Written, Refused> {
        EventStore::append(&self.store, batch)
    }

    fn read(&self, selection: &Selection) -> Result<Vec<RecordedEvent>, String> {
        EventStore::read(&self.store, selection)
    }

    fn head(&self) -> Result<u64, String> {
        EventStore::head(&self.store)
    }

    fn version(&self, stream: &str) -> Result<u64, String> {
        EventStore::version(&self.store, stream)
    }
}

impl Backend for Powerless {
    type Store = OnFaultyDisk;

    fn make(&self) -> OnFaultyDisk {
        let disk = FaultyDisk::new();
        OnFaultyDisk { store: disk.open(options(&clock())).unwrap(), disk }
    }

    fn reopen(&self, store: OnFaultyDisk) -> OnFaultyDisk {
        let disk = store.disk.lose_power(7);
        OnFaultyDisk { store: disk.open(options(&clock())).unwrap(), disk }
    }
}

#[test]
fn the_store_in_memory_conforms() {
    conformance::check(&InMemory);
}

#[test]
fn the_store_on_disk_conforms() {
    conformance::check(&Directories(Options::new()));
    let os = Options::new().durability(Durability::Os);
    conformance::check(&Directories(os.read_mode(ReadMode::Pread).without_background_work()));
}

/// What was appended with the default durability is there after a loss of power.
#[test]
fn the_store_conforms_though_power_is_lost_whenever_it_is_opened_again() {
    conformance::check(&Powerless);
}

#[test]
fn every_case_has_a_name_of_its_own() {
    let names: Vec<&str> = conformance::cases().collect();
    assert!(names.len() >= 28, "{names:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert!(names.iter().all(|name| name.starts_with('g')));
}

/// What is wrong with a store.
#[derive(Debug, Clone, Copy)]
enum Flaw {
    IgnoresExpectations,
    ForgetsWhenReopened,
    ReadsBackwardsForwards,
    DropsTags,
    ForgetsConditions,
    WritesTwice,
    LimitsBeforeFiltering,
    WritesPartOfACommit,
    LosesMetadata,
    TellsOneProblem,
    AcceptsEmptyCommits,
    IgnoresAfter,
    ShowsCommitsInPart,
}

/// A store with a flaw.
struct Flawed {
    store: Store,
    flaw: Flaw,
}

impl EventStore for Flawed {
    fn append(&self, batch: &Batch) -> Result<Written, Refused> {
        let mut batch = batch.clone();
        match self.flaw {
            Flaw::IgnoresExpectations => batch.parts.iter_mut().for_each(|part| part.expected = ExpectedVersion::Any),
            Flaw::DropsTags => batch.parts.iter_mut().flat_map(|part| &mut part.events).for_each(|e| e.tags.clear()),
            Flaw::ForgetsConditions => batch.conditions.clear(),
            Flaw::WritesTwice => {
                // Without ids nothing can be recognised when it is sent again.
                batch.parts.iter_mut().flat_map(|part| &mut part.events).for_each(|event| event.id = None);
            }
            Flaw::WritesPartOfACommit => batch.parts.truncate(1),
            Flaw::AcceptsEmptyCommits if batch.parts.iter().all(|part| part.events.is_empty()) => {
                return Ok(Written { first: 0, last: 0, versions: Vec::new(), deduplicated: false });
            }
            _ => {}
        }
        EventStore::append(&self.store, &batch).map_err(|refused| match (self.flaw, refused) {
            (Flaw::TellsOneProblem, Refused::Invalid(mut invalid)) => {
                invalid.violations.truncate(1);
                Refused::Invalid(invalid)
            }
            (_, refused) => refused,
        })
    }

    fn read(&self, selection: &Selection) -> Result<Vec<RecordedEvent>, String> {
        let mut selection = selection.clone();
        let limit = selection.limit;
        match self.flaw {
            Flaw::ReadsBackwardsForwards => selection.reverse = false,
            Flaw::LimitsBeforeFiltering if limit != u64::MAX => selection.limit = limit.saturating_sub(1),
            Flaw::IgnoresAfter => selection.after = None,
            _ => {}
        }
        let mut events = EventStore::read(&self.store, &selection)?;
        match self.flaw {
            Flaw::LosesMetadata => {
                for event in &mut events {
                    event.metadata = None;
                }
            }
            // Only of many, so that no other case notices.
            Flaw::ShowsCommitsInPart if events.len() >= 100 => drop(events.pop()),
            _ => {}
        }
        Ok(events)
    }

    fn head(&self) -> Result<u64, String> {
        EventStore::head(&self.store)
    }

    fn version(&self, stream: &str) -> Result<u64, String> {
        EventStore::version(&self.store, stream)
    }
}

impl Backend for Flaw {
    type Store = Flawed;

    fn make(&self) -> Flawed {
        Flawed { store: Store::in_memory().unwrap(), flaw: *self }
    }

    fn reopen(&self, store: Flawed) -> Flawed {
        match self {
            Flaw::ForgetsWhenReopened => self.make(),
            _ => store,
        }
    }
}

/// Each flaw is caught, and by a case that is about it.
#[test]
fn the_suite_catches_stores_that_do_not_conform() {
    for (flaw, case) in [
        (Flaw::IgnoresExpectations, "g02_a_version_that_is_not_the_last_is_a_conflict"),
        (Flaw::ForgetsWhenReopened, "g02_versions_count_the_events_of_a_stream"),
        (Flaw::ReadsBackwardsForwards, "g25_events_are_read_in_ranges_and_both_ways"),
        (Flaw::DropsTags, "g27_what_is_read_is_what_was_appended"),
        (Flaw::ForgetsConditions, "g16_a_condition_fails_by_what_lies_after_its_position"),
        (Flaw::WritesTwice, "g11_the_same_events_at_the_same_place_are_found"),
        (Flaw::LimitsBeforeFiltering, "g25_events_are_read_in_ranges_and_both_ways"),
        (Flaw::WritesPartOfACommit, "g06_several_streams_are_written_together"),
        (Flaw::LosesMetadata, "g27_what_is_read_is_what_was_appended"),
        (Flaw::TellsOneProblem, "g10_all_problems_are_told_at_once"),
        (Flaw::AcceptsEmptyCommits, "g01_an_empty_commit_is_invalid"),
        (Flaw::IgnoresAfter, "g26_pages_are_the_whole"),
        (Flaw::ShowsCommitsInPart, "g28_readers_see_whole_commits_without_holes"),
    ] {
        let failures = conformance::run(&flaw);
        assert!(failures.iter().any(|failure| failure.case == case), "{flaw:?}: {failures:?}");
        assert!(failures.len() < conformance::cases().count(), "{flaw:?} breaks some cases, not all");
    }
}

#[test]
#[should_panic(expected = "g01_an_empty_commit_is_invalid: nothing at all: expected it to be invalid")]
fn a_check_that_fails_says_what_came() {
    conformance::check(&Flaw::AcceptsEmptyCommits);
}
