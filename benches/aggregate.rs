//! Aggregates: loading one of 10, 1,000 and 10,000 events by replay, from a snapshot and from the cache; a command on it;
//! a decision over a query. Appends are not synced: what a sync costs is in the bench `append`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::hint::black_box;

use annals::{
    Aggregate, CommandId, DecisionModel, EventTypes, ExpectedVersion, Query, Repository, SnapshotPolicy, Store,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};

const SIZES: [u64; 3] = [10, 1_000, 10_000];

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Deposited { cents: u64, reference: String },
    Withdrawn { cents: u64, reference: String },
}

/// What an account amounts to, with its last bookings.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Account {
    cents: u64,
    bookings: u64,
    recent: Vec<String>,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        let reference = match event {
            AccountEvent::Deposited { cents, reference } => {
                self.cents += cents;
                reference
            }
            AccountEvent::Withdrawn { cents, reference } => {
                self.cents -= cents;
                reference
            }
        };
        self.bookings += 1;
        if self.bookings.is_multiple_of(100) {
            self.recent.push(reference.clone());
        }
    }
}

impl Account {
    fn book(&self) -> AccountEvent {
        let reference = format!("booking {}", self.bookings);
        match self.bookings % 2 {
            0 => AccountEvent::Deposited { cents: 100, reference },
            _ => AccountEvent::Withdrawn { cents: 100, reference },
        }
    }
}

fn fill(store: &Store) {
    let accounts = store.repository::<Account>().unwrap();
    for events in SIZES {
        let mut account = Account::default();
        let booked = (0..events).map(|_| {
            let event = account.book();
            account.apply(&event);
            event
        });
        accounts.append(events, ExpectedVersion::NoStream, booked.collect::<Vec<_>>()).unwrap();
    }
}

fn load(c: &mut Criterion) {
    let directory = common::directory();
    let store = common::options().open(directory.path().join("store")).unwrap();
    fill(&store);
    let replay = store.repository::<Account>().unwrap();
    let snapshots = replay.clone().snapshots(SnapshotPolicy::on_demand()).unwrap();
    for events in SIZES {
        snapshots.save_snapshot(events).unwrap();
    }
    let ways = [("replay", replay.clone()), ("snapshot", snapshots), ("cache", replay.cached(8))];
    let mut group = c.benchmark_group("aggregate/load");
    for (way, accounts) in ways {
        for events in SIZES {
            group.bench_with_input(BenchmarkId::new(way, events), &events, |b, events| {
                b.iter(|| black_box(accounts.load(events).unwrap().cents));
            });
        }
    }
    group.finish();
}

fn execute(c: &mut Criterion) {
    let directory = common::directory();
    let store = common::options().open(directory.path().join("store")).unwrap();
    fill(&store);
    let replay = store.repository::<Account>().unwrap();
    let snapshots = replay.clone().snapshots(SnapshotPolicy::every_events(100)).unwrap();
    let cached = replay.clone().cached(8);
    let mut group = c.benchmark_group("aggregate/execute");
    let mut booking = 1_000_000_u64;
    group.bench_function("replay of up to 10", |b| {
        b.iter(|| {
            booking += 1;
            replay.execute(booking / 10, Account::book).unwrap()
        });
    });
    let mut bench = |name: &str, accounts: &Repository<Account>, id: u64| {
        group.bench_function(name, |b| b.iter(|| accounts.execute(id, Account::book).unwrap()));
    };
    bench("snapshot every 100 of 1000 and more", &snapshots, 1_000);
    bench("cache of 10000 and more", &cached, 10_000);
    group.bench_function("cache of 10000 and more, with a command id", |b| {
        b.iter_batched(
            || store.new_command_id(),
            |id: CommandId| cached.command(id).execute(10_000, Account::book).unwrap(),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

#[derive(Serialize, Deserialize)]
enum SeatEvent {
    SeatTaken { course: u64 },
}

#[derive(Default)]
struct Seats(u64);

impl DecisionModel for Seats {
    type Event = SeatEvent;

    fn apply(&mut self, _: &SeatEvent) {
        self.0 += 1;
    }

    fn event_types() -> EventTypes<SeatEvent> {
        EventTypes::new().tagged_by(|SeatEvent::SeatTaken { course }| vec![format!("course:{course}")])
    }
}

/// Ten seats a course, taken one by one in courses that are never the same again.
fn decide(c: &mut Criterion) {
    let directory = common::directory();
    let store = common::options().open(directory.path().join("store")).unwrap();
    let mut seat = 0_u64;
    c.bench_function("aggregate/decide/up to 10 events by tag", |b| {
        b.iter(|| {
            seat += 1;
            let course = seat / 10;
            let decided = store.decide(Query::tag(format!("course:{course}")), Seats::default(), |taken| {
                (taken.0 < 10).then_some(SeatEvent::SeatTaken { course })
            });
            decided.unwrap()
        });
    });
}

criterion_group! { name = benches; config = common::criterion(); targets = load, execute, decide }
criterion_main!(benches);
