//! Given/when/then for aggregates, deciders and decisions over a query.

use std::fmt::Debug;
use std::panic::Location;

use serde::Serialize;

use super::outcome::Outcome;
use super::store::{TestStore, store};
use super::story::{Story, Told, decision_at, lines};
use crate::error::{Error, ExpectedVersion};
use crate::{
    Aggregate, Decider, Decision, DecisionModel, EventCodec, ExecuteError, Loaded, NewEvent, Position, Query, Read,
    Repository,
};

/// The id of the aggregate that a test is about.
const ID: &str = "1";

/// Begins a test of an aggregate to which these events have happened.
///
/// Everything is recorded in a store in memory and read back, so that the test covers what events become on the way.
///
/// ```
/// use annals::{Aggregate, testing};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent { Deposited { cents: u64 }, Withdrawn { cents: u64 } }
/// use AccountEvent::{Deposited, Withdrawn};
///
/// #[derive(Debug, PartialEq)]
/// struct Overdrawn;
///
/// #[derive(Default)]
/// struct Account { balance_cents: u64 }
///
/// impl Aggregate for Account {
///     const CATEGORY: &'static str = "account";
///     type Event = AccountEvent;
///     fn apply(&mut self, event: &AccountEvent) {
///         match event {
///             Deposited { cents } => self.balance_cents += cents,
///             Withdrawn { cents } => self.balance_cents -= cents,
///         }
///     }
/// }
///
/// impl Account {
///     fn withdraw(&self, cents: u64) -> Result<AccountEvent, Overdrawn> {
///         if cents > self.balance_cents { Err(Overdrawn) } else { Ok(Withdrawn { cents }) }
///     }
/// }
///
/// testing::given::<Account>([Deposited { cents: 100 }])
///     .when(|account| account.withdraw(60))
///     .then([Withdrawn { cents: 60 }])
///     .then_state(|account| assert_eq!(account.balance_cents, 40));
///
/// testing::given::<Account>([Deposited { cents: 100 }])
///     .when(|account| account.withdraw(200))
///     .then_rejects(Overdrawn);
/// ```
///
/// # Panics
/// If the declaration of the events is not right, or an event cannot be recorded.
#[track_caller]
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let store = store();
    let repository = store.repository::<A>().unwrap_or_else(|error| refused("the aggregate", &error));
    let codec = A::event_types().check().unwrap_or_else(|error| refused("the declaration of the events", &error));
    let events: Vec<A::Event> = events.into_iter().collect();
    let given: Vec<Told> = events.iter().map(Told::new).collect();
    let appended = repository.append(ID, ExpectedVersion::NoStream, events);
    appended.unwrap_or_else(|error| refused("what is given", &error));
    let given = Given { story: Story { given: lines(&given), when: Vec::new() }, repository, codec, store };
    given.check_recorded(None);
    given
}

/// An aggregate to which something has happened.
#[must_use = "nothing is tested before something is done"]
pub struct Given<A: Aggregate> {
    story: Story,
    repository: Repository<A>,
    codec: EventCodec<A::Event>,
    store: TestStore,
}

impl<A: Aggregate> Given<A> {
    /// Decides something on the aggregate, as [`Repository::execute`] does.
    ///
    /// # Panics
    /// If what was decided cannot be recorded.
    #[track_caller]
    #[must_use = "nothing is tested before something is said about the outcome"]
    pub fn when<D, M>(mut self, decide: impl FnOnce(&A) -> D) -> Outcome<Loaded<A>, A::Event, D::Rejection>
    where
        D: Decision<A::Event, M>,
    {
        self.story.when = decision_at(Location::caller());
        let before = self.load();
        let decided = decide(&before).into_events().map(|events| events.into_iter().collect::<Vec<_>>());
        let result = decided.map(|events| {
            let told: Vec<Told> = events.iter().map(Told::new).collect();
            let head = self.store.head().unwrap_or_else(|error| refused("the head", &error));
            let appended = self.repository.append(ID, before.expected(), events);
            appended.unwrap_or_else(|error| refused("what was decided", &error));
            self.check_read_back(&told, head);
            told
        });
        let state = self.load();
        Outcome::new(self.story, state, result)
    }

