//! Appending on a condition, to a small store and to a large one: with a recent `after` the cost must not grow.
//!
//! `ANNALS_BENCH_EVENTS` makes the large store of a million events smaller.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use annals::{Commit, ExpectedVersion, NewEvent, Query, Store};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn condition(c: &mut Criterion) {
    let mut group = c.benchmark_group("condition");
    for total in [10_000, common::events_total()] {
        let directory = common::directory();
        let store = common::filled(&directory.path().join("store"), total);
        let mut number = 0;
        let mut bench = |name: &str, commit: &dyn Fn(&Store, usize) -> Commit| {
            group.bench_function(BenchmarkId::new(name, total), |b| {
                b.iter(|| {
                    number += 1;
                    store.send(commit(&store, number)).unwrap()
                });
            });
        };
        bench("none", &|_, number| append(number));
        bench("tag-after-head", &|store, number| {
            append(number).unless_after(Query::tag(format!("order:{number}")), store.head().unwrap())
        });
        bench("type-after-head", &|store, number| {
            append(number).unless_after(Query::types(["Closed"]), store.head().unwrap())
        });
        // Every run has to be asked whether it has the tag; none has.
        bench("tag-ever", &|_, number| append(number).unless(Query::tag(format!("order:{number}"))));
    }
    group.finish();
}

fn append(number: usize) -> Commit {
    let event = NewEvent::raw("Deposited", common::payload()).tag(format!("order:{number}"));
    Commit::new().append(format!("account-{}", number % 100), ExpectedVersion::Any, [event])
}

criterion_group! { name = benches; config = common::criterion(); targets = condition }
criterion_main!(benches);
