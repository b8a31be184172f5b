//! The programs of docs/GUIDE.md, which shows pieces of this file and nothing else.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "sqlite", feature = "testing", feature = "tokio"))]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{
    Aggregate, CommandId, DecisionModel, Dispatch, DispatchError, Event, EventTypes, ExecuteError, ExpectedVersion,
    HandlerError, Item, NewEvent, OnError, Outgoing, Parts, Position, Problems, ProcessManager, ProcessStatus,
    Projection, Query, Reactions, ReadModel, Repository, Sink, SnapshotPolicy, Store, Table, Tenants, Upcaster, field,
    testing,
};
use serde::{Deserialize, Serialize};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// That the guide shows nothing that is not compiled and run here.
#[test]
fn every_snippet_of_the_guide_is_in_this_file() {
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    let (guide, program) = (include_str!("../docs/GUIDE.md"), include_str!("guide.rs"));
    let program: Vec<String> = lines(program);
    let mut snippets = 0;
    for block in guide.split("```rust\n").skip(1) {
        let snippet: Vec<String> = lines(block.split("```").next().unwrap());
        assert!(program.windows(snippet.len()).any(|piece| piece == snippet), "not run:\n{}", snippet.join("\n"));
        snippets += 1;
    }
    assert!(snippets > 20, "{snippets} snippets were found");
}

/// That the README begins with something that is read at a glance. It is a doctest of the crate.
#[test]
fn the_first_example_of_the_readme_is_short_and_uses_aggregates() {
    let readme = include_str!("../README.md");
    let example = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(example.contains("impl Aggregate for") && example.contains("fn main()"));
    assert!(example.lines().count() < 30, "{} lines", example.lines().count());
}

/// The README is the documentation of the crate as well, where links that are relative to the repository lead nowhere:
/// they are by name, and the crate says first what the names mean there.
#[test]
fn every_link_of_the_readme_leads_somewhere_in_the_documentation_as_well() {
    let (readme, documentation) = (include_str!("../README.md"), include_str!("../src/lib.rs"));
    let (before_readme, _) = documentation.split_once("include_str!(\"../README.md\")").unwrap();
    let mut names = 0;
    for line in readme.lines() {
        assert!(line.split("](").skip(1).all(|link| link.starts_with("https://")), "{line}");
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        let Some((name, target)) = definition else { continue };
        let path = target.split('#').next().unwrap();
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{line}");
        let there = format!("//! [{name}]: https://docs.rs/crate/annals/latest/source/{target}");
        assert!(before_readme.lines().any(|line| line == there), "{there}");
        names += 1;
    }
    assert!(names > 5, "{names} names were found");
}

#[test]
fn events() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bank.annals");
    let store = Store::open(path)?;
    let opened = NewEvent::json("Opened", &"Alice")?;
    let appended = store.append("account-alice", ExpectedVersion::NoStream, [opened])?;

    let late = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::json("Opened", &"Eve")?]);
    assert!(late.is_err(), "the stream is at version 1 by now");
    let mut read = store.read(Query::stream("account-alice"));
    while let Some(event) = read.next()? {
        println!("{} {} {}", event.position(), event.event_type(), event.decode_payload::<String>()?);
    }
    assert_eq!(appended.version().number(), 1);
    Ok(())
}

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Opened { owner: String },
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}

#[derive(Default, Serialize, Deserialize)]
struct Account {
    is_open: bool,
    cents: u64,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened { .. } => self.is_open = true,
            AccountEvent::Deposited { cents } => self.cents += cents,
            AccountEvent::Withdrawn { cents } => self.cents -= cents,
        }
    }
}

#[derive(Debug, PartialEq)]
enum Refusal {
    NotOpen,
    Overdrawn { cents: u64 },
}

impl Account {
    fn deposit(&self, cents: u64) -> Result<AccountEvent, Refusal> {
        if self.is_open { Ok(AccountEvent::Deposited { cents }) } else { Err(Refusal::NotOpen) }
    }

