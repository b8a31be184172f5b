//! Tenants: what they share is nothing, and what each may use is bounded.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use files directly")]

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use annals::limits::STORE_NAME_BYTES_MAX;
use annals::{
    Error, ExpectedVersion, ManualClock, NewEvent, Options, Query, Quota, Quotas, Store, TenantOptions, Tenants,
    TenantsOptions, Timestamp,
};
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);

struct World {
    directory: TempDir,
    clock: ManualClock,
    tenants: Tenants,
}

impl World {
    fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Tenants on a clock that stands still, of which so many may be open.
fn tenants(open_stores_max: usize) -> World {
    tenants_with(open_stores_max, Quotas::unlimited())
}

fn tenants_with(open_stores_max: usize, quotas: Quotas) -> World {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::default());
    let tenants = TenantsOptions::new()
        .open_stores_max(open_stores_max)
        .clock(clock.clone())
        .per_tenant(move |_| TenantOptions::new().store(Options::new().without_background_work()).quotas(quotas))
        .open(directory.path())
        .unwrap();
    World { directory, clock, tenants }
}

fn event() -> NewEvent {
    NewEvent::raw("Deposited", "5")
}

fn append(store: &Store, events: usize) -> Result<(), Error> {
    store.append("account-alice", ExpectedVersion::Any, vec![event(); events]).map(drop).map_err(Error::from)
}

fn count(store: &Store) -> u64 {
    store.read(Query::all()).count().unwrap()
}

