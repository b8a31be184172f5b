//! Appending: commits of 1, 10 and 1,000 events, synced and handed to the operating system, from 1, 8 and 64 threads.
//!
//! In the same run, bare loops write the same number of bytes with one call each, with and without a sync: only the
//! ratio to them can be carried to another machine.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use annals::{Commit, Durability, ExpectedVersion, NewEvent, Options, Store};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const COMMIT_EVENTS: [usize; 3] = [1, 10, 1_000];
const THREADS: [usize; 3] = [1, 8, 64];
const STREAMS: usize = 1_000;
/// Size of the files of the bare loops: that of a large segment.
const FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Stores of some seconds: what background work costs does not show in the first of them.
fn lasting(c: &mut Criterion) {
    let directory = common::directory();
    let store = Options::new().durability(Durability::Os).open(directory.path().join("store")).unwrap();
    let mut group = c.benchmark_group("append/os");
    group.throughput(Throughput::Elements(1));
    group.bench_function("lasting", |b| b.iter_custom(|commits| append_alone(&store, commits, 1)));
    group.finish();
}

fn append(c: &mut Criterion) {
    for durability in [Durability::Os, Durability::Synced] {
        for events in COMMIT_EVENTS {
            let name = match durability {
                Durability::Os => "append/os",
                Durability::Synced => "append/synced",
            };
            let mut group = c.benchmark_group(format!("{name}/{events}-a-commit"));
            group.throughput(Throughput::Elements(events as u64));
            let bytes = commit_bytes(events);
            group.bench_function("bare", |b| {
                let mut bare = Bare::new(bytes, durability == Durability::Synced);
                b.iter(|| bare.write());
            });
            for threads in THREADS {
                group.bench_function(BenchmarkId::new("threads", threads), |b| {
                    let directory = common::directory();
                    let store = Options::new().durability(durability).open(directory.path().join("store")).unwrap();
                    b.iter_custom(|commits| append_from(&store, threads, commits, events));
                });
            }
            group.finish();
        }
    }
}

/// How long `threads` threads take for `commits` commits together.
fn append_from(store: &Store, threads: usize, commits: u64, events: usize) -> Duration {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let each = commits.div_ceil(threads as u64);
    if threads == 1 {
        return append_alone(store, each, events);
    }
    let barrier = Barrier::new(threads + 1);
    let took = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                (0..each).for_each(|_| append_one(store, NEXT.fetch_add(1, Ordering::Relaxed), events));
                barrier.wait();
            });
        }
        barrier.wait();
        let began = Instant::now();
        barrier.wait();
        began.elapsed()
    });
    // Threads made the same number of commits each, which may be a few more than were asked for.
    took.mul_f64(commits as f64 / (each * threads as u64) as f64)
}

/// How long one thread takes. Its commits are made beforehand, as the bytes of the bare loop are.
fn append_alone(store: &Store, commits: u64, events: usize) -> Duration {
    const PREPARED_EVENTS: usize = 64;
    let at_once = (PREPARED_EVENTS / events).max(1) as u64;
    let (mut took, mut prepared) = (Duration::ZERO, Vec::new());
    for first in (0..commits).step_by(at_once as usize) {
        let count = at_once.min(commits - first);
        prepared.extend((first..first + count).map(|number| commit(number as usize, events)));
        let began = Instant::now();
        for commit in prepared.drain(..) {
            store.send(commit).unwrap();
        }
        took += began.elapsed();
    }
    took
}

fn append_one(store: &Store, number: usize, events: usize) {
    store.send(commit(number, events)).unwrap();
}

fn commit(number: usize, events: usize) -> Commit {
    let stream = format!("account-{}", number % STREAMS);
    let event = |_| NewEvent::raw("Deposited", common::payload());
    Commit::new().append(stream, ExpectedVersion::Any, (0..events).map(event))
}

/// What a commit takes in the log.
fn commit_bytes(events: usize) -> usize {
    let store = Store::in_memory().unwrap();
    append_one(&store, 100, events);
    let one = store.stats().unwrap().bytes;
    append_one(&store, 100, events);
    (store.stats().unwrap().bytes - one) as usize
}

/// A loop of bare writes into allocated files.
struct Bare {
    path: PathBuf,
    file: File,
    bytes: Vec<u8>,
    offset: u64,
    is_synced: bool,
    _directory: tempfile::TempDir,
}

impl Bare {
    fn new(bytes: usize, is_synced: bool) -> Self {
        let directory = common::directory();
        let path = directory.path().join("bare");
        let file = allocated(&path);
        Self { path, file, bytes: vec![7; bytes], offset: 0, is_synced, _directory: directory }
    }

    fn write(&mut self) {
        if self.offset + self.bytes.len() as u64 > FILE_BYTES {
            self.file = allocated(&self.path);
            self.offset = 0;
        }
        write_at(&self.file, &self.bytes, self.offset);
        if self.is_synced {
            self.file.sync_data().unwrap();
        }
        self.offset += self.bytes.len() as u64;
    }
}

fn allocated(path: &Path) -> File {
    let file = File::create(path).unwrap();
    #[cfg(target_os = "linux")]
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE_BYTES).unwrap();
    #[cfg(not(target_os = "linux"))]
    file.set_len(FILE_BYTES).unwrap();
    file.sync_all().unwrap();
    file
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset).unwrap();
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8], offset: u64) {
    assert_eq!(std::os::windows::fs::FileExt::seek_write(file, bytes, offset).unwrap(), bytes.len());
}

criterion_group! { name = benches; config = common::criterion(); targets = append, lasting }
criterion_main!(benches);
