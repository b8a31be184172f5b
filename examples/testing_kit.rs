//! Testing what an application decides, automates and survives.
//!
//!     cargo run --example testing_kit --features testing
//!
//! Everything below would stand in `#[test]` functions; here `main` calls them one after the other, so that the example
//! can be run. A library shop lends books: nobody may have more than two, and whoever keeps one too long is reminded.

use std::collections::BTreeMap;
use std::panic;
use std::time::Duration;

use annals::testing::{self, FaultyDisk, TestStore, conformance};
use annals::{
    Aggregate, Error, Event, ExpectedVersion, ProcessManager, Projection, Query, Reactions, Store, StreamVersion,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

const LOANS_MAX: usize = 2;
const LOAN_PERIOD: Duration = Duration::from_secs(14 * 24 * 3_600);

// --- The application -------------------------------------------------------------------------------------------------

/// What happens to a reader. Neither `PartialEq` nor `Debug` is needed to test it.
#[derive(Serialize, Deserialize)]
enum ReaderEvent {
    Borrowed { book: String },
    Returned { book: String },
}

use ReaderEvent::{Borrowed, Returned};

#[derive(Debug, PartialEq)]
enum Refusal {
    TooMany { limit: usize },
    NotBorrowed,
}

#[derive(Default)]
struct Reader {
    books: Vec<String>,
}

impl Aggregate for Reader {
    const CATEGORY: &'static str = "reader";
    type Event = ReaderEvent;

    fn apply(&mut self, event: &ReaderEvent) {
        match event {
            Borrowed { book } => self.books.push(book.clone()),
            Returned { book } => self.books.retain(|other| other != book),
        }
    }
}

impl Reader {
    fn borrow_book(&self, book: &str) -> Result<Option<ReaderEvent>, Refusal> {
        if self.books.iter().any(|other| other == book) {
            return Ok(None);
        }
        if self.books.len() == LOANS_MAX {
            return Err(Refusal::TooMany { limit: LOANS_MAX });
        }
        Ok(Some(borrowed(book)))
    }

    fn return_book(&self, book: &str) -> Result<ReaderEvent, Refusal> {
        match self.books.iter().any(|other| other == book) {
            true => Ok(Returned { book: book.into() }),
            false => Err(Refusal::NotBorrowed),
        }
    }
}

fn borrowed(book: &str) -> ReaderEvent {
    Borrowed { book: book.into() }
}

/// What is to be done about a loan.
#[derive(Serialize, Deserialize)]
enum Letter {
    Remind { book: String },
}

/// A loan, from the day on which a book is borrowed to the day on which it comes back.
#[derive(Default, Serialize, Deserialize)]
struct Loan {
    book: String,
    reminders: u32,
}

impl ProcessManager for Loan {
    const NAME: &'static str = "loan";
    type Event = ReaderEvent;
    type Command = Letter;

    fn instance_of(event: &ReaderEvent, recorded: &Event<'_>) -> Option<String> {
        let (Borrowed { book } | Returned { book }) = event;
        Some(format!("{}/{book}", recorded.stream()))
    }

    fn on_event(&mut self, event: &ReaderEvent, reactions: &mut Reactions<Letter>) {
        match event {
            Borrowed { book } => {
                self.book.clone_from(book);
                reactions.after(LOAN_PERIOD, "overdue");
            }
            Returned { .. } => reactions.complete(),
        }
    }

    fn on_timer(&mut self, _: &str, reactions: &mut Reactions<Letter>) {
        self.reminders += 1;
        reactions.execute(Letter::Remind { book: self.book.clone() });
    }
}

/// How often each book was borrowed.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Popular {
    books: BTreeMap<String, u32>,
}

/// A projection lists the types of events that it wants to see, and no others.
#[derive(Deserialize)]
enum Lent {
    Borrowed { book: String },
}

impl Projection for Popular {
    type Event = Lent;

    fn apply(&mut self, Lent::Borrowed { book }: &Lent, _: &Event<'_>) {
        *self.books.entry(book.clone()).or_default() += 1;
    }
}

// --- Its tests -------------------------------------------------------------------------------------------------------

/// Given what happened, when something is decided, then these events happen, or it is rejected, or nothing needs to.
fn a_reader_has_two_books_at_most() {
    testing::given::<Reader>([borrowed("Emma")])
        .when(|reader| reader.borrow_book("Persuasion"))
        .then([borrowed("Persuasion")])
        .then_state(|reader| assert_eq!(reader.books, ["Emma", "Persuasion"]));

    testing::given::<Reader>([borrowed("Emma"), borrowed("Persuasion")])
        .when(|reader| reader.borrow_book("Sanditon"))
        .then_rejects(Refusal::TooMany { limit: 2 });

    testing::given::<Reader>([borrowed("Emma")]).when(|reader| reader.borrow_book("Emma")).then_nothing();
    testing::given::<Reader>([]).when(|reader| reader.return_book("Emma")).then_rejects(Refusal::NotBorrowed);
}

