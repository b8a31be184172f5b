//! Groups 21 and 22: decisions over a query, by the worked examples. Each reads as an application would write it.

use std::borrow::Cow;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use annals::{
    CommandId, DecisionModel, Error, EventTypes, ExecuteError, Executed, ExpectationFailure, ManualClock, Metadata,
    NewEvent, Options, Query, RecordedEvent, Store, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::bank::{rejection, store_error};
use crate::support::*;
use crate::world::check;

// --- Course subscriptions --------------------------------------------------------------------------------------------

/// A course has so many places, and a student so many courses. Neither rule belongs to one stream.
#[derive(Serialize, Deserialize)]
enum CourseEvent {
    CourseDefined { course: String, capacity: usize },
    CapacityChanged { course: String, capacity: usize },
    StudentSubscribed { course: String, student: String },
}

use CourseEvent::{CapacityChanged, CourseDefined, StudentSubscribed};

const COURSES_PER_STUDENT_MAX: usize = 5;

/// What a subscription of one student to one course rests on.
#[derive(Default)]
struct Enrolment {
    course: String,
    student: String,
    capacity: Option<usize>,
    students: Vec<String>,
    courses_of_student: usize,
}

impl DecisionModel for Enrolment {
    type Event = CourseEvent;

    fn apply(&mut self, event: &CourseEvent) {
        match event {
            CourseDefined { capacity, .. } | CapacityChanged { capacity, .. } => self.capacity = Some(*capacity),
            StudentSubscribed { course, student } => {
                self.courses_of_student += usize::from(*student == self.student);
                if *course == self.course {
                    self.students.push(student.clone());
                }
            }
        }
    }

    fn event_types() -> EventTypes<CourseEvent> {
        EventTypes::new().tagged_by(|event| match event {
            CourseDefined { course, .. } | CapacityChanged { course, .. } => vec![format!("course:{course}")],
            StudentSubscribed { course, student } => vec![format!("course:{course}"), format!("student:{student}")],
        })
    }

    fn stream_of(event: &CourseEvent) -> Cow<'static, str> {
        let (CourseDefined { course, .. } | CapacityChanged { course, .. } | StudentSubscribed { course, .. }) = event;
        format!("course-{course}").into()
    }
}

type Decided = Result<Executed, ExecuteError<&'static str>>;

fn of_course(course: &str) -> Query {
    Query::tag(format!("course:{course}"))
}

fn define_course(store: &Store, course: &str, capacity: usize) -> Decided {
    store.decide(of_course(course), Enrolment::default(), |found| match found.capacity {
        None => Ok(CourseDefined { course: course.into(), capacity }),
        Some(_) => Err("the course exists"),
    })
}

fn change_capacity(store: &Store, course: &str, capacity: usize) -> Decided {
    store.decide(of_course(course), Enrolment::default(), |found| match found.capacity {
        None => Err("no such course"),
        Some(current) if current == capacity => Ok(None),
        Some(_) => Ok(Some(CapacityChanged { course: course.into(), capacity })),
    })
}

fn subscribe(store: &Store, course: &str, student: &str) -> Decided {
    let query = of_course(course).or(Query::tag(format!("student:{student}")).and_types(["StudentSubscribed"]));
    let model = Enrolment { course: course.into(), student: student.into(), ..Enrolment::default() };
    store.decide(query, model, |found| {
        let capacity = found.capacity.ok_or("no such course")?;
        if found.students.contains(&student.to_owned()) {
            Err("subscribed already")
        } else if found.students.len() >= capacity {
            Err("the course is full")
        } else if found.courses_of_student >= COURSES_PER_STUDENT_MAX {
            Err("five courses are enough")
        } else {
            Ok(StudentSubscribed { course: course.into(), student: student.into() })
        }
    })
}