/// What a quota refused, how much there would be, and the limit.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (String, Quota, u64, u64) {
    match result {
        Err(Error::Quota { tenant, what, used, limit }) => (tenant, what, used, limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tenants_share_nothing() {
    let world = tenants(8);
    let (acme, globex) = (world.tenants.store("acme").unwrap(), world.tenants.store("globex").unwrap());
    append(&acme, 3).unwrap();
    append(&globex, 1).unwrap();
    assert_eq!((count(&acme), count(&globex)), (3, 1));
    assert_ne!(acme.id(), globex.id());
    assert_eq!(world.tenants.names().unwrap(), ["acme", "globex"]);
    assert_eq!(world.tenants.store("acme").unwrap().id(), acme.id());
    assert!(matches!(world.tenants.existing_store("initech"), Err(Error::NotFound { .. })));
    assert_eq!(world.tenants.names().unwrap(), ["acme", "globex"], "asking for a tenant that must exist creates none");
    assert_eq!(world.tenants.usage("acme").unwrap().events, 3);
    assert_eq!(world.tenants.usage("acme").unwrap().bytes, acme.stats().unwrap().bytes);
}

#[test]
fn a_name_is_no_way_out_of_the_directory() {
    let world = tenants(8);
    let outside = world.path().join("..").join("annals-escape");
    for name in
        ["../annals-escape", "..", ".", "", "a/b", "a\\b", "/etc", "C:", "Acme", "nul", "com1", "a.b", "a b", "ä"]
    {
        for result in
            [world.tenants.store(name), world.tenants.existing_store(name), world.tenants.read_only_store(name)]
        {
            let Err(Error::Invalid(invalid)) = result else { panic!("{name:?} was accepted") };
            assert_eq!(invalid.violations[0].field, "name");
        }
        assert!(matches!(world.tenants.delete(name, SECOND), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(world.tenants.backup(name, "backup"), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(world.tenants.reload_quotas(name), Err(Error::Invalid(_))), "{name:?}");
    }
    assert!(!outside.exists());
    assert_eq!(std::fs::read_dir(world.path()).unwrap().count(), 0);
}

#[test]
fn the_longest_name_is_allowed_and_one_byte_more_is_not() {
    let world = tenants(8);
    world.tenants.store(&"a".repeat(STORE_NAME_BYTES_MAX)).unwrap();
    let Err(Error::Invalid(invalid)) = world.tenants.store(&"a".repeat(STORE_NAME_BYTES_MAX + 1)) else {
        panic!("it is too long")
    };
    assert!(invalid.to_string().contains("65 bytes, at most 64"), "{invalid}");
}

#[test]
fn events_are_admitted_up_to_the_quota() {
    let world = tenants_with(8, Quotas::unlimited().events_max(4));
    let acme = world.tenants.store("acme").unwrap();
    append(&acme, 3).unwrap();
    assert_eq!(refusal(append(&acme, 2)), ("acme".into(), Quota::Events, 5, 4));
    append(&acme, 1).unwrap();
    assert_eq!(refusal(append(&acme, 1)), ("acme".into(), Quota::Events, 5, 4));
    assert_eq!(count(&acme), 4, "what was refused was not written");
    // Another tenant has a quota of its own, and closing the store is no way around it.
    append(&world.tenants.store("globex").unwrap(), 4).unwrap();
    drop(acme);
    world.tenants.close_idle().unwrap();
    assert_eq!(refusal(append(&world.tenants.store("acme").unwrap(), 1)), ("acme".into(), Quota::Events, 5, 4));
}

#[test]
fn bytes_are_admitted_up_to_the_quota() {
    // Two stores that get the same commits have as many bytes.
    let model = tenants(8);
    let model = model.tenants.store("acme").unwrap();
    append(&model, 1).unwrap();
    let one = model.log_bytes().unwrap();
    append(&model, 1).unwrap();
    let two = model.log_bytes().unwrap();
    for (limit, fits) in [(two, true), (two - 1, false)] {
        let world = tenants_with(8, Quotas::unlimited().bytes_max(limit));
        let acme = world.tenants.store("acme").unwrap();
        append(&acme, 1).unwrap();
        assert_eq!(acme.log_bytes().unwrap(), one);
        let second = append(&acme, 1);
        match fits {
            true => second.unwrap(),
            false => assert_eq!(refusal(second), ("acme".into(), Quota::Bytes, two, limit)),
        }
    }
}

/// The headers of new segments were counted when the store was opened again, so that more fitted in before than after.
#[test]
fn a_quota_of_bytes_is_the_same_before_and_after_the_store_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let limit = 20_000;
    let tenants = TenantsOptions::new()
        .per_tenant(move |_| {
            let store = Options::new().segment_bytes_first(4_096).segment_bytes_max(4_096).without_background_work();
            TenantOptions::new().store(store).quotas(Quotas::unlimited().bytes_max(limit))
        })
        .open(directory.path())
        .unwrap();
    let acme = tenants.store("acme").unwrap();
    let refused = loop {
        let appended = append(&acme, 1);
        if appended.is_err() {
            break refusal(appended);
        }
        assert!(acme.log_bytes().unwrap() <= limit);
    };
    assert!(acme.stats().unwrap().segments > 3);
    drop(acme);
    tenants.close_idle().unwrap();
    let acme = tenants.store("acme").unwrap();
    let again = refusal(append(&acme, 1));
    assert_eq!((&refused.0, refused.1, refused.3), (&again.0, again.1, again.3));
}

#[test]
fn a_rate_is_kept_on_the_clock_of_the_tenants() {
    let world = tenants_with(8, Quotas::unlimited().events_per_second(2).burst_events(4));
    let acme = world.tenants.store("acme").unwrap();
    append(&acme, 4).unwrap();
    let (tenant, what, used, limit) = refusal(append(&acme, 2));
    assert_eq!((tenant.as_str(), used, limit), ("acme", 6, 4));
    assert_eq!(what, Quota::Rate { retry_after: Some(SECOND) });
    assert!(append(&acme, 2).unwrap_err().is_retryable());
    world.clock.advance(SECOND);
    append(&acme, 2).unwrap();
    refusal(append(&acme, 1));
    // What comes back to a closed store is the same bucket.
    drop(acme);
    world.tenants.close_idle().unwrap();
    let acme = world.tenants.store("acme").unwrap();
    let too_large = append(&acme, 5).unwrap_err();
    assert!(!too_large.is_retryable());
    assert!(matches!(refusal::<()>(Err(too_large)).1, Quota::Rate { retry_after: None }));
    refusal(append(&acme, 1));
    world.clock.advance(10 * SECOND);
    append(&acme, 4).unwrap();
}

#[test]
fn what_is_not_written_uses_nothing_up() {
    let world = tenants_with(8, Quotas::unlimited().events_max(2).events_per_second(2));
    let acme = world.tenants.store("acme").unwrap();
    let opened = || NewEvent::raw("Opened", "").id(annals::EventId::from_bytes([1; 16]));
    acme.append("account-alice", ExpectedVersion::NoStream, [opened()]).unwrap();
    for _ in 0..10 {
        assert!(acme.append("account-alice", ExpectedVersion::NoStream, [opened()]).unwrap().deduplicated());
        let conflict = acme.append("account-alice", ExpectedVersion::NoStream, [event()]).unwrap_err();
        assert!(matches!(conflict.error(), Error::Conflict(_)));
    }
    append(&acme, 1).unwrap();
    // Also when nothing more is admitted, what was written is found.
    assert!(acme.append("account-alice", ExpectedVersion::NoStream, [opened()]).unwrap().deduplicated());
}

#[test]
fn new_quotas_hold_when_they_are_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let limit = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(1));
    let current = std::sync::Arc::clone(&limit);
    let tenants = TenantsOptions::new()
        .per_tenant(move |_| {
            let events = current.load(std::sync::atomic::Ordering::Relaxed);
            TenantOptions::new().quotas(Quotas::unlimited().events_max(events))
        })
        .open(directory.path())
        .unwrap();
    let acme = tenants.store("acme").unwrap();
    append(&acme, 1).unwrap();
    limit.store(2, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(refusal(append(&acme, 1)).3, 1);
    tenants.reload_quotas("acme").unwrap();
    append(&acme, 1).unwrap();
    assert_eq!(refusal(append(&acme, 1)).3, 2);
}

#[test]
fn the_least_recently_used_store_is_closed_for_another() {
    let world = tenants(2);
    for name in ["a", "b"] {
        append(&world.tenants.store(name).unwrap(), 1).unwrap();
    }
    drop(world.tenants.store("a").unwrap());
    assert_eq!(world.tenants.open_stores(), 2);
    let c = world.tenants.store("c").unwrap();
    assert_eq!(world.tenants.open_stores(), 2);
    // "b" was used longest ago: another writer can have it now, and "a" not.
    Store::open(world.path().join("b")).unwrap();
    assert!(matches!(Store::open(world.path().join("a")), Err(Error::Locked { .. })));
    drop(c);
    assert_eq!(count(&world.tenants.store("b").unwrap()), 1, "what was closed is opened again");
}

#[test]
fn a_store_in_use_is_never_closed_for_another() {
    let world = tenants(2);
    let a = world.tenants.store("a").unwrap();
    append(&a, 2).unwrap();
    let b = world.tenants.store("b").unwrap();
    assert_eq!(refusal(world.tenants.store("c")), ("c".into(), Quota::OpenStores, 3, 2));
    // A clone is a use, and so is a read.
    let (clone, read) = (b.clone(), a.read(Query::all()));
    drop((a, b));
    assert_eq!(refusal(world.tenants.store("c")).1, Quota::OpenStores);
    drop(clone);
    drop(world.tenants.store("c").unwrap());
    assert_eq!(refusal_of_two(&world), 0);
    assert_eq!(read.count().unwrap(), 2);
    world.tenants.store("a").unwrap();
}

/// With "a" in use by a read, there is one place left, which two tenants can have in turn.
fn refusal_of_two(world: &World) -> usize {
    ["b", "c", "b", "c"].iter().filter(|name| world.tenants.store(name).is_err()).count()
}

#[test]
fn readers_count_as_open_stores_and_are_closed_with_their_last_handle() {
    let world = tenants(2);
    append(&world.tenants.store("a").unwrap(), 1).unwrap();
    let reader = world.tenants.read_only_store("a").unwrap();
    assert_eq!((world.tenants.open_stores(), count(&reader)), (2, 1));
    assert!(matches!(append(&reader, 1), Err(Error::ReadOnly)));
    // It follows the writer beside it.
    append(&world.tenants.store("a").unwrap(), 1).unwrap();
    assert_eq!(count(&reader), 2);
    drop(reader);
    assert_eq!(world.tenants.open_stores(), 1);
    assert!(matches!(world.tenants.read_only_store("b"), Err(Error::NotFound { .. })));
    assert_eq!(world.tenants.open_stores(), 1, "what could not be opened takes no place");
}

/// The guard of whoever had been lent the store took the place of the one that says that it is lent: it was closed
/// under the handle that was still used.
#[test]
fn a_store_that_is_lent_on_under_another_guard_is_still_in_use() {
    let world = tenants(2);
    let lent = world.tenants.store("a").unwrap();
    let guard = Arc::new(());
    let lent_on = lent.with_guard(guard.clone());
    drop(lent);
    world.tenants.close_idle().unwrap();
    assert_eq!((world.tenants.open_stores(), Arc::strong_count(&guard)), (1, 2));
    append(&lent_on, 1).unwrap();
    drop(lent_on);
    world.tenants.close_idle().unwrap();
    assert_eq!((world.tenants.open_stores(), Arc::strong_count(&guard)), (0, 1));
}

#[test]
fn a_store_that_was_closed_by_its_user_is_opened_again() {
    let world = tenants(2);
    let acme = world.tenants.store("acme").unwrap();
    append(&acme, 1).unwrap();
    acme.close().unwrap();
    let acme = world.tenants.store("acme").unwrap();
    append(&acme, 1).unwrap();
    assert_eq!((count(&acme), world.tenants.open_stores()), (2, 1));
}

#[test]
fn there_is_no_place_for_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let refused = TenantsOptions::new().open_stores_max(0).open(directory.path());
    assert!(matches!(refused, Err(Error::Invalid(invalid)) if invalid.violations[0].field == "open_stores_max"));
    TenantsOptions::new().open_stores_max(1).open(directory.path()).unwrap();
}

#[test]
fn a_deleted_tenant_is_gone_and_can_begin_anew() {
    let world = tenants(2);
    append(&world.tenants.store("acme").unwrap(), 3).unwrap();
    append(&world.tenants.store("globex").unwrap(), 1).unwrap();
    world.tenants.delete("acme", SECOND).unwrap();
    assert_eq!(world.tenants.names().unwrap(), ["globex"]);
    assert!(matches!(world.tenants.delete("acme", SECOND), Err(Error::NotFound { .. })));
    assert_eq!(std::fs::read_dir(world.path()).unwrap().count(), 1);
    assert_eq!(count(&world.tenants.store("acme").unwrap()), 0);
    assert_eq!(count(&world.tenants.store("globex").unwrap()), 1);
}

/// Handles, clones and reads keep a tenant from being deleted, in whatever order they go.
#[test]
fn a_deletion_waits_for_whoever_reads() {
    let world = tenants(4);
    let acme = world.tenants.store("acme").unwrap();
    append(&acme, 2).unwrap();
    let reader = world.tenants.read_only_store("acme").unwrap();
    let mut read = acme.read(Query::all());
    let (told, deleted) = mpsc::channel();
    let deleting = thread::spawn({
        let tenants = world.tenants.clone();
        move || told.send(tenants.delete("acme", SECOND)).unwrap()
    });
    // No background thread waits on this clock, so that it is the deletion that does.
    while world.clock.waiting() == 0 {
        thread::yield_now();
    }
    assert!(matches!(world.tenants.store("acme"), Err(Error::Held { name }) if name == "acme"));
    assert!(matches!(world.tenants.delete("acme", SECOND), Err(Error::Held { .. })));
    drop(acme);
    drop(reader);
    assert!(deleted.try_recv().is_err());
    assert!(read.next().unwrap().is_some());
    assert!(read.next().unwrap().is_some());
    drop(read);
    deleted.recv().unwrap().unwrap();
    deleting.join().unwrap();
    assert!(world.tenants.names().unwrap().is_empty());
    world.tenants.store("acme").unwrap();
}

#[test]
fn a_deletion_that_waited_too_long_leaves_the_tenant_as_it_was() {
    let world = tenants(4);
    let acme = world.tenants.store("acme").unwrap();
    append(&acme, 1).unwrap();
    assert!(matches!(world.tenants.delete("acme", Duration::ZERO), Err(Error::TimedOut { .. })));
    let deleting = thread::spawn({
        let tenants = world.tenants.clone();
        move || tenants.delete("acme", SECOND)
    });
    while world.clock.waiting() == 0 {
        thread::yield_now();
    }
    world.clock.advance(SECOND);
    let Err(Error::TimedOut { what }) = deleting.join().unwrap() else { panic!("there was a handle") };
    assert!(what.contains("acme"), "{what}");
    append(&acme, 1).unwrap();
    assert_eq!(count(&world.tenants.store("acme").unwrap()), 2);
}

/// What a crash leaves between the two steps of a deletion: a directory without a tenant's name.
#[test]
fn a_deletion_that_was_interrupted_is_finished_by_the_next_open() {
    let world = tenants(4);
    append(&world.tenants.store("acme").unwrap(), 1).unwrap();
    world.tenants.close_idle().unwrap();
    std::fs::rename(world.path().join("acme"), world.path().join("acme.removed-0123456789abcdef")).unwrap();
    assert!(world.tenants.names().unwrap().is_empty());
    assert!(matches!(world.tenants.existing_store("acme"), Err(Error::NotFound { .. })));
    Tenants::open(world.path()).unwrap();
    assert_eq!(std::fs::read_dir(world.path()).unwrap().count(), 0);
}

#[test]
fn a_tenant_that_another_writer_has_is_not_deleted() {
    let world = tenants(4);
    let elsewhere = Store::open(world.path().join("acme")).unwrap();
    assert!(matches!(world.tenants.delete("acme", SECOND), Err(Error::Locked { .. })));
    assert!(matches!(world.tenants.store("acme"), Err(Error::Locked { .. })));
    drop(elsewhere);
    assert_eq!(world.tenants.open_stores(), 0);
    world.tenants.delete("acme", SECOND).unwrap();
}

#[test]
fn a_backup_holds_one_tenant() {
    let world = tenants(4);
    append(&world.tenants.store("acme").unwrap(), 3).unwrap();
    append(&world.tenants.store("globex").unwrap(), 1).unwrap();
    let backups = tempfile::tempdir().unwrap();
    let path = backups.path().join("acme");
    assert_eq!(world.tenants.backup("acme", &path).unwrap().events, 3);
    assert_eq!(count(&Store::open_existing(&path).unwrap()), 3);
    assert!(matches!(world.tenants.backup("initech", backups.path().join("initech")), Err(Error::NotFound { .. })));
}

#[test]
fn threads_share_few_places() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 24;
    let world = tenants(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let tenants = &world.tenants;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let store = tenants.store(&format!("t{}", (thread + round * 3) % 8)).unwrap();
                    append(&store, 1).unwrap();
                    assert!(tenants.open_stores() <= THREADS);
                }
            });
        }
    });
    let names = world.tenants.names().unwrap();
    let total: u64 = names.iter().map(|name| world.tenants.usage(name).unwrap().events).sum();
    assert_eq!((names.len(), total), (8, (THREADS * ROUNDS) as u64));
}