    fn withdraw(&self, cents: u64) -> Result<AccountEvent, Refusal> {
        if cents > self.cents {
            return Err(Refusal::Overdrawn { cents: cents - self.cents });
        }
        Ok(AccountEvent::Withdrawn { cents })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Refusal {}

#[test]
fn aggregates() -> Outcome {
    let store = Store::in_memory()?;
    let accounts = store.repository::<Account>()?;
    accounts.execute("alice", |_| AccountEvent::Opened { owner: "Alice".into() })?;
    accounts.execute("alice", |account| account.deposit(5_000))?;

    let refused = accounts.execute("alice", |account| account.withdraw(9_000)).unwrap_err();
    assert_eq!(refused.rejection(), Some(&Refusal::Overdrawn { cents: 4_000 }));
    assert_eq!(accounts.load("alice")?.cents, 5_000);
    accounts.execute("bob", |_| AccountEvent::Opened { owner: "Bob".into() })?;
    let id = CommandId::of_name("order 4711");
    for _ in 0..2 {
        accounts.command(id).execute("alice", |account| account.withdraw(500))?;
    }
    assert_eq!(accounts.load("alice")?.cents, 4_500, "the second time it was recognised");
    store.transact(|work| {
        work.execute(&accounts, "alice", |account| account.withdraw(1_000))?;
        work.execute(&accounts, "bob", |account| account.deposit(1_000))
    })?;
    assert_eq!(accounts.load("bob")?.cents, 1_000);
    let accounts = accounts.snapshots(SnapshotPolicy::every_events(100))?;
    assert_eq!(accounts.load("alice")?.cents, 3_500);
    Ok(())
}

const OWNER_BYTES_MAX: usize = 100;

#[derive(Debug, PartialEq)]
enum Problem {
    Empty,
    TooLong { limit: usize },
    TooLittle,
}

fn open(owner: &str, cents: u64) -> Result<[AccountEvent; 2], Problems<Problem>> {
    let mut problems = Problems::new();
    problems.field("owner").check(!owner.is_empty(), Problem::Empty);
    problems.field("owner").at_most(owner.len(), OWNER_BYTES_MAX, |over| Problem::TooLong { limit: over.limit });
    problems.field("cents").check(cents >= 1_000, Problem::TooLittle);
    problems.into_result()?;
    Ok([AccountEvent::Opened { owner: owner.into() }, AccountEvent::Deposited { cents }])
}

#[test]
fn validation() -> Outcome {
    let store = Store::in_memory()?;
    let accounts = store.repository::<Account>()?;
    let Err(ExecuteError::Rejected(problems)) = accounts.execute("carol", |_| open("", 1)) else { panic!() };
    assert_eq!(problems, Problems::from([("owner", Problem::Empty), ("cents", Problem::TooLittle)]));
    Ok(())
}

#[test]
fn nobody_withdraws_more_than_there_is() {
    testing::given::<Account>([AccountEvent::Opened { owner: "Alice".into() }, AccountEvent::Deposited { cents: 100 }])
        .when(|account| account.withdraw(200))
        .then_rejects(Refusal::Overdrawn { cents: 100 });
}

#[derive(Serialize, Deserialize)]
enum CourseEvent {
    CourseDefined { course: String, capacity: usize },
    StudentSubscribed { course: String, student: String },
}

#[derive(Default)]
struct Enrolment {
    capacity: usize,
    subscribed: usize,
}

impl DecisionModel for Enrolment {
    type Event = CourseEvent;

    fn apply(&mut self, event: &CourseEvent) {
        match event {
            CourseEvent::CourseDefined { capacity, .. } => self.capacity = *capacity,
            CourseEvent::StudentSubscribed { .. } => self.subscribed += 1,
        }
    }

    fn event_types() -> EventTypes<CourseEvent> {
        EventTypes::new().tagged_by(|event| match event {
            CourseEvent::CourseDefined { course, .. } => vec![format!("course:{course}")],
            CourseEvent::StudentSubscribed { course, student } => {
                vec![format!("course:{course}"), format!("student:{student}")]
            }
        })
    }
}

fn subscribe(store: &Store, course: &str, student: &str) -> Result<(), ExecuteError<&'static str>> {
    store.decide(Query::tag(format!("course:{course}")), Enrolment::default(), |enrolment| {
        if enrolment.subscribed >= enrolment.capacity {
            return Err("the course is full");
        }
        Ok(CourseEvent::StudentSubscribed { course: course.into(), student: student.into() })
    })?;
    Ok(())
}

#[test]
fn decisions() -> Outcome {
    let store = Store::in_memory()?;
    store.decide(Query::tag("course:c1"), Enrolment::default(), |_| CourseEvent::CourseDefined {
        course: "c1".into(),
        capacity: 1,
    })?;
    subscribe(&store, "c1", "s1")?;
    assert_eq!(subscribe(&store, "c1", "s2").unwrap_err().rejection(), Some(&"the course is full"));
    Ok(())
}

#[derive(Clone, Serialize, Deserialize)]
struct Balance {
    owner: String,
    cents: u64,
}

#[derive(Clone)]
struct Balances {
    accounts: Table<String, Balance>,
}

impl Balances {
    fn new() -> Self {
        let accounts = Table::new().index("cents", |row: &Balance| row.cents).field("owner", |row| row.owner.clone());
        Self { accounts }
    }
}

impl ReadModel for Balances {
    fn parts(&mut self, parts: &mut Parts<'_>) {
        parts.table("accounts", &mut self.accounts);
    }
}

impl Projection for Balances {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent, recorded: &Event<'_>) {
        let account = recorded.stream().to_owned();
        match event {
            AccountEvent::Opened { owner } => {
                self.accounts.insert(account, Balance { owner: owner.clone(), cents: 0 });
            }
            AccountEvent::Deposited { cents } => {
                self.accounts.update(&account, |row| row.cents += cents);
            }
            AccountEvent::Withdrawn { cents } => {
                self.accounts.update(&account, |row| row.cents -= cents);
            }
        }
    }
}