#[test]
fn g22_course_subscriptions() {
    check(|world| {
        assert_eq!(rejection(change_capacity(world, "c1", 5)), "no such course");
        assert_eq!(rejection(subscribe(world, "c1", "s1")), "no such course");
        define_course(world, "c1", 10).unwrap();
        world.pause();
        assert_eq!(rejection(define_course(world, "c1", 3)), "the course exists");
        assert_eq!(change_capacity(world, "c1", 10).unwrap().appended(), None);
        change_capacity(world, "c1", 3).unwrap();
        for student in ["s1", "s2", "s3"] {
            subscribe(world, "c1", student).unwrap();
            assert_eq!(rejection(subscribe(world, "c1", student)), "subscribed already");
            world.pause();
        }
        assert_eq!(rejection(subscribe(world, "c1", "s4")), "the course is full");
        for course in ["c2", "c3", "c4", "c5", "c6"] {
            define_course(world, course, 3).unwrap();
        }
        for course in ["c2", "c3", "c4", "c5"] {
            subscribe(world, course, "s1").unwrap();
            world.pause();
        }
        assert_eq!(rejection(subscribe(world, "c6", "s1")), "five courses are enough");
        subscribe(world, "c6", "s2").unwrap();
        assert_eq!(version(world, "course-c1"), Some(5));
    });
}

