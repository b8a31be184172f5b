//! Groups 35, 36 and 38, as far as they are about projections: rebuilding, reading your own writes, other histories.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use annals::{
    Event, NewEvent, OnError, Parts, Position, Projection, ProjectionHandle, Query, ReadModel, RebuildCause, Store,
    Table, field,
};
use serde::{Deserialize, Serialize};

use crate::support::*;
use crate::world::{World, check};

#[derive(Debug, Serialize, Deserialize)]
enum AccountEvent {
    Opened,
    Moved { cents: i64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    cents: i64,
    events: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Accounts {
    accounts: Table<String, Account>,
    cents: i64,
}

impl Accounts {
    fn new() -> Self {
        Self { accounts: Table::new().index("cents", |account: &Account| account.cents), cents: 0 }
    }

    fn of(events: &[(&str, i64)]) -> Self {
        let mut accounts = Self::new();
        for (stream, cents) in events {
            accounts.take(stream, *cents);
        }
        accounts
    }

    fn take(&mut self, stream: &str, cents: i64) {
        let new = || Account { cents: 0, events: 0 };
        self.accounts.upsert(stream.to_owned(), new, |account| {
            account.cents += cents;
            account.events += 1;
        });
        self.cents += cents;
    }
}

impl ReadModel for Accounts {
    fn parts(&mut self, parts: &mut Parts<'_>) {
        parts.table("accounts", &mut self.accounts).value("cents", &mut self.cents);
    }
}

impl Projection for Accounts {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent, recorded: &Event<'_>) {
        match event {
            AccountEvent::Opened => self.take(recorded.stream(), 0),
            AccountEvent::Moved { cents } => self.take(recorded.stream(), *cents),
        }
    }
}

fn moved(store: &Store, stream: &str, cents: i64) -> Position {
    let event = NewEvent::json("Moved", &serde_json::json!({ "cents": cents })).unwrap();
    store.append(stream, Any, [event]).unwrap().last_position()
}

fn opened(store: &Store, stream: &str) -> Position {
    store.append(stream, Any, [NewEvent::json("Opened", &()).unwrap()]).unwrap().last_position()
}

fn start(store: &Store) -> ProjectionHandle<Accounts> {
    store.projection("accounts", Accounts::new()).start().unwrap()
}

/// A projection whose logic can be changed while it runs, as a program never should: what a rebuild is for.
fn start_with(store: &Store, factor: &Arc<AtomicI64>) -> ProjectionHandle<Accounts> {
    let factor = Arc::clone(factor);
    store
        .projection_over("accounts", Query::types(["Moved"]), Accounts::new(), move |accounts: &mut Accounts, event| {
            let AccountMoved { cents } = event.decode_payload()?;
            accounts.take(event.stream(), cents * factor.load(Ordering::SeqCst));
            Ok(())
        })
        .start()
        .unwrap()
}

#[derive(Deserialize)]
struct AccountMoved {
    cents: i64,
}

#[test]
fn g35_a_rebuild_takes_the_place_of_what_served_before_and_lasts() {
    check(|world| {
        let factor = Arc::new(AtomicI64::new(1));
        moved(world, "account-a", 1);
        let last = moved(world, "account-b", 2);
        let accounts = start_with(world, &factor);
        accounts.wait_for(last).unwrap();
        factor.store(10, Ordering::SeqCst);
        let last = moved(world, "account-a", 3);
        accounts.wait_for(last).unwrap();
        assert_eq!(accounts.read(|accounts| accounts.cents), 33, "the first two went by the old logic");

        let rebuilt = accounts.rebuild().unwrap();
        assert_eq!((rebuilt.position, rebuilt.events, rebuilt.left_out), (Some(last), 3, 0));
        let expected = Accounts::of(&[("account-a", 10), ("account-b", 20), ("account-a", 30)]);
        assert_eq!(*accounts.view(), expected);
        let found = accounts.read(|accounts| accounts.accounts.query().filter(field("cents").gt(20)).count().unwrap());
        assert_eq!(found, 1, "its indexes are there");

        accounts.stop().unwrap();
        world.pause();
        let accounts = start_with(world, &factor);
        assert_eq!(*accounts.view(), expected);
        assert_eq!(accounts.start_report().resumed_behind, Some(last));
        let last = moved(world, "account-c", 1);
        accounts.wait_for(last).unwrap();
        assert_eq!(accounts.read(|accounts| (accounts.cents, accounts.accounts.len())), (70, 3));
    });
}

#[test]
fn g35_while_it_is_rebuilt_the_old_model_serves_and_follows() {
    check(|world| {
        let (reached, at_gate) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let gate = std::sync::Mutex::new((reached, gate));
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let counts = world
            .projection_over("counts", Query::all(), (0_u64, false), move |model: &mut (u64, bool), event| {
                model.0 += 1;
                // The third event of all is the first that the rebuild applies.
                if counted.fetch_add(1, Ordering::SeqCst) == 2 {
                    let gate = gate.lock().unwrap();
                    gate.0.send(event.position())?;
                    gate.1.recv()?;
                    model.1 = true;
                }
                Ok(())
            })
            .save_within(Duration::ZERO)
            .start()
            .unwrap();
        opened(world, "account-a");
        counts.wait_for(opened(world, "account-a")).unwrap();
        std::thread::scope(|scope| {
            let rebuild = scope.spawn(|| counts.rebuild().unwrap());
            assert_eq!(at_gate.recv().unwrap(), Position::FIRST);
            assert_eq!(*counts.view(), (2, false));
            counts.wait_for(opened(world, "account-b")).unwrap();
            assert_eq!(*counts.view(), (3, false), "the old one goes on");
            assert!(matches!(counts.rebuild(), Err(annals::Error::Held { .. })), "one at a time");
            open.send(()).unwrap();
            assert_eq!(rebuild.join().unwrap().events, 3);
        });
        assert_eq!(*counts.view(), (3, true));
        counts.wait_for(opened(world, "account-b")).unwrap();
        assert_eq!(*counts.view(), (4, true));
    });
}

#[test]
fn g35_a_rebuild_does_not_fire_reactors() {
    check(|world| {
        let mails = Arc::new(AtomicU64::new(0));
        let sent = Arc::clone(&mails);
        let mailer = world
            .react("mailer", move |_event: &Event<'_>| {
                sent.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
            .start()
            .unwrap();
        let accounts = start(world);
        let last = moved(world, "account-a", 1);
        world.sync().unwrap();
        mailer.wait_for(last).unwrap();
        accounts.wait_for(last).unwrap();
        accounts.rebuild().unwrap();
        let last = moved(world, "account-a", 1);
        world.sync().unwrap();
        mailer.wait_for(last).unwrap();
        assert_eq!(mails.load(Ordering::SeqCst), 2, "one for each event");
    });
}

#[test]
fn g35_another_version_is_built_anew_and_says_so() {
    check(|world| {
        let accounts = start(world);
        assert_eq!(accounts.start_report(), annals::StartReport::default());
        let last = moved(world, "account-a", 5);
        accounts.wait_for(last).unwrap();
        accounts.stop().unwrap();
        world.pause();

        let accounts = world.projection("accounts", Accounts::new()).version(2).start().unwrap();
        let report = accounts.start_report();
        assert_eq!(report.rebuilt, Some(RebuildCause::NewVersion { saved: 1, current: 2 }));
        assert_eq!(report.resumed_behind, None);
        accounts.wait_for(last).unwrap();
        assert_eq!(*accounts.view(), Accounts::of(&[("account-a", 5)]));
        accounts.stop().unwrap();
        world.pause();

        let accounts = world.projection("accounts", Accounts::new()).version(2).start().unwrap();
        assert_eq!(accounts.start_report().resumed_behind, Some(last));
        assert_eq!(*accounts.view(), Accounts::of(&[("account-a", 5)]));
    });
}

/// What was put aside under the old logic is no reason to put its streams aside under the new one.
#[test]
fn g35_a_projection_that_is_built_anew_forgets_its_dead_letters() {
    check(|world| {
        moved(world, "account-a", 1);
        world.append("account-a", Any, [NewEvent::raw("Moved", "no number")]).unwrap();
        let last = moved(world, "account-a", 2);
        let now = Duration::ZERO;
        let park = || world.projection("accounts", Accounts::new()).policy(OnError::park()).save_within(now);
        let accounts = park().start().unwrap();
        accounts.wait_for(last).unwrap();
        assert_eq!(world.dead_letters("accounts").unwrap().list().unwrap().len(), 2);
        assert_eq!(*accounts.view(), Accounts::of(&[("account-a", 1)]));

        let rebuilt = accounts.rebuild().unwrap();
        assert_eq!((rebuilt.events, rebuilt.left_out), (1, 2), "a rebuild leaves them out");
        assert_eq!(*accounts.view(), Accounts::of(&[("account-a", 1)]));
        accounts.stop().unwrap();

        let accounts = park().version(2).start().unwrap();
        accounts.wait_for(last).unwrap();
        let letters = world.dead_letters("accounts").unwrap().list().unwrap();
        assert_eq!(letters.iter().map(|letter| letter.position.number()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(*accounts.view(), Accounts::of(&[("account-a", 1)]));
    });
}

#[test]
fn g36_who_waits_for_a_position_reads_their_own_writes() {
    check(|world| {
        let accounts = start(world);
        for round in 1..=20 {
            let position = moved(world, "account-a", 1);
            accounts.wait_for(position).unwrap();
            assert_eq!(accounts.read(|accounts| accounts.cents), round);
        }
        let unrelated = world.append("other-1", Any, [event("Unrelated")]).unwrap().last_position();
        accounts.wait_for(unrelated).unwrap();
        let view = accounts.view();
        assert_eq!(view.position(), Some(p(20)), "an event that does not match is not in it, and not waited for");
        assert_eq!(view.accounts.get(&"account-a".to_owned()), Some(&Account { cents: 20, events: 20 }));
    });
}

#[test]
fn g36_several_threads_write_and_each_reads_its_own() {
    check(|world| {
        let accounts = start(world);
        let store: &Store = world;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let accounts = &accounts;
                scope.spawn(move || {
                    let stream = format!("account-{thread}");
                    for round in 1..=10 {
                        accounts.wait_for(moved(store, &stream, 1)).unwrap();
                        let cents = accounts.read(|accounts| accounts.accounts.get(&stream).map(|row| row.cents));
                        assert_eq!(cents, Some(round));
                    }
                });
            }
        });
    });
}

#[test]
fn a_projection_goes_on_where_it_was_saved() {
    check(|world| {
        let mut expected = Vec::new();
        for round in 0..6 {
            let accounts = world.projection("accounts", Accounts::new()).save_every_events(3).start().unwrap();
            assert_eq!(*accounts.view(), Accounts::of(&expected), "nothing is applied twice, nothing is missing");
            let mut last = Position::FIRST;
            for stream in ["account-a", "account-b", "account-c", "account-d"] {
                let cents = round * 10 + stream.len() as i64;
                last = moved(world, stream, cents);
                expected.push((stream, cents));
            }
            accounts.wait_for(last).unwrap();
            assert_eq!(*accounts.view(), Accounts::of(&expected));
            assert_eq!(accounts.lag().unwrap().events, 0);
            accounts.stop().unwrap();
            world.pause();
        }
    });
}

#[test]
fn a_projection_is_drained_or_runs_on_without_its_handle() {
    const HOUR: Duration = Duration::from_secs(3_600);
    check(|world| {
        let accounts = start(world);
        let first = moved(world, "account-a", 1);
        let remainder = accounts.drain(HOUR).unwrap();
        assert_eq!((remainder.is_drained(), remainder.position), (true, Some(first)));

        start(world).detach();
        assert!(matches!(world.projection("accounts", Accounts::new()).start(), Err(annals::Error::Held { .. }),));
        let second = moved(world, "account-b", 2);
        assert!(world.shutdown(HOUR).unwrap().is_drained());
        let accounts = start(world);
        assert_eq!(accounts.start_report().resumed_behind, Some(second));
        assert_eq!(*accounts.view(), Accounts::of(&[("account-a", 1), ("account-b", 2)]));
    });
}

/// What a lost tail or a restored backup leaves: a checkpoint whose commit is another one.
fn forge_history(store: &Store) {
    let state = store.state().unwrap();
    let saved = state.get("checkpoint-accounts").unwrap().unwrap();
    let mut checkpoint: serde_json::Value = serde_json::from_slice(&saved).unwrap();
    let checksum = checkpoint["handler"]["checksum"].as_u64().unwrap();
    checkpoint["handler"]["checksum"] = (checksum ^ 1).into();
    state.put("checkpoint-accounts", checkpoint.to_string()).unwrap();
}

#[test]
fn g38_a_checkpoint_of_another_history_is_never_used_and_that_is_said() {
    check(|world: &mut World| {
        let accounts = start(world);
        let last = moved(world, "account-a", 7);
        accounts.wait_for(last).unwrap();
        accounts.stop().unwrap();
        forge_history(world);
        world.pause();

        let accounts = start(world);
        let report = accounts.start_report();
        assert_eq!((report.resumed_behind, report.rebuilt), (None, Some(RebuildCause::OtherHistory)));
        accounts.wait_for(last).unwrap();
        assert_eq!(*accounts.view(), Accounts::of(&[("account-a", 7)]), "not twice, and nothing of the other history");
        accounts.stop().unwrap();
        world.pause();
        assert_eq!(start(world).start_report().resumed_behind, Some(last));
    });
}

/// The state of one store under the log of another, as a careless restore leaves them.
#[test]
fn g38_a_projection_of_another_store_is_built_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (name, cents) in [("one", 1), ("other", 100)] {
        let store = Store::open(path(name)).unwrap();
        let accounts = start(&store);
        for _ in 0..3 {
            accounts.wait_for(moved(&store, "account-a", cents)).unwrap();
        }
        accounts.stop().unwrap();
        store.close().unwrap();
    }
    std::fs::remove_dir_all(path("one").join("state")).unwrap();
    std::fs::rename(path("other").join("state"), path("one").join("state")).unwrap();

    let store = Store::open(path("one")).unwrap();
    let accounts = start(&store);
    assert_eq!(accounts.start_report().rebuilt, Some(RebuildCause::OtherHistory));
    accounts.wait_for(p(3)).unwrap();
    assert_eq!(accounts.read(|accounts| accounts.cents), 3);
}
