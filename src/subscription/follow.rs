//! Following the log: what is there, and then what comes, in one loop without a gap or a duplicate.
//!
//! Every subscription, handler and relay is driven by a [`Follow`]. It lends events and reads in chunks: from where it
//! has looked to the head as it is when a chunk begins. It keeps no checkpoint and never skips what it did not look at.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Signal;
use crate::error::Result;
use crate::types::Position;
use crate::{Event, Query, Read, Store, Watch};

/// How far a subscription or handler reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Horizon {
    /// To the synced head (the default): what was read survives a loss of power, so that effects outside never refer to
    /// an event that is gone.
    #[default]
    Synced,
    /// To the visible head: sooner, where events are appended with [`Durability::Os`](crate::Durability::Os).
    Visible,
}

impl Horizon {
    pub(super) fn watch(self, store: &Store) -> Watch {
        match self {
            Horizon::Synced => store.watch_synced(),
            Horizon::Visible => store.watch(),
        }
    }
}

/// How far behind the visible head somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Events between, whether they match or not.
    pub events: u64,
    /// How long ago the first of them was committed, by the store's wall clock; zero if there is none.
    pub time: Duration,
}

/// Reads the events that match a query, those that are there and then those that come.
///
/// ```
/// use annals::{ExpectedVersion, NewEvent, Query, Store};
///
/// let store = Store::in_memory()?;
/// store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
///
/// let mut follow = store.follow(Query::category("account"));
/// let mut seen = 0;
/// while seen < 2 {
///     while let Some(event) = follow.next()? {
///         println!("{} {}", event.position(), event.event_type());
///         seen += 1;
///     }
///     if seen < 2 {
///         # store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", "5")])?;
///         follow.wait(None)?; // until another thread appends
///     }
/// }
/// # Ok::<(), annals::Error>(())
/// ```
#[must_use = "a follow reads nothing before it is asked for events"]
#[derive(Debug)]
pub struct Follow {
    store: Store,
    watch: Arc<Watch>,
    query: Query,
    horizon: Horizon,
    looked: Option<Position>,
    chunk: Option<Read>,
    /// The end of the chunk.
    end: Option<Position>,
    chunk_is_over: bool,
}

impl Store {
    /// Follows the events that match a query, from the beginning of the log unless something else is asked for. Nothing
    /// is remembered when it is dropped.
    pub fn follow(&self, query: Query) -> Follow {
        Follow {
            store: self.clone(),
            watch: Arc::new(Horizon::default().watch(self)),
            query,
            horizon: Horizon::default(),
            looked: None,
            chunk: None,
            end: None,
            chunk_is_over: true,
        }
    }
}

impl Follow {
    /// Begins behind this position; `None` begins at the beginning.
    pub fn after(mut self, position: impl Into<Option<Position>>) -> Self {
        self.seek(position);
        self
    }

    /// Reads up to the visible head.
    pub fn visible(self) -> Self {
        self.upto(Horizon::Visible)
    }

    /// Reads up to the synced head, as is usual.
    pub fn synced(self) -> Self {
        self.upto(Horizon::Synced)
    }

    /// Reads up to this head.
    pub fn upto(mut self, horizon: Horizon) -> Self {
        if self.horizon != horizon {
            self.watch = Arc::new(horizon.watch(&self.store));
            self.horizon = horizon;
        }
        self
    }

    /// Goes on behind this position, which may lie before what was read.
    pub fn seek(&mut self, position: impl Into<Option<Position>>) {
        self.looked = position.into();
        self.chunk = None;
        self.chunk_is_over = true;
    }

    /// The next event that matches, borrowed until the next call; `None` if there is none up to the head that was there
    /// when the chunk began. Then everything up to [`looked`](Follow::looked) was looked at, and the next call begins
    /// another chunk.
    ///
    /// # Errors
    /// Those of [`Read::next`](crate::Read::next). The next call goes on behind the last event that was read.
    #[expect(clippy::should_implement_trait, reason = "it lends")]
    pub fn next(&mut self) -> Result<Option<Event<'_>>> {
        if self.chunk_is_over && !self.begin_chunk()? {
            return Ok(None);
        }
        let Self { chunk: Some(chunk), looked, end, chunk_is_over, .. } = self else { return Ok(None) };
        match chunk.next() {
            Ok(Some(event)) => {
                *looked = Some(event.position());
                Ok(Some(event))
            }
            Ok(None) => {
                *chunk_is_over = true;
                *looked = *end;
                Ok(None)
            }
            Err(error) => {
                *chunk_is_over = true;
                Err(error)
            }
        }
    }

    fn begin_chunk(&mut self) -> Result<bool> {
        let head = self.head()?;
        if head <= self.looked {
            return Ok(false);
        }
        let query = self.query.clone();
        self.chunk = Some(self.store.read(query).after(self.looked).upto(head));
        self.end = head;
        self.chunk_is_over = false;
        Ok(true)
    }

    /// The last position that was looked at, whether its event matched or not; `None` before the first.
    pub fn looked(&self) -> Option<Position> {
        self.looked
    }

    /// The head up to which it reads, as of now; `None` if there is nothing.
    ///
    /// # Errors
    /// Those of [`Store::head`].
    pub fn head(&self) -> Result<Option<Position>> {
        match self.horizon {
            Horizon::Synced => self.watch.synced_head(),
            Horizon::Visible => self.watch.head(),
        }
    }

    /// Whether everything up to the head was looked at.
    ///
    /// # Errors
    /// Those of [`Store::head`].
    pub fn is_caught_up(&self) -> Result<bool> {
        Ok(self.chunk_is_over && self.head()? <= self.looked)
    }

    /// Blocks until there may be more to read since the last wait, the signal is raised, or the store's monotonic time
    /// reaches `deadline`; whether it was one of the former. It may return early: look again.
    ///
    /// # Errors
    /// Those of [`Watch::wait`].
    pub fn wait(&self, deadline: Option<Duration>) -> Result<bool> {
        self.watch.wait(deadline)
    }

    /// What ends a wait when another thread raises it.
    pub fn signal(&self) -> &Arc<Signal> {
        self.watch.signal()
    }

    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The query.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The head up to which it reads.
    pub fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// How far what was looked at is behind the visible head.
    ///
    /// # Errors
    /// Those of [`Lag::behind`].
    pub fn lag(&self) -> Result<Lag> {
        Lag::behind(&self.store, self.looked)
    }
}