#[test]
fn g22_the_last_places_are_given_once_each() {
    check(|world| {
        define_course(world, "c1", 3).unwrap();
        let barrier = Barrier::new(8);
        let decided: Vec<_> = thread::scope(|scope| {
            let subscribe = |student: usize| {
                barrier.wait();
                subscribe(world, "c1", &format!("s{student}"))
            };
            let threads: Vec<_> = (0..8).map(|student| scope.spawn(move || subscribe(student))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (given, refused): (Vec<_>, Vec<_>) = decided.into_iter().partition(Result::is_ok);
        assert_eq!((given.len(), refused.len()), (3, 5));
        assert!(refused.into_iter().all(|decided| rejection(decided) == "the course is full"));
    });
}

// --- Unique user names -----------------------------------------------------------------------------------------------

const RETENTION_DAYS: i64 = 3;

/// A name belongs to one account. When it is given up, it stays reserved for three days.
#[derive(Serialize, Deserialize)]
enum NameEvent {
    AccountRegistered { name: String },
    NameChanged { from: String, to: String, day: i64 },
    AccountClosed { name: String, day: i64 },
}

use NameEvent::{AccountClosed, AccountRegistered, NameChanged};

/// Who has a name, if anyone, and since when it is nobody's.
struct Name {
    asked_for: String,
    is_taken: bool,
    given_up: Option<i64>,
}

impl DecisionModel for Name {
    type Event = NameEvent;

    fn apply(&mut self, event: &NameEvent) {
        (self.is_taken, self.given_up) = match event {
            AccountRegistered { .. } => (true, None),
            NameChanged { to, .. } if *to == self.asked_for => (true, None),
            NameChanged { day, .. } | AccountClosed { day, .. } => (false, Some(*day)),
        }
    }

    fn event_types() -> EventTypes<NameEvent> {
        EventTypes::new().tagged_by(|event| match event {
            AccountRegistered { name } | AccountClosed { name, .. } => vec![format!("name:{name}")],
            NameChanged { from, to, .. } => vec![format!("name:{from}"), format!("name:{to}")],
        })
    }
}

fn today(store: &Store) -> i64 {
    store.clock().now().nanos() / 86_400_000_000_000
}

/// Takes a name by what `event` says, if it is free today.
fn take(store: &Store, name: &str, event: impl Fn() -> NameEvent) -> Decided {
    let model = Name { asked_for: name.into(), is_taken: false, given_up: None };
    let today = today(store);
    store.decide(Query::tag(format!("name:{name}")), model, |found| {
        let is_reserved = found.given_up.is_some_and(|day| today <= day + RETENTION_DAYS);
        if found.is_taken || is_reserved { Err("the name is taken") } else { Ok(event()) }
    })
}

fn register(store: &Store, name: &str) -> Decided {
    take(store, name, || AccountRegistered { name: name.into() })
}

fn rename(store: &Store, from: &str, to: &str) -> Decided {
    take(store, to, || NameChanged { from: from.into(), to: to.into(), day: today(store) })
}

fn close(store: &Store, name: &str) -> Decided {
    let model = Name { asked_for: name.into(), is_taken: false, given_up: None };
    store.decide(Query::tag(format!("name:{name}")), model, |found| match found.is_taken {
        true => Ok(AccountClosed { name: name.into(), day: today(store) }),
        false => Err("no such account"),
    })
}

/// Runs a case in memory and in a directory, on a clock that the case moves from day to day.
fn check_by_day(case: impl Fn(&Store, &dyn Fn(u32))) {
    let directory = tempfile::tempdir().unwrap();
    for on_disk in [false, true] {
        let clock = ManualClock::new(Timestamp::from_millis(0));
        let options = Options::new().clock(clock.clone());
        let store = if on_disk { options.open(directory.path()) } else { options.in_memory() };
        case(&store.unwrap(), &|days| clock.advance(days * Duration::from_secs(86_400)));
    }
}

#[test]
fn g22_a_user_name_is_unique_and_kept_back_for_three_days() {
    check_by_day(|store, pass_days| {
        register(store, "u1").unwrap();
        assert_eq!(rejection(register(store, "u1")), "the name is taken");
        close(store, "u1").unwrap();
        assert_eq!(rejection(close(store, "u1")), "no such account");
        assert_eq!(rejection(register(store, "u1")), "the name is taken", "on day 0");
        pass_days(3);
        assert_eq!(rejection(register(store, "u1")), "the name is taken", "on day 3");
        pass_days(1);
        register(store, "u1").unwrap();
        // Renamed on day 4: the new name is taken at once, the old one free from day 8 on.
        rename(store, "u1", "u2").unwrap();
        assert_eq!(rejection(register(store, "u2")), "the name is taken");
        pass_days(3);
        assert_eq!(rejection(rename(store, "u2", "u1")), "the name is taken");
        pass_days(1);
        register(store, "u1").unwrap();
        assert_eq!(rejection(rename(store, "u1", "u2")), "the name is taken");
    });
}

// --- Gapless invoice numbers -----------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
enum InvoiceEvent {
    InvoiceCreated { number: u64 },
}

/// The number of the last invoice.
#[derive(Default)]
struct Invoices(u64);

impl DecisionModel for Invoices {
    type Event = InvoiceEvent;

    fn apply(&mut self, InvoiceEvent::InvoiceCreated { number }: &InvoiceEvent) {
        self.0 = *number;
    }
}

fn create_invoice(store: &Store) -> Executed {
    let decision = store.decision(Query::types(["InvoiceCreated"])).retries(u32::MAX);
    decision.decide(Invoices::default(), |last| InvoiceEvent::InvoiceCreated { number: last.0 + 1 }).unwrap()
}

#[test]
fn g22_invoice_numbers_have_no_gaps() {
    check(|world| {
        for _ in 0..5 {
            create_invoice(world);
            world.append("noise", Any, [event("Noise")]).unwrap();
            world.pause();
        }
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| drop(create_invoice(world))));
            }
        });
        let invoices = found(world, Query::types(["InvoiceCreated"]));
        let number = |event: &RecordedEvent| event.as_event().decode_payload::<Invoice>().unwrap().number;
        assert_eq!(invoices.iter().map(number).collect::<Vec<_>>(), (1..=25).collect::<Vec<_>>());
    });
}

#[derive(Deserialize)]
struct Invoice {
    number: u64,
}

// --- One-time passwords ----------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
enum SignUpEvent {
    PasswordIssued { password: String },
    PasswordUsed { password: String },
}

#[derive(Default)]
struct Password {
    is_issued: bool,
    is_used: bool,
}

impl DecisionModel for Password {
    type Event = SignUpEvent;

