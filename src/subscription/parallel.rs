//! A replay over several threads: the calling one reads, each worker has all events of its streams in order.

use std::error::Error as StdError;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::replay::{Direction, Replay, ReplayError, ReplayOutcome, Replayed, Run};
use crate::error::{Error, Invalid, Result};
use crate::limits::REPLAY_WORKERS_MAX;
use crate::types::Position;
use crate::{Event, Read, RecordedEvent};

/// Events that a worker is given at once, and how many such portions may wait for it.
const PORTION_EVENTS: usize = 256;
const PORTIONS_WAITING_MAX: usize = 2;

/// A replay over several threads; see [`Replay::parallel`].
#[derive(Debug)]
#[must_use = "a replay does nothing before it is run"]
pub struct ParallelReplay {
    replay: Replay,
    workers: usize,
}

/// The events that a worker is given at once.
type Portion = Vec<RecordedEvent>;

/// The first failure, in the direction of the replay.
#[derive(Default)]
struct Failure(Mutex<Option<(Position, Box<dyn StdError + Send + Sync>)>>);

impl ParallelReplay {
    pub(super) fn new(replay: Replay, workers: usize) -> Self {
        Self { replay, workers }
    }

    /// Runs the events through the handler. Returns when every worker is done.
    ///
    /// # Errors
    /// Those of [`Replay::run`]; [`Error::Invalid`] if the number of workers is 0 or more than [`REPLAY_WORKERS_MAX`];
    /// [`Error::Io`] if the operating system gives no thread for one, and then no event was handled.
    ///
    /// # Panics
    /// If the handler does.
    pub fn run<O: ReplayOutcome>(mut self, handler: impl Fn(&Event<'_>) -> O + Sync) -> Result<Replayed, ReplayError> {
        if !(1..=REPLAY_WORKERS_MAX).contains(&self.workers) {
            let problem = format!("{} given, 1 to {REPLAY_WORKERS_MAX} are allowed", self.workers);
            return Err(ReplayError::Store(Invalid::of("workers", problem).into()));
        }
        let mut read = self.replay.read()?;
        let mut run = Run::new(read.head());
        let direction = self.replay.direction;
        let failure = Failure::default();
        std::thread::scope(|scope| {
            let mut lanes = Vec::new();
            for _ in 0..self.workers {
                let (sender, portions) = sync_channel(PORTIONS_WAITING_MAX);
                lanes.push((sender, Portion::new()));
                let (handler, failure) = (&handler, &failure);
                let worker = std::thread::Builder::new().name("annals-replay".into());
                let worker = worker.spawn_scoped(scope, move || {
                    work(&portions, handler, |position, source| failure.note(direction, position, source));
                });
                worker.map_err(|error| Error::io("start a thread for", "a replay", error))?;
            }
            self.hand_out(&mut read, &mut run, &failure, &mut lanes)
        })?;
        match failure.0.into_inner() {
            Some((position, source)) => Err(self.replay.failed(position, source)?),
            None => Ok(run.finish(&mut self.replay)?),
        }
    }

    /// Gives each event to the worker of its stream. What was read before a failure is handed out to the last, so that
    /// everything before the event that failed is handled.
    fn hand_out(
        &mut self,
        read: &mut Read,
        run: &mut Run,
        failure: &Failure,
        lanes: &mut [(SyncSender<Portion>, Portion)],
    ) -> Result<()> {
        let read_all = loop {
            if failure.0.lock().is_some() {
                break Ok(());
            }
            match self.replay.next(read) {
                Ok(Some(event)) => {
                    let (sender, portion) = &mut lanes[worker_of(event.stream(), self.workers)];
                    portion.push(event.to_recorded());
                    run.note(event.position(), &mut self.replay);
                    if portion.len() == PORTION_EVENTS {
                        send(sender, portion);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        for (sender, portion) in lanes {
            send(sender, portion);
        }
        read_all
    }
}

fn worker_of(stream: &str, workers: usize) -> usize {
    (xxh3_64(stream.as_bytes()) % workers as u64) as usize
}

/// A worker that failed takes nothing more, which is as well.
fn send(sender: &SyncSender<Portion>, portion: &mut Portion) {
    let _ = sender.send(std::mem::replace(portion, Portion::with_capacity(PORTION_EVENTS)));
}

fn work<O: ReplayOutcome>(
    portions: &Receiver<Portion>,
    handler: &impl Fn(&Event<'_>) -> O,
    fail: impl FnOnce(Position, Box<dyn StdError + Send + Sync>),
) {
    for event in portions.iter().flatten() {
        if let Err(source) = handler(&event.as_event()).into_result() {
            return fail(event.position, source);
        }
    }
}

impl Failure {
    fn note(&self, direction: Direction, position: Position, source: Box<dyn StdError + Send + Sync>) {
        let mut first = self.0.lock();
        let is_first = first.as_ref().is_none_or(|(known, _)| match direction {
            Direction::Forward => position < *known,
            Direction::Backward => position > *known,
        });
        if is_first {
            *first = Some((position, source));
        }
    }
}
