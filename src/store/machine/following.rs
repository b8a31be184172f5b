//! Following the log, as it is and as it grows, and replaying it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use parking_lot::Mutex;

use super::check;
use super::operation::{After, FollowSpec, Handling, QuerySpec, ReadSpec, ReplaySpec};
use super::world::World;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::{RecordedEvent, Store};
use crate::subscription::{Follow, Lag, Replay, ReplayError, ReplayToken, Replayed};
use crate::types::{Position, Timestamp};

/// What follows the log, and where it is.
pub(super) struct Following {
    follow: Follow,
    query: QuerySpec,
    /// The last position that was looked at, 0 for none.
    looked: u64,
    /// The head that there was when it last waited.
    told: u64,
}

/// What a replay has handled, and where another goes on.
struct Handled {
    events: Vec<RecordedEvent>,
    token: Option<ReplayToken>,
}

impl World {
    // --- Following ---

    pub(super) fn follow(&mut self, store: &Store, spec: &FollowSpec) {
        let looked = spec.after.settled(self.model.head()).position();
        let follow = store.follow(spec.query.query()).after(Position::new(looked));
        let follow = if spec.visible { follow.visible() } else { follow.synced() };
        let told = self.horizon(follow.horizon());
        self.following = Some(Following { follow, query: spec.query.clone(), looked, told });
        self.follow_on(store);
    }

    pub(super) fn seek(&mut self, store: &Store, after: After) {
        if let Some(following) = &mut self.following {
            following.looked = after.settled(self.model.head()).position();
            following.follow.seek(Position::new(following.looked));
            self.follow_on(store);
        }
    }

    pub(super) fn follow_on(&mut self, store: &Store) {
        let Some(mut following) = self.following.take() else {
            let everything = FollowSpec { query: QuerySpec::default(), after: After::Beginning, visible: true };
            return self.follow(store, &everything);
        };
        let followed = self.read_on(&mut following);
        self.excused(followed, "follow the log");
        self.following = Some(following);
    }

    /// What follows a store that was closed comes to the head, and then to its end.
    pub(super) fn follow_to_the_end(&mut self, mut following: Following) {
        self.read_on(&mut following).unwrap();
        let waited = following.follow.wait(Some(Duration::ZERO));
        assert!(matches!(waited, Err(Error::Closed)), "{waited:?} behind the end");
    }

    /// Everything that matches comes up to the head, in order and once; and it was told that the head has moved.
    fn read_on(&mut self, following: &mut Following) -> Result<()> {
        let Following { follow, query, looked, told } = following;
        let head = self.horizon(follow.horizon());
        assert_eq!(follow.head()?, Position::new(head), "the head that is followed");
        let (waited, has_moved) = (follow.wait(Some(Duration::ZERO)), head > *told);
        *told = head;
        match waited {
            Ok(is_raised) => assert!(is_raised || !has_moved, "who follows was not told of {head}"),
            Err(error) => assert!(self.excuses(&error) && !has_moved, "waiting for what comes: {error:?}"),
        }
        let behind = ReadSpec { query: query.clone(), begin: Some((*looked, false)), ..ReadSpec::default() };
        for position in self.model.read(&behind, head) {
            let Some(event) = follow.next()? else { panic!("nothing instead of position {position}") };
            assert_eq!(event.position().number(), position, "what follows the log");
            check::assert_same(&event.to_recorded(), self.model.at(position));
            *looked = position;
            self.counts.followed += 1;
        }
        assert!(follow.next()?.is_none(), "something behind the last event");
        *looked = head.max(*looked);
        assert_eq!(follow.looked(), Position::new(*looked), "how far was looked");
        assert!(follow.is_caught_up()?, "it has not caught up");
        self.check_lag(follow.lag()?, *looked);
        Ok(())
    }

    /// The lag of somebody who has done everything up to a position.
    pub(super) fn check_lag(&self, lag: Lag, done: u64) {
        assert_eq!(lag.events, self.model.head().saturating_sub(done), "the lag behind {done}");
        let Some(first) = self.model.events().get(done as usize) else {
            return assert_eq!(lag.time, Duration::ZERO, "the lag behind the head");
        };
        // The time of a commit that was in doubt is not known.
        if let Some(commit_time) = first.commit_time {
            let nanos = (self.clock.now().nanos() - commit_time).max(0);
            assert_eq!(lag.time, Duration::from_nanos(nanos.unsigned_abs()), "the lag behind {done}");
        }
    }

    // --- Replaying ---

