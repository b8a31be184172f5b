//! Groups 37 and 38 for aggregates: snapshots and caches make loading fast, and never change what is loaded.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{
    Aggregate, Codec, IgnoredReason, ManualClock, NewEvent, NewSnapshot, Options, Repository, SnapshotPolicy,
    SnapshotProblem, SnapshotQuery, Store, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::bank::*;
use crate::support::*;
use crate::world::check;

fn accounts(store: &Store, policy: SnapshotPolicy) -> Repository<Account> {
    store.repository().unwrap().snapshots(policy).unwrap()
}

fn deposit(store: &Store, events: u64) {
    let deposits = (0..events).map(|_| Deposited { cents: 1 });
    store.repository::<Account>().unwrap().append("alice", Any, deposits).unwrap();
}

/// How many events are folded to load the account, which must have so many cents.
fn folded(accounts: &Repository<Account>, cents: u64) -> u64 {
    let (folded, alice) = applied(|| accounts.load("alice").unwrap());
    assert_eq!((alice.cents, alice.version()), (cents, Some(v(cents))));
    folded
}

/// The schema that the repository saves snapshots under, as a lookup of another one tells it.
fn schema(store: &Store) -> u64 {
    let lookup = store.load_snapshot("account-alice", SnapshotQuery::new()).unwrap();
    match &lookup.ignored[0].reason {
        IgnoredReason::OtherSchema(schema) => *schema,
        other => panic!("{other:?}"),
    }
}

fn snapshot_version(store: &Store) -> Option<u64> {
    let lookup = store.load_snapshot("account-alice", SnapshotQuery::new()).unwrap();
    lookup.ignored.first().and_then(|ignored| ignored.version).map(annals::StreamVersion::number)
}

#[test]
fn g37_only_what_came_after_the_newest_snapshot_is_folded() {
    check(|world| {
        let policy = SnapshotPolicy::every_events(10);
        deposit(world, 9);
        assert_eq!(folded(&accounts(world, policy), 9), 9);
        assert_eq!(folded(&accounts(world, policy), 9), 9, "none was due");
        deposit(world, 1);
        assert_eq!(folded(&accounts(world, policy), 10), 10);
        world.pause();
        assert_eq!(folded(&accounts(world, policy), 10), 0);
        deposit(world, 9);
        assert_eq!((folded(&accounts(world, policy), 19), snapshot_version(world)), (9, Some(10)));
        deposit(world, 1);
        assert_eq!((folded(&accounts(world, policy), 20), snapshot_version(world)), (10, Some(20)));
        world.pause();
        deposit(world, 3);
        assert_eq!(folded(&accounts(world, policy), 23), 3);
        assert_eq!(folded(&accounts(world, SnapshotPolicy::never()), 23), 23);
        assert_eq!(folded(&world.repository().unwrap(), 23), 23);
    });
}

#[test]
fn g37_a_command_saves_a_snapshot_that_is_due() {
    check(|world| {
        deposit(world, 10);
        let accounts = accounts(world, SnapshotPolicy::every_events(10));
        accounts.execute("alice", |_| Deposited { cents: 1 }).unwrap();
        assert_eq!(snapshot_version(world), Some(10), "of the state that was decided on");
        assert_eq!(applied(|| accounts.execute("alice", |_| Deposited { cents: 1 }).unwrap()).0, 1);
    });
}

/// Runs a case in memory and in a directory, on a clock that the case moves.
fn check_in_time(case: impl Fn(&Store, &ManualClock)) {
    let directory = tempfile::tempdir().unwrap();
    for on_disk in [false, true] {
        let clock = ManualClock::new(Timestamp::from_millis(0));
        let options = Options::new().clock(clock.clone());
        let store = if on_disk { options.open(directory.path()) } else { options.in_memory() };
        case(&store.unwrap(), &clock);
    }
}

#[test]
fn g37_snapshots_are_due_by_time_on_the_clock_of_the_store() {
    check_in_time(|store, clock| {
        let accounts = accounts(store, SnapshotPolicy::every(Duration::from_secs(60)));
        let after = |seconds| {
            clock.advance(Duration::from_secs(seconds));
            deposit(store, 1);
            accounts.load("alice").unwrap();
            snapshot_version(store)
        };
        assert_eq!([after(90), after(59)], [None, None], "counted from the first event");
        assert_eq!([after(1), after(59), after(1)], [Some(3), Some(3), Some(5)]);
    });
}

#[test]
fn g37_snapshots_are_due_by_bytes_of_payload() {
    check(|world| {
        let bytes = r#"{"cents":1}"#.len() as u64;
        deposit(world, 2);
        assert_eq!(folded(&accounts(world, SnapshotPolicy::every_bytes(2 * bytes + 1)), 2), 2);
        assert_eq!(snapshot_version(world), None);
        assert_eq!(folded(&accounts(world, SnapshotPolicy::every_bytes(2 * bytes)), 2), 2);
        assert_eq!(snapshot_version(world), Some(2));
    });
}