    #[track_caller]
    fn load(&self) -> Loaded<A> {
        self.repository.load(ID).unwrap_or_else(|error| refused("the aggregate", &error))
    }

    /// That what is recorded is told as it was given.
    #[track_caller]
    fn check_recorded(&self, after: Option<Position>) {
        let read = lines(&self.read_back(after));
        if read != self.story.given {
            let story = Story { when: vec!["they are recorded and read back".into()], ..self.story.clone() };
            story.fail(&self.story.given, &read);
        }
    }

    #[track_caller]
    fn check_read_back(&self, told: &[Told], after: Option<Position>) {
        let read = self.read_back(after);
        if read != told {
            let story = Story { when: vec!["what was decided is recorded and read back".into()], ..self.story.clone() };
            story.fail(&lines(told), &lines(&read));
        }
    }

    #[track_caller]
    fn read_back(&self, after: Option<Position>) -> Vec<Told> {
        told_of(self.store.read(Query::all()).after(after), &self.codec)
    }
}

/// The events of a read, told.
#[track_caller]
fn told_of<E: Serialize + serde::de::DeserializeOwned>(mut read: Read, codec: &EventCodec<E>) -> Vec<Told> {
    let mut told = Vec::new();
    loop {
        match read.next() {
            Ok(None) => return told,
            Ok(Some(event)) => {
                let decoded = codec.decode(&event).unwrap_or_else(|error| refused("what was recorded", &error));
                told.extend(decoded.map(|event| Told::new(&event)));
            }
            Err(error) => refused("what was recorded", &error),
        }
    }
}

/// Begins a test of a decider to whose aggregate these events have happened.
///
/// ```
/// use annals::{Decider, testing};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug)]
/// enum LightCommand { Switch }
/// #[derive(Serialize, Deserialize)]
/// enum LightEvent { SwitchedOn, SwitchedOff }
///
/// let light = Decider::new(
///     "light",
///     || false,
///     |_, event| matches!(event, LightEvent::SwitchedOn),
///     |LightCommand::Switch, is_on| if *is_on { LightEvent::SwitchedOff } else { LightEvent::SwitchedOn },
/// );
/// testing::given_to(light, [LightEvent::SwitchedOn])
///     .when(LightCommand::Switch)
///     .then([LightEvent::SwitchedOff])
///     .then_state(|is_on| assert!(!is_on));
/// ```
#[track_caller]
pub fn given_to<C, S, E, R>(decider: Decider<C, S, E, R>, events: impl IntoIterator<Item = E>) -> GivenTo<C, S, E, R>
where
    E: Serialize,
{
    let mut state = decider.initial();
    let mut given = Vec::new();
    for event in events {
        given.push(Told::new(&event).line());
        state = decider.evolve(state, &event);
    }
    GivenTo { story: Story { given, when: Vec::new() }, decider, state }
}

/// A decider, and the state that the events have come to.
#[must_use = "nothing is tested before something is done"]
pub struct GivenTo<C, S, E, R> {
    story: Story,
    decider: Decider<C, S, E, R>,
    state: S,
}

impl<C: Debug, S, E: Serialize, R> GivenTo<C, S, E, R> {
    /// Decides a command.
    #[track_caller]
    #[must_use = "nothing is tested before something is said about the outcome"]
    pub fn when(mut self, command: C) -> Outcome<Box<S>, E, R> {
        self.story.when = vec![format!("{command:?}")];
        let (mut state, mut told) = (self.state, Vec::new());
        let result = self.decider.decide(&command, &state).map(|events| {
            for event in events {
                told.push(Told::new(&event));
                state = self.decider.evolve(std::mem::replace(&mut state, self.decider.initial()), &event);
            }
            told
        });
        Outcome::new(self.story, Box::new(state), result)
    }
}

