//! The conformance suite: what any store must do to pass for this one, case by case.
//!
//! It knows a store by the four calls of [`EventStore`] and speaks to it in plain data, so that other backends, and
//! stores with something in between, can be judged by the same cases. The number in the name of a case is that of its
//! group among the semantics of the store. A case never panics: it says what was expected and what came.

mod appending;
mod conditions;
mod reading;
mod retrying;
mod subject;

use std::fmt;

pub use subject::{Batch, Condition, Draft, EventStore, Item, Part, Refused, Selection, Written};

/// Makes the stores that are judged.
pub trait Backend: Sync {
    /// The store.
    type Store: EventStore;

    /// A new store without events.
    fn make(&self) -> Self::Store;

    /// Closes the store and opens it again. A backend that keeps nothing gives it back as it is.
    fn reopen(&self, store: Self::Store) -> Self::Store;
}

/// What a case has to say: nothing, or what was expected and what came.
type Verdict = Result<(), String>;

/// A case, for any store, while it runs.
struct Case {
    name: &'static str,
    run: fn(&mut dyn Subject) -> Verdict,
}

/// The store of a case, which can be opened again.
trait Subject: EventStore {
    fn reopen(&mut self);
}

struct Judged<'b, B: Backend> {
    backend: &'b B,
    /// `None` only while it is opened again.
    store: Option<B::Store>,
}

impl<B: Backend> Judged<'_, B> {
    fn store(&self) -> &B::Store {
        self.store.as_ref().expect("a store that is not being opened")
    }
}

impl<B: Backend> EventStore for Judged<'_, B> {
    fn append(&self, batch: &Batch) -> Result<Written, Refused> {
        self.store().append(batch)
    }

    fn read(&self, selection: &Selection) -> Result<Vec<crate::RecordedEvent>, String> {
        self.store().read(selection)
    }

    fn head(&self) -> Result<u64, String> {
        self.store().head()
    }

    fn version(&self, stream: &str) -> Result<u64, String> {
        self.store().version(stream)
    }
}

impl<B: Backend> Subject for Judged<'_, B> {
    fn reopen(&mut self) {
        self.store = self.store.take().map(|store| self.backend.reopen(store));
    }
}

/// A case that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The case.
    pub case: &'static str,
    /// What was expected, and what came.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.message)
    }
}

/// The names of all cases, in the order in which they run.
pub fn cases() -> impl Iterator<Item = &'static str> {
    all().map(|case| case.name)
}

/// Runs every case on a store of its own, and returns those that did not hold.
///
/// ```
/// use annals::testing::conformance::{self, Backend};
/// use annals::{Error, Store};
///
/// struct InMemory;
///
/// impl Backend for InMemory {
///     type Store = Store;
///
///     fn make(&self) -> Store {
///         Store::in_memory().expect("memory")
///     }
///
///     fn reopen(&self, store: Store) -> Store {
///         store
///     }
/// }
///
/// assert_eq!(conformance::run(&InMemory), []);
/// ```
pub fn run<B: Backend>(backend: &B) -> Vec<Failure> {
    let judge = |case: Case| {
        let mut judged = Judged { backend, store: Some(backend.make()) };
        (case.run)(&mut judged).err().map(|message| Failure { case: case.name, message })
    };
    all().filter_map(judge).collect()
}

/// Runs every case, and panics if any does not hold.
///
/// # Panics
/// With every case that did not hold, what was expected and what came.
pub fn check<B: Backend>(backend: &B) {
    let failures: Vec<String> = run(backend).iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "the store does not conform:\n{}\n", failures.join("\n"));
}

fn all() -> impl Iterator<Item = Case> {
    [appending::CASES, retrying::CASES, conditions::CASES, reading::CASES]
        .into_iter()
        .flatten()
        .map(|(name, run)| Case { name, run: *run })
}

/// The cases of a module: names and functions.
type Cases = &'static [(&'static str, fn(&mut dyn Subject) -> Verdict)];

/// Says what is different, if anything is.
fn same<T: PartialEq + fmt::Debug>(what: &str, actual: &T, expected: &T) -> Verdict {
    if actual == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, got {actual:?}")) }
}

fn written(what: &str, result: Result<Written, Refused>) -> Result<Written, String> {
    result.map_err(|refused| format!("{what}: expected it to be written, got {refused:?}"))
}

fn conflict(what: &str, result: Result<Written, Refused>) -> Result<crate::Conflict, String> {
    match result {
        Err(Refused::Conflict(conflict)) => Ok(conflict),
        other => Err(format!("{what}: expected a conflict, got {other:?}")),
    }
}

/// The number of violations of an invalid commit.
fn invalid(what: &str, result: Result<Written, Refused>) -> Result<usize, String> {
    match result {
        Err(Refused::Invalid(invalid)) => Ok(invalid.violations.len()),
        other => Err(format!("{what}: expected it to be invalid, got {other:?}")),
    }
}
