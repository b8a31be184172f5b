//! Groups 4 and 15 for aggregates: commands that are sent again, and by many at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use annals::{CommandId, Durability, Metadata, Query, Repository};

use crate::aggregates::{accounts, cents, repositories};
use crate::bank::*;
use crate::support::*;
use crate::world::check;

#[test]
fn g15_a_command_that_is_sent_again_is_applied_once() {
    let id = CommandId::of_name("deposit 1");
    check(|world| {
        accounts(world).execute("alice", Account::open).unwrap();
        let send = |accounts: &Repository<Account>| {
            let command = accounts.command(id).metadata(&Metadata::new().correlation_id("c")).retries(0);
            command.execute("alice", |account| [account.deposit(5).unwrap(), account.deposit(6).unwrap()]).unwrap()
        };
        let first = send(&accounts(world));
        assert!(!first.was_applied_before());
        world.pause();
        // The account has moved on, and the decision would be another one now.
        accounts(world).execute("alice", |account| account.withdraw(11)).unwrap();
        world.pause();
        for accounts in repositories(world) {
            let again = send(&accounts);
            assert!(again.was_applied_before() && again.appended().is_none());
            assert_eq!((again.version(), again.position()), (first.version(), first.position()));
            let rejecting = accounts.command(id).execute("alice", |account| account.withdraw(50)).unwrap();
            assert!(rejecting.was_applied_before(), "it is not decided again");
            assert!(accounts.command(id).append("alice", NoStream, [opened()]).unwrap().was_applied_before());
        }
        assert_eq!(version(world, "account-alice"), Some(4));
        let tagged = found(world, Query::tag(id.tag()));
        assert_eq!(tagged.iter().map(|event| event.version).collect::<Vec<_>>(), [v(2), v(3)]);
        assert!(tagged.iter().all(|event| event.read_metadata().unwrap().correlation_id.as_deref() == Some("c")));
    });
}

#[test]
fn g15_a_command_counts_for_each_aggregate_and_a_transaction_for_the_store() {
    let (id, transfer) = (CommandId::of_name("bonus"), CommandId::of_name("transfer"));
    check(|world| {
        let accounts = accounts(world);
        for name in ["alice", "bob"] {
            accounts.execute(name, Account::open).unwrap();
            accounts.command(id).execute(name, |account| account.deposit(5)).unwrap();
        }
        assert_eq!((cents(world, "alice"), cents(world, "bob")), (5, 5));
        let send = || {
            world.transaction().command(transfer).run(|work| {
                work.execute(&accounts, "alice", |account| account.withdraw(3))?;
                work.execute(&accounts, "bob", |account| account.deposit(3))
            })
        };
        let first = send().unwrap();
        let again = send().unwrap();
        assert_eq!((first.was_applied_before(), again.was_applied_before()), (false, true));
        assert_eq!((again.position(), again.version()), (first.position(), None));
        assert_eq!((cents(world, "alice"), cents(world, "bob")), (2, 8));
    });
}

#[test]
fn g15_of_a_command_that_is_sent_by_many_at_once_one_is_applied() {
    let id = CommandId::of_name("deposit 1");
    check(|world| {
        accounts(world).execute("alice", Account::open).unwrap();
        for accounts in repositories(world) {
            let id = id.derive(&format!("{:?}", world.head().unwrap()));
            let barrier = Barrier::new(8);
            // Whoever comes second has a conflict with the same command, which is none.
            let send = || {
                barrier.wait();
                accounts.command(id).retries(0).execute("alice", |account| account.deposit(1)).unwrap()
            };
            let executed: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(executed.iter().filter(|executed| !executed.was_applied_before()).count(), 1);
            assert!(executed.iter().all(|again| again.position() == executed[0].position()));
            assert_eq!(found(world, Query::tag(id.tag())).len(), 1);
        }
        assert_eq!(cents(world, "alice"), 3);
    });
}

#[test]
fn g15_a_command_that_was_applied_meets_the_durability_asked_for() {
    check(|world| {
        let accounts = accounts(world).durability(Durability::Os);
        let id = CommandId::of_name("deposit 1");
        let send = |durability| {
            let command = accounts.command(id).durability(durability);
            command.execute("alice", |_| Deposited { cents: 1 }).unwrap().position()
        };
        let first = send(Durability::Os);
        assert_eq!(send(Durability::Synced), first);
        assert!(world.synced_head().unwrap() >= first);
    });
}

#[test]
fn g04_threads_on_one_aggregate_lose_nothing() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 25;
    // What is deposited depends on all deposits before it, so that the sum tells whether each of them was seen.
    let next = |cents: u64| cents % 7 + 1;
    let sum = (0..THREADS * ROUNDS).fold(0, |cents, _| cents + next(cents));
    check(|world| {
        for (number, accounts) in repositories(world).into_iter().enumerate() {
            accounts.execute(number, Account::open).unwrap();
            let accounts = accounts.retries(u32::MAX);
            let versions = AtomicU64::new(0);
            let deposit = || {
                for _ in 0..ROUNDS {
                    let executed = accounts.execute(number, |account| account.deposit(next(account.cents))).unwrap();
                    versions.fetch_add(executed.version().unwrap().number(), Ordering::Relaxed);
                }
            };
            thread::scope(|scope| drop((0..THREADS).map(|_| scope.spawn(deposit)).collect::<Vec<_>>()));
            let last = THREADS * ROUNDS + 1;
            assert_eq!((accounts.load(number).unwrap().cents, cents(world, &number.to_string())), (sum, sum));
            assert_eq!(version(world, &format!("account-{number}")), Some(last), "versions have no gaps");
            assert_eq!(versions.into_inner(), (2..=last).sum::<u64>(), "each version was told once");
        }
    });
}

