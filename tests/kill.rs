//! `kill -9`, again and again: nothing that was acknowledged is lost, and the same store goes on.
//!
//! The test runs its own binary as a child that prints what the store acknowledged to it, and kills it at moments that
//! a seed chooses. A kill leaves everything that was handed to the operating system; what a loss of power leaves is
//! tested on a simulated disk.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod torture;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use annals::{Durability, ExpectedVersion, NewEvent, Options, Query, RecordedEvent, Result, Store};

use torture::{Dice, directory};

/// What the child is to do, in the environment.
const ROLE: &str = "ANNALS_KILL_ROLE";
const PATH: &str = "ANNALS_KILL_PATH";
const ROUND: &str = "ANNALS_KILL_ROUND";
const THREADS: u64 = 4;
/// A child that nobody kills ends after so many steps.
const STEPS_MAX: u64 = 3_000;

/// What the moments of the kills follow from, unless the environment says another number: with `ANNALS_KILL_SEED` the run
/// that failed goes through the same steps again, though not through the same moments of the machine.
fn seed() -> u64 {
    std::env::var("ANNALS_KILL_SEED").map_or(20_261, |seed| seed.parse().expect("ANNALS_KILL_SEED is a number"))
}

/// Tiny segments and a tiny index, so that a round has rolls, spills and merges.
fn options() -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(16 * 1024)
        .index_memory_bytes_max(16 * 1024)
        .index_tail_bytes_max(6 * 1024)
}

/// A commit that the child was told is written. Its text gives its events again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acknowledged {
    label: String,
    count: u64,
    is_synced: bool,
    first: u64,
}

/// The streams and payloads of the events of a commit, which follow from its label.
fn content_of(label: &str, count: u64) -> Vec<(String, Vec<u8>)> {
    let number: u64 = label.rsplit('/').next().unwrap().parse().unwrap();
    let event = |ordinal: u64| {
        let stream = match ordinal {
            0 => format!("own-{}", label.split('/').nth(1).unwrap()),
            _ => format!("shared-{}", (number + ordinal) % 5),
        };
        let mut payload = format!("{label} {ordinal} of {count} ");
        payload.push_str(&"x".repeat((number * 37 % 300) as usize));
        (stream, payload.into_bytes())
    };
    (0..count).map(event).collect()
}

/// The child: does nothing when the tests are run.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var(PATH).unwrap());
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    match role.as_str() {
        "append" => append_in_threads(&options().open(path).unwrap(), round, STEPS_MAX),
        "open" => open_and_close(&path, round),
        "backup" => back_up_while_appending(&path, round),
        other => panic!("unknown role {other}"),
    }
}

/// Tells the parent; ends the child if there is none any more.
fn tell(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "@{line}").and_then(|()| stdout.flush()).unwrap();
}

fn append_in_threads(store: &Store, round: u64, steps: u64) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || (0..steps).for_each(|number| append(store, &format!("{round}/{thread}/{number}"))));
        }
    });
}

fn append(store: &Store, label: &str) {
    let number: u64 = label.rsplit('/').next().unwrap().parse().unwrap();
    let (count, is_synced) = (1 + number % 3, number.is_multiple_of(4));
    let commit = content_of(label, count).into_iter().fold(store.commit(), |commit, (stream, payload)| {
        let event = NewEvent::raw("Happened", payload).tag(format!("label:{label}")).tag("any");
        commit.append(stream, ExpectedVersion::Any, [event])
    });
    let durability = if is_synced { Durability::Synced } else { Durability::Os };
    let appended = commit.durability(durability).send().unwrap();
    tell(&format!("ack {label} {count} {is_synced} {}", appended.first_position()));
}

fn open_and_close(path: &Path, round: u64) {
    for step in 0..STEPS_MAX {
        let store = options().open(path).unwrap();
        tell("opened");
        append(&store, &format!("{round}/0/{step}"));
        // Every other time it is dropped with what it was handed not yet synced.
        if step % 2 == 0 {
            store.close().unwrap();
            tell("closed");
        }
    }
}

fn back_up_while_appending(path: &Path, round: u64) {
    let store = options().open(path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| append_in_threads(&store, round, STEPS_MAX));
        for step in 0..STEPS_MAX {
            let name = format!("backup-{round}-{step}");
            let report = store.backup(path.with_file_name(&name)).unwrap();
            tell(&format!("backup {name} {}", report.events));
        }
    });
}

