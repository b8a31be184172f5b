//! Groups 1 to 10, 21 and 29 for aggregates: what is decided is written once, on the state that it was decided on.

use annals::{
    Aggregate, Codec, CommandId, Decider, Error, EventTypes, ExecuteError, Metadata, NewEvent, Query, Repository,
    Store, Upcast, Upcaster,
    limits::{EVENTS_PER_COMMIT_MAX, STREAM_NAME_BYTES_MAX},
};
use serde::{Deserialize, Serialize};

use crate::bank::*;
use crate::support::*;
use crate::world::check;

pub(crate) fn accounts(store: &Store) -> Repository<Account> {
    store.repository().unwrap()
}

/// The same account in every way that a repository can be set up.
pub(crate) fn repositories(store: &Store) -> [Repository<Account>; 3] {
    let snapshots = annals::SnapshotPolicy::every_events(2);
    [accounts(store), accounts(store).cached(8), accounts(store).cached(1).snapshots(snapshots).unwrap()]
}

pub(crate) fn cents(store: &Store, id: &str) -> u64 {
    accounts(store).load(id).unwrap().cents
}

#[test]
fn g01_a_decision_in_any_form_is_appended() {
    check(|world| {
        let accounts = accounts(world);
        accounts.execute("alice", Account::open).unwrap();
        accounts.execute("alice", |_| Deposited { cents: 1 }).unwrap();
        accounts.execute("alice", |_| [Deposited { cents: 2 }, Deposited { cents: 4 }]).unwrap();
        accounts.execute("alice", |_| vec![Deposited { cents: 8 }]).unwrap();
        accounts.execute("alice", |_| Some(Deposited { cents: 16 })).unwrap();
        accounts.execute("alice", |_| (5..7).map(|bit| Deposited { cents: 1 << bit })).unwrap();
        accounts.execute("alice", |account| account.deposit(128)).unwrap();
        let executed = accounts.execute("alice", |account| account.withdraw(1)).unwrap();
        let appended = executed.appended().unwrap();
        assert_eq!((executed.version(), executed.position()), (Some(v(10)), Some(p(10))));
        assert_eq!((appended.version(), told(appended)), (v(10), (10, 10, false)));
        assert!(!executed.was_applied_before());
        let alice = accounts.load("alice").unwrap();
        assert_eq!((alice.cents, alice.version(), alice.head()), (254, Some(v(10)), Some(p(10))));
    });
}

#[test]
fn g01_an_aggregate_can_be_loaded_as_it_was_at_any_version() {
    check(|world| {
        accounts(world).execute("alice", Account::open).unwrap();
        for bit in 0..6 {
            accounts(world).execute("alice", |account| account.deposit(1 << bit)).unwrap();
        }
        // Each of these finds other snapshots, and a cache or none.
        for accounts in repositories(world) {
            for version in (1..=7).chain((1..=7).rev()) {
                let alice = accounts.load_at("alice", v(version)).unwrap();
                assert_eq!((alice.cents, alice.version()), ((1 << (version - 1)) - 1, Some(v(version))));
                assert_eq!(accounts.load("alice").unwrap().cents, 63, "what is loaded as of now is as of now");
            }
            for (id, problem) in [("alice", "is at version 7"), ("bob", "there is no stream \"account-bob\"")] {
                let error = accounts.load_at(id, v(8)).unwrap_err();
                assert!(matches!(&error, Error::Invalid(_)) && error.to_string().contains(problem), "{error}");
            }
        }
        let lights = Decider::new("account", || 0, |sum: u64, _: &AccountEvent| sum + 1, |(): &(), _: &u64| None);
        assert_eq!(*world.decider(lights).unwrap().load_at("alice", v(3)).unwrap(), 3);
    });
}

#[test]
fn g01_nothing_decided_is_a_success_that_writes_nothing() {
    check(|world| {
        for accounts in repositories(world) {
            let nothing = accounts.execute("nobody", |_| None).unwrap();
            assert_eq!((nothing.appended(), nothing.version(), nothing.position()), (None, None, None));
        }
        accounts(world).execute("alice", Account::open).unwrap();
        world.pause();
        let before = picture(world, &["account-alice", "account-bob"]);
        for accounts in repositories(world) {
            let nothing = accounts.execute("alice", |account| account.withdraw(0)).unwrap();
            assert_eq!((nothing.appended(), nothing.version(), nothing.position()), (None, Some(v(1)), Some(p(1))));
            assert_eq!(accounts.execute("bob", |_| []).unwrap().version(), None);
            let nothing = accounts.append("alice", Any, []).unwrap();
            assert_eq!((nothing.appended(), nothing.version()), (None, Some(v(1))));
            assert!(!nothing.was_applied_before());
        }
        world.transact::<Refused>(|_| Ok(())).unwrap();
        assert_eq!(picture(world, &["account-alice", "account-bob"]), before);
    });
}