#[test]
fn the_last_clone_of_the_tenants_closes_what_nobody_has() {
    let world = tenants(4);
    drop(world.tenants.store("a").unwrap());
    let b = world.tenants.store("b").unwrap();
    drop(world.tenants);
    Store::open(world.directory.path().join("a")).unwrap();
    append(&b, 1).unwrap();
    assert!(matches!(Store::open(world.directory.path().join("b")), Err(Error::Locked { .. })));
    drop(b);
    assert_eq!(count(&Store::open(world.directory.path().join("b")).unwrap()), 1);
}

/// Whatever is made from a store uses it: handlers and subscriptions too, until they end.
#[test]
fn what_was_made_from_a_store_keeps_it_open() {
    let world = tenants(1);
    let is_in_use = || world.tenants.store("other").is_err();
    let acme = world.tenants.store("acme").unwrap();
    append(&acme, 1).unwrap();
    let projection = acme.projection_over("counts", Query::all(), 0_u64, |count, _| {
        *count += 1;
        Ok(())
    });
    let counts = projection.start().unwrap();
    counts.wait_for(acme.head().unwrap().unwrap()).unwrap();
    drop(acme);
    assert!(is_in_use());
    assert!(matches!(world.tenants.delete("acme", Duration::ZERO), Err(Error::TimedOut { .. })));
    counts.stop().unwrap();
    assert!(!is_in_use());

    let acme = world.tenants.store("acme").unwrap();
    let mut subscription = acme.subscribe("mailer").open().unwrap();
    drop(acme);
    assert!(is_in_use());
    assert!(subscription.next().unwrap().is_ok());
    drop(subscription);
    assert!(!is_in_use());
}

