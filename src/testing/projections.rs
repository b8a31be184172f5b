//! Given/when/then for projections, on the engine that runs them.

use std::time::Duration;

use serde::Serialize;

use super::aggregates::refused;
use super::store::{TestStore, store};
use super::story::{Story, Told};
use crate::error::{ExpectedVersion, Result};
use crate::{Aggregate, Projection, ProjectionHandle, ReadModel};

/// The name of the projection in its store.
const NAME: &str = "test";

/// Begins a test of a projection, on a store of its own whose clock moves when the test moves it.
///
/// ```
/// use annals::{Aggregate, Event, Projection, testing};
/// use serde::{Deserialize, Serialize};
/// use serde_json::json;
///
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent { Opened { owner: String }, Deposited { cents: u64 } }
/// use AccountEvent::{Deposited, Opened};
///
/// #[derive(Default)]
/// struct Account;
///
/// impl Aggregate for Account {
///     const CATEGORY: &'static str = "account";
///     type Event = AccountEvent;
///     fn apply(&mut self, _: &AccountEvent) {}
/// }
///
/// #[derive(Deserialize)]
/// enum Money { Deposited { cents: u64 } } // only what it wants to see
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Totals { deposits: u64, cents: u64 }
///
/// impl Projection for Totals {
///     type Event = Money;
///     fn apply(&mut self, Money::Deposited { cents }: &Money, _: &Event<'_>) {
///         self.deposits += 1;
///         self.cents += cents;
///     }
/// }
///
/// testing::projection(Totals::default())
///     .happens::<Account>("alice", [Opened { owner: "Alice".into() }, Deposited { cents: 500 }])
///     .happens::<Account>("bob", [Deposited { cents: 20 }])
///     .then(json!({ "deposits": 2, "cents": 520 }))
///     .then_state(|totals| assert_eq!(totals.cents, 520));
/// ```
///
/// # Panics
/// If the projection cannot be started.
#[track_caller]
#[must_use = "nothing is tested before something is said about the model"]
pub fn projection<P>(initial: P) -> ProjectionTest<P>
where
    P: Projection + ReadModel + Clone + Send + Sync + 'static,
    P::Event: Send + Sync + 'static,
{
    let store = store();
    let started = store.projection(NAME, initial).start();
    let handle = started.unwrap_or_else(|error| refused("the projection", &error));
    ProjectionTest { story: Story::default(), handle, store }
}

/// A projection that is shown events. It stops when this is dropped.
pub struct ProjectionTest<P> {
    story: Story,
    // Before the store: it is stopped while the store is open.
    handle: ProjectionHandle<P>,
    store: TestStore,
}

#[allow(clippy::return_self_not_must_use, reason = "one thing is said after the other, and any may be the last")]
impl<P: Projection + ReadModel + Clone> ProjectionTest<P> {
    /// These events happen to an aggregate, and the projection is shown them.
    ///
    /// # Panics
    /// If they cannot be recorded, or the projection fails on one.
    #[track_caller]
    pub fn happens<A: Aggregate>(mut self, id: &str, events: impl IntoIterator<Item = A::Event>) -> Self {
        let events: Vec<A::Event> = events.into_iter().collect();
        let told = events.iter().map(|event| format!("{}-{id} {}", A::CATEGORY, Told::new(event).line()));
        self.begin(told.collect());
        let repository = self.store.repository::<A>();
        let appended = repository.and_then(|repository| repository.append(id, ExpectedVersion::Any, events));
        appended.unwrap_or_else(|error| refused("what happens", &error));
        self.catch_up().unwrap_or_else(|error| refused("what happens", &error));
        self
    }

    /// Time passes: later events happen later.
    pub fn passes(mut self, time: Duration) -> Self {
        self.begin(vec![format!("{time:?} pass")]);
        self.store.clock.advance(time);
        self
    }

    /// The model is this: another one, or JSON. A model that is built anew must be the same.
    ///
    /// # Panics
    /// If it is not, with one field a line.
    #[track_caller]
    pub fn then(self, model: impl Serialize) -> Self
    where
        P: Serialize,
    {
        let expected = Told::new(&model);
        self.compare(&self.story, &expected);
        self.handle.rebuild().unwrap_or_else(|error| refused("a rebuild", &error));
        let mut story = self.story.clone();
        story.when.push("the model is built anew".into());
        self.compare(&story, &expected);
        self
    }

    /// Looks at the model. Assertions that fail are preceded by the story.
    pub fn then_state(self, assertions: impl FnOnce(&P)) -> Self {
        self.story.around(|| self.handle.read(assertions));
        self
    }

    #[track_caller]
    fn compare(&self, story: &Story, expected: &Told)
    where
        P: Serialize,
    {
        let actual = self.handle.read(Told::new);
        if actual != *expected {
            story.fail(&expected.fields(), &actual.fields());
        }
    }

    /// What happened so far becomes the beginning of the story.
    fn begin(&mut self, when: Vec<String>) {
        let before = std::mem::replace(&mut self.story.when, when);
        self.story.given.extend(before);
    }

    fn catch_up(&self) -> Result<()> {
        match self.store.head()? {
            Some(head) => self.handle.wait_for(head),
            None => Ok(()),
        }
    }
}
