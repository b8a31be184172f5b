//! Projecting a store from its first event to its head: what one core can apply in a second.
//!
//! Each round is a projection of its own: it is started, reads and saves everything as any projection does, and is
//! stopped. The events are those of accounts: a small JSON enum. `decode` is the reading and decoding alone, without a
//! projection, as a bound. `ANNALS_BENCH_EVENTS` makes the store of a million events smaller.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::{Commit, Event, EventTypes, ExpectedVersion, Parts, Position, Projection, Query, ReadModel, Store, Table};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};

const ACCOUNTS: usize = 10_000;
const FILL_EVENTS: usize = 1_000;

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Deposited { cents: i64, currency: Currency },
    Withdrawn { cents: i64, branch: u32 },
    Renamed { owner: String },
}

#[derive(Serialize, Deserialize)]
enum Currency {
    Eur,
    Usd,
}

fn event(number: usize) -> AccountEvent {
    match number % 10 {
        0..6 => AccountEvent::Deposited { cents: number as i64 % 5_000, currency: Currency::Eur },
        6..9 => AccountEvent::Withdrawn { cents: number as i64 % 3_000, branch: 7 },
        _ => AccountEvent::Renamed { owner: format!("owner {number}") },
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Totals {
    events: u64,
    cents: i64,
}

impl Projection for Totals {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent, _recorded: &Event<'_>) {
        self.events += 1;
        match event {
            AccountEvent::Deposited { cents, currency: Currency::Eur | Currency::Usd } => self.cents += cents,
            AccountEvent::Withdrawn { cents, .. } => self.cents -= cents,
            AccountEvent::Renamed { owner } => self.events += u64::from(owner.is_empty()),
        }
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account {
    cents: i64,
    events: u64,
}

#[derive(Clone)]
struct Balances(Table<String, Account>);

impl ReadModel for Balances {
    fn parts(&mut self, parts: &mut Parts<'_>) {
        parts.table("accounts", &mut self.0);
    }
}

impl Projection for Balances {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent, recorded: &Event<'_>) {
        let cents = match event {
            AccountEvent::Deposited { cents, .. } => *cents,
            AccountEvent::Withdrawn { cents, .. } => -cents,
            AccountEvent::Renamed { .. } => 0,
        };
        self.0.upsert(recorded.stream().to_owned(), Account::default, |account| {
            account.cents += cents;
            account.events += 1;
        });
    }
}

fn filled(total: usize) -> Store {
    let store = common::options().in_memory().unwrap();
    let codec = EventTypes::<AccountEvent>::new().check().unwrap();
    for first in (0..total).step_by(FILL_EVENTS) {
        let commit = (first..total.min(first + FILL_EVENTS)).fold(Commit::new(), |commit, number| {
            let stream = format!("account-{}", number * 7_919 % ACCOUNTS);
            commit.append(stream, ExpectedVersion::Any, [codec.encode(&event(number)).unwrap()])
        });
        store.send(commit).unwrap();
    }
    store.maintain().unwrap();
    store
}

fn name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("projection {}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn project<P>(store: &Store, initial: P, head: Position)
where
    P: Projection + ReadModel + Clone + Send + Sync + 'static,
    P::Event: Send + Sync + 'static,
{
    let projection = store.projection(name(), initial).start().unwrap();
    projection.wait_for(head).unwrap();
    projection.stop().unwrap();
}

fn embedded(group: &mut BenchmarkGroup<'_, WallTime>, store: &Store, head: Position) {
    group.bench_function("decode", |b| b.iter(|| decode(store)));
    group.bench_function("typed", |b| b.iter(|| project(store, Totals::default(), head)));
    group.bench_function("raw", |b| {
        b.iter(|| {
            let count = |count: &mut u64, event: &Event<'_>| {
                *count += event.payload().len() as u64;
                Ok(())
            };
            let projection = store.projection_over(name(), Query::all(), 0_u64, count).start().unwrap();
            projection.wait_for(head).unwrap();
            projection.stop().unwrap();
        });
    });
    group.bench_function("table", |b| b.iter(|| project(store, Balances(Table::new()), head)));
    group.bench_function("table/indexed", |b| {
        b.iter(|| project(store, Balances(Table::new().index("cents", |account: &Account| account.cents)), head));
    });
}

/// The typed events that a projection of them reads, one after another.
fn decode(store: &Store) -> u64 {
    let codec = Totals::event_types().check().unwrap();
    let mut read = store.read(Totals::query(&codec));
    let mut totals = Totals::default();
    while let Some(event) = read.next().unwrap() {
        for decoded in codec.decode(&event).unwrap() {
            totals.apply(&decoded, &event);
        }
    }
    black_box(totals.events)
}

#[cfg(feature = "sqlite")]
fn sqlite(group: &mut BenchmarkGroup<'_, WallTime>, store: &Store, head: Position) {
    const SCHEMA: &str = "CREATE TABLE balances (account TEXT PRIMARY KEY, cents INTEGER NOT NULL) WITHOUT ROWID";
    const UPSERT: &str = "INSERT INTO balances VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + ?2";
    let directory = common::directory();
    group.bench_function("sqlite", |b| {
        b.iter(|| {
            let (name, path) = (name(), directory.path().join("balances.sqlite"));
            let apply = |tables: &rusqlite::Connection, event: &AccountEvent, recorded: &Event<'_>| {
                let cents = match event {
                    AccountEvent::Deposited { cents, .. } => *cents,
                    AccountEvent::Withdrawn { cents, .. } => -cents,
                    AccountEvent::Renamed { .. } => 0,
                };
                tables.prepare_cached(UPSERT)?.execute((recorded.stream(), cents))?;
                Ok(())
            };
            let projection =
                store.sql_projection(name, &path, EventTypes::new(), apply).schema(SCHEMA).start().unwrap();
            projection.wait_for(head).unwrap();
            projection.stop().unwrap();
            std::fs::remove_file(path).unwrap();
        });
    });
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_group: &mut BenchmarkGroup<'_, WallTime>, _store: &Store, _head: Position) {}

fn projection(c: &mut Criterion) {
    let total = common::events_total();
    let store = filled(total);
    let head = store.head().unwrap().unwrap();
    let mut group = c.benchmark_group("projection");
    group.throughput(Throughput::Elements(total as u64));
    embedded(&mut group, &store, head);
    sqlite(&mut group, &store, head);
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = projection }
criterion_main!(benches);
