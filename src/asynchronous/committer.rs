//! The thread that writes for those who await: one for each open store, from the first awaited append on.
//!
//! It ends with the store, which it does not keep open: only what it was handed does, until that is done. Whoever drops the
//! store waits for it, and it for every sender of jobs. So a future has a sender only until it has handed its job over, and
//! lets go of it before the store: one that nobody polls any more would keep the committer, and who waits for it, for ever.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::sync::Mutex;
use crate::sync::thread::OwnThread;
use crate::{AppendError, Appended, Commit, Store};

/// What may wait for the committer. Whoever comes then waits for that.
pub(crate) const JOBS_WAITING_MAX: usize = 1_024;
/// What it takes at once.
const JOBS_TAKEN_MAX: usize = 512;

/// The committer of a store.
#[derive(Debug, Default)]
pub(super) struct Committer {
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    jobs: mpsc::Sender<Job>,
    thread: OwnThread,
}

enum Job {
    Send(Box<Send>),
    Run(Box<dyn FnOnce() + std::marker::Send>),
}

/// A commit, and who waits for its result.
struct Send {
    store: Store,
    commit: Commit,
    result: oneshot::Sender<Outcome<Result<Appended, AppendError>>>,
}

/// What a job came to; an error is what it panicked with.
type Outcome<T> = std::thread::Result<T>;

impl Committer {
    /// Has the committer send a commit.
    pub(super) async fn send(store: Store, commit: Commit) -> Result<Appended, AppendError> {
        let jobs = match store.attachment::<Committer>().jobs() {
            Ok(jobs) => jobs,
            Err(error) => return Err(AppendError::new(error, commit)),
        };
        let Ok(room) = jobs.reserve_owned().await else { return Err(AppendError::new(Error::Closed, commit)) };
        let (result, answer) = oneshot::channel();
        hand_over(room, Job::Send(Box::new(Send { store, commit, result })));
        unwrap(answer.await)
    }

    /// Has the committer do something that writes.
    pub(super) async fn run<T: std::marker::Send + 'static>(
        store: Store,
        run: impl FnOnce() -> Result<T> + std::marker::Send + 'static,
    ) -> Result<T> {
        let jobs = store.attachment::<Committer>().jobs()?;
        let Ok(room) = jobs.reserve_owned().await else { return Err(Error::Closed) };
        let (result, answer) = oneshot::channel();
        let job = Job::Run(Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(run));
            // Before that is told: then whoever waited may drop the store, and open it again.
            drop(store);
            // Whoever waited may not any more.
            let _ = result.send(outcome);
        }));
        hand_over(room, job);
        unwrap(answer.await)
    }

    /// Where to hand jobs to, of a thread that is started if it does not run in this process.
    fn jobs(&self) -> Result<mpsc::Sender<Job>> {
        let mut running = self.running.lock();
        if let Some(running) = running.as_ref().filter(|running| running.thread.is_here()) {
            return Ok(running.jobs.clone());
        }
        let (jobs, waiting) = mpsc::channel(JOBS_WAITING_MAX);
        let thread = OwnThread::spawn("annals-committer".into(), move || work(waiting));
        let thread = thread.map_err(|source| Error::Io {
            operation: "start a thread that commits for",
            path: "the store".into(),
            source: Arc::new(source),
        })?;
        *running = Some(Running { jobs: jobs.clone(), thread });
        Ok(jobs)
    }
}

/// Hands a job over, and the sender back: the answer is awaited without it.
fn hand_over(room: mpsc::OwnedPermit<Job>, job: Job) {
    drop(room.send(job));
}

/// The result, or the panic that took its place.
fn unwrap<T>(answer: Result<Outcome<T>, oneshot::error::RecvError>) -> T {
    match answer {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(gone) => panic!("the committing thread panicked: {gone}"),
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let Some(Running { jobs, thread }) = self.running.get_mut().take() else { return };
        drop(jobs);
        // The last one that held the store may have been a job.
        if !thread.is_current() {
            // Its panics were handed to those who waited.
            thread.join();
        }
    }
}

fn work(mut waiting: mpsc::Receiver<Job>) {
    let mut taken = Vec::new();
    while take(&mut waiting, &mut taken) > 0 {
        let mut sends = Vec::new();
        for job in taken.drain(..) {
            match job {
                Job::Send(send) => sends.push(*send),
                Job::Run(run) => {
                    commit(&mut sends);
                    run();
                }
            }
        }
        commit(&mut sends);
    }
}

/// Waits until there are jobs, and takes them; none once nobody can hand over any more.
fn take(waiting: &mut mpsc::Receiver<Job>, taken: &mut Vec<Job>) -> usize {
    #[cfg(test)]
    if crate::sync::explored::explorer().is_some() {
        return crate::sync::explored::block_on(waiting.recv_many(taken, JOBS_TAKEN_MAX));
    }
    waiting.blocking_recv_many(taken, JOBS_TAKEN_MAX)
}

/// Commits what was handed over, as few groups as there are kinds of handles.
fn commit(sends: &mut Vec<Send>) {
    let mut rest = std::mem::take(sends);
    while let Some(first) = rest.first() {
        let others = rest.iter().position(|send| send.store.given_metadata() != first.store.given_metadata());
        let later = rest.split_off(others.unwrap_or(rest.len()));
        commit_group(rest);
        rest = later;
    }
}

fn commit_group(group: Vec<Send>) {
    let (mut commits, mut stores, mut waiters) = (Vec::new(), Vec::new(), Vec::new());
    for Send { store, commit, result } in group {
        commits.push(commit);
        stores.push(store);
        waiters.push(result);
    }
    let Some(store) = stores.first() else { return };
    let mut panics = VecDeque::new();
    let sent = catch_unwind(AssertUnwindSafe(|| store.send_each(commits, |panic| panics.push_back(panic))));
    // Before that is told: then whoever waited may drop the store, and open it again.
    drop(stores);
    // What was not sent, because of a panic of our own, is told by the waiters' end.
    for (waiter, result) in waiters.into_iter().zip(sent.into_iter().flatten()) {
        let outcome = result.map(Ok).or_else(|| panics.pop_front().map(Err));
        // Whoever waited may not any more.
        let _ = outcome.map(|outcome| waiter.send(outcome));
    }
}