#[test]
fn read_models() -> Outcome {
    let store = Store::in_memory()?;
    let accounts = store.repository::<Account>()?;
    let balances = store.projection("balances", Balances::new()).start()?;
    let executed = accounts.append("alice", ExpectedVersion::NoStream, open("Alice", 5_000).unwrap())?;
    balances.wait_for(executed.position().unwrap())?;
    let found = balances
        .read(|model| model.accounts.query().filter(field("cents").gt(1_000)).sort_desc("cents").limit(10).fetch())?;
    assert_eq!((found.len(), found[0].1.owner.as_str()), (1, "Alice"));
    let explained = balances.view().accounts.query().filter(field("cents").gt(1_000)).explain()?;
    println!("{explained}");
    let rebuilt = balances.rebuild()?;
    assert_eq!(rebuilt.events, 2);
    Ok(())
}

#[test]
fn sql_read_models() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("balances.sqlite");
    let store = Store::in_memory()?;
    let accounts = store.repository::<Account>()?;
    let executed = accounts.append("alice", ExpectedVersion::NoStream, open("Alice", 5_000).unwrap())?;
    let balances = store
        .sql_projection("balances-sql", &path, Account::event_types(), |tables, event, recorded| {
            let (account, cents) = match event {
                AccountEvent::Opened { .. } => (recorded.stream(), 0),
                AccountEvent::Deposited { cents } => (recorded.stream(), cents.cast_signed()),
                AccountEvent::Withdrawn { cents } => (recorded.stream(), -cents.cast_signed()),
            };
            let upsert = "INSERT INTO balances VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + ?2";
            tables.prepare_cached(upsert)?.execute((account, cents))?;
            Ok(())
        })
        .schema("CREATE TABLE balances (account TEXT PRIMARY KEY, cents INTEGER NOT NULL)")
        .start()?;
    balances.wait_for(executed.position().unwrap())?;
    let reader = rusqlite::Connection::open(&path)?;
    assert_eq!(reader.query_row("SELECT sum(cents) FROM balances", [], |row| row.get::<_, i64>(0))?, 5_000);
    Ok(())
}

struct Broker;

impl Sink for Broker {
    fn deliver(&mut self, batch: &[Outgoing]) -> Result<(), HandlerError> {
        for outgoing in batch {
            println!("{} {}", outgoing.key, outgoing.event.event_type);
        }
        Ok(())
    }
}

#[test]
fn handlers() -> Outcome {
    let store = Store::in_memory()?;
    let accounts = store.repository::<Account>()?;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let send_mail = {
        let sent = Arc::clone(&sent);
        move |to: &str| -> Result<(), HandlerError> {
            sent.lock().unwrap().push(to.to_owned());
            Ok(())
        }
    };
    let mailer = store
        .react("mailer", move |event| send_mail(event.stream()))
        .query(Query::types(["Opened"]))
        .policy(OnError::retry(5).then_park().circuit_breaker(10, Duration::from_secs(30)))
        .start()?;
    let executed = accounts.execute("alice", |_| AccountEvent::Opened { owner: "Alice".into() })?;
    mailer.wait_for(executed.position().unwrap())?;
    assert_eq!(*sent.lock().unwrap(), ["account-alice"]);
    let letters = store.dead_letters("mailer")?;
    for letter in letters.list()? {
        println!("{letter:?}");
    }
    letters.retry_all()?;
    mailer.wait_for_requests()?;
    let relay = store.relay("broker", Broker).policy(OnError::retry(10)).start()?;
    relay.wait_for(executed.position().unwrap())?;
    let health = store.health()?;
    assert!(health.is_ok() && health.parked == 0);

    let report = store.shutdown(Duration::from_secs(5))?;
    assert!(report.is_drained());
    Ok(())
}

