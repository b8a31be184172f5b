//! Sending several commits together: one write and one sync for all of them, by one thread.
//!
//! Each commit is decided on its own, as if they were sent by as many threads in this order. They are staged one after
//! the other and seen through in the end; a commit whose decision rests on one before it has that one written first.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::append::Ending;
use super::commit::{AppendError, Appended, Commit};
use super::{Inner, Store, outcome_of};
use crate::error::Result;
use crate::log::Ticket;
use crate::observe;

/// Bytes that are staged before they are seen through: what waits is bounded, in memory as on the disk, where so much of
/// the log may be unsynced.
const STAGED_BYTES_MAX: usize = 1024 * 1024;

/// A commit that is staged.
struct Pending {
    place: usize,
    commit: Commit,
    appended: Appended,
    ticket: Ticket,
}

impl Store {
    /// Sends several commits that have nothing to do with each other, in this order, each written as a whole or not at
    /// all. Together they cost little more than one: this is how to import, and how one thread commits for many.
    ///
    /// ```
    /// use annals::{Commit, ExpectedVersion, NewEvent, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let commits = ["alice", "bob"].map(|name| {
    ///     Commit::new().append(format!("account-{name}"), ExpectedVersion::NoStream, [NewEvent::raw("Opened", name)])
    /// });
    /// for result in store.send_all(commits) {
    ///     println!("position {}", result?.last_position());
    /// }
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// The results are in the order of the commits; each is that of [`Store::send`].
    pub fn send_all(&self, commits: impl IntoIterator<Item = Commit>) -> Vec<Result<Appended, AppendError>> {
        let mut panicked = None;
        let sent = self.send_while(commits, |panic| {
            panicked = Some(panic);
            false
        });
        match panicked {
            None => sent.into_iter().flatten().collect(),
            Some(panic) => resume_unwind(panic),
        }
    }

    /// The same for commits of several callers: one whose rule of admission panics is `None`, and the others are sent.
    #[cfg(feature = "tokio")]
    pub(crate) fn send_each(
        &self,
        commits: impl IntoIterator<Item = Commit>,
        mut panicked: impl FnMut(Panic),
    ) -> Vec<Option<Result<Appended, AppendError>>> {
        self.send_while(commits, |panic| {
            panicked(panic);
            true
        })
    }

    fn send_while(
        &self,
        commits: impl IntoIterator<Item = Commit>,
        goes_on: impl FnMut(Panic) -> bool,
    ) -> Vec<Option<Result<Appended, AppendError>>> {
        let inner = &self.handle.inner;
        let commits = commits.into_iter().map(|mut commit| {
            if let Some(metadata) = &self.metadata {
                commit.give_metadata(metadata);
            }
            commit
        });
        let outcome = |sent: &Option<Result<Appended, AppendError>>| {
            let sent = sent.as_ref().map(|sent| outcome_of(sent.as_ref().map_err(AppendError::error)));
            sent.unwrap_or(observe::AppendOutcome::Failed)
        };
        observe::appends(&*inner.clock, inner.label.as_ref(), || inner.send_while(commits, goes_on), outcome)
    }
}

impl Inner {
    fn send_while(
        &self,
        commits: impl Iterator<Item = Commit>,
        mut goes_on: impl FnMut(Panic) -> bool,
    ) -> Vec<Option<Result<Appended, AppendError>>> {
        let mut group = Group { inner: self, results: Vec::new(), pending: Vec::new(), bytes: 0 };
        for commit in commits {
            let sent = catch_unwind(AssertUnwindSafe(|| group.send(commit)));
            if let Err(panic) = sent {
                group.results.push(None);
                if !goes_on(panic) {
                    break;
                }
            }
        }
        group.settle();
        std::mem::take(&mut group.results)
    }
}

/// What code of the application has panicked with.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Commits that are sent together, and what came of them. Dropping it sees through what is staged: code of the
/// application runs in between, an iterator and a rule of admission, and if it panics, nobody else may come for that.
struct Group<'a> {
    inner: &'a Inner,
    /// `None` for what is pending, and what has panicked.
    results: Vec<Option<Result<Appended, AppendError>>>,
    pending: Vec<Pending>,
    /// Bytes that are staged.
    bytes: usize,
}

