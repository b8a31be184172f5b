//! What a decision may return: the events that it comes to, in whatever form is at hand, or a rejection.
//!
//! The second parameter of [`Decision`] only tells the forms apart, so that the compiler finds out which one is meant.
//! Nobody names it.

use std::convert::Infallible;

/// What a decision comes to: one event, an array, a `Vec`, an `Option` or an iterator of them, or a `Result` of any of
/// these, whose error is the rejection.
///
/// No event at all is a decision too: nothing is written, and that is a success.
///
/// ```
/// use annals::Decision;
///
/// fn count<D: Decision<char, M>, M>(decision: D) -> Result<usize, D::Rejection> {
///     Ok(decision.into_events()?.into_iter().count())
/// }
///
/// assert_eq!(count('a'), Ok(1));
/// assert_eq!(count(['a', 'b']), Ok(2));
/// assert_eq!(count(None), Ok(0));
/// assert_eq!(count("abc".chars()), Ok(3));
/// assert_eq!(count(Ok::<_, &str>(vec!['a'])), Ok(1));
/// assert_eq!(count(Err::<char, _>("overdrawn")), Err("overdrawn"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a decision on `{E}` events",
    note = "a decision is one event, an array, a `Vec`, an `Option` or an iterator of events, or a `Result` of these"
)]
pub trait Decision<E, M> {
    /// Why nothing happens; [`Infallible`] for a decision that cannot reject.
    type Rejection;
    /// The events, in order.
    type Events: IntoIterator<Item = E>;

    /// The events, or the rejection.
    ///
    /// # Errors
    /// The rejection, if it is one.
    fn into_events(self) -> Result<Self::Events, Self::Rejection>;
}

/// Tells that a decision is one event.
#[derive(Debug)]
pub struct OneEvent(());

/// Tells that a decision is a collection of events.
#[derive(Debug)]
pub struct CollectedEvents(());

/// Tells that a decision is an iterator of events.
#[derive(Debug)]
pub struct IteratedEvents(());

/// Tells that a decision is the result of one that cannot reject.
#[derive(Debug)]
pub struct ResultOf<M>(std::marker::PhantomData<M>);

impl<E> Decision<E, OneEvent> for E {
    type Rejection = Infallible;
    type Events = [E; 1];

    fn into_events(self) -> Result<[E; 1], Infallible> {
        Ok([self])
    }
}

impl<E> Decision<E, CollectedEvents> for Vec<E> {
    type Rejection = Infallible;
    type Events = Self;

    fn into_events(self) -> Result<Self, Infallible> {
        Ok(self)
    }
}

impl<E, const N: usize> Decision<E, CollectedEvents> for [E; N] {
    type Rejection = Infallible;
    type Events = Self;

    fn into_events(self) -> Result<Self, Infallible> {
        Ok(self)
    }
}

impl<E> Decision<E, CollectedEvents> for Option<E> {
    type Rejection = Infallible;
    type Events = Self;

    fn into_events(self) -> Result<Self, Infallible> {
        Ok(self)
    }
}

impl<E, I: Iterator<Item = E>> Decision<E, IteratedEvents> for I {
    type Rejection = Infallible;
    type Events = I;

    fn into_events(self) -> Result<I, Infallible> {
        Ok(self)
    }
}

impl<E, M, D: Decision<E, M, Rejection = Infallible>, R> Decision<E, ResultOf<M>> for Result<D, R> {
    type Rejection = R;
    type Events = D::Events;

    fn into_events(self) -> Result<D::Events, R> {
        self.map(|decision| match decision.into_events() {
            Ok(events) => events,
            Err(never) => match never {},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Event {
        Opened,
        Closed,
    }

    #[derive(Debug, PartialEq)]
    struct Rejected;

    /// As a repository calls it: from a closure, whose result is all that the compiler has to go by.
    fn decided<D: Decision<Event, M>, M>(decide: impl FnOnce(&bool) -> D) -> Result<Vec<Event>, D::Rejection> {
        Ok(decide(&true).into_events()?.into_iter().collect())
    }

    fn fallible(open: bool) -> Result<[Event; 1], Rejected> {
        if open { Ok([Event::Closed]) } else { Err(Rejected) }
    }

    fn iterated() -> impl Iterator<Item = Event> {
        [Event::Opened, Event::Closed].into_iter().filter(|event| *event == Event::Closed)
    }

    #[test]
    fn every_form_of_a_decision_is_inferred() {
        let (one, both) = (Ok(vec![Event::Opened]), Ok(vec![Event::Opened, Event::Closed]));
        assert_eq!(decided(|_| Event::Opened), one);
        assert_eq!(decided(|_| [Event::Opened]), one);
        assert_eq!(decided(|_| [Event::Opened, Event::Closed]), both);
        assert_eq!(decided(|_| vec![Event::Opened, Event::Closed]), both);
        assert_eq!(decided(|open| open.then_some(Event::Opened)), one);
        assert_eq!(decided(|_| iterated()), Ok(vec![Event::Closed]));
        assert_eq!(decided(|_| vec![Event::Opened].into_iter()), one);
        assert_eq!(
            decided(|open| (0..2).filter(|_| *open).map(|_| Event::Opened).collect::<Vec<_>>()).unwrap().len(),
            2
        );
        assert_eq!(decided(|_| Box::new(iterated()) as Box<dyn Iterator<Item = Event>>), Ok(vec![Event::Closed]));
    }

    #[test]
    fn nothing_is_a_decision() {
        assert_eq!(decided(|_| None), Ok(vec![]));
        assert_eq!(decided(|_| []), Ok(vec![]));
        assert_eq!(decided(|_| Vec::new()), Ok(vec![]));
        assert_eq!(decided(|_| std::iter::empty()), Ok(vec![]));
    }

    #[test]
    fn a_result_of_every_form_is_inferred_and_may_reject() {
        let one = Ok::<_, Rejected>(vec![Event::Opened]);
        assert_eq!(decided(|_| Ok::<_, Rejected>(Event::Opened)), one);
        assert_eq!(decided(|_| Ok::<_, Rejected>([Event::Opened])), one);
        assert_eq!(decided(|_| Ok::<_, Rejected>(vec![Event::Opened])), one);
        assert_eq!(decided(|_| Ok::<_, Rejected>(Some(Event::Opened))), one);
        assert_eq!(decided(|_| Ok::<_, Rejected>(iterated())), Ok(vec![Event::Closed]));
        assert_eq!(decided(|open| fallible(*open)), Ok(vec![Event::Closed]));
        assert_eq!(decided(|open| fallible(!*open)), Err(Rejected));
        let with_question_mark = decided(|open| {
            fallible(!*open)?;
            Ok::<_, Rejected>(None)
        });
        assert_eq!(with_question_mark, Err(Rejected));
    }
}