    fn apply(&mut self, event: &SignUpEvent) {
        match event {
            SignUpEvent::PasswordIssued { .. } => self.is_issued = true,
            SignUpEvent::PasswordUsed { .. } => self.is_used = true,
        }
    }

    fn event_types() -> EventTypes<SignUpEvent> {
        EventTypes::new().tagged_by(|event| match event {
            SignUpEvent::PasswordIssued { password } | SignUpEvent::PasswordUsed { password } => {
                vec![format!("password:{password}")]
            }
        })
    }
}

fn of_password(password: &str) -> Query {
    Query::tag(format!("password:{password}"))
}

fn issue(store: &Store, password: &str) {
    let issued = || SignUpEvent::PasswordIssued { password: password.into() };
    store.decide(of_password(password), Password::default(), |_| issued()).unwrap();
}

fn redeem(store: &Store, password: &str) -> Decided {
    store.decide(of_password(password), Password::default(), |found| match found {
        Password { is_issued: false, .. } => Err("unknown"),
        Password { is_used: true, .. } => Err("used"),
        Password { .. } => Ok(SignUpEvent::PasswordUsed { password: password.into() }),
    })
}

#[test]
fn g22_a_one_time_password_is_used_once() {
    check(|world| {
        assert_eq!(rejection(redeem(world, "1234")), "unknown");
        issue(world, "1234");
        world.pause();
        let redeemed: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| redeem(world, "1234"))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(redeemed.iter().filter(|redeemed| redeemed.is_ok()).count(), 1);
        world.pause();
        assert_eq!(rejection(redeem(world, "1234")), "used");
        assert_eq!(rejection(redeem(world, "12345")), "unknown");
    });
}

// --- Idempotency tokens ----------------------------------------------------------------------------------------------