/// Begins a test of a decision over a query, on events that were appended before. Which of them the query finds is the
/// matter of the test: a failure says so of each.
///
/// ```
/// use annals::{DecisionModel, EventTypes, Query, testing};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum UserEvent { Registered { name: String } }
///
/// #[derive(Default, Clone)]
/// struct Name { is_taken: bool }
///
/// impl DecisionModel for Name {
///     type Event = UserEvent;
///     fn apply(&mut self, _: &UserEvent) { self.is_taken = true; }
///     fn event_types() -> EventTypes<UserEvent> {
///         EventTypes::new().tagged_by(|UserEvent::Registered { name }| vec![format!("name:{name}")])
///     }
/// }
///
/// fn registered(name: &str) -> UserEvent { UserEvent::Registered { name: name.into() } }
/// fn register(found: &Name) -> Result<UserEvent, &'static str> {
///     if found.is_taken { Err("taken") } else { Ok(registered("bob")) }
/// }
///
/// testing::given_events::<Name>([registered("alice")])
///     .deciding(Query::tag("name:bob"), Name::default())
///     .when(register)
///     .then([registered("bob")]);
/// testing::given_events::<Name>([registered("bob")])
///     .deciding(Query::tag("name:bob"), Name::default())
///     .when(register)
///     .then_rejects("taken");
/// ```
///
/// # Panics
/// If the declaration of the events is not right, or an event cannot be recorded.
#[track_caller]
pub fn given_events<T: DecisionModel>(events: impl IntoIterator<Item = T::Event>) -> GivenEvents<T> {
    let store = store();
    let codec = T::event_types().check().unwrap_or_else(|error| refused("the declaration of the events", &error));
    let mut given = Vec::new();
    for event in events {
        given.push(Told::new(&event));
        let encoded: NewEvent = codec.encode(&event).unwrap_or_else(|error| refused("what is given", &error));
        let appended = store.append(T::stream_of(&event), ExpectedVersion::Any, [encoded]);
        appended.unwrap_or_else(|error| refused("what is given", error.error()));
    }
    GivenEvents { given, codec, store }
}

/// Events that were appended.
#[must_use = "nothing is tested before something is done"]
pub struct GivenEvents<T: DecisionModel> {
    given: Vec<Told>,
    codec: EventCodec<T::Event>,
    store: TestStore,
}

impl<T: DecisionModel + Clone> GivenEvents<T> {
    /// Says what the decision rests on: what this query finds, folded into this model.
    #[track_caller]
    pub fn deciding(self, query: Query, model: T) -> GivenModel<T> {
        let told = self.given.iter().zip(1..).map(|(event, position)| {
            let found = self.store.read(query.clone()).owned();
            let is_found = found.flatten().any(|event| event.position.number() == position);
            format!("{}{}", event.line(), if is_found { "" } else { "    (not found by the query)" })
        });
        let story = Story { given: told.collect(), when: Vec::new() };
        GivenModel { story, given: self, query, model }
    }
}

/// What a decision over a query rests on.
#[must_use = "nothing is tested before something is done"]
pub struct GivenModel<T: DecisionModel> {
    story: Story,
    given: GivenEvents<T>,
    query: Query,
    model: T,
}

impl<T: DecisionModel + Clone> GivenModel<T> {
    /// Decides something on the model, as [`Store::decide`](crate::Store::decide) does.
    ///
    /// # Panics
    /// If what is found cannot be read, or what was decided cannot be recorded.
    #[track_caller]
    #[must_use = "nothing is tested before something is said about the outcome"]
    pub fn when<D, M>(mut self, decide: impl FnOnce(&T) -> D) -> Outcome<Loaded<T>, T::Event, D::Rejection>
    where
        D: Decision<T::Event, M>,
    {
        self.story.when = decision_at(Location::caller());
        let store = &self.given.store;
        let head = store.head().unwrap_or_else(|error| refused("the head", &error));
        let mut decide = Some(decide);
        let executed = store.decide(self.query.clone(), self.model.clone(), |model| {
            let decide = decide.take().expect("nobody else appends, so that nothing is decided twice");
            decide(model)
        });
        let result = match executed {
            Ok(_) => Ok(told_of(store.read(Query::all()).after(head), &self.given.codec)),
            Err(ExecuteError::Rejected(rejection)) => Err(rejection),
            Err(ExecuteError::Store(error)) => refused("the decision", &error),
        };
        let state = store.decision(self.query.clone()).load(self.model.clone());
        Outcome::new(self.story, state.unwrap_or_else(|error| refused("what is found", &error)), result)
    }
}

#[track_caller]
pub(super) fn refused(what: &str, error: &Error) -> ! {
    panic!("{what} was refused: {error}")
}