impl Group<'_> {
    fn send(&mut self, mut commit: Commit) {
        if self.bytes >= STAGED_BYTES_MAX {
            self.settle();
        }
        let place = self.results.len();
        let result = match self.inner.try_send(&mut commit, Ending::Staged) {
            Ok((appended, None)) => Some(Ok(appended.with_names_of(&mut commit))),
            Ok((appended, Some(ticket))) => {
                self.bytes += commit.frame_len();
                self.pending.push(Pending { place, commit, appended, ticket });
                None
            }
            Err(error) => Some(Err(AppendError::new(error, commit))),
        };
        self.results.push(result);
    }

    fn settle(&mut self) {
        self.bytes = 0;
        for Pending { place, mut commit, appended, ticket } in self.pending.drain(..) {
            let decided = self.inner.appender().and_then(|appender| appender.see_staged_through(ticket));
            self.results[place] = Some(match decided {
                Ok(()) => Ok(appended.with_names_of(&mut commit)),
                Err(error) => Err(AppendError::new(error, commit)),
            });
        }
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::Error;
    use crate::error::ExpectedVersion::{self, Any, NoStream};
    use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
    use crate::store::{Metadata, NewEvent, Options, Query};
    use crate::types::StreamVersion;

    fn open(disk: &FaultyDisk) -> Store {
        Store::open_on(Arc::new(disk.clone()), Options::new().without_background_work(), true).unwrap()
    }

    fn commit(stream: &str, expected: impl Into<ExpectedVersion>) -> Commit {
        Commit::new().append(stream, expected, [NewEvent::raw("Counted", "1")])
    }

    /// However many are sent together, only so much of them is in memory.
    #[test]
    fn what_is_staged_is_written_once_it_is_much() {
        let store = open(&FaultyDisk::new(MemoryDisk::new()));
        let inner = &store.handle.inner;
        let mut group = Group { inner, results: Vec::new(), pending: Vec::new(), bytes: 0 };
        let large = || Commit::new().append("a", Any, [NewEvent::raw("Counted", vec![1; STAGED_BYTES_MAX / 2])]);
        for (pending, visible) in [(1, 0), (2, 0), (1, 2), (2, 2), (1, 4)] {
            group.send(large());
            assert_eq!((group.pending.len(), inner.log.visible()), (pending, visible));
        }
    }

    #[test]
    fn they_cost_one_sync_together() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(&disk);
        store.send(commit("a", Any)).unwrap();
        let before = disk.calls(Call::Sync);
        let results = store.send_all((0..100).map(|_| commit("a", Any)));
        assert_eq!(disk.calls(Call::Sync) - before, 1);
        let positions: Vec<_> = results.into_iter().map(|result| result.unwrap().last_position().number()).collect();
        assert_eq!(positions, (2..=101).collect::<Vec<_>>());
        assert_eq!(store.synced_head().unwrap(), store.head().unwrap());
    }

    #[test]
    fn each_is_decided_on_its_own_and_after_those_before_it() {
        let store = open(&FaultyDisk::new(MemoryDisk::new()));
        let v1 = StreamVersion::FIRST;
        let same = commit("c", NoStream);
        let mut same = same.clone();
        same.complete(&*store.handle.inner.clock, &*store.handle.inner.randomness);
        let commits = vec![
            commit("a", NoStream),
            commit("a", NoStream),
            Commit::new(),
            commit("a", v1),
            commit("b", v1),
            same.clone(),
            same,
            commit("d", Any).unless(Query::stream("a")),
        ];
        let results = store.send_all(commits);
        let kinds: Vec<_> = results
            .iter()
            .map(|result| match result {
                Ok(appended) if appended.deduplicated => "deduplicated",
                Ok(_) => "written",
                Err(error) if matches!(error.error(), Error::Conflict(_)) => "conflict",
                Err(error) if matches!(error.error(), Error::Invalid(_)) => "invalid",
                Err(_) => "another",
            })
            .collect();
        let expected = ["written", "conflict", "invalid", "written", "conflict", "written", "deduplicated", "conflict"];
        assert_eq!(kinds, expected);
        assert_eq!(results[3].as_ref().unwrap().version_of("a"), StreamVersion::new(2));
        assert_eq!(store.head().unwrap().unwrap().number(), 3);
    }

    #[test]
    fn a_failed_sync_puts_all_of_them_in_doubt_and_hands_them_back() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(&disk);
        store.send(commit("a", Any)).unwrap();
        disk.inject(Fault::next(Call::Sync));
        let results = store.send_all([commit("a", Any), commit("b", Any)]);
        for (result, stream) in results.into_iter().zip(["a", "b"]) {
            let error = result.unwrap_err();
            assert!(matches!(error.error(), Error::Indeterminate { .. }), "{error:?}");
            assert_eq!(error.into_commit().parts[0].stream, stream);
        }
        assert!(matches!(store.send_all([commit("a", Any)])[0].as_ref().unwrap_err().error(), Error::Poisoned { .. }));
    }

    /// They stayed staged, and invisible, until somebody appended something else.
    #[test]
    fn a_panic_of_the_application_in_between_leaves_what_was_staged_before_it_written() {
        let rule = |commit: &crate::Admission<'_>| {
            assert!(commit.streams().all(|(stream, _)| stream != "forbidden"), "as asked");
            Ok(())
        };
        let store = Options::new().without_background_work().admission(rule).in_memory().unwrap();
        let panicking = || -> Commit { panic!("as asked") };
        let of_rule = vec![commit("a", Any), commit("b", Any), commit("forbidden", Any), commit("c", Any)];
        for head in [2, 4] {
            let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match head {
                2 => store.send_all(of_rule.clone()),
                _ => store.send_all((0..3).map(|number| if number < 2 { commit("d", Any) } else { panicking() })),
            }));
            assert!(sent.is_err());
            assert_eq!(store.head().unwrap().unwrap().number(), head);
            assert_eq!(store.synced_head().unwrap(), store.head().unwrap());
        }
        store.send(commit("e", Any)).unwrap();
        assert_eq!(store.read(Query::all()).count().unwrap(), 5);
    }

    #[test]
    fn more_than_fit_into_one_group_are_written_in_several() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(&disk);
        store.send(commit("a", Any)).unwrap();
        let before = disk.calls(Call::Sync);
        let large = || Commit::new().append("a", Any, [NewEvent::raw("Large", vec![0; STAGED_BYTES_MAX])]);
        let results = store.send_all([commit("a", Any), large(), commit("a", Any), large(), commit("a", Any)]);
        assert!(results.iter().all(Result::is_ok));
        assert!(disk.calls(Call::Sync) - before >= 3);
        assert_eq!(store.head().unwrap().unwrap().number(), 6);
    }

    #[test]
    fn they_carry_the_metadata_of_the_handle() {
        let store = open(&FaultyDisk::new(MemoryDisk::new()));
        let request = store.with_metadata(&Metadata::new().set("user", "alice")).unwrap();
        assert!(request.send_all([commit("a", Any), commit("b", Any)]).iter().all(Result::is_ok));
        let mut read = store.read(Query::all());
        for _ in 0..2 {
            let event = read.next().unwrap().unwrap();
            assert_eq!(event.metadata(), Some(&br#"{"user":"alice"}"#[..]));
        }
    }

    #[test]
    fn a_reader_takes_none_of_them() {
        let disk = MemoryDisk::new();
        let store = Store::open_on(Arc::new(disk.clone()), Options::new().without_background_work(), true).unwrap();
        let reader = Store::open_read_only_on(Arc::new(disk), Options::new()).unwrap();
        let results = reader.send_all([commit("a", Any)]);
        assert!(matches!(results[0].as_ref().unwrap_err().error(), Error::ReadOnly));
        drop(store);
    }
}
