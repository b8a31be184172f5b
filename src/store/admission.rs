//! Admission: a rule of the application that every commit has to pass right before it is written, such as a quota.
//!
//! The rule is asked once for a commit that is going to be written: expectations hold, nothing was written before, and
//! there is space. So a rule that counts what it lets pass counts what is written, and nothing else. It is asked while
//! the store is locked against other appends; what it decides by cannot change meanwhile.

use std::fmt;
use std::sync::Arc;

use super::commit::Commit;
use crate::error::{ExpectedVersion, Result};

/// A commit that is about to be written. See [`Options::admission`](super::Options::admission).
#[derive(Debug, Clone, Copy)]
pub struct Admission<'a> {
    commit: &'a Commit,
    bytes: u64,
    log_bytes: u64,
}

impl<'a> Admission<'a> {
    /// The number of its events.
    pub fn events(&self) -> u64 {
        self.commit.len() as u64
    }

    /// The bytes that it takes in the log.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes of the log without it: headers and frames. More than those of all commits before it: with a segment comes
    /// its header, and with an idle store a mark.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The streams that it writes to, in its order, and what it expects of them. One that it names twice comes twice.
    pub fn streams(&self) -> impl Iterator<Item = (&'a str, ExpectedVersion)> {
        self.commit.parts.iter().map(|part| (part.stream.as_str(), part.expected))
    }
}

/// The rule, as the store keeps it.
#[derive(Clone)]
pub(super) struct Rule(Arc<Ask>);

type Ask = dyn Fn(&Admission<'_>) -> Result<()> + Send + Sync;

impl Rule {
    pub(super) fn new(rule: impl Fn(&Admission<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }

    pub(super) fn admit(&self, commit: &Commit, bytes: usize, log_bytes: u64) -> Result<()> {
        self.ask(&Admission { commit, bytes: bytes as u64, log_bytes })
    }

    pub(super) fn ask(&self, commit: &Admission<'_>) -> Result<()> {
        (self.0)(commit)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rule")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::error::Error;
    use crate::store::{NewEvent, Options, Query, Store};

    const NO_STREAM: ExpectedVersion = ExpectedVersion::NoStream;

    fn event() -> NewEvent {
        NewEvent::raw("A", "1")
    }

    /// A store whose rule admits so many events and counts them.
    fn limited(events_max: u64) -> (Store, Arc<AtomicU64>) {
        let admitted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&admitted);
        let rule = move |commit: &Admission<'_>| {
            if count.load(Ordering::Relaxed) + commit.events() > events_max {
                return Err(Error::Stopped);
            }
            count.fetch_add(commit.events(), Ordering::Relaxed);
            Ok(())
        };
        (Options::new().admission(rule).in_memory().unwrap(), admitted)
    }

    #[test]
    fn only_what_is_written_is_asked_for() {
        let (store, admitted) = limited(3);
        let first = Commit::new().append("a-1", NO_STREAM, [event(), event()]);
        store.send(first.clone()).unwrap();
        assert_eq!(admitted.load(Ordering::Relaxed), 2);
        // Conflicts and invalid commits are not.
        assert!(matches!(store.append("a-1", NO_STREAM, [event()]).unwrap_err().error(), Error::Conflict(_)));
        assert!(matches!(store.append("", NO_STREAM, [event()]).unwrap_err().error(), Error::Invalid(_)));
        store.append("a-2", NO_STREAM, [event()]).unwrap();
        assert_eq!(admitted.load(Ordering::Relaxed), 3);
        assert!(matches!(store.append("a-3", NO_STREAM, [event()]).unwrap_err().error(), Error::Stopped));
        assert_eq!(store.read(Query::all()).count().unwrap(), 3);
    }

    #[test]
    fn what_was_written_before_is_found_though_no_more_is_admitted() {
        let (store, admitted) = limited(1);
        let commit = Commit::new().append("a-1", NO_STREAM, [event().id(crate::EventId::from_bytes([7; 16]))]);
        store.send(commit.clone()).unwrap();
        assert!(store.send(commit).unwrap().deduplicated());
        assert_eq!(admitted.load(Ordering::Relaxed), 1);
    }

    /// What comes with new segments and marks belongs to no commit, and was known only when the store was opened again.
    #[test]
    fn the_rule_sees_the_log_as_it_will_be() {
        let expected = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&expected);
        let rule = move |commit: &Admission<'_>| {
            seen.store(commit.log_bytes() + commit.bytes(), Ordering::Relaxed);
            Ok(())
        };
        let options = Options::new().segment_bytes_first(4_096).segment_bytes_max(4_096).without_background_work();
        let store = options.admission(rule).in_memory().unwrap();
        for number in 0..100 {
            store.append("a-1", ExpectedVersion::Any, [event()]).unwrap();
            assert_eq!(store.log_bytes().unwrap(), expected.load(Ordering::Relaxed), "append {number}");
            if number % 10 == 0 {
                store.maintain().unwrap();
            }
        }
        assert!(store.stats().unwrap().segments > 3);
    }

    /// It was written once and counted twice, against quotas and the limit of a commit alike.
    #[test]
    fn a_tag_that_is_given_twice_counts_once() {
        let bytes = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&bytes);
        let rule = move |commit: &Admission<'_>| {
            seen.store(commit.bytes(), Ordering::Relaxed);
            Ok(())
        };
        let options = Options::new().segment_bytes_max(4_096).segment_bytes_first(4_096).without_background_work();
        let store = options.admission(rule).in_memory().unwrap();
        let tagged = |times: usize| event().tags(vec!["t".repeat(200); times]);
        let admitted = |times: usize| {
            store.append("a-1", ExpectedVersion::Any, [tagged(times)]).unwrap();
            bytes.load(Ordering::Relaxed)
        };
        let once = admitted(1);
        assert_eq!(admitted(2), once);
        assert_eq!(admitted(30), once, "which would be too much for a segment");
    }

    #[test]
    fn the_rule_sees_streams_and_bytes() {
        let bytes = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&bytes);
        let rule = move |commit: &Admission<'_>| {
            assert_eq!(commit.streams().collect::<Vec<_>>(), [("a-1", NO_STREAM), ("b-1", ExpectedVersion::Any)]);
            seen.store(commit.bytes(), Ordering::Relaxed);
            Ok(())
        };
        let store = Options::new().admission(rule).in_memory().unwrap();
        let before = store.log_bytes().unwrap();
        store
            .commit()
            .append("a-1", NO_STREAM, [event()])
            .append("b-1", ExpectedVersion::Any, [event()])
            .send()
            .unwrap();
        assert_eq!(store.log_bytes().unwrap() - before, bytes.load(Ordering::Relaxed));
        assert_eq!(store.log_bytes().unwrap(), store.stats().unwrap().bytes);
        // The state is not asked for.
        store.state().unwrap().put("key", "value").unwrap();
    }
}