#[test]
fn subscriptions() -> Outcome {
    let store = Store::in_memory()?;
    let accounts = store.repository::<Account>()?;
    accounts.append("alice", ExpectedVersion::NoStream, open("Alice", 5_000).unwrap())?;
    for item in store.subscribe("auditor").query(Query::category("account")).open()? {
        match item? {
            Item::Event(event) => {
                println!("{} {}", event.position, event.event_type);
                event.ack()?;
            }
            Item::CaughtUp => break, // or go on, and wait for what comes
        }
    }
    let mut deposits = 0;
    store.replay(Query::types(["Deposited"])).run(|_event| deposits += 1)?;
    assert_eq!(deposits, 1);

    let mut before = Balances::new();
    store.replay(Query::all()).upto(Position::FIRST).project(&mut before)?;
    assert_eq!(before.accounts.get(&"account-alice".into()).unwrap().cents, 0);
    Ok(())
}

#[derive(Serialize, Deserialize)]
enum TransferEvent {
    TransferRequested { from: String, to: String, cents: u64 },
}

#[derive(Serialize, Deserialize)]
enum Step {
    Withdraw { account: String, cents: u64 },
    Deposit { account: String, cents: u64 },
}

#[derive(Default, Serialize, Deserialize)]
struct Transfer {}

impl ProcessManager for Transfer {
    const NAME: &'static str = "transfer";
    type Event = TransferEvent;
    type Command = Step;

    fn instance_of(_: &TransferEvent, recorded: &Event<'_>) -> Option<String> {
        Some(recorded.stream().to_owned())
    }

    fn on_event(&mut self, event: &TransferEvent, reactions: &mut Reactions<Step>) {
        let TransferEvent::TransferRequested { from, to, cents } = event;
        let give_back = Step::Deposit { account: from.clone(), cents: *cents };
        reactions.execute(Step::Withdraw { account: from.clone(), cents: *cents }).compensated_by(give_back);
        reactions.execute(Step::Deposit { account: to.clone(), cents: *cents });
        reactions.complete();
    }
}

fn carry_out(accounts: &Repository<Account>, step: &Step, dispatch: &Dispatch<'_>) -> Result<(), DispatchError> {
    match step {
        Step::Withdraw { account, cents } => dispatch.execute(accounts, account, |own| own.withdraw(*cents)),
        Step::Deposit { account, cents } => dispatch.execute(accounts, account, |own| own.deposit(*cents)),
    }
}

#[test]
fn processes() -> Outcome {
    let store = Store::in_memory()?;
    let accounts = store.repository::<Account>()?;
    accounts.append("alice", ExpectedVersion::NoStream, open("Alice", 5_000).unwrap())?;
    let transfers = {
        let accounts = accounts.clone();
        store.process::<Transfer>(move |step, dispatch| carry_out(&accounts, step, dispatch)).start()?
    };
    let request = TransferEvent::TransferRequested { from: "alice".into(), to: "nobody".into(), cents: 2_000 };
    store.append("request-1", ExpectedVersion::NoStream, [EventTypes::new().check()?.encode(&request)?])?;
    transfers.settle()?;

    let transfer = transfers.instances().get("request-1")?.unwrap();
    assert!(matches!(transfer.status(), ProcessStatus::Failed { .. }), "there is no account of that name");
    assert_eq!(accounts.load("alice")?.cents, 5_000, "it was given back");
    Ok(())
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum PaymentEvent {
    Paid { cents: u64, currency: String },
}

#[test]
fn upcasting() -> Outcome {
    let store = Store::in_memory()?;
    let paid = NewEvent::json("Paid", &serde_json::json!({ "euros": 5 }))?;
    store.append("account-old", ExpectedVersion::NoStream, [paid])?;
    let payments = EventTypes::new()
        .schema_version("Paid", 2)
        .upcast(Upcaster::one("Paid", 1, |payload| {
            let euros = payload["euros"].as_u64().ok_or("no euros")?;
            Ok(serde_json::json!({ "cents": euros * 100, "currency": "EUR" }))
        }))
        .samples([PaymentEvent::Paid { cents: 100, currency: "EUR".into() }])
        .check()?;

    let mut read = store.read(payments.query()).typed(&payments);
    let paid = read.next()?.unwrap();
    assert_eq!(paid.data, PaymentEvent::Paid { cents: 500, currency: "EUR".into() });
    Ok(())
}

#[test]
fn tenants() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("tenants");
    let tenants = Tenants::open(path)?;
    let accounts = tenants.store("acme")?.repository::<Account>()?;
    accounts.execute("alice", |_| AccountEvent::Opened { owner: "Alice".into() })?;
    assert_eq!(tenants.names()?, ["acme"]);
    Ok(())
}

#[tokio::test]
async fn awaiting() -> Outcome {
    let store = Store::in_memory()?;
    let opened = NewEvent::json("Opened", &serde_json::json!({ "owner": "Alice" }))?;
    let appended = store.append_async("account-alice", ExpectedVersion::NoStream, [opened]).await?;
    assert_eq!(appended.version().number(), 1);
    Ok(())
}
