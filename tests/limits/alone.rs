//! Running a test alone, in a process of its own: a limit is that of a whole process, and so is what it holds.

use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The name of the test that the process is to run, in its environment.
const ALONE: &str = "ANNALS_LIMITS_ALONE";

/// Stack of each thread that is started without a size of its own, in a process whose threads take much: more than any
/// limit on memory here leaves room for.
pub(crate) const LARGE_STACK_BYTES: u64 = 1 << 30;

/// Runs a test in a process of its own. `name` is its path in this file's crate.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    run(name, &[], test);
}

/// The same, where each new thread takes [`LARGE_STACK_BYTES`] of address space.
pub(crate) fn alone_with_large_stacks(name: &str, test: impl FnOnce()) {
    run(name, &[("RUST_MIN_STACK", LARGE_STACK_BYTES)], test);
}

fn run(name: &str, environment: &[(&str, u64)], test: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|wanted| wanted == name) {
        return test();
    }
    // A file that grows beyond its limit raises a signal that ends the process, unless it is ignored: only a shell can
    // ask for that without a system call of our own.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]).arg(std::env::current_exe().unwrap());
    shell.env(ALONE, name).envs(environment.iter().map(|(name, value)| (name, value.to_string())));
    pass(&mut shell, name);
}

/// Has a process that runs this program run one test, which passes.
pub(crate) fn pass(process: &mut Command, name: &str) {
    let output = process.args(["--exact", name, "--nocapture", "--test-threads=1"]).output().unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{told}");
    assert!(output.status.success() && told.contains("1 passed"), "{}:\n{told}\n{errors}", output.status);
}

/// Runs something under a limit, which is lifted again.
pub(crate) fn limited<T>(resource: Resource, most: u64, run: impl FnOnce() -> T) -> T {
    let before = getrlimit(resource);
    setrlimit(resource, Rlimit { current: Some(most), ..before }).unwrap();
    let result = run();
    setrlimit(resource, before).unwrap();
    result
}

/// What a process holds of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    files: usize,
    /// Maps of files below a directory.
    maps: usize,
    threads: usize,
}

impl Held {
    /// What is held now.
    pub(crate) fn now(below: &Path) -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let below = below.to_str().unwrap();
        Self {
            files: entries("/proc/self/fd"),
            maps: maps.lines().filter(|line| line.contains(below)).count(),
            threads: entries("/proc/self/task"),
        }
    }

    /// Fails unless as much is held now as was then. A thread that was waited for may be listed a moment longer.
    #[track_caller]
    pub(crate) fn assert_again(self, below: &Path, context: &str) {
        let is_same = (0..100_000).any(|_| {
            std::thread::yield_now();
            Self::now(below) == self
        });
        assert!(is_same, "{context}: {:?} is held, and {self:?} was", Self::now(below));
    }
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// The value of a line of `/proc/self/status`, in bytes.
pub(crate) fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
