//! Suites that run once for each of many seeds, on all processors, and say how to run the one again that failed.
//!
//! How many, from which on, or which one alone comes from the environment. For the tests of the crate.

use std::any::Any;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A suite, and what it is called in the environment: with the prefix `ANNALS_CRASH`, the number of its histories is
/// `ANNALS_CRASH_HISTORIES`, the first seed `ANNALS_CRASH_FROM`, and the only one `ANNALS_CRASH_SEED`.
pub(crate) struct Suite {
    pub(crate) prefix: &'static str,
    /// What to tell `cargo test`, to run this suite alone.
    pub(crate) filter: &'static str,
    /// How many histories are run if the environment does not say.
    pub(crate) histories: u64,
}

/// The first history that failed.
struct Failure {
    seed: u64,
    panic: Box<dyn Any + Send>,
}

impl Suite {
    /// Runs a history for each seed, and returns how many there were and what they counted together.
    pub(crate) fn run<C: AddAssign + Default + Send>(&self, history: impl Fn(u64) -> C + Sync) -> (u64, C) {
        let (first, histories) = match self.environment("SEED") {
            Some(seed) => (seed, 1),
            None => (self.environment("FROM").unwrap_or(0), self.histories()),
        };
        match run_all(first, first + histories, &history) {
            Ok(counts) => (histories, counts),
            Err(Failure { seed, panic }) => {
                let Self { prefix, filter, .. } = self;
                eprintln!("to run it again: {prefix}_SEED={seed} cargo test --all-features --lib {filter}");
                resume_unwind(panic)
            }
        }
    }

    /// Whether so many histories are run that what they counted can be held against a rate.
    pub(crate) fn is_large(&self) -> bool {
        self.environment("SEED").is_none() && self.histories() >= self.histories
    }

    fn histories(&self) -> u64 {
        self.environment("HISTORIES").unwrap_or(self.histories)
    }

    fn environment(&self, name: &str) -> Option<u64> {
        let name = format!("{}_{name}", self.prefix);
        let text = std::env::var(&name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is not a number")))
    }
}

fn run_all<C: AddAssign + Default + Send>(
    first: u64,
    end: u64,
    history: &(impl Fn(u64) -> C + Sync),
) -> Result<C, Failure> {
    let (next, has_failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let work = || {
        let mut counts = C::default();
        while !has_failed.load(Ordering::Relaxed) {
            // Given out in order: when one fails, every earlier one is done or under way.
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            counts += catch_unwind(AssertUnwindSafe(|| history(seed))).map_err(|panic| {
                has_failed.store(true, Ordering::Relaxed);
                Failure { seed, panic }
            })?;
        }
        Ok::<C, Failure>(counts)
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let mut all = Ok(C::default());
        for counts in ended {
            all = match (all, counts) {
                (Ok(mut all), Ok(counts)) => {
                    all += counts;
                    Ok(all)
                }
                (Err(one), Err(other)) => Err(if one.seed < other.seed { one } else { other }),
                (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => Err(failure),
            };
        }
        all
    })
}
