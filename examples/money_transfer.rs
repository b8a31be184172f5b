//! A money transfer as a process: withdraw here, deposit there, and give it back if that fails.
//!
//! Two accounts could be changed in one commit with `Store::transact`. Where they belong to different banks, or a person
//! has to agree in between, that is not possible: the transfer becomes a process of several steps, each of which can
//! fail, and after each of which the program can die.
//!
//!     cargo run --example money_transfer

use annals::{Aggregate, Dispatch, DispatchError, Event, ProcessManager, ProcessStatus, Reactions, Repository, Store};
use serde::{Deserialize, Serialize};

// --- The accounts, which know nothing of transfers -------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Opened { cents: u64 },
    Withdrawn { cents: u64 },
    Deposited { cents: u64 },
}

#[derive(Default)]
struct Account {
    is_open: bool,
    cents: u64,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened { cents } => (self.is_open, self.cents) = (true, *cents),
            AccountEvent::Withdrawn { cents } => self.cents -= cents,
            AccountEvent::Deposited { cents } => self.cents += cents,
        }
    }
}

impl Account {
    fn withdraw(&self, cents: u64) -> Result<AccountEvent, String> {
        if cents > self.cents {
            return Err(format!("{cents} cents asked for, {} there", self.cents));
        }
        Ok(AccountEvent::Withdrawn { cents })
    }

    fn deposit(&self, cents: u64) -> Result<AccountEvent, String> {
        if self.is_open { Ok(AccountEvent::Deposited { cents }) } else { Err("there is no such account".into()) }
    }
}

// --- What somebody asks for ------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
enum RequestEvent {
    TransferRequested { from: String, to: String, cents: u64 },
}

#[derive(Default)]
struct Request;

impl Aggregate for Request {
    const CATEGORY: &'static str = "request";
    type Event = RequestEvent;

    fn apply(&mut self, _: &RequestEvent) {}
}

// --- The process -----------------------------------------------------------------------------------------------------

/// It has nothing to remember: what it asked for is remembered for it.
#[derive(Default, Serialize, Deserialize)]
struct Transfer {}

#[derive(Serialize, Deserialize)]
enum Command {
    Withdraw { account: String, cents: u64 },
    Deposit { account: String, cents: u64 },
}

impl ProcessManager for Transfer {
    const NAME: &'static str = "transfer";
    type Event = RequestEvent;
    type Command = Command;

    fn instance_of(_: &RequestEvent, recorded: &Event<'_>) -> Option<String> {
        Some(recorded.stream().to_owned())
    }

    fn on_event(&mut self, event: &RequestEvent, reactions: &mut Reactions<Command>) {
        let RequestEvent::TransferRequested { from, to, cents } = event;
        let withdraw = Command::Withdraw { account: from.clone(), cents: *cents };
        let give_back = Command::Deposit { account: from.clone(), cents: *cents };
        reactions.execute(withdraw).compensated_by(give_back);
        reactions.execute(Command::Deposit { account: to.clone(), cents: *cents });
        reactions.complete();
    }
}

/// Carries out a command. It may be called again for the same one after a crash; the accounts change once.
fn carry_out(accounts: &Repository<Account>, command: &Command, dispatch: &Dispatch<'_>) -> Result<(), DispatchError> {
    match command {
        Command::Withdraw { account, cents } => dispatch.execute(accounts, account, |own| own.withdraw(*cents)),
        Command::Deposit { account, cents } => dispatch.execute(accounts, account, |own| own.deposit(*cents)),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("bank.annals"))?;
    let accounts = store.repository::<Account>()?;
    let requests = store.repository::<Request>()?;
    accounts.execute("alice", |_| AccountEvent::Opened { cents: 10_000 })?;
    accounts.execute("bob", |_| AccountEvent::Opened { cents: 0 })?;

    let transfers = store.process::<Transfer>({
        let accounts = accounts.clone();
        move |command, dispatch| carry_out(&accounts, command, dispatch)
    });
    let transfers = transfers.start()?;

    for (id, to, cents) in [("1", "bob", 3_000), ("2", "carol", 5_000), ("3", "bob", 50_000)] {
        let requested = || RequestEvent::TransferRequested { from: "alice".into(), to: to.into(), cents };
        requests.execute(id, |_| requested())?;
    }
    transfers.settle()?;

    let status = |id: &str| -> Result<ProcessStatus, Box<dyn std::error::Error>> {
        Ok(transfers.instances().get(id)?.ok_or("it began")?.status().clone())
    };
    for id in ["request-1", "request-2", "request-3"] {
        println!("{id}: {:?}", status(id)?);
    }
    assert_eq!(status("request-1")?, ProcessStatus::Completed);
    // Nobody is called carol: what was withdrawn went back.
    assert_eq!(status("request-2")?, ProcessStatus::Failed { reason: "there is no such account".into() });
    assert_eq!(transfers.instances().failed()?, ["request-2", "request-3"]);

    let (alice, bob) = (accounts.load("alice")?.cents, accounts.load("bob")?.cents);
    println!("alice has {alice} cents, bob {bob}");
    assert_eq!((alice, bob), (7_000, 3_000));
    transfers.stop()?;
    Ok(())
}