#[test]
fn g37_snapshots_on_demand_are_saved_when_they_are_asked_for() {
    check(|world| {
        let accounts = accounts(world, SnapshotPolicy::on_demand());
        assert!(!accounts.save_snapshot("alice").unwrap(), "there is nothing to save");
        deposit(world, 5);
        assert_eq!([folded(&accounts, 5), folded(&accounts, 5)], [5, 5]);
        assert!(accounts.save_snapshot("alice").unwrap());
        assert!(!accounts.save_snapshot("alice").unwrap(), "nothing has happened since");
        assert_eq!(folded(&accounts, 5), 0);
        assert!(world.repository::<Account>().unwrap().save_snapshot("alice").is_err(), "no policy");
    });
}

/// The account of a later program, to which a deposit means something else.
#[derive(Default, Serialize, Deserialize)]
struct NewLogic(Account);

impl Aggregate for NewLogic {
    const CATEGORY: &'static str = "account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        self.0.apply(event);
        self.0.cents += 1;
    }

    fn event_types() -> annals::EventTypes<AccountEvent> {
        Account::event_types()
    }
}

/// The same account with another version of its state.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct NewVersion(Account);

impl Aggregate for NewVersion {
    const CATEGORY: &'static str = "account";
    const STATE_VERSION: u32 = 2;
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        self.0.apply(event);
    }

    fn event_types() -> annals::EventTypes<AccountEvent> {
        Account::event_types()
    }
}

#[test]
fn g37_a_snapshot_of_other_logic_or_version_is_ignored_and_told() {
    check(|world| {
        deposit(world, 3);
        accounts(world, SnapshotPolicy::on_demand()).save_snapshot("alice").unwrap();
        world.pause();
        let changed = world.repository::<NewLogic>().unwrap().snapshots(SnapshotPolicy::on_demand()).unwrap();
        let loaded = changed.load("alice").unwrap();
        assert_eq!(loaded.0.cents, 6);
        let is_other_schema = |problem: &SnapshotProblem| matches!(problem, SnapshotProblem::Ignored(ignored) if matches!(ignored.reason, IgnoredReason::OtherSchema(_)));
        assert!(matches!(loaded.snapshot_problems(), [problem] if is_other_schema(problem)));
        let told = loaded.snapshot_problems()[0].to_string();
        assert_eq!(told, "a snapshot cannot be used: its state has another schema");
        let raised = world.repository::<NewVersion>().unwrap().snapshots(SnapshotPolicy::on_demand()).unwrap();
        let (folded, loaded) = applied(|| raised.load("alice").unwrap());
        assert_eq!((folded, loaded.0.cents), (3, 3));
        assert!(matches!(loaded.snapshot_problems(), [problem] if is_other_schema(problem)));
    });
}

#[test]
fn g37_each_codec_keeps_a_state_and_reads_what_the_others_kept() {
    check(|world| {
        let mut kept = 0;
        let codecs = [Codec::Json, Codec::Postcard, Codec::Bincode];
        for codec in codecs.into_iter().filter(|codec| codec.is_available()) {
            deposit(world, 2);
            kept += 2;
            let accounts = accounts(world, SnapshotPolicy::on_demand().encoded_as(codec));
            assert_eq!(folded(&accounts, kept), 2, "{codec}");
            assert!(accounts.save_snapshot("alice").unwrap());
            assert_eq!(folded(&accounts, kept), 0, "{codec}");
        }
    });
}

#[test]
fn g38_a_snapshot_that_cannot_be_decoded_is_replayed_and_told() {
    check(|world| {
        deposit(world, 3);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let told = Arc::clone(&told);
            move |stream: &str, problem: &SnapshotProblem| told.lock().unwrap().push(format!("{stream}: {problem}"))
        };
        let accounts = accounts(world, SnapshotPolicy::on_demand()).on_snapshot_problem(tell);
        accounts.save_snapshot("alice").unwrap();
        let garbage = NewSnapshot::from_bytes("account-alice", v(3), Codec::Json, "{").schema(schema(world));
        assert!(world.save_snapshot(&garbage).unwrap());
        let (folded, loaded) = applied(|| accounts.load("alice").unwrap());
        assert_eq!((folded, loaded.cents), (3, 3));
        let problem = loaded.snapshot_problems().first();
        assert!(matches!(problem, Some(SnapshotProblem::Undecodable { version, .. }) if *version == v(3)));
        let told = told.lock().unwrap();
        assert!(
            matches!(told.as_slice(), [one] if one.starts_with("account-alice: the snapshot at version 3")),
            "{told:?}"
        );
    });
}

