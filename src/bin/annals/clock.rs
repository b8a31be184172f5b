//! A clock that shows the commit time of what is being written, so that a commit keeps the time it was first made at.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use annals::{Clock, Signal, SystemClock, Timestamp};

/// Shows the wall time that it was set to. Waiting is on real time. Clones show the same time.
#[derive(Debug, Clone)]
pub(crate) struct CommitClock {
    wall: Arc<AtomicI64>,
}

impl CommitClock {
    pub(crate) fn new() -> Self {
        Self { wall: Arc::new(AtomicI64::new(SystemClock.now().nanos())) }
    }

    /// Sets the time of the next commit, the system's if `None`, and returns it.
    pub(crate) fn set(&self, time: Option<Timestamp>) -> Timestamp {
        let time = time.unwrap_or_else(|| SystemClock.now());
        self.wall.store(time.nanos(), Ordering::Relaxed);
        time
    }
}

impl Clock for CommitClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.wall.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    fn wait(&self, signal: &Arc<Signal>, deadline: Option<Duration>) -> bool {
        SystemClock.wait(signal, deadline)
    }
}
