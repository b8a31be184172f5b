//! `kill -9` of processes that project: each event is in the read model exactly once, however often it happened.
//!
//! The test runs its own binary as a child that appends, projects, rebuilds and retries, and kills it at moments that a
//! seed chooses. Afterwards the view must be the fold over the log.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod torture;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use annals::{
    Durability, Event, ExpectedVersion, NewEvent, Options, Parts, Position, Projection, Query, ReadModel, Store, Table,
    field,
};
use serde::{Deserialize, Serialize};

use torture::{Dice, directory};

/// What the child is to do, in the environment.
const ROLE: &str = "ANNALS_KILL_PROJECTIONS_ROLE";
const PATH: &str = "ANNALS_KILL_PROJECTIONS_PATH";
const ROUND: &str = "ANNALS_KILL_PROJECTIONS_ROUND";
const SEED: u64 = 20_262;
/// A child that nobody kills ends after so many steps.
const STEPS_MAX: u64 = 100_000;

fn options() -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(64 * 1024)
        .index_memory_bytes_max(64 * 1024)
        .index_tail_bytes_max(8 * 1024)
        .durability(Durability::Os)
}

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Moved { cents: i64 },
    Closed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    cents: i64,
    moves: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Accounts {
    accounts: Table<String, Account>,
    events: u64,
}

impl Accounts {
    fn new() -> Self {
        Self { accounts: Table::new().index("cents", |account: &Account| account.cents), events: 0 }
    }
}

impl ReadModel for Accounts {
    fn parts(&mut self, parts: &mut Parts<'_>) {
        parts.table("accounts", &mut self.accounts).value("events", &mut self.events);
    }
}

impl Projection for Accounts {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent, recorded: &Event<'_>) {
        self.events += 1;
        let stream = recorded.stream().to_owned();
        match event {
            AccountEvent::Moved { cents } => self.accounts.upsert(
                stream,
                || Account { cents: 0, moves: 0 },
                |account| {
                    account.cents += cents;
                    account.moves += 1;
                },
            ),
            AccountEvent::Closed => drop(self.accounts.remove(&stream)),
        }
    }
}

/// The read model that the log says there is.
fn fold(store: &Store) -> Accounts {
    let codec = Accounts::event_types().check().unwrap();
    let mut accounts = Accounts::new();
    let mut read = store.read(Query::all());
    while let Some(event) = read.next().unwrap() {
        codec.decode(&event).unwrap().for_each(|decoded| accounts.apply(&decoded, &event));
    }
    accounts
}

/// The child: does nothing when the tests are run.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var(PATH).unwrap());
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = options().open(path.join("store")).unwrap();
    match role.as_str() {
        "embedded" => project(&store, round),
        #[cfg(feature = "sqlite")]
        "sqlite" => sqlite::project(&store, &path, round),
        other => panic!("unknown role {other}"),
    }
}

/// Tells the parent; ends the child if there is none any more.
fn tell(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "@{line}").and_then(|()| stdout.flush()).unwrap();
}

/// Appends, and every now and then a projection is started, stopped, or rebuilt.
fn append(store: &Store, round: u64, step: u64) -> Position {
    let number = round * 7_919 + step;
    let stream = format!("account-{}", number * 31 % 40);
    let event = match number % 23 {
        0 => NewEvent::json("Closed", &()),
        _ => NewEvent::json("Moved", &serde_json::json!({ "cents": number % 100 })),
    };
    store.append(stream, ExpectedVersion::Any, [event.unwrap()]).unwrap().last_position()
}

