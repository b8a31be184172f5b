//! Groups 3, 4, 19, 20, 22 and 28 with threads: what holds whoever comes first.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use annals::{Commit, Durability, Error, NewEvent, Options, Position, Query, Store};

use crate::conditions::create_invoice;
use crate::support::*;
use crate::world::{check, tiny};

/// Runs `work` on so many threads at once, and returns what each came to.
fn together<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        let start = |number| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(number)
            })
        };
        let handles: Vec<_> = (0..threads).map(start).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

/// The number of the one that won; all others are conflicts.
fn winner(outcomes: Vec<Sent>) -> usize {
    let mut winner = None;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(appended) => {
                assert!(!appended.deduplicated());
                assert_eq!(winner.replace(number), None, "two have won");
            }
            failed => drop(conflict(failed)),
        }
    }
    winner.expect("one wins")
}

#[test]
fn g03_any_succeeds_concurrently() {
    check(|world| {
        let outcomes = together(8, |_| world.append("a", Any, [event("Made")]).unwrap().version().number());
        let mut versions = outcomes;
        versions.sort_unstable();
        assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7, 8]);
    });
}

#[test]
fn g04_of_eight_writers_with_one_expectation_one_wins() {
    check(|world| {
        for round in 0..10 {
            let expected = if round == 0 { NoStream } else { exact(round) };
            let send = |number: usize| world.append("a", expected, [NewEvent::raw("Made", number.to_string())]);
            let winner = winner(together(8, send));
            let events = found(world, Query::stream("a"));
            assert_eq!(events.len() as u64, round + 1);
            assert_eq!(events.last().unwrap().payload, winner.to_string().as_bytes());
            world.pause();
        }
        assert_eq!(head(world), Some(10));
    });
}