#[test]
fn g22_an_idempotency_token_is_used_once() {
    let token = CommandId::of_name("11111");
    check(|world| {
        let order = |token| {
            let decision = world.decision(Query::types(["InvoiceCreated"])).command(token);
            decision.decide(Invoices::default(), |last| InvoiceEvent::InvoiceCreated { number: last.0 + 1 }).unwrap()
        };
        let first = order(token);
        let again = order(token);
        assert_eq!((first.was_applied_before(), again.was_applied_before()), (false, true));
        assert_eq!(again.position(), first.position());
        assert!(!order(CommandId::of_name("22222")).was_applied_before());
        assert_eq!(head(world), Some(2));
        let together: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| order(CommandId::of_name("33333")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(together.iter().filter(|executed| !executed.was_applied_before()).count(), 1);
        assert_eq!(head(world), Some(3));
    });
}

// --- What holds of every decision ------------------------------------------------------------------------------------

#[test]
fn g21_a_decision_rests_on_the_head_that_was_read_also_of_an_empty_store() {
    check(|world| {
        let decision = || world.decision(Query::types(["InvoiceCreated"])).retries(0);
        assert_eq!(decision().load(Invoices::default()).unwrap().head(), None);
        let mut raced = false;
        let failed = decision().decide(Invoices::default(), |last| {
            if !std::mem::replace(&mut raced, true) {
                create_invoice(world);
            }
            InvoiceEvent::InvoiceCreated { number: last.0 + 1 }
        });
        let Error::Conflict(conflict) = store_error(failed) else { panic!("expected a conflict") };
        assert!(
            matches!(conflict.failures.as_slice(), [ExpectationFailure::Condition { position, .. }] if *position == p(1))
        );
        let loaded = decision().load(Invoices::default()).unwrap();
        assert_eq!((loaded.0, loaded.head(), loaded.version()), (1, Some(p(1)), None));
        let nothing = decision().decide(Invoices::default(), |_| None).unwrap();
        assert_eq!((nothing.appended(), nothing.position(), head(world)), (None, Some(p(1)), Some(1)));
    });
}

#[test]
fn g21_a_conflict_is_decided_again_on_what_came_in_between() {
    check(|world| {
        create_invoice(world);
        let mut numbers = Vec::new();
        let decision = world.decision(Query::types(["InvoiceCreated"])).retries(2);
        let executed = decision.decide(Invoices::default(), |last| {
            numbers.push(last.0);
            if numbers.len() <= 2 {
                create_invoice(world);
            }
            InvoiceEvent::InvoiceCreated { number: last.0 + 1 }
        });
        assert_eq!((numbers, executed.unwrap().position()), (vec![1, 2, 3], Some(p(4))));
    });
}

#[test]
fn g21_a_narrower_query_validates_what_a_wider_one_has_read() {
    check(|world| {
        define_course(world, "c1", 3).unwrap();
        let mut attempts = 0;
        let mut change = |in_between: &dyn Fn()| {
            attempts = 0;
            let narrower = of_course("c1").and_types(["CapacityChanged"]);
            let decision = world.decision(of_course("c1")).validate(narrower).metadata(&Metadata::new().set("by", "x"));
            let decided = decision.decide(Enrolment::default(), |found| {
                attempts += 1;
                if attempts == 1 {
                    in_between();
                }
                CapacityChanged { course: "c1".into(), capacity: found.capacity.unwrap() + 1 }
            });
            decided.unwrap();
            attempts
        };
        assert_eq!(change(&|| drop(subscribe(world, "c1", "s1").unwrap())), 1, "no capacity was changed");
        assert_eq!(change(&|| drop(change_capacity(world, "c1", 9).unwrap())), 2);
        let changes = found(world, Query::types(["CapacityChanged"]));
        assert_eq!(changes.last().unwrap().payload, br#"{"course":"c1","capacity":10}"#);
        assert_eq!(changes.last().unwrap().metadata.as_deref(), Some(&br#"{"by":"x"}"#[..]));
    });
}

#[test]
fn g29_a_model_is_not_silent_about_events_that_it_does_not_declare() {
    check(|world| {
        world.append("noise", Any, [NewEvent::raw("CourseReviewed", "").tag("course:c1")]).unwrap();
        match store_error(define_course(world, "c1", 3)) {
            Error::UnknownEvent { event_type, position, .. } => {
                assert_eq!((event_type.as_str(), position), ("CourseReviewed", p(1)));
            }
            other => panic!("{other:?}"),
        }
        let query = of_course("c1").and_types(["CourseDefined"]);
        let decided = world.decide(query, Enrolment::default(), |found| match found.capacity {
            None => Ok(CourseDefined { course: "c1".into(), capacity: 3 }),
            Some(_) => Err("the course exists"),
        });
        assert!(decided.is_ok());
    });
}

/// The same command goes through while this one is decided, and is why this one is refused: the places are taken by it.
#[test]
fn g15_a_resent_decision_that_is_rejected_for_what_the_command_did_was_applied() {
    let id = CommandId::of_name("subscribe s1 to c1");
    check(|world| {
        define_course(world, "c1", 1).unwrap();
        let send = |decide: &mut dyn FnMut(&Enrolment) -> Result<CourseEvent, &'static str>| {
            world.decision(of_course("c1")).command(id).decide(Enrolment::default(), decide)
        };
        let subscribed = || StudentSubscribed { course: "c1".into(), student: "s1".into() };
        let mut first = None;
        let resent = send(&mut |_| {
            first = Some(send(&mut |_| Ok(subscribed())).unwrap().position());
            Err("the course is full")
        });
        let resent = resent.unwrap();
        assert!(resent.was_applied_before());
        assert_eq!((Some(resent.position()), found(world, Query::types(["StudentSubscribed"])).len()), (first, 1));
        // A command of its own is refused.
        let other = world.decision(of_course("c1")).command(id.derive("other"));
        let refused = other.decide(Enrolment::default(), |_| Err::<CourseEvent, _>("the course is full"));
        assert_eq!(rejection(refused), "the course is full");
    });
}