/// A test that is wrong shows what it expected beside what came, one event a line.
fn a_failure_can_be_read() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let failure = panic::catch_unwind(|| {
        testing::given::<Reader>([borrowed("Emma")])
            .when(|reader| reader.borrow_book("Persuasion"))
            .then([borrowed("Sanditon")])
    });
    panic::set_hook(usual);
    let message = *failure.err().expect("it is wrong").downcast::<String>().expect("a message");
    println!("{message}");
    assert!(message.contains(r#"  - Borrowed {"book":"Sanditon"}"#));
    assert!(message.contains(r#"  + Borrowed {"book":"Persuasion"}"#));
}

/// The clock of a process manager is moved by hand: two weeks pass at once.
fn who_keeps_a_book_too_long_is_reminded() {
    testing::process::<Loan>()
        .happens::<Reader>("alice", [borrowed("Emma")])
        .then_nothing()
        .passes(LOAN_PERIOD)
        .then([Letter::Remind { book: "Emma".into() }])
        .happens::<Reader>("alice", [Returned { book: "Emma".into() }])
        .then_instance("reader-alice/Emma", |loan| {
            assert_eq!(loan.state().reminders, 1);
            assert!(loan.status().has_ended());
        });
}

/// What a projection shows is compared with a model, or JSON; it must show the same when it is built anew.
fn popular_books_are_counted() {
    testing::projection(Popular::default())
        .happens::<Reader>("alice", [borrowed("Emma"), Returned { book: "Emma".into() }])
        .happens::<Reader>("bob", [borrowed("Emma"), borrowed("Sanditon")])
        .then(json!({ "books": { "Emma": 2, "Sanditon": 1 } }))
        .then_state(|popular| assert_eq!(popular.books.len(), 2));
}

/// A store for a test: in memory, at a time that stands still, with ids that are the same in each run.
fn time_stands_still() -> Result<(), Error> {
    let store = testing::store();
    let readers = store.repository::<Reader>()?;
    readers.append("alice", ExpectedVersion::NoStream, [borrowed("Emma")])?;
    store.clock.advance(Duration::from_secs(3_600));
    readers.append("alice", ExpectedVersion::StreamExists, [Returned { book: "Emma".into() }])?;
    let events: Vec<_> = store.read(Query::all()).owned().collect::<Result<_, _>>()?;
    assert_eq!(events[0].time, testing::START);
    assert_eq!(events[1].time.nanos() - events[0].time.nanos(), 3_600_000_000_000);
    Ok(())
}

/// What an application does when a disk fails: open the store again, and send the same command. A command with an id is
/// applied once, whether the failed write reached the disk or not.
fn a_failed_write_loses_nothing_and_doubles_nothing() -> Result<(), Error> {
    let (disk, clock) = (FaultyDisk::new(), testing::clock());
    let store = TestStore::on(&disk, &clock)?;
    let readers = store.repository::<Reader>()?;
    let id = store.new_command_id();
    disk.fail_append(1);
    let failed = readers.command(id).execute("alice", |reader| reader.borrow_book("Emma"));
    assert!(matches!(failed.expect_err("the write failed").store_error(), Some(Error::Indeterminate { .. })));

    drop((store, readers));
    let store = TestStore::on(&disk, &clock)?;
    let readers = store.repository::<Reader>()?;
    readers.command(id).execute("alice", |reader| reader.borrow_book("Emma")).expect("the disk works again");
    readers.command(id).execute("alice", |reader| reader.borrow_book("Emma")).expect("it is found");
    assert_eq!(store.read(Query::all()).count()?, 1);
    Ok(())
}

/// When somebody else was faster, a command is decided again on what is true now.
fn a_conflict_is_decided_again() -> Result<(), Error> {
    let disk = FaultyDisk::new();
    let store = TestStore::on(&disk, &testing::clock())?;
    let readers = store.repository::<Reader>()?;
    disk.conflict_append(1);
    let mut decided = 0;
    let executed = readers.execute("alice", |reader| {
        decided += 1;
        reader.borrow_book("Emma")
    });
    assert_eq!(executed.expect("the second decision stands").version().map(StreamVersion::number), Some(1));
    assert_eq!(decided, 2);
    Ok(())
}

/// The suite that a store has to pass, run on the one in memory. Whoever puts something in between runs it as well.
fn the_store_in_memory_conforms() {
    struct InMemory;

    impl conformance::Backend for InMemory {
        type Store = Store;

        fn make(&self) -> Store {
            Store::in_memory().expect("memory")
        }

        fn reopen(&self, store: Store) -> Store {
            store
        }
    }

    conformance::check(&InMemory);
    println!("{} cases of the conformance suite hold", conformance::cases().count());
}

fn main() -> Result<(), Error> {
    a_reader_has_two_books_at_most();
    a_failure_can_be_read();
    who_keeps_a_book_too_long_is_reminded();
    popular_books_are_counted();
    time_stands_still()?;
    a_failed_write_loses_nothing_and_doubles_nothing()?;
    a_conflict_is_decided_again()?;
    the_store_in_memory_conforms();
    Ok(())
}