#[test]
fn g04_eight_writers_on_eight_streams_leave_no_gap() {
    check(|world| {
        together(8, |number| {
            for version in 1..=5 {
                let expected = if version == 1 { NoStream } else { exact(version - 1) };
                let appended = world.append(format!("s-{number}"), expected, [event("Made")]).unwrap();
                assert_eq!(appended.version(), v(version));
            }
        });
        world.observe(|store| {
            assert_eq!(positions(store, Query::all()), (1..=40).collect::<Vec<_>>());
            for number in 0..8 {
                let events = found(store, Query::stream(format!("s-{number}")));
                assert_eq!(events.iter().map(|e| e.version.number()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
            }
        });
    });
}

#[test]
fn g11_the_same_commit_from_many_threads_is_written_once() {
    check(|world| {
        for round in 0..10 {
            let stream = format!("s-{round}");
            let first = 1 + 2 * round;
            let send = |_| {
                let commit = world.commit().append(&stream, NoStream, [numbered(u128::from(first))]);
                commit.append("shared", Any, [numbered(u128::from(first) + 1)]).send().unwrap()
            };
            let outcomes = together(4, send);
            assert_eq!(outcomes.iter().filter(|outcome| !outcome.deduplicated()).count(), 1);
            assert!(outcomes.iter().all(|outcome| outcome.first_position() == p(first)));
        }
        assert_eq!(head(world), Some(20));
    });
}

#[test]
fn g19_check_and_write_are_one_step_within_a_group() {
    check(|world| {
        // Waits for nobody: whatever the order, each decision must be right for its place in it.
        for round in 0..20 {
            let before = head(world).unwrap_or(0);
            let append = |name: usize| Commit::new().append(format!("s-{name}"), Any, [event("Made")]);
            let commits = [
                append(0),
                append(1).unless_after(Query::all(), Position::new(before)),
                append(2).unless_after(Query::all(), p(before + 10)),
            ];
            let outcomes = together(3, |number| world.send(commits[number].clone()));
            let [ok, fail_if_any, far] = outcomes.try_into().unwrap();
            let (ok, far) = (ok.unwrap(), far.unwrap());
            match fail_if_any.map_err(Error::from) {
                Ok(first) => {
                    assert_eq!(first.first_position(), p(before + 1), "round {round}");
                    assert_eq!(head(world), Some(before + 3));
                }
                Err(Error::Conflict(conflict)) => {
                    assert_eq!(conflict.failures, [condition_failure(0, before + 1)], "round {round}");
                    assert!(ok.first_position() == p(before + 1) || far.first_position() == p(before + 1));
                    assert_eq!(head(world), Some(before + 2));
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
}

#[test]
fn g19_one_winner_of_a_condition_while_the_index_moves() {
    for options in [tiny(), tiny().without_background_work()] {
        let store = options.in_memory().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.maintain().unwrap();
                }
            });
            for round in 0..60 {
                let tag = format!("round:{round}");
                let send = |number: usize| {
                    let noise = NewEvent::raw("Noise", vec![0; 300]);
                    store.append(format!("noise-{number}"), Any, [noise]).unwrap();
                    let event = NewEvent::raw("Made", number.to_string()).tag(&tag);
                    store.commit().append(format!("s-{number}"), Any, [event]).unless(Query::tag(&tag)).send()
                };
                let winner = winner(together(4, send));
                let events = found(&store, Query::tag(&tag));
                assert_eq!(events.len(), 1);
                assert_eq!(events[0].payload, winner.to_string().as_bytes());
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn g20_disjoint_tags_both_commit() {
    check(|world| {
        for round in 0..10 {
            let after = world.read(Query::all()).head();
            let outcomes = together(2, |number| {
                let tag = format!("tag:{round}:{number}");
                world.commit().append("a", Any, [tagged("Made", &[&tag])]).unless_after(Query::tag(&tag), after).send()
            });
            for outcome in outcomes {
                outcome.unwrap();
            }
        }
    });
}

#[test]
fn g20_of_overlapping_tags_exactly_one_commits() {
    check(|world| {
        for round in 0..10 {
            let after = world.read(Query::all()).head();
            let (own, shared) = (|number: usize| format!("tag:{round}:{number}"), format!("shared:{round}"));
            let send = |number: usize| {
                let query = Query::tag(own(number)).or(Query::tag(&shared));
                let event = event("Made").tag(own(number)).tag(&shared);
                world.commit().append(format!("s-{number}"), Any, [event]).unless_after(query, after).send()
            };
            winner(together(2, send));
            assert_eq!(positions(world, Query::tag(&shared)).len(), 1);
        }
    });
}

#[test]
fn g22_invoice_numbers_have_no_gaps_concurrently() {
    check(|world| {
        together(4, |_| {
            let mut created = 0;
            while created < 5 {
                match create_invoice(world).map_err(Error::from) {
                    Ok(_) => created += 1,
                    Err(Error::Conflict(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let invoices = found(world, Query::types(["InvoiceCreated"]));
        let numbers: Vec<u64> = invoices.iter().map(|event| event.as_event().decode_payload().unwrap()).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    });
}

#[test]
fn g28_a_reader_sees_whole_commits_and_no_holes() {
    for durability in [Durability::Os, Durability::Synced] {
        let store = tiny().durability(durability).in_memory().unwrap();
        let done = AtomicBool::new(false);
        let size = |number: u64| number % 4 + 1;
        thread::scope(|scope| {
            let reader = || {
                let mut before = 0;
                while !done.load(Ordering::Relaxed) {
                    before = look(&store, before);
                }
            };
            scope.spawn(reader);
            scope.spawn(reader);
            let writers: Vec<_> = (0..3_u64)
                .map(|writer| {
                    let store = &store;
                    scope.spawn(move || {
                        for number in 0..80 {
                            let made = (0..size(number)).map(|_| tagged("Made", &["t"]));
                            store.append(format!("s-{writer}"), Any, made).unwrap();
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(look(&store, 0), 3 * 80 / 4 * (1 + 2 + 3 + 4));
    }
}

/// Looks at a store to which others append; returns the head that it saw, which must not be less than the one before.
fn look(store: &Store, before: u64) -> u64 {
    let read = store.read(Query::all());
    let pinned = read.head().map_or(0, Position::number);
    assert!(pinned >= before, "the head went back");
    let events: Vec<_> = read.owned().map(Result::unwrap).collect();
    let all: Vec<u64> = events.iter().map(|event| event.position.number()).collect();
    assert_eq!(all, (1..=pinned).collect::<Vec<_>>());
    // Each commit of these writers has the versions of one stream, and is seen whole.
    let mut versions = std::collections::HashMap::new();
    for event in &events {
        let version = versions.entry(&event.stream).or_insert(0);
        *version += 1;
        assert_eq!(event.version.number(), *version);
    }
    let by_tag = store.read(Query::tag("t"));
    let pinned = by_tag.head().map_or(0, Position::number);
    assert_eq!(positions_of(by_tag), (1..=pinned).collect::<Vec<_>>());
    pinned
}

#[test]
fn a_head_that_was_returned_is_visible_to_all() {
    let store = Options::new().in_memory().unwrap();
    together(4, |number| {
        for round in 1..=50 {
            let appended = store.append(format!("s-{number}"), Any, [event("Made")]).unwrap();
            assert!(store.head().unwrap() >= Some(appended.last_position()));
            assert!(store.synced_head().unwrap() >= Some(appended.last_position()));
            assert_eq!(version(&store, &format!("s-{number}")), Some(round));
        }
    });
}