#[test]
fn g38_a_snapshot_that_is_no_replay_is_found_by_the_check_and_dropped() {
    check(|world| {
        deposit(world, 3);
        let unchecked = accounts(world, SnapshotPolicy::on_demand());
        unchecked.save_snapshot("alice").unwrap();
        let wrong = Account { cents: 99, owner: None };
        let wrong = NewSnapshot::json("account-alice", v(3), &wrong).unwrap().schema(schema(world));
        assert!(world.save_snapshot(&wrong).unwrap());
        deposit(world, 1);
        assert_eq!(unchecked.load("alice").unwrap().cents, 100, "nothing can tell that it is wrong but a replay");
        let checked = accounts(world, SnapshotPolicy::on_demand()).check_snapshots(1);
        let loaded = checked.load("alice").unwrap();
        assert_eq!((loaded.cents, loaded.version()), (4, Some(v(4))));
        assert!(matches!(loaded.snapshot_problems(), [SnapshotProblem::Mismatch { version }] if *version == v(3)));
        let again = unchecked.load("alice").unwrap();
        assert_eq!((again.cents, again.snapshot_problems().len()), (4, 0), "it is gone");
        assert!(checked.save_snapshot("alice").unwrap());
        assert!(checked.load("alice").unwrap().snapshot_problems().is_empty(), "a right one passes the check");
    });
}

#[test]
fn g38_one_in_so_many_snapshots_is_checked() {
    check_in_time(|store, _| {
        deposit(store, 4);
        let accounts = accounts(store, SnapshotPolicy::on_demand());
        accounts.save_snapshot("alice").unwrap();
        let checks = |one_in, loads| {
            let accounts = accounts.clone().check_snapshots(one_in);
            (0..loads).map(|_| folded(&accounts, 4) / 4).sum::<u64>()
        };
        assert_eq!((checks(0, 50), checks(1, 50)), (0, 50));
        let sampled = checks(4, 2_000);
        assert!((300..700).contains(&sampled), "{sampled} of 2000, one in four was asked for");
    });
}

#[test]
fn g38_a_cached_state_is_brought_up_to_date_whoever_appended() {
    check(|world| {
        let (cached, other) = (world.repository::<Account>().unwrap().cached(2), world.repository().unwrap());
        deposit(world, 5);
        assert_eq!(folded(&cached, 5), 5);
        assert_eq!([folded(&cached, 5), folded(&cached.clone(), 5)], [0, 0]);
        deposit(world, 2);
        world.append("noise", Any, [event("Noise")]).unwrap();
        assert_eq!([folded(&cached, 7), folded(&cached, 7), folded(&other, 7)], [2, 0, 7]);
        let held = cached.load("alice").unwrap();
        for number in 1..=20 {
            let (folded, executed) = applied(|| cached.execute("alice", |_| Deposited { cents: 1 }));
            assert_eq!((folded, executed.unwrap().version()), (u64::from(number > 1), Some(v(7 + number))));
        }
        assert_eq!((held.cents, cached.load("alice").unwrap().cents), (7, 27));
        // The least recently used is dropped, and loaded again when it is asked for.
        for id in ["bob", "carol"] {
            cached.execute(id, |_| Deposited { cents: 1 }).unwrap();
            cached.load(id).unwrap();
        }
        assert_eq!([folded(&cached, 27), folded(&cached, 27)], [27, 0]);
    });
}

#[test]
fn g38_an_event_that_cannot_be_applied_fails_the_load_and_harms_no_later_one() {
    check(|world| {
        let cached = world.repository::<Account>().unwrap().cached(2);
        deposit(world, 2);
        cached.load("alice").unwrap();
        world.append("account-alice", Any, [NewEvent::json("Deposited", &"much").unwrap()]).unwrap();
        for _ in 0..2 {
            assert!(matches!(cached.load("alice"), Err(annals::Error::Codec { .. })));
        }
        cached.append("bob", NoStream, [Deposited { cents: 1 }]).unwrap();
        assert_eq!(cached.load("bob").unwrap().cents, 1);
    });
}

#[test]
fn a_repository_of_a_read_only_store_loads_and_saves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    deposit(&store, 3);
    let reader = Store::open_read_only(directory.path()).unwrap();
    let accounts = accounts(&reader, SnapshotPolicy::every_events(1)).cached(1);
    let loaded = accounts.load("alice").unwrap();
    assert_eq!((loaded.cents, loaded.snapshot_problems().len()), (3, 0));
    deposit(&store, 1);
    assert_eq!(accounts.load("alice").unwrap().cents, 4);
    assert_eq!(snapshot_version(&store), None);
    let executed = accounts.execute("alice", |_| Deposited { cents: 1 });
    assert!(matches!(store_error(executed), annals::Error::ReadOnly));
}