fn project(store: &Store, round: u64) {
    let mut step = 0;
    while step < STEPS_MAX {
        let builder = store.projection("accounts", Accounts::new());
        let builder = builder.save_every_events(1 + (round % 5) as usize * 20).save_within(Duration::from_millis(1));
        // Another version now and then: what was saved is given up while it is killed.
        let accounts = builder.version(1 + (round / 4) as u32).start().unwrap();
        tell("started");
        std::thread::scope(|scope| {
            let rebuilding = scope.spawn(|| {
                (0..3).for_each(|_| {
                    accounts.rebuild().unwrap();
                    tell("rebuilt");
                });
            });
            for _ in 0..400 {
                let position = append(store, round, step);
                step += 1;
                if step.is_multiple_of(50) {
                    accounts.wait_for(position).unwrap();
                    tell("applied");
                }
            }
            rebuilding.join().unwrap();
        });
        accounts.stop().unwrap();
        tell("stopped");
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use annals::{EventTypes, HandlerError, SqlProjectionHandle};
    use rusqlite::Connection;

    use super::*;

    const SCHEMA: &str = "
        CREATE TABLE accounts (stream TEXT PRIMARY KEY, cents INTEGER NOT NULL, moves INTEGER NOT NULL);
        CREATE TABLE seen (events INTEGER NOT NULL);
        INSERT INTO seen VALUES (0)";

    fn apply(tables: &Connection, event: &AccountEvent, recorded: &Event<'_>) -> Result<(), HandlerError> {
        tables.prepare_cached("UPDATE seen SET events = events + 1")?.execute([])?;
        match event {
            AccountEvent::Moved { cents } => tables
                .prepare_cached(
                    "INSERT INTO accounts VALUES (?1, ?2, 1)
                     ON CONFLICT DO UPDATE SET cents = cents + ?2, moves = moves + 1",
                )?
                .execute((recorded.stream(), cents))?,
            AccountEvent::Closed => {
                tables.prepare_cached("DELETE FROM accounts WHERE stream = ?1")?.execute([recorded.stream()])?
            }
        };
        Ok(())
    }

    fn start(store: &Store, path: &Path, round: u64) -> SqlProjectionHandle {
        store
            .sql_projection("accounts", path.join("accounts.sqlite"), EventTypes::new(), apply)
            .schema(SCHEMA)
            .version(1 + (round / 4) as u32)
            .save_every_events(1 + (round % 5) as usize * 20)
            .start()
            .unwrap()
    }

    pub(super) fn project(store: &Store, path: &Path, round: u64) {
        let mut step = 0;
        while step < STEPS_MAX {
            let accounts = start(store, path, round);
            tell("started");
            for _ in 0..400 {
                let position = append(store, round, step);
                step += 1;
                if step.is_multiple_of(50) {
                    accounts.wait_for(position).unwrap();
                    tell("applied");
                }
            }
            accounts.rebuild().unwrap();
            tell("rebuilt");
            accounts.stop().unwrap();
        }
    }

    fn rows(connection: &Connection) -> (Vec<(String, i64, i64)>, i64) {
        let select = "SELECT stream, cents, moves FROM accounts ORDER BY stream";
        let mut statement = connection.prepare(select).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let events = connection.query_row("SELECT events FROM seen", [], |row| row.get(0)).unwrap();
        (rows.map(Result::unwrap).collect(), events)
    }

    fn expected(accounts: &Accounts) -> (Vec<(String, i64, i64)>, i64) {
        let rows = accounts.accounts.iter().map(|(stream, row)| (stream.clone(), row.cents, row.moves as i64));
        (rows.collect(), accounts.events as i64)
    }

    #[test]
    fn a_sql_projection_has_each_event_once_after_every_kill() {
        let directory = directory();
        let mut dice = Dice::new(SEED + 1);
        for round in 0..20 {
            run_and_kill("sqlite", directory.path(), round, 1 + dice.below(40), &mut dice);
            let context = format!("seed {SEED}, round {round}");
            let store = options().open(directory.path().join("store")).unwrap();
            // What the tables say they have seen is what is in them, before anything is applied again.
            let reader = Connection::open(directory.path().join("accounts.sqlite")).unwrap();
            let consistent =
                reader.query_row("SELECT sum(moves) <= (SELECT events FROM seen) FROM accounts", [], |row| {
                    row.get::<_, Option<bool>>(0)
                });
            assert_ne!(consistent.unwrap_or_default(), Some(false), "{context}");
            let accounts = start(&store, directory.path(), round);
            if let Some(head) = store.head().unwrap() {
                accounts.wait_for(head).unwrap();
            }
            assert_eq!(rows(&reader), expected(&fold(&store)), "{context}");
            accounts.stop().unwrap();
        }
    }
}

/// Runs a child in a role, reads so many lines, and kills it.
fn run_and_kill(role: &str, path: &Path, round: u64, lines: u64, dice: &mut Dice) {
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
    let (mut said, mut line) = (0, String::new());
    while said < lines && output.read_line(&mut line).unwrap() > 0 {
        said += u64::from(line.contains('@'));
        line.clear();
    }
    // A moment that has nothing to do with the line that was read last.
    for _ in 0..dice.below(60_000) {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    drop(output);
    let ended = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code().is_none(), "seed {SEED}, round {round}: the child ended by itself: {errors}");
    assert!(said >= lines, "seed {SEED}, round {round}: {errors}");
}

#[test]
fn an_embedded_projection_has_each_event_once_after_every_kill() {
    let directory = directory();
    let mut dice = Dice::new(SEED);
    let mut events = 0;
    for round in 0..30 {
        run_and_kill("embedded", directory.path(), round, 1 + dice.below(40), &mut dice);
        let context = format!("seed {SEED}, round {round}");
        let store = options().open(directory.path().join("store")).unwrap();
        let version = 1 + (round / 4) as u32;
        let accounts = store.projection("accounts", Accounts::new()).version(version).start().unwrap();
        if let Some(head) = store.head().unwrap() {
            accounts.wait_for(head).unwrap();
        }
        let expected = fold(&store);
        assert_eq!(*accounts.view(), expected, "{context}: {:?}", accounts.start_report());
        let poor = expected.accounts.iter().filter(|(_, account)| account.cents < 1_000).count();
        let found = accounts.read(|view| view.accounts.query().filter(field("cents").lt(1_000)).count().unwrap());
        assert_eq!(found, poor, "{context}: the index");
        events = expected.events;
        accounts.stop().unwrap();
    }
    assert!(events > 1_000, "{events}");
}