#[test]
fn g02_an_explicit_append_is_made_at_the_expected_version() {
    check(|world| {
        let accounts = accounts(world);
        accounts.append("alice", NoStream, [opened(), Deposited { cents: 5 }]).unwrap();
        let alice = accounts.load("alice").unwrap();
        assert_eq!((alice.expected(), accounts.load("bob").unwrap().expected()), (exact(2), NoStream));
        accounts.append("alice", alice.expected(), [Deposited { cents: 7 }]).unwrap();
        match accounts.append("alice", alice.expected(), [Deposited { cents: 9 }]) {
            Err(Error::Conflict(conflict)) => {
                assert_eq!(conflict.failures, [stream_failure("account-alice", exact(2), 3, 3)]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((alice.cents, accounts.load("alice").unwrap().cents), (5, 12), "what was loaded does not change");
    });
}

#[test]
fn g03_a_conflict_is_decided_again_as_often_as_was_said() {
    for retries in [0, 1, 3] {
        check(|world| {
            for (number, accounts) in repositories(world).into_iter().enumerate() {
                let (id, other) = (number, crate::aggregates::accounts(world));
                other.execute(id, Account::open).unwrap();
                let interfering = |conflicts: u32| {
                    let mut decided = 0;
                    let executed = accounts.clone().retries(retries).execute(id, |account| {
                        decided += 1;
                        if decided <= conflicts {
                            other.execute(id, |account| account.deposit(1)).unwrap();
                        }
                        account.deposit(100)
                    });
                    (decided, executed)
                };
                let (decided, executed) = interfering(retries);
                assert_eq!((decided, executed.unwrap().version()), (retries + 1, Some(v(u64::from(retries) + 2))));
                let (decided, executed) = interfering(retries + 1);
                assert!(matches!(store_error(executed), Error::Conflict(_)));
                assert_eq!(decided, retries + 1);
                let expected = 100 + u64::from(retries) + u64::from(retries + 1);
                assert_eq!(accounts.load(id).unwrap().cents, expected);
            }
        });
    }
}

#[test]
fn g05_a_rejection_leaves_no_trace() {
    check(|world| {
        accounts(world).execute("alice", Account::open).unwrap();
        world.pause();
        let before = picture(world, &["account-alice", "account-bob"]);
        for accounts in repositories(world) {
            assert_eq!(rejection(accounts.execute("alice", |account| account.withdraw(1))), Refused::Overdrawn);
            assert_eq!(rejection(accounts.execute("alice", Account::open)), Refused::OpenAlready);
            let command = accounts.command(world.new_command_id());
            assert_eq!(rejection(command.execute("bob", |account| account.deposit(1))), Refused::NotOpen);
            let half = world.transact(|work| {
                work.execute(&accounts, "alice", |account| account.deposit(9))?;
                work.execute(&accounts, "bob", |account| account.deposit(9))
            });
            assert_eq!(rejection(half), Refused::NotOpen);
        }
        assert_eq!(picture(world, &["account-alice", "account-bob"]), before);
    });
}

#[test]
fn g06_several_aggregates_are_written_in_one_commit() {
    check(|world| {
        let accounts = accounts(world).cached(8);
        let executed = world.transact(|work| {
            work.execute(&accounts, "alice", Account::open)?;
            work.execute(&accounts, "bob", Account::open)?;
            // Sees what is staged above.
            work.execute(&accounts, "alice", |account| account.deposit(10))?;
            work.execute(&accounts, "alice", |account| account.withdraw(4))?;
            work.execute(&accounts, "bob", |account| account.deposit(4))?;
            assert_eq!((work.load(&accounts, "alice")?.cents, work.load(&accounts, "carol")?.cents), (6, 0));
            Ok(())
        });
        let executed = executed.unwrap();
        let appended = executed.appended().unwrap();
        assert_eq!((told(appended), executed.version()), ((1, 5, false), Some(v(3))));
        assert_eq!(reached(appended), [("account-alice".into(), 3), ("account-bob".into(), 2)]);
        let streams: Vec<_> = places(world).into_iter().map(|(_, stream, version)| (stream, version)).collect();
        let (alice, bob) =
            (|version| ("account-alice".to_owned(), version), |version| ("account-bob".to_owned(), version));
        assert_eq!(streams, [alice(1), bob(1), alice(2), alice(3), bob(2)]);
        assert!(found(world, Query::all()).iter().all(|event| event.commit == p(1)));
        drop(accounts);
        world.pause();
        assert_eq!((cents(world, "alice"), cents(world, "bob")), (6, 4));
    });
}

#[test]
fn g07_an_aggregate_that_was_only_looked_at_must_not_change_either() {
    check(|world| {
        let accounts = accounts(world);
        accounts.execute("limit", Account::open).unwrap();
        accounts.execute("alice", Account::open).unwrap();
        let mut attempts = 0;
        let executed = world.transaction().retries(1).run(|work| {
            attempts += 1;
            let limit = work.load(&accounts, "limit")?.cents;
            if attempts == 1 {
                accounts.execute("limit", |account| account.deposit(5)).unwrap();
            }
            work.execute(&accounts, "alice", |account| account.deposit(limit + 1))
        });
        assert_eq!((attempts, executed.unwrap().version(), cents(world, "alice")), (2, Some(v(2)), 6));
        assert_eq!(version(world, "account-limit"), Some(2), "nothing was written to it");

        let never = world.transaction().retries(2).run(|work| {
            work.load(&accounts, "limit")?;
            accounts.execute("limit", |account| account.deposit(1)).unwrap();
            work.execute(&accounts, "alice", |account| account.deposit(1))
        });
        let Error::Conflict(conflict) = store_error(never) else { panic!("expected a conflict") };
        assert_eq!(conflict.failures, [stream_failure("account-limit", exact(4), 5, 7)]);
    });
}

#[test]
fn g07_a_transaction_takes_events_as_they_are_and_conditions() {
    check(|world| {
        let accounts = accounts(world);
        let transfer = || {
            world.transaction().retries(0).run(|work| {
                work.execute(&accounts, "alice", |_| Deposited { cents: 1 })?;
                work.append("log", Any, [NewEvent::raw("Noted", "").tag("transfer:1")]);
                work.unless_after(Query::tag("transfer:1"), None);
                Ok(())
            })
        };
        assert_eq!(reached(transfer().unwrap().appended().unwrap()), [("account-alice".into(), 1), ("log".into(), 1)]);
        world.maintain().unwrap();
        let Error::Conflict(conflict) = store_error(transfer()) else { panic!("expected a conflict") };
        assert_eq!(conflict.failures, [condition_failure(0, 2)]);
    });
}

/// A withdrawal as it is recorded, staged without its aggregate.
fn withdrawn_raw(cents: u64) -> NewEvent {
    NewEvent::from_bytes("Withdrawn", Codec::Json, format!("{{\"cents\":{cents}}}"))
}

#[test]
fn g07_an_aggregate_that_was_loaded_must_not_change_either_where_events_are_staged_for_it_as_they_are() {
    check(|world| {
        let accounts = accounts(world);
        accounts.execute("alice", Account::open).unwrap();
        for (number, expected) in [Any, StreamExists].into_iter().enumerate() {
            accounts.execute("alice", |account| account.deposit(10)).unwrap();
            let mut attempts = 0;
            let withdrawn = world.transaction().retries(1).run(|work| {
                attempts += 1;
                work.load(&accounts, "alice")?.withdraw(10).map_err(ExecuteError::Rejected)?;
                if attempts == 1 {
                    accounts.execute("alice", |account| account.withdraw(10)).unwrap();
                }
                work.append("account-alice", expected, [withdrawn_raw(4), withdrawn_raw(6)]);
                Ok(())
            });
            assert_eq!((rejection(withdrawn), attempts), (Refused::Overdrawn, 2));
            assert_eq!((cents(world, "alice"), version(world, "account-alice")), (0, Some(2 * number as u64 + 3)));
        }
        let opened_meanwhile = world.transaction().retries(0).run::<Refused>(|work| {
            assert_eq!(work.load(&accounts, "bob")?.owner, None);
            accounts.execute("bob", Account::open).unwrap();
            work.append("account-bob", Any, [event("Noted")]);
            Ok(())
        });
        let Error::Conflict(conflict) = store_error(opened_meanwhile) else { panic!("expected a conflict") };
        assert_eq!(conflict.failures, [stream_failure("account-bob", NoStream, 1, 6)]);
    });
}

#[test]
fn g07_an_expectation_that_contradicts_what_was_loaded_is_decided_again_when_it_comes_true() {
    check(|world| {
        let accounts = accounts(world);
        accounts.execute("alice", Account::open).unwrap();
        accounts.execute("alice", |account| account.deposit(10)).unwrap();
        let mut seen = Vec::new();
        let noted = world.transaction().retries(1).run::<Refused>(|work| {
            seen.push(work.load(&accounts, "alice")?.cents);
            if seen.len() == 1 {
                accounts.execute("alice", |account| account.withdraw(10)).unwrap();
            }
            // Of the stream as it is now, which the state above does not show the first time.
            work.append("account-alice", accounts.load("alice")?.expected(), [withdrawn_raw(0)]);
            Ok(())
        });
        assert_eq!((noted.unwrap().version(), seen), (Some(v(4)), vec![10, 0]));

        for again in [false, true] {
            let sent = world.transaction().run::<Refused>(|work| {
                work.load(&accounts, "alice")?;
                work.append("account-alice", exact(4), [withdrawn_raw(0).id(id(1))]);
                Ok(())
            });
            let sent = sent.unwrap();
            assert_eq!((sent.was_applied_before(), sent.version()), (again, Some(v(5))), "what is sent again is found");
        }
        for (expected, position) in [(exact(1), 2), (NoStream, 1)] {
            let contradicted = world.transaction().retries(0).run::<Refused>(|work| {
                work.load(&accounts, "alice")?;
                work.append("account-alice", expected, [withdrawn_raw(0)]);
                Ok(())
            });
            let Error::Conflict(conflict) = store_error(contradicted) else { panic!("expected a conflict") };
            assert_eq!(conflict.failures, [stream_failure("account-alice", expected, 5, position)]);
        }
    });
}

#[test]
fn g06_events_as_they_are_go_into_one_commit_with_what_was_decided_on_their_stream() {
    check(|world| {
        let accounts = accounts(world);
        let executed = world.transact(|work| {
            work.execute(&accounts, "alice", Account::open)?;
            work.execute(&accounts, "alice", |account| account.deposit(10))?;
            work.append("account-alice", Any, [withdrawn_raw(3)]);
            work.append("account-alice", NoStream, [withdrawn_raw(4)]);
            Ok(())
        });
        assert_eq!((executed.unwrap().version(), cents(world, "alice")), (Some(v(4)), 3));
    });
}

#[test]
fn g10_what_cannot_be_a_stream_is_refused() {
    check(|world| {
        let accounts = accounts(world);
        assert!(matches!(accounts.load(""), Err(Error::Invalid(_))));
        assert!(matches!(store_error(accounts.execute("", Account::open)), Error::Invalid(_)));
        let longest = "x".repeat(STREAM_NAME_BYTES_MAX - "account-".len());
        accounts.execute(&longest, Account::open).unwrap();
        assert!(matches!(store_error(accounts.execute(format!("{longest}x"), Account::open)), Error::Invalid(_)));
        let told = accounts.load(format!("{longest}x")).unwrap_err().to_string();
        assert!(told.ends_with("id: of the category \"account\" has 505 bytes, at most 504 are allowed"), "{told}");

        let category =
            |name: String| world.decider(Decider::new(name, || (), |(), _: &AccountEvent| (), |(): &(), ()| None));
        let refused = |name: String| matches!(category(name).err(), Some(Error::Invalid(_)));
        assert!(refused(String::new()) && refused("two-parts".into()));
        assert!(!refused("x".repeat(STREAM_NAME_BYTES_MAX - 2)) && refused("x".repeat(STREAM_NAME_BYTES_MAX - 1)));

        let other = Store::in_memory().unwrap();
        let elsewhere = crate::aggregates::accounts(&other);
        let mixed = world.transact(|work| work.execute(&elsewhere, "alice", Account::open));
        assert!(matches!(store_error(mixed), Error::Invalid(_)), "a repository of another store");
        let two_kinds = world.transact(|work| {
            work.execute(&accounts, "alice", Account::open)?;
            work.load(&world.repository::<OldAccount>().unwrap(), "alice").map(drop).map_err(Into::into)
        });
        assert!(matches!(store_error(two_kinds), Error::Invalid(_)));
        assert_eq!(version(world, "account-alice"), None);
    });
}

#[test]
fn g10_a_decision_has_as_many_events_as_a_commit_at_most() {
    let store = Store::in_memory().unwrap();
    let accounts = accounts(&store);
    let decided = |count: usize| accounts.execute("alice", |_| std::iter::repeat_n(Deposited { cents: 1 }, count));
    match decided(EVENTS_PER_COMMIT_MAX + 1).map_err(Error::from) {
        Err(Error::Invalid(invalid)) => assert!(invalid.to_string().contains("65536"), "{invalid}"),
        other => panic!("{other:?}"),
    }
    let endless = accounts.execute("alice", |_| std::iter::repeat(Deposited { cents: 1 }));
    assert!(matches!(endless.map_err(Error::from), Err(Error::Invalid(_))));
    assert_eq!(decided(EVENTS_PER_COMMIT_MAX).unwrap().version(), Some(v(EVENTS_PER_COMMIT_MAX as u64)));
}

/// The account once more, as functions.
fn decider() -> Decider<Move, Account, AccountEvent, Refused> {
    let evolve = |mut account: Account, event: &AccountEvent| {
        account.apply(event);
        account
    };
    let decide = |command: &Move, account: &Account| match *command {
        Move::Open => account.open().map(Some),
        Move::In(cents) => account.deposit(cents).map(Some),
        Move::Out(cents) => account.withdraw(cents),
    };
    Decider::new("account", Account::default, evolve, decide).event_types(Account::event_types())
}

enum Move {
    Open,
    In(u64),
    Out(u64),
}

#[test]
fn g01_a_decider_is_an_aggregate_of_functions() {
    let id = CommandId::of_name("deposit 1");
    check(|world| {
        let plain = world.decider(decider()).unwrap();
        let snapshots = annals::SnapshotPolicy::every_events(1);
        for deciders in [plain.clone(), plain.clone().cached(4), plain.cached(1).snapshots(snapshots).unwrap()] {
            let (name, other) = (format!("{:?}", head(world)), format!("other {:?}", head(world)));
            assert_eq!(rejection(deciders.execute(&name, Move::In(1))), Refused::NotOpen);
            deciders.execute(&name, Move::Open).unwrap();
            for again in [false, true] {
                let executed = deciders.command(id).execute(&name, Move::In(9)).unwrap();
                assert_eq!((executed.was_applied_before(), executed.version()), (again, Some(v(2))));
            }
            assert_eq!(deciders.execute(&name, Move::Out(0)).unwrap().appended(), None);
            let transferred = world.transact(|work| {
                work.decide(&deciders, &name, &Move::Out(4))?;
                work.decide(&deciders, &other, &Move::Open)?;
                work.decide(&deciders, &other, &Move::In(4))
            });
            assert_eq!(transferred.unwrap().appended().unwrap().versions().count(), 2);
            let overdrawn = world.transact(|work| work.decide(&deciders, &name, &Move::Out(6)));
            assert_eq!(rejection(overdrawn), Refused::Overdrawn);
            let loaded = deciders.load(&name).unwrap();
            assert_eq!((loaded.cents, loaded.version(), cents(world, &other)), (5, Some(v(3)), 4));
        }
    });
}

#[test]
fn g21_a_state_says_up_to_where_it_is_complete() {
    check(|world| {
        let accounts = accounts(world);
        let empty = accounts.load("alice").unwrap();
        assert_eq!((empty.head(), empty.version(), &*empty), (None, None, &Account::default()));
        world.append("noise", Any, [event("Noise")]).unwrap();
        assert_eq!(accounts.load("alice").unwrap().head(), Some(p(1)));
        accounts.execute("alice", Account::open).unwrap();
        world.append("noise", Any, [event("Noise")]).unwrap();
        for accounts in repositories(world) {
            for _ in 0..2 {
                let alice = accounts.load("alice").unwrap();
                assert_eq!(
                    (alice.head(), alice.version(), alice.owner.as_deref()),
                    (Some(p(3)), Some(v(1)), Some("Alice"))
                );
            }
        }
    });
}

/// An account of a program that knows less.
#[derive(Default)]
struct OldAccount;

#[derive(Serialize, Deserialize)]
enum OldEvent {
    Opened { owner: String },
    Deposited { cents: u64 },
}

impl Aggregate for OldAccount {
    const CATEGORY: &'static str = "account";
    type Event = OldEvent;
    fn apply(&mut self, _: &OldEvent) {}
}

#[test]
fn g29_an_event_of_an_unknown_type_or_version_is_an_error_that_names_it() {
    check(|world| {
        let accounts = accounts(world);
        accounts.append("alice", NoStream, [opened(), Deposited { cents: 5 }, Withdrawn { cents: 5 }]).unwrap();
        let newer = NewEvent::json("Deposited", &serde_json::json!({ "cents": 5 })).unwrap().schema_version(2);
        world.append("account-bob", NoStream, [newer]).unwrap();
        for (id, name, unknown_version, position) in [("alice", "Withdrawn", 1, p(3)), ("bob", "Deposited", 2, p(4))] {
            let olds = world.repository::<OldAccount>().unwrap();
            let executed = olds.execute(id, |_| OldEvent::Deposited { cents: 1 }).map_err(Error::from);
            for error in [olds.load(id).map(drop).unwrap_err(), executed.unwrap_err()] {
                let Error::UnknownEvent { event_type, schema_version, stream, position: at, .. } = error else {
                    panic!("{error:?}")
                };
                let stream = stream.strip_prefix("account-").unwrap();
                assert_eq!((event_type.as_str(), schema_version, stream, at), (name, unknown_version, id, position));
            }
        }
        assert_eq!(head(world), Some(4), "nothing was appended");
    });
}

/// An account of a later program, to which everything is a booking.
#[derive(Default, Clone, Serialize, Deserialize)]
struct Ledger {
    cents: i64,
    bookings: u32,
}

#[derive(Serialize, Deserialize)]
enum LedgerEvent {
    Booked { cents: i64 },
}

impl Aggregate for Ledger {
    const CATEGORY: &'static str = "account";
    type Event = LedgerEvent;

    fn apply(&mut self, LedgerEvent::Booked { cents }: &LedgerEvent) {
        self.cents += cents;
        self.bookings += 1;
    }

    fn event_types() -> EventTypes<LedgerEvent> {
        let fee = |_: AccountCents| vec![Upcast::typed("Booked", AccountCents { cents: -1 })];
        let withdrawn = move |old: AccountCents| {
            let mut booked = vec![Upcast::typed("Booked", AccountCents { cents: -old.cents })];
            booked.extend(fee(old));
            booked
        };
        EventTypes::new()
            .upcast(Upcaster::drop("Opened", 1))
            .upcast(Upcaster::rename("Deposited", 1).to("Booked", 1))
            .upcast(Upcaster::typed_many("Withdrawn", 1, withdrawn).to("Booked", 1))
    }
}

#[derive(Serialize, Deserialize)]
struct AccountCents {
    cents: i64,
}

#[test]
fn g29_old_events_are_upcast_whichever_way_a_state_is_loaded() {
    check(|world| {
        let accounts = accounts(world);
        accounts.append("alice", NoStream, [opened(), Deposited { cents: 9 }, Withdrawn { cents: 4 }]).unwrap();
        let ledgers = world.repository::<Ledger>().unwrap();
        let snapshots = ledgers.clone().snapshots(annals::SnapshotPolicy::every_events(1)).unwrap();
        let (mut cents, mut bookings) = (4, 3);
        for ledgers in [ledgers.clone(), ledgers.cached(1), snapshots.clone(), snapshots] {
            let loaded = ledgers.load("alice").unwrap();
            assert_eq!((loaded.cents, loaded.bookings), (cents, bookings));
            let last = accounts.append("alice", loaded.expected(), [opened()]).unwrap().version();
            let after = ledgers.load("alice").unwrap();
            assert_eq!((after.version(), after.bookings), (last, bookings), "one that is dropped counts as read");
            ledgers.execute("alice", |ledger| LedgerEvent::Booked { cents: ledger.cents }).unwrap();
            (cents, bookings) = (2 * cents, bookings + 1);
        }
    });
}

#[test]
fn metadata_is_carried_through_every_way_of_appending() {
    check(|world| {
        let given = Metadata::new().correlation_id("c-1").causation_id("e-1").traceparent("00-1-2-01");
        let request = world.with_metadata(&given).unwrap();
        accounts(&request).execute("a", Account::open).unwrap();
        accounts(world).metadata(&given).execute("b", Account::open).unwrap();
        accounts(world).command(world.new_command_id()).metadata(&given).execute("c", Account::open).unwrap();
        accounts(&request).append("d", NoStream, [opened()]).unwrap();
        let repository = accounts(world);
        request.transact(|work| work.execute(&repository, "e", Account::open)).unwrap();
        world.transaction().metadata(&given).run(|work| work.execute(&repository, "f", Account::open)).unwrap();
        let events = found(world, Query::all());
        assert_eq!(events.len(), 6);
        assert!(events.iter().all(|event| event.read_metadata().unwrap() == given), "{events:?}");
    });
}

/// Twenty cents that are moved from one account to another are never seen on neither.
#[test]
fn g07_a_rejection_that_rests_on_two_moments_is_decided_again() {
    check(|world| {
        let accounts = accounts(world);
        for name in ["alice", "bob"] {
            accounts.execute(name, Account::open).unwrap();
        }
        accounts.execute("bob", |account| account.deposit(20)).unwrap();
        let both = |retries: u32, nothing: bool| {
            let mut attempts = 0;
            let decided = world.transaction().retries(retries).run(|work| {
                attempts += 1;
                let alice = work.load(&accounts, "alice")?.cents;
                if attempts == 1 {
                    let (from, to) = if alice == 0 { ("bob", "alice") } else { ("alice", "bob") };
                    world
                        .transact(|work| {
                            work.execute(&accounts, from, |account| account.withdraw(20))?;
                            work.execute(&accounts, to, |account| account.deposit(20))
                        })
                        .unwrap();
                }
                let bob = work.load(&accounts, "bob")?.cents;
                if alice + bob == 20 || nothing {
                    Ok(())
                } else {
                    Err(annals::ExecuteError::Rejected(Refused::Overdrawn))
                }
            });
            (attempts, decided)
        };
        let (attempts, decided) = both(1, false);
        assert_eq!((attempts, decided.unwrap().appended()), (2, None));
        let (attempts, decided) = both(1, true);
        assert_eq!((attempts, decided.unwrap().appended()), (2, None));
        let Error::Conflict(conflict) = store_error(both(0, false).1) else { panic!("expected a conflict") };
        assert_eq!(conflict.failures.len(), 1, "bob was loaded when all was done: {conflict}");
    });
}

#[test]
fn g07_an_aggregate_is_not_decided_on_behind_events_that_it_does_not_show() {
    check(|world| {
        let accounts = accounts(world);
        accounts.execute("alice", Account::open).unwrap();
        let mixed = world.transact(|work| {
            let event = Account::event_types().check()?.encode(&Deposited { cents: 5 })?;
            work.append("account-alice", exact(1), [event]);
            work.execute(&accounts, "alice", |account| account.withdraw(5))
        });
        let Error::Invalid(invalid) = store_error(mixed) else { panic!("expected a refusal") };
        assert!(invalid.to_string().contains("account-alice"), "{invalid}");
        assert_eq!(version(world, "account-alice"), Some(1));
    });
}

#[test]
fn g07_a_store_with_the_same_id_is_another_store() {
    let open = || annals::Options::new().randomness(annals::SeededRandomness::new(7)).in_memory().unwrap();
    let (one, other) = (open(), open());
    assert_eq!(one.id(), other.id());
    let elsewhere = accounts(&other);
    let mixed = one.transact(|work| work.execute(&elsewhere, "alice", Account::open));
    assert!(matches!(store_error(mixed), Error::Invalid(_)));
    let request = other.with_metadata(&Metadata::new().correlation_id("c")).unwrap();
    request.transact(|work| work.execute(&elsewhere, "alice", Account::open)).unwrap();
    assert_eq!((one.head().unwrap(), other.head().unwrap()), (None, Some(p(1))));
}

#[test]
fn g10_a_decision_that_never_ends_is_refused() {
    check(|world| {
        let decide = |(): &(), (): &()| std::iter::repeat_with(|| Deposited { cents: 1 });
        let endless = Decider::new("endless", || (), |(), _: &AccountEvent| (), decide);
        let refused = world.decider(endless).unwrap().execute("a", ());
        assert!(matches!(store_error(refused), Error::Invalid(_)));
        assert_eq!(world.head().unwrap(), None);
    });
}