/// Runs a child in a role, reads so many lines, kills it, and returns everything that it said.
fn run_and_kill(role: &str, path: &Path, round: u64, lines: u64, dice: &mut Dice) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ROLE, role)
        .env(PATH, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = Vec::new();
    let mut line = String::new();
    while (said.len() as u64) < lines && output.read_line(&mut line).unwrap() > 0 {
        said.extend(message(&line));
        line.clear();
    }
    // A moment that has nothing to do with the line that was read last.
    for _ in 0..dice.below(60_000) {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    while output.read_line(&mut line).unwrap() > 0 {
        said.extend(message(&line));
        line.clear();
    }
    let ended = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code().is_none(), "seed {}, round {round}: the child ended by itself: {errors}", seed());
    assert!(said.len() as u64 >= lines, "seed {}, round {round}: {errors}", seed());
    said
}

/// A whole line of the child; the last one may be cut by the kill, and the test harness has lines of its own.
fn message(line: &str) -> Option<String> {
    let at = line.find('@')?;
    line[at + 1..].strip_suffix('\n').map(str::to_owned)
}

fn acknowledged(said: &[String]) -> Vec<Acknowledged> {
    let parse = |line: &String| {
        let mut words = line.strip_prefix("ack ")?.split(' ');
        Some(Acknowledged {
            label: words.next()?.to_owned(),
            count: words.next()?.parse().ok()?,
            is_synced: words.next()? == "true",
            first: words.next()?.parse().ok()?,
        })
    };
    said.iter().filter_map(parse).collect()
}

fn all(store: &Store) -> Vec<RecordedEvent> {
    store.read(Query::all()).owned().collect::<Result<_>>().unwrap()
}

/// A store through all its lives, and what must be in it.
struct History {
    path: PathBuf,
    /// What was there after the last kill, as it was recovered or shown to a reader; it stays as it is.
    events: Vec<RecordedEvent>,
}

impl History {
    fn new(path: PathBuf) -> Self {
        Self { path, events: Vec::new() }
    }

    /// After a kill: first as a reader sees it, then as it is recovered, if that is not left to the next child.
    fn check(&mut self, acknowledged: &[Acknowledged], recovers: bool, context: &str) {
        let reader = options().open_read_only(&self.path).unwrap();
        let seen = all(&reader);
        let synced: Vec<_> = acknowledged.iter().filter(|commit| commit.is_synced).cloned().collect();
        check_commits(&seen, &synced, context);
        assert!(self.events.starts_with(&seen) || seen.starts_with(&self.events), "{context}: another history");
        drop(reader);
        // What a reader was shown is not taken back, not even by the recovery.
        if seen.len() > self.events.len() {
            self.events = seen;
        }
        let report = annals::verify(&self.path, &mut |_| {}).unwrap();
        assert!(report.problems.is_empty(), "{context}: {:?}", report.problems);
        if recovers {
            self.check_recovered(acknowledged, context);
        }
    }

    fn check_recovered(&mut self, acknowledged: &[Acknowledged], context: &str) {
        let store = options().open(&self.path).unwrap();
        let events = all(&store);
        assert!(events.starts_with(&self.events), "{context}: what was there before is gone or changed");
        check_commits(&events, acknowledged, context);
        check_whole(&events, context);
        check_streams(&store, &events, context);
        for commit in acknowledged.iter().step_by(17) {
            let found: Vec<u64> = positions(&store, Query::tag(format!("label:{}", commit.label)));
            assert_eq!(found, (commit.first..commit.first + commit.count).collect::<Vec<_>>(), "{context}: by tag");
        }
        self.events = events;
        store.close().unwrap();
        let report = annals::verify(&self.path, &mut |_| {}).unwrap();
        assert!(report.problems.is_empty(), "{context}, closed: {:?}", report.problems);
    }
}

fn positions(store: &Store, query: Query) -> Vec<u64> {
    store.read(query).owned().map(|event| event.unwrap().position.number()).collect()
}

/// Each commit stands where the store said, with its content.
fn check_commits(events: &[RecordedEvent], acknowledged: &[Acknowledged], context: &str) {
    for commit in acknowledged {
        let first = commit.first as usize - 1;
        let range = first..first + commit.count as usize;
        let Some(found) = events.get(range) else { panic!("{context}: {commit:?} is lost, of {}", events.len()) };
        let label = format!("label:{}", commit.label);
        assert!(found.iter().all(|event| event.tags.contains(&label)), "{context}: {commit:?} is not at its place");
    }
}

