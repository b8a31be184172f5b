//! A bank account in nine steps: events, an aggregate, commands, rejections, retries, transfers, history.
//!
//! ```text
//! cargo run --example bank_account
//! ```
//!
//! The store is in a temporary directory, which is gone when the example ends.

use std::error::Error;
use std::fmt;

use annals::{Aggregate, CommandId, EventTypes, Metadata, Query, Repository, SnapshotPolicy, Store};
use serde::{Deserialize, Serialize};

// 1. Events say what has happened, in the past tense. A plain enum: the name of the variant becomes the type of the event,
//    its fields the payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum AccountEvent {
    Opened { owner: String },
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}

use AccountEvent::{Deposited, Opened, Withdrawn};

// 2. The state holds what decisions need, and nothing else. It is never stored: it is what the events amount to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Account {
    owner: Option<String>,
    balance_cents: u64,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account"; // Alice's account is the stream `account-alice`.
    type Event = AccountEvent;

    // What has happened cannot be refused, so this never fails.
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            Opened { owner } => self.owner = Some(owner.clone()),
            Deposited { cents } => self.balance_cents += cents,
            Withdrawn { cents } => self.balance_cents -= cents,
        }
    }

    // Samples are checked to survive encoding and decoding when the repository is made.
    fn event_types() -> EventTypes<AccountEvent> {
        EventTypes::new().samples([Opened { owner: "Alice".into() }, Deposited { cents: 2 }, Withdrawn { cents: 1 }])
    }
}

// 3. Decisions look at the state and return events, or say why not. They change nothing.
impl Account {
    fn open(&self, owner: &str) -> Result<AccountEvent, Refused> {
        if self.owner.is_some() { Err(Refused::OpenAlready) } else { Ok(Opened { owner: owner.to_owned() }) }
    }

    fn deposit(&self, cents: u64) -> Result<AccountEvent, Refused> {
        if self.owner.is_none() { Err(Refused::NotOpen) } else { Ok(Deposited { cents }) }
    }

    fn withdraw(&self, cents: u64) -> Result<AccountEvent, Refused> {
        match self.balance_cents.checked_sub(cents) {
            None => Err(Refused::Overdrawn { missing_cents: cents - self.balance_cents }),
            Some(_) => Ok(Withdrawn { cents }),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Refused {
    OpenAlready,
    NotOpen,
    Overdrawn { missing_cents: u64 },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::OpenAlready => write!(f, "the account is open already"),
            Refused::NotOpen => write!(f, "the account is not open"),
            Refused::Overdrawn { missing_cents } => write!(f, "{missing_cents} cents are missing"),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bank.annals");
    let store = Store::open(&path)?;
    let accounts = store.repository::<Account>()?;

    println!("4. Execute commands: load, decide, append");
    accounts.execute("alice", |account| account.open("Alice"))?;
    let executed = accounts.execute("alice", |account| account.deposit(5_000))?;
    let appended = executed.appended().ok_or("an event was decided")?;
    println!(
        "   Alice's account is at version {}, the store at position {}",
        appended.version(),
        appended.last_position()
    );
    assert_eq!(accounts.load("alice")?.balance_cents, 5_000);

    println!("5. A rejection leaves no trace");
    let rejected = accounts.execute("alice", |account| account.withdraw(9_000)).expect_err("she has 5,000");
    println!("   rejected: {rejected}");
    assert_eq!(rejected.rejection(), Some(&Refused::Overdrawn { missing_cents: 4_000 }));
    assert_eq!(accounts.load("alice")?.version(), executed.version());

    withdraw_at_many_machines(&accounts)?;
    deposit_once(&accounts)?;
    transfer(&store, &accounts)?;
    drop(accounts);
    store.close()?;
    look_back(&Store::open(&path)?)
}

/// Whoever comes second decides again on what the first has left.
fn withdraw_at_many_machines(accounts: &Repository<Account>) -> Result<(), Box<dyn Error>> {
    println!("6. Ten machines at once pay out 1,000 each, as long as there is enough");
    let paid = std::thread::scope(|scope| {
        let withdraw = || accounts.execute("alice", |account| account.withdraw(1_000)).is_ok();
        let machines: Vec<_> = (0..10).map(|_| scope.spawn(withdraw)).collect();
        machines.into_iter().filter_map(|machine| machine.join().ok()).filter(|paid| *paid).count()
    });
    println!("   {paid} of them did");
    assert_eq!((paid, accounts.load("alice")?.balance_cents), (5, 0));
    Ok(())
}

/// The sender keeps the id until it has the answer, and sends the command again if it does not get one.
fn deposit_once(accounts: &Repository<Account>) -> Result<(), Box<dyn Error>> {
    println!("7. A command that is sent twice is applied once");
    let payment = CommandId::of_name("payment 4711");
    let who = Metadata::new().correlation_id("request 7").set("clerk", "Bob");
    for _ in 0..2 {
        let command = accounts.command(payment).metadata(&who);
        let executed = command.execute("alice", |account| account.deposit(3_000))?;
        println!("   applied before: {}", executed.was_applied_before());
    }
    assert_eq!(accounts.load("alice")?.balance_cents, 3_000);
    Ok(())
}

/// Both accounts change in one commit, or neither does.
fn transfer(store: &Store, accounts: &Repository<Account>) -> Result<(), Box<dyn Error>> {
    println!("8. Transfer from one account to another");
    let send = |cents| {
        store.transact(|work| {
            work.execute(accounts, "alice", |account| account.withdraw(cents))?;
            work.execute(accounts, "bob", |account| account.deposit(cents))
        })
    };
    println!("   to an account that does not exist: {}", send(500).expect_err("Bob has none"));
    assert_eq!(accounts.load("alice")?.balance_cents, 3_000);
    accounts.execute("bob", |account| account.open("Bob"))?;
    send(500)?;
    let (alice, bob) = (accounts.load("alice")?, accounts.load("bob")?);
    println!("   to one that does: Alice has {}, Bob has {}", alice.balance_cents, bob.balance_cents);
    assert_eq!((alice.balance_cents, bob.balance_cents), (2_500, 500));
    Ok(())
}

/// Snapshots and a cache make loading fast, and change nothing else.
fn look_back(store: &Store) -> Result<(), Box<dyn Error>> {
    println!("9. Open the store again: everything is there, and how it came about");
    let accounts = store.repository::<Account>()?.snapshots(SnapshotPolicy::every_events(5))?.cached(1_000);
    assert_eq!(accounts.load("alice")?.balance_cents, 2_500);
    let events = Account::event_types().check()?;
    let mut history = store.read(Query::stream("account-alice")).typed(&events);
    while let Some(event) = history.next()? {
        println!("   {:?}", event.data);
    }
    Ok(())
}