    /// A replay, and one more that goes on where it has ended, handle what a read finds.
    pub(super) fn replay(&mut self, store: &Store, spec: &ReplaySpec) {
        let read = ReadSpec { limit: None, ..spec.read.clone() };
        let expected = self.model.read(&read, self.model.head());
        let handled = handle(store, &read, spec.handling, &expected);
        let Some(Handled { mut events, token }) = self.excused(handled, "replay") else { return };
        let rest = replay_of(store, &read);
        let rest = match token {
            Some(token) => rest.resume(token),
            None => rest,
        };
        // Without a token, nothing was done: what it handled goes to the next once more.
        if token.is_none() {
            assert!(events.is_empty(), "a replay without a token has handled {events:?}");
        }
        let rest = rest.run(|event| events.push(event.to_recorded())).map_err(store_error);
        if self.excused(rest, "resume a replay").is_none() {
            return;
        }
        let positions: Vec<u64> = events.iter().map(|event| event.position.number()).collect();
        assert_eq!(positions, expected, "{spec:?}");
        for event in &events {
            check::assert_same(event, self.model.at(event.position.number()));
        }
        self.counts.replayed += events.len() as u64;
    }
}

fn replay_of(store: &Store, read: &ReadSpec) -> Replay {
    let mut replay = store.replay(read.query.query()).upto(read.upto.and_then(Position::new));
    match read.begin.and_then(|(begin, included)| Some((Position::new(begin)?, included))) {
        None => {}
        Some((begin, true)) => replay = replay.from(begin),
        Some((begin, false)) => replay = replay.after(begin),
    }
    if read.reverse {
        replay = replay.reverse();
    }
    if let Some(since) = read.since {
        replay = replay.since(Timestamp::from_nanos(since));
    }
    if let Some(until) = read.until {
        replay = replay.until(Timestamp::from_nanos(until));
    }
    replay
}

/// Runs the first replay, of which these positions are expected if nothing ends it.
fn handle(store: &Store, read: &ReadSpec, handling: Handling, expected: &[u64]) -> Result<Handled> {
    let progress = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&progress);
    let replay = replay_of(store, read).on_progress(move |progress| told.borrow_mut().push(*progress));
    let (events, run) = run(replay, handling, read.reverse);
    let count = events.len();
    let replayed = match run {
        Ok(replayed) => replayed,
        Err(ReplayError::Handler { position, token, .. }) => {
            assert_eq!(expected.get(count), Some(&position.number()), "the event that was not handled");
            return Ok(Handled { events, token });
        }
        Err(error) => return Err(store_error(error)),
    };
    let is_stopped = matches!(handling, Handling::Stopped(after) if after <= expected.len());
    assert_eq!((replayed.events, replayed.is_finished), (count as u64, !is_stopped), "{handling:?}");
    let told: Vec<_> = progress.borrow().iter().map(|told| (told.events, told.position)).collect();
    let last = events.last().map(|event| (count as u64, event.position));
    assert_eq!(told, last.into_iter().collect::<Vec<_>>(), "the progress of a replay");
    Ok(Handled { events, token: replayed.token })
}

/// The events that a replay has handled, in its order, and what it came to.
fn run(replay: Replay, handling: Handling, is_reverse: bool) -> (Vec<RecordedEvent>, Result<Replayed, ReplayError>) {
    let (mut events, stopper) = (Vec::new(), replay.stopper());
    let run = match handling {
        Handling::Whole => replay.run(|event| events.push(event.to_recorded())),
        Handling::Parallel(workers) => {
            let shared = Mutex::new(Vec::new());
            let run = replay.parallel(workers).run(|event| shared.lock().push(event.to_recorded()));
            events = in_order(shared.into_inner(), is_reverse);
            run
        }
        Handling::Stopped(after) => {
            if after == 0 {
                stopper.stop();
            }
            replay.run(|event| {
                events.push(event.to_recorded());
                if events.len() == after {
                    stopper.stop();
                }
            })
        }
        Handling::Failing(after) => replay.run(|event| {
            if events.len() == after {
                return Err("this one is not handled");
            }
            events.push(event.to_recorded());
            Ok(())
        }),
    };
    (events, run)
}

/// Each worker has all events of its streams in order.
fn in_order(mut events: Vec<RecordedEvent>, is_reverse: bool) -> Vec<RecordedEvent> {
    let backward = |event: &RecordedEvent| {
        let position = event.position.number() as i64;
        if is_reverse { -position } else { position }
    };
    events.sort_by(|one, other| one.stream.cmp(&other.stream));
    let is_sorted = events.chunk_by(|one, other| one.stream == other.stream).all(|own| own.is_sorted_by_key(backward));
    assert!(is_sorted, "workers have handled {events:?}");
    events.sort_by_key(backward);
    events
}

fn store_error(error: ReplayError) -> Error {
    match error {
        ReplayError::Store(error) => error,
        ReplayError::Handler { .. } => panic!("no handler has failed: {error:?}"),
    }
}
