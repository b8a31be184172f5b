//! What a decision came to, and what a test may say about it.

#![allow(clippy::return_self_not_must_use, reason = "one thing is said after the other, and any may be the last")]

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::Serialize;

use super::story::{Story, Told, lines};

/// What a decision came to. Say what it should have been with the methods that begin with `then`; each panics with the
/// whole story if it was something else.
#[derive(Debug)]
pub struct Outcome<S, E, R> {
    story: Story,
    /// The state afterwards, behind something that gives it.
    state: S,
    result: Result<Vec<Told>, R>,
    _events: PhantomData<fn(E)>,
}

impl<S, E, R> Outcome<S, E, R> {
    pub(super) fn new(story: Story, state: S, result: Result<Vec<Told>, R>) -> Self {
        Self { story, state, result, _events: PhantomData }
    }
}

impl<S, E: Serialize, R: Debug> Outcome<S, E, R> {
    /// It was decided that these events happen, in this order, and no others.
    ///
    /// # Panics
    /// If other events were decided, or it was rejected.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = E>) -> Self {
        let expected: Vec<Told> = events.into_iter().map(|event| Told::new(&event)).collect();
        match &self.result {
            Ok(actual) if *actual == expected => self,
            _ => self.story.fail(&lines(&expected), &self.actual()),
        }
    }

    /// It was decided that nothing happens, and that is fine.
    ///
    /// # Panics
    /// If events were decided, or it was rejected.
    #[track_caller]
    pub fn then_nothing(self) -> Self {
        self.then([])
    }

    /// It was rejected, with this rejection.
    ///
    /// # Panics
    /// If it was rejected with another, or was not.
    #[track_caller]
    pub fn then_rejects(self, rejection: impl Into<R>) -> Self
    where
        R: PartialEq,
    {
        let expected = rejection.into();
        match &self.result {
            Err(actual) if *actual == expected => self,
            _ => self.story.fail(&[rejected(&expected)], &self.actual()),
        }
    }

    fn actual(&self) -> Vec<String> {
        match &self.result {
            Ok(events) => lines(events),
            Err(rejection) => vec![rejected(rejection)],
        }
    }

    /// The rejection, for what [`Outcome::then_rejects`] cannot say; `None` if it was not rejected.
    pub fn rejection(&self) -> Option<&R> {
        self.result.as_ref().err()
    }
}

impl<S: Deref, E, R> Outcome<S, E, R> {
    /// Looks at the state afterwards. Assertions that fail are preceded by the story.
    pub fn then_state(self, assertions: impl FnOnce(&S::Target)) -> Self {
        self.story.around(|| assertions(&self.state));
        self
    }
}

fn rejected(rejection: &impl Debug) -> String {
    format!("rejected: {rejection:?}")
}
