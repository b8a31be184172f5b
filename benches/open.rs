//! Opening a store of a million events, after it was closed and after its process ended without that.
//!
//! `ANNALS_BENCH_EVENTS` makes the store smaller.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group};

/// Set for the process that is to fill a store at this path and end without closing it.
const FILL: &str = "ANNALS_BENCH_FILL";

fn main() {
    if let Some(path) = std::env::var_os(FILL) {
        let _store = common::fill(Path::new(&path), common::events_total());
        // Ends the process at once: no destructor runs, nothing is closed.
        std::process::exit(0);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    group.sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(1));
    let directory = common::directory();

    let closed = directory.path().join("closed");
    common::fill(&closed, common::events_total()).close().unwrap();
    group.bench_function("closed", |b| {
        b.iter_custom(|opens| (0..opens).map(|_| time_to_open(&closed)).sum());
    });
    group.bench_function("closed/read-only", |b| b.iter(|| annals::Store::open_read_only(&closed).unwrap()));

    let killed = directory.path().join("killed");
    let status = Command::new(std::env::current_exe().unwrap()).env(FILL, &killed).status().unwrap();
    assert!(status.success());
    group.bench_function("killed", |b| {
        let copy = directory.path().join("copy");
        b.iter_custom(|opens| {
            let open_copy = |_| {
                copy_store(&killed, &copy);
                let took = time_to_open(&copy);
                fs::remove_dir_all(&copy).unwrap();
                took
            };
            (0..opens).map(open_copy).sum()
        });
    });
    group.finish();
}

fn time_to_open(path: &Path) -> Duration {
    let began = Instant::now();
    let store = common::options().open_existing(path).unwrap();
    let took = began.elapsed();
    store.close().unwrap();
    took
}

/// Copies what opening may change, and links the rest, which is never written again: sealed segments and index files.
fn copy_store(from: &Path, to: &Path) {
    for dir in ["", "log", "index"] {
        fs::create_dir_all(to.join(dir)).unwrap();
        let entries = fs::read_dir(from.join(dir)).unwrap().map(Result::unwrap);
        let mut files: Vec<_> = entries.filter(|entry| entry.file_type().unwrap().is_file()).collect();
        files.sort_by_key(fs::DirEntry::file_name);
        // The active segment is the last one, or has a spare behind it.
        let copied = if dir == "index" { files.len() } else { files.len().saturating_sub(2) };
        for (index, file) in files.iter().enumerate() {
            let target = to.join(dir).join(file.file_name());
            if index < copied && !dir.is_empty() {
                fs::hard_link(file.path(), target).unwrap();
            } else {
                copy_sparse(&file.path(), &target);
            }
        }
    }
}

/// Copies a file and leaves out the zeros, most of which were allocated and never written.
fn copy_sparse(from: &Path, to: &Path) {
    const CHUNK_BYTES: usize = 1 << 20;
    let (mut from, mut to) = (fs::File::open(from).unwrap(), fs::File::create(to).unwrap());
    let length = from.metadata().unwrap().len();
    to.set_len(length).unwrap();
    let mut chunk = vec![0; CHUNK_BYTES];
    for offset in (0..length).step_by(CHUNK_BYTES) {
        let chunk = &mut chunk[..CHUNK_BYTES.min((length - offset) as usize)];
        from.read_exact(chunk).unwrap();
        if chunk.iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(offset)).unwrap();
            to.write_all(chunk).unwrap();
        }
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = open }
