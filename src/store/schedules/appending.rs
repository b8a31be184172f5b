//! Appends: one winner, an order that everybody agrees on, and nothing acknowledged before it is as durable as was asked.

use parking_lot::Mutex as Log;

use super::*;

const OS: Durability = Durability::Os;
const SYNCED: Durability = Durability::Synced;

/// What a thread did to a stream, and when: ticks count what is called and returned in the whole program.
#[derive(Debug, Clone)]
struct Operation {
    began: usize,
    ended: usize,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Reached this version with this payload.
    Appended(u64, String),
    /// Was told that the stream is at this version.
    Seen(u64),
}

/// What threads did, in the order in which they began. Its lock is real: it is held at no place where threads change.
#[derive(Debug, Clone, Default)]
struct History(Arc<Log<(usize, Vec<Operation>)>>);

impl History {
    fn tick(&self) -> usize {
        let mut log = self.0.lock();
        log.0 += 1;
        log.0
    }

    fn note<T>(&self, work: impl FnOnce() -> (T, Outcome)) -> T {
        let began = self.tick();
        let (result, outcome) = work();
        let ended = self.tick();
        self.0.lock().1.push(Operation { began, ended, outcome });
        result
    }

    /// A register that only grows is linearizable if what an operation saw or reached is nothing older than what every
    /// operation had seen or reached that ended before it began, and nobody reaches a version twice.
    fn assert_linearizable(&self, stream: &[String]) {
        let log = self.0.lock();
        let mut reached = BTreeMap::new();
        for operation in &log.1 {
            if let Outcome::Appended(version, payload) = &operation.outcome {
                assert_eq!(reached.insert(*version, payload.clone()), None, "two reached version {version}");
            }
        }
        let expected: Vec<u64> = (1..=stream.len() as u64).collect();
        assert_eq!(reached.keys().copied().collect::<Vec<_>>(), expected, "each version was reached by one");
        assert_eq!(reached.into_values().collect::<Vec<_>>(), stream, "what is stored is what reached the version");
        for operation in &log.1 {
            for earlier in log.1.iter().filter(|earlier| earlier.ended < operation.began) {
                let at_least = earlier.version() + u64::from(operation.is_append());
                assert!(operation.version() >= at_least, "{operation:?} came after {earlier:?}");
            }
        }
    }
}

impl Operation {
    fn version(&self) -> u64 {
        match &self.outcome {
            Outcome::Appended(version, _) | Outcome::Seen(version) => *version,
        }
    }

    fn is_append(&self) -> bool {
        matches!(self.outcome, Outcome::Appended(..))
    }
}

fn expecting(version: u64) -> ExpectedVersion {
    StreamVersion::new(version).map_or(NoStream, ExpectedVersion::Exact)
}

