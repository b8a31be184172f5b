//! Replaying everything in order from one thread, checksums verified and every byte of the payloads touched; and only
//! one type of twenty, and one category.
//!
//! `ANNALS_BENCH_EVENTS` makes the store of a million events smaller.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::hint::black_box;

use annals::{Query, ReadMode, Store};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn replay(c: &mut Criterion) {
    let total = common::events_total();
    let directory = common::directory();
    let path = directory.path().join("store");
    drop(common::filled(&path, total));
    let store = common::options().open(&path).unwrap();
    let mut group = c.benchmark_group("replay");
    let queries = [("all", Query::all()), ("type", Query::types(["Paid"])), ("category", Query::category("medium"))];
    for (name, query) in queries {
        group.throughput(Throughput::Elements(sum(&store, &query).0));
        group.bench_function(name, |b| b.iter(|| black_box(sum(&store, &query))));
    }
    drop(store);
    let store = common::options().read_mode(ReadMode::Pread).open(&path).unwrap();
    group.throughput(Throughput::Elements(total as u64));
    group.bench_function("all/pread", |b| b.iter(|| black_box(sum(&store, &Query::all()))));
    group.finish();
}

/// Counts events, and adds up the bytes of their payloads.
fn sum(store: &Store, query: &Query) -> (u64, u64) {
    let (mut events, mut sum) = (0, 0);
    let mut read = store.read(query.clone());
    while let Some(event) = read.next().unwrap() {
        events += 1;
        let mut words = event.payload().chunks_exact(8);
        for word in &mut words {
            sum ^= u64::from_le_bytes(word.try_into().unwrap());
        }
        sum ^= words.remainder().iter().fold(0, |sum, byte| sum ^ u64::from(*byte));
    }
    (events, sum)
}

criterion_group! { name = benches; config = common::criterion(); targets = replay }
criterion_main!(benches);