#[test]
fn g04_threads_that_transfer_keep_the_total() {
    check(|world| {
        let accounts = accounts(world).cached(2).retries(u32::MAX);
        for name in ["a", "b", "c"] {
            accounts.append(name, NoStream, [opened(), Deposited { cents: 100 }]).unwrap();
        }
        thread::scope(|scope| {
            for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")] {
                let accounts = &accounts;
                let store = &**world;
                scope.spawn(move || {
                    for round in 0..20 {
                        let transfer = store.transaction().retries(u32::MAX).run(|work| {
                            work.execute(accounts, from, |account| account.withdraw(round))?;
                            work.execute(accounts, to, |account| account.deposit(round))
                        });
                        assert!(transfer.is_ok() || rejection(transfer) == Refused::Overdrawn);
                    }
                });
            }
        });
        let total: u64 = ["a", "b", "c"].into_iter().map(|name| accounts.load(name).unwrap().cents).sum();
        assert_eq!(total, 300);
    });
}

/// The same command goes through between the moment when a resend looks for it and the one when it loads the account.
#[test]
fn g15_a_resend_that_is_rejected_for_what_the_command_did_was_applied() {
    let id = CommandId::of_name("empty the account");
    check(|world| {
        let accounts = accounts(world);
        accounts.execute("alice", Account::open).unwrap();
        accounts.execute("alice", |account| account.deposit(5)).unwrap();
        let (other, is_first) = (accounts.clone(), AtomicU64::new(1));
        let interfering = annals::Decider::new(
            "account",
            move || {
                if is_first.swap(0, Ordering::Relaxed) == 1 {
                    other.command(id).execute("alice", |account| account.withdraw(5)).unwrap();
                }
                Account::default()
            },
            |mut account: Account, event: &AccountEvent| {
                annals::Aggregate::apply(&mut account, event);
                account
            },
            |cents: &u64, account: &Account| account.withdraw(*cents),
        );
        let deciders = world.decider(interfering).unwrap();
        let resent = deciders.command(id).execute("alice", 5).unwrap();
        assert!(resent.was_applied_before());

        let transfer = id.derive("transfer");
        accounts.execute("alice", |account| account.deposit(5)).unwrap();
        let send = || world.transaction().command(transfer);
        let mut is_first = true;
        let resent = send().run(|work| {
            if std::mem::take(&mut is_first) {
                send().run(|work| work.execute(&accounts, "alice", |account| account.withdraw(5))).unwrap();
            }
            work.execute(&accounts, "alice", |account| account.withdraw(5))
        });
        assert!(resent.unwrap().was_applied_before());
        assert_eq!(cents(world, "alice"), 0);
    });
}

/// The store found the commit of a resend recorded already, by somebody else who had sent the same command since it was
/// looked for. It told what that one had appended as if it had been appended now.
#[test]
fn g15_what_somebody_else_applied_in_between_was_applied_before_and_not_appended() {
    let id = CommandId::of_name("deposit 1");
    check(|world| {
        accounts(world).execute("alice", Account::open).unwrap();
        for (number, accounts) in repositories(world).into_iter().enumerate() {
            let id = id.derive(&number.to_string());
            let send = || accounts.command(id).retries(0);
            let mut first = None;
            let resent = send().execute("alice", |account| {
                first.get_or_insert_with(|| send().execute("alice", |account| account.deposit(5)).unwrap());
                account.deposit(5)
            });
            let (first, resent) = (first.unwrap(), resent.unwrap());
            assert!(first.appended().is_some() && !first.was_applied_before());
            assert!(resent.appended().is_none() && resent.was_applied_before());
            assert_eq!((resent.position(), resent.version()), (first.position(), first.version()));

            let transfer = id.derive("transfer");
            let send = || world.transaction().command(transfer).retries(0);
            let mut first = None;
            let resent = send().run(|work| {
                first.get_or_insert_with(|| {
                    send().run(|work| work.execute(&accounts, "alice", |account| account.deposit(2))).unwrap()
                });
                work.execute(&accounts, "alice", |account| account.deposit(2))
            });
            let (first, resent) = (first.unwrap(), resent.unwrap());
            assert!(first.appended().is_some() && !first.was_applied_before());
            assert!(resent.appended().is_none() && resent.was_applied_before());
            assert_eq!((resent.position(), resent.version()), (first.position(), first.version()));
        }
        assert_eq!(cents(world, "alice"), 3 * (5 + 2));
    });
}
