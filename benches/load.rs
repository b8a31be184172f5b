//! Loading a stream of about 10, 100 and 10,000 events, scattered over a store of a million events in 100,000 streams.
//!
//! `ANNALS_BENCH_EVENTS` makes the store smaller; with fewer than 1,000,000 events the longest stream is shorter.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::hint::black_box;

use annals::{Query, ReadMode, Store};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn load(c: &mut Criterion) {
    let total = common::events_total();
    let directory = common::directory();
    let path = directory.path().join("store");
    drop(common::filled(&path, total));
    for (name, mode) in [("load", ReadMode::Map), ("load/pread", ReadMode::Pread)] {
        let store = common::options().read_mode(mode).open(&path).unwrap();
        let mut group = c.benchmark_group(name);
        for (events, streams) in common::streams(total) {
            let found: u64 = streams.iter().map(|stream| load_one(&store, stream).0).sum();
            group.throughput(Throughput::Elements(found / streams.len() as u64));
            group.bench_with_input(BenchmarkId::new("events", events), &streams, |b, streams| {
                let mut next = streams.iter().cycle();
                b.iter(|| black_box(load_one(&store, next.next().unwrap())));
            });
        }
        group.finish();
    }
}

/// Reads a stream and touches each payload.
fn load_one(store: &Store, stream: &str) -> (u64, u64) {
    let (mut events, mut sum) = (0, 0);
    let mut read = store.read(Query::stream(stream));
    while let Some(event) = read.next().unwrap() {
        events += 1;
        sum += u64::from(event.payload()[events as usize % common::PAYLOAD_BYTES]);
    }
    (events, sum)
}

criterion_group! { name = benches; config = common::criterion(); targets = load }
criterion_main!(benches);