/// What was recovered consists of whole commits, acknowledged or not, with the content that they were given.
fn check_whole(events: &[RecordedEvent], context: &str) {
    let mut rest = events;
    let mut next = 1;
    while let Some(first) = rest.first() {
        let text = String::from_utf8(first.payload.clone()).unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        let count: u64 = words[3].parse().unwrap();
        let (commit, behind) =
            rest.split_at_checked(count as usize).unwrap_or_else(|| panic!("{context}: half {text}"));
        for ((stream, payload), recorded) in content_of(words[0], count).into_iter().zip(commit) {
            assert_eq!((recorded.position.number(), recorded.commit), (next, first.position), "{context}: {text}");
            assert_eq!(recorded.stream, stream, "{context}: {text}");
            assert_eq!(recorded.payload, payload, "{context}: {text}");
            next += 1;
        }
        rest = behind;
    }
}

/// Each stream is found through the index, whole, with versions from 1 without gaps.
fn check_streams(store: &Store, events: &[RecordedEvent], context: &str) {
    let mut streams: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for event in events {
        let positions = streams.entry(&event.stream).or_default();
        positions.push(event.position.number());
        assert_eq!(event.version.number(), positions.len() as u64, "{context}: {} in {}", event.position, event.stream);
    }
    for (stream, expected) in streams {
        assert_eq!(positions(store, Query::stream(stream)), expected, "{context}: {stream}");
        let version = store.version(stream).unwrap().map(annals::StreamVersion::number);
        assert_eq!(version, Some(expected.len() as u64), "{context}: {stream}");
    }
}

#[test]
fn a_kill_while_appending_loses_nothing_that_was_acknowledged() {
    let directory = directory();
    let mut history = History::new(directory.path().join("store"));
    let mut dice = Dice::new(seed());
    let mut pending = Vec::new();
    for round in 0..25 {
        let lines = 1 + dice.below(if round % 5 == 0 { 3 } else { 150 });
        let said = run_and_kill("append", &history.path, round, lines, &mut dice);
        pending.extend(acknowledged(&said));
        // Twice in five times the next child recovers what this one left.
        let recovers = round % 5 < 3 || round == 24;
        history.check(&pending, recovers, &format!("seed {}, round {round}", seed()));
        if recovers {
            pending.clear();
        }
    }
    assert!(history.events.len() > 500, "{}", history.events.len());
}

#[test]
fn a_kill_while_opening_and_closing_loses_nothing() {
    let directory = directory();
    let mut history = History::new(directory.path().join("store"));
    let mut dice = Dice::new(seed() + 1);
    for round in 0..20 {
        let lines = 1 + dice.below(30);
        let said = run_and_kill("open", &history.path, round, lines, &mut dice);
        history.check(&acknowledged(&said), true, &format!("seed {}, round {round}", seed()));
    }
}

#[test]
fn a_kill_while_backing_up_leaves_the_store_and_whole_backups() {
    let directory = directory();
    let mut history = History::new(directory.path().join("store"));
    let mut dice = Dice::new(seed() + 2);
    for round in 0..8 {
        let said = run_and_kill("backup", &history.path, round, 20 + dice.below(150), &mut dice);
        let context = format!("seed {}, round {round}", seed());
        history.check(&acknowledged(&said), true, &context);
        for line in said.iter().filter_map(|line| line.strip_prefix("backup ")) {
            let (name, events) = line.split_once(' ').unwrap();
            let backup = options().open_read_only(directory.path().join(name)).unwrap();
            assert_eq!(all(&backup).len().to_string(), events, "{context}: {name}");
        }
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            // A backup has its name when it is whole; what a kill leaves has another ending.
            if name.starts_with("backup-") && path.extension().is_none() {
                let report = annals::verify(&path, &mut |_| {}).unwrap();
                assert!(report.problems.is_empty(), "{context}: {name}: {:?}", report.problems);
                let backup = options().open(&path).unwrap();
                assert!(history.events.starts_with(&all(&backup)), "{context}: {name}");
            }
            if name.starts_with("backup-") {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }
}