impl Lag {
    /// How far behind the visible head somebody is who has done everything up to this position; `None` for nothing.
    ///
    /// # Errors
    /// Those of [`Store::head`] and [`Read::next`](crate::Read::next).
    pub fn behind(store: &Store, done: impl Into<Option<Position>>) -> Result<Self> {
        let done = done.into();
        let mut read = store.read(Query::all()).after(done).limit(1);
        let number = |position: Option<Position>| position.map_or(0, Position::number);
        let events = number(read.head()).saturating_sub(number(done));
        let Some(first) = read.next()? else { return Ok(Self { events, time: Duration::ZERO }) };
        let nanos = store.clock().now().nanos().saturating_sub(first.commit_time().nanos());
        Ok(Self { events, time: Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::error::{Error, ExpectedVersion};
    use crate::types::{Durability, Timestamp};
    use crate::{NewEvent, Options};

    fn store() -> Store {
        Options::new().durability(Durability::Os).without_background_work().in_memory().unwrap()
    }

    fn append(store: &Store, stream: &str) {
        store.append(stream, ExpectedVersion::Any, [NewEvent::raw("Counted", "")]).unwrap();
    }

    fn drain(follow: &mut Follow) -> Vec<u64> {
        let mut positions = Vec::new();
        while let Some(event) = follow.next().unwrap() {
            positions.push(event.position().number());
        }
        positions
    }

    #[test]
    fn chunks_join_without_gap_or_duplicate() {
        let store = store();
        let mut follow = store.follow(Query::all()).visible();
        let mut seen = Vec::new();
        for round in 0..10 {
            (0..round).for_each(|_| append(&store, "a"));
            seen.extend(drain(&mut follow));
            assert!(follow.is_caught_up().unwrap());
        }
        assert_eq!(seen, (1..=45).collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_match_is_looked_at_all_the_same() {
        let store = store();
        let mut follow = store.follow(Query::stream("b")).visible();
        (0..100).for_each(|_| append(&store, "a"));
        assert!(!follow.is_caught_up().unwrap());
        assert_eq!((drain(&mut follow), follow.looked()), (vec![], Position::new(100)));
        append(&store, "b");
        append(&store, "a");
        assert_eq!((drain(&mut follow), follow.looked()), (vec![101], Position::new(102)));
    }

    #[test]
    fn synced_stops_where_a_loss_of_power_may_cut() {
        let store = store();
        let mut follow = store.follow(Query::all());
        append(&store, "a");
        assert_eq!((drain(&mut follow), follow.looked()), (vec![], None));
        store.sync().unwrap();
        append(&store, "a");
        assert_eq!((drain(&mut follow), follow.looked()), (vec![1], Position::new(1)));
    }

    #[test]
    fn seek_goes_back_and_forth() {
        let store = store();
        (0..5).for_each(|_| append(&store, "a"));
        let mut follow = store.follow(Query::all()).visible().after(Position::new(3));
        assert_eq!(drain(&mut follow), [4, 5]);
        follow.seek(Position::FIRST);
        assert_eq!(follow.next().unwrap().unwrap().position().number(), 2);
        follow.seek(None);
        assert_eq!(drain(&mut follow).len(), 5);
    }

    #[test]
    fn lag_counts_events_and_time() {
        let clock = ManualClock::new(Timestamp::from_millis(0));
        let options = Options::new().durability(Durability::Os).clock(clock.clone()).without_background_work();
        let store = options.in_memory().unwrap();
        let mut follow = store.follow(Query::all()).visible();
        assert_eq!(follow.lag().unwrap(), Lag::default());
        append(&store, "a");
        clock.advance(Duration::from_secs(3));
        append(&store, "a");
        assert_eq!(follow.lag().unwrap(), Lag { events: 2, time: Duration::from_secs(3) });
        follow.next().unwrap();
        assert_eq!(follow.lag().unwrap(), Lag { events: 1, time: Duration::ZERO });
        drain(&mut follow);
        assert_eq!(follow.lag().unwrap(), Lag::default());
    }

    #[test]
    fn a_query_that_is_wrong_is_refused_once_there_is_something_to_read() {
        let store = store();
        append(&store, "a");
        let mut follow = store.follow(Query::category("a-b")).visible();
        assert!(matches!(follow.next(), Err(Error::Invalid(_))));
        assert!(matches!(follow.next(), Err(Error::Invalid(_))));
    }
}