/// Appends behind the version that it last heard of, until it has done so twice.
fn append_behind_what_is_known(store: &Store, history: &History, writer: usize) {
    let (mut known, mut appended) = (0, 0);
    while appended < 2 {
        let payload = format!("{writer}.{appended}");
        let sent = history.note(|| {
            let sent = store.append("s", expecting(known), [event(&payload)]).map_err(Error::from);
            let outcome = match &sent {
                Ok(appended) => Outcome::Appended(appended.version().number(), payload.clone()),
                Err(Error::Conflict(conflict)) => Outcome::Seen(actual(conflict)),
                Err(other) => panic!("{other}"),
            };
            (sent, outcome)
        });
        match sent {
            Ok(reached) => (known, appended) = (reached.version().number(), appended + 1),
            Err(Error::Conflict(conflict)) => {
                assert!(actual(&conflict) > known, "a conflict tells of something new");
                known = actual(&conflict);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

fn actual(conflict: &crate::error::Conflict) -> u64 {
    match &conflict.failures[..] {
        [crate::error::ExpectationFailure::Stream { actual, .. }] => actual.map_or(0, StreamVersion::number),
        other => panic!("{other:?}"),
    }
}

#[test]
fn appends_to_a_stream_are_linearizable() {
    for durability in [SYNCED, OS] {
        shuttle(400, move || {
            let (store, _) = in_memory(options(durability));
            let history = History::default();
            let mut threads = Vec::new();
            for writer in 0..2 {
                let (store, history) = (store.clone(), history.clone());
                threads.push(spawn(move || append_behind_what_is_known(&store, &history, writer)));
            }
            let reader = (store.clone(), history.clone());
            threads.push(spawn(move || {
                for _ in 0..3 {
                    reader
                        .1
                        .note(|| ((), Outcome::Seen(reader.0.version("s").unwrap().map_or(0, StreamVersion::number))));
                }
            }));
            join_all(threads);
            let stored: Vec<String> = contents(&store).into_iter().map(|(_, payload)| payload).collect();
            history.assert_linearizable(&stored);
        });
    }
}

#[test]
fn of_writers_with_one_expectation_exactly_one_wins() {
    shuttle(400, || {
        let (store, _) = in_memory(options(SYNCED));
        let threads = (0..3).map(|writer| {
            let store = store.clone();
            // Of different durability: an `Os` commit decided behind a `Synced` one in flight has to wait for it.
            let durability = if writer == 0 { OS } else { SYNCED };
            spawn(move || {
                let commit = Commit::new().append("s", NoStream, [event(writer.to_string())]).durability(durability);
                match store.send(commit).map_err(Error::from) {
                    Ok(appended) => {
                        assert_eq!(appended.version(), StreamVersion::FIRST);
                        Some(writer.to_string())
                    }
                    Err(Error::Conflict(conflict)) => {
                        assert_eq!(actual(&conflict), 1);
                        assert_eq!(contents(&store).len(), 1, "what a conflict tells of is there to be read");
                        None
                    }
                    Err(other) => panic!("{other}"),
                }
            })
        });
        let winners: Vec<String> = join_all(threads.collect::<Vec<_>>()).into_iter().flatten().collect();
        assert_eq!(contents(&store), [("s".to_owned(), winners[0].clone())]);
        assert_eq!(winners.len(), 1);
    });
}

#[test]
fn of_writers_with_one_condition_exactly_one_wins() {
    shuttle(400, || {
        let (store, _) = in_memory(tiny(SYNCED));
        let threads = (0..3).map(|writer| {
            let store = store.clone();
            spawn(move || {
                let commit = store.commit().append(format!("s-{writer}"), Any, [event(writer.to_string())]);
                commit.unless(Query::tag("t")).send().is_ok()
            })
        });
        let won = join_all(threads.collect::<Vec<_>>());
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        let winner = won.iter().position(|won| *won).unwrap();
        assert_eq!(contents(&store), [(format!("s-{winner}"), winner.to_string())]);
    });
}

#[test]
fn the_same_commit_from_several_threads_is_written_once() {
    shuttle(400, || {
        let (store, _) = in_memory(options(SYNCED));
        let threads = (0..3).map(|_| {
            let store = store.clone();
            let commit =
                Commit::new().append("s", NoStream, [event("1").id(crate::types::EventId::from_bytes([7; 16]))]);
            spawn(move || store.send(commit).unwrap())
        });
        let sent = join_all(threads.collect::<Vec<_>>());
        assert_eq!(sent.iter().filter(|appended| !appended.deduplicated()).count(), 1);
        assert!(sent.iter().all(|appended| appended.version() == StreamVersion::FIRST));
        assert_eq!(contents(&store).len(), 1);
    });
}

#[test]
fn what_was_acknowledged_as_synced_survives_a_loss_of_power_at_any_moment() {
    shuttle(300, || {
        let (store, disk) = in_memory(options(SYNCED));
        let acknowledged = Arc::new(Log::new(Vec::new()));
        let mut threads: Vec<_> = (0..2)
            .map(|writer| {
                let (store, acknowledged) = (store.clone(), Arc::clone(&acknowledged));
                spawn(move || {
                    let durability = if writer == 0 { SYNCED } else { OS };
                    for attempt in 0..2 {
                        let payload = format!("{writer}.{attempt}");
                        let commit = Commit::new().append("s", Any, [event(&payload)]).durability(durability);
                        let position = store.send(commit).unwrap().last_position().number();
                        if durability == SYNCED {
                            acknowledged.lock().push((position, payload));
                        }
                    }
                })
            })
            .collect();
        threads.push(spawn(move || {
            let synced = number(store.synced_head().unwrap());
            let acknowledged = acknowledged.lock().clone();
            for seed in 0..3 {
                let left = contents(&after_power_cut(&disk, seed));
                assert!(left.len() as u64 >= synced, "the synced head was ahead of what is durable");
                for (position, payload) in &acknowledged {
                    assert_eq!(left.get(*position as usize - 1).map(|(_, payload)| payload), Some(payload));
                }
            }
        }));
        join_all(threads);
    });
}

#[test]
fn groups_of_commits_and_single_ones_go_through_together() {
    shuttle(300, || {
        let (store, _) = in_memory(options(SYNCED));
        let group = store.clone();
        let group = spawn(move || {
            let commits = (0..3).map(|commit| Commit::new().append("g", Any, [event(format!("g{commit}"))]));
            group.send_all(commits).into_iter().map(|sent| sent.unwrap().version().number()).collect::<Vec<_>>()
        });
        let threads = (0..2).map(|writer| {
            let store = store.clone();
            spawn(move || store.append(format!("s-{writer}"), NoStream, [event(writer.to_string())]).map(drop).unwrap())
        });
        let threads: Vec<_> = threads.collect();
        assert_eq!(join_all([group]), [[1, 2, 3]]);
        join_all(threads);
        assert_eq!(contents(&store).len(), 5);
        assert_eq!(store.synced_head().unwrap(), store.head().unwrap());
    });
}