/// The thread that commits for those who await does not count as a use, once nobody awaits.
#[test]
#[cfg(feature = "tokio")]
fn an_append_that_was_awaited_gives_the_store_back() {
    let world = tenants(1);
    let acme = world.tenants.store("acme").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(acme.append_async("account-alice", ExpectedVersion::Any, [event()])).unwrap();
    drop(acme);
    assert!(world.tenants.store("other").is_ok());
    world.tenants.delete("acme", SECOND).unwrap();
}

#[cfg(feature = "metrics")]
mod metered {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString,
        Unit,
    };

    use super::*;

    /// Remembers the sum of each metric, by its name and labels.
    #[derive(Debug, Clone, Default)]
    struct Remembered(Arc<Mutex<BTreeMap<String, u64>>>);

    #[derive(Debug)]
    struct Named(String, Remembered);

    impl Named {
        fn change(&self, change: impl FnOnce(&mut u64)) {
            change(self.1.0.lock().unwrap().entry(self.0.clone()).or_default());
        }
    }

    impl CounterFn for Named {
        fn increment(&self, value: u64) {
            self.change(|sum| *sum += value);
        }

        fn absolute(&self, _value: u64) {
            panic!("{} only ever grows by what happened", self.0);
        }
    }

    impl GaugeFn for Named {
        fn increment(&self, _value: f64) {
            panic!("{} is set", self.0);
        }

        fn decrement(&self, _value: f64) {
            panic!("{} is set", self.0);
        }

        fn set(&self, value: f64) {
            self.change(|now| *now = value as u64);
        }
    }

    impl HistogramFn for Named {
        fn record(&self, _value: f64) {
            self.change(|count| *count += 1);
        }
    }

    impl Remembered {
        fn named(&self, key: &Key) -> Arc<Named> {
            let labels: Vec<String> = key.labels().map(|label| format!(" {}={}", label.key(), label.value())).collect();
            Arc::new(Named(format!("{}{}", key.name(), labels.concat()), self.clone()))
        }

        fn get(&self, name: &str) -> u64 {
            self.0.lock().unwrap().get(name).copied().unwrap_or_default()
        }
    }

    impl Recorder for Remembered {
        fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

        fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

        fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

        fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.named(key))
        }

        fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.named(key))
        }

        fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.named(key))
        }
    }

    #[test]
    fn metrics_name_the_tenant() {
        let told = Remembered::default();
        metrics::with_local_recorder(&told, || {
            let world = tenants_with(4, Quotas::unlimited().events_max(3));
            append(&world.tenants.store("acme").unwrap(), 3).unwrap();
            append(&world.tenants.store("acme").unwrap(), 1).unwrap_err();
            append(&world.tenants.store("globex").unwrap(), 1).unwrap();
            assert_eq!(told.get("annals_tenants_open"), 2);
        });
        assert_eq!(told.get("annals_events_appended_total tenant=acme"), 3);
        assert_eq!(told.get("annals_events_appended_total tenant=globex"), 1);
        assert_eq!(told.get("annals_events_appended_total"), 0);
        assert_eq!(told.get("annals_append_duration_seconds tenant=acme"), 2);
        assert!(told.get("annals_fsync_duration_seconds tenant=acme") >= 1);
        assert_eq!(told.get("annals_quota_refusals_total tenant=acme quota=events"), 1);
        assert_eq!(told.get("annals_tenants_open"), 0);
    }
}

#[test]
fn the_idle_store_of_a_tenant_makes_room_for_reading_the_same_tenant() {
    let world = tenants(1);
    append(&world.tenants.store("acme").unwrap(), 1).unwrap();
    let reader = world.tenants.read_only_store("acme").unwrap();
    assert_eq!((count(&reader), world.tenants.open_stores()), (1, 1));
    // One that is lent makes none.
    drop(reader);
    let _writer = world.tenants.store("acme").unwrap();
    assert!(matches!(world.tenants.read_only_store("acme"), Err(Error::Quota { what: Quota::OpenStores, .. })));
}
