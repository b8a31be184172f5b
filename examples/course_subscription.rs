//! Students subscribe to courses: a decision that belongs to no single aggregate.
//!
//! A course has so many places, and a student may take so many courses. Each subscription is about both, so that neither
//! the course nor the student could decide alone. Here the decision rests on whatever a query finds, and stands unless
//! another event has come in between that the query would have found as well.
//!
//! ```text
//! cargo run --example course_subscription
//! ```

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use annals::{DecisionModel, EventTypes, ExecuteError, Query, Store};
use serde::{Deserialize, Serialize};

// --- What can happen -------------------------------------------------------------------------------------------------

#[derive(Debug, Serialize, Deserialize)]
enum CourseEvent {
    CourseOffered { course: String, places: usize },
    StudentSubscribed { course: String, student: String },
    StudentUnsubscribed { course: String, student: String },
}

use CourseEvent::{CourseOffered, StudentSubscribed, StudentUnsubscribed};

impl CourseEvent {
    /// What the event is about. Queries find it by that.
    fn tags(&self) -> Vec<String> {
        match self {
            CourseOffered { course, .. } => vec![of_course(course)],
            StudentSubscribed { course, student } | StudentUnsubscribed { course, student } => {
                vec![of_course(course), of_student(student)]
            }
        }
    }
}

fn of_course(course: &str) -> String {
    format!("course:{course}")
}

fn of_student(student: &str) -> String {
    format!("student:{student}")
}

// --- What a decision rests on ----------------------------------------------------------------------------------------

const COURSES_PER_STUDENT_MAX: usize = 2;

/// One student and one course, as far as it matters for a subscription.
struct Subscription {
    course: String,
    student: String,
    /// `None` while the course is not offered.
    places: Option<usize>,
    students: usize,
    courses: usize,
    is_subscribed: bool,
}

impl Subscription {
    fn new(course: &str, student: &str) -> Self {
        let (course, student) = (course.to_owned(), student.to_owned());
        Self { course, student, places: None, students: 0, courses: 0, is_subscribed: false }
    }

    /// Everything about the course, and the subscriptions of the student.
    fn query(&self) -> Query {
        Query::tag(of_course(&self.course)).or(Query::tag(of_student(&self.student)))
    }

    fn subscribe(&self) -> Result<CourseEvent, Refused> {
        let places = self.places.ok_or(Refused::NotOffered)?;
        if self.is_subscribed {
            return Err(Refused::SubscribedAlready);
        }
        if self.students >= places {
            return Err(Refused::Full { places });
        }
        if self.courses >= COURSES_PER_STUDENT_MAX {
            return Err(Refused::TooManyCourses);
        }
        Ok(StudentSubscribed { course: self.course.clone(), student: self.student.clone() })
    }

    /// Nothing to do is a decision, too.
    fn unsubscribe(&self) -> Option<CourseEvent> {
        let (course, student) = (self.course.clone(), self.student.clone());
        self.is_subscribed.then_some(StudentUnsubscribed { course, student })
    }
}

impl DecisionModel for Subscription {
    type Event = CourseEvent;

    fn apply(&mut self, event: &CourseEvent) {
        match event {
            CourseOffered { places, .. } => self.places = Some(*places),
            StudentSubscribed { course, student } => {
                self.students += usize::from(*course == self.course);
                self.courses += usize::from(*student == self.student);
                self.is_subscribed |= *course == self.course && *student == self.student;
            }
            StudentUnsubscribed { course, student } => {
                self.students -= usize::from(*course == self.course);
                self.courses -= usize::from(*student == self.student);
                self.is_subscribed &= *course != self.course || *student != self.student;
            }
        }
    }

    fn event_types() -> EventTypes<CourseEvent> {
        EventTypes::new().tagged_by(CourseEvent::tags)
    }

    /// Nothing is decided by streams here. This keeps the events of a course in order for whoever handles them.
    fn stream_of(event: &CourseEvent) -> Cow<'static, str> {
        let (CourseOffered { course, .. } | StudentSubscribed { course, .. } | StudentUnsubscribed { course, .. }) =
            event;
        format!("course-{course}").into()
    }
}

#[derive(Debug, PartialEq)]
enum Refused {
    NotOffered,
    SubscribedAlready,
    Full { places: usize },
    TooManyCourses,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotOffered => write!(f, "there is no such course"),
            Refused::SubscribedAlready => write!(f, "subscribed already"),
            Refused::Full { places } => write!(f, "all {places} places are taken"),
            Refused::TooManyCourses => write!(f, "{COURSES_PER_STUDENT_MAX} courses are enough"),
        }
    }
}

// --- What the application does ---------------------------------------------------------------------------------------

type Outcome = Result<(), ExecuteError<Refused>>;

fn offer(store: &Store, course: &str, places: usize) -> annals::Result<()> {
    let model = Subscription::new(course, "");
    store.decide(Query::tag(of_course(course)), model, |found| match found.places {
        None => Some(CourseOffered { course: course.to_owned(), places }),
        Some(_) => None,
    })?;
    Ok(())
}

fn subscribe(store: &Store, course: &str, student: &str) -> Outcome {
    let model = Subscription::new(course, student);
    store.decide(model.query(), model, Subscription::subscribe)?;
    Ok(())
}

fn unsubscribe(store: &Store, course: &str, student: &str) -> annals::Result<()> {
    let model = Subscription::new(course, student);
    store.decide(model.query(), model, Subscription::unsubscribe)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("courses.annals"))?;
    for (course, places) in [("algebra", 2), ("botany", 10), ("chess", 10)] {
        offer(&store, course, places)?;
    }

    subscribe(&store, "algebra", "ann")?;
    subscribe(&store, "algebra", "ben")?;
    subscribe(&store, "botany", "ann")?;
    let refusals = [
        (subscribe(&store, "dance", "ann"), Refused::NotOffered),
        (subscribe(&store, "algebra", "ann"), Refused::SubscribedAlready),
        (subscribe(&store, "algebra", "cid"), Refused::Full { places: 2 }),
        (subscribe(&store, "chess", "ann"), Refused::TooManyCourses),
    ];
    for (outcome, expected) in refusals {
        let refused = outcome.expect_err("it breaks a rule");
        println!("refused: {refused}");
        assert_eq!(refused.rejection(), Some(&expected));
    }

    unsubscribe(&store, "algebra", "ben")?;
    println!("Ben gives up his place, and ten students want it at the same time");
    let taken = std::thread::scope(|scope| {
        let wanting = |number| {
            let store = &store;
            scope.spawn(move || subscribe(store, "algebra", &format!("student {number}")).is_ok())
        };
        let students: Vec<_> = (0..10).map(wanting).collect();
        students.into_iter().filter_map(|student| student.join().ok()).filter(|is_in| *is_in).count()
    });
    println!("{taken} of them got it");
    assert_eq!(taken, 1);

    // A look at the same model, without deciding anything.
    let model = Subscription::new("algebra", "ann");
    let algebra = store.decision(model.query()).load(model)?;
    println!("algebra: {} of {} places are taken", algebra.students, algebra.places.ok_or("it is offered")?);
    assert_eq!((algebra.students, algebra.is_subscribed), (2, true));
    Ok(())
}
