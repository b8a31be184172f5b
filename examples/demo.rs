//! A tour of the store in seven steps, on a few embedded events of a small bank; or an import of your own events.
//!
//! ```text
//! cargo run --release --example demo
//! cargo run --release --example demo -- FILE
//! ```
//!
//! FILE holds one JSON object a line, plain or compressed with gzip (`.gz`). Each has `stream`, `type` and `data`, and
//! may have a `time` such as `2011-10-01T00:38:44.546+02:00`. Both runs put their store into a temporary directory,
//! which is gone when they end.

#![allow(clippy::disallowed_methods, reason = "this is not the library: it may use files and time directly")]
#![allow(clippy::inconsistent_digit_grouping, reason = "amounts are in cents: 12_50 is 12.50")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use annals::{
    AppendError, Codec, Commit, Event, EventId, ExpectedVersion, NewEvent, Query, Store, StreamVersion, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("demo.annals");
    match std::env::args().nth(1) {
        None => tour(&path),
        Some(file) => import(&path, Path::new(&file)),
    }
}

// --- The tour --------------------------------------------------------------------------------------------------------

/// What the events of the bank say. Any serde type will do.
#[derive(Serialize, Deserialize)]
struct Amount {
    cents: i64,
}

/// What happened at the bank so far: stream, type, cents.
const SAMPLE: &[(&str, &str, i64)] = &[
    ("account-alice", "Opened", 0),
    ("account-alice", "Deposited", 50_00),
    ("account-bob", "Opened", 0),
    ("account-alice", "Withdrawn", 12_50),
    ("account-bob", "Deposited", 8_00),
    ("account-carol", "Opened", 0),
    ("account-carol", "Deposited", 100_00),
    ("account-alice", "Deposited", 2_50),
];

/// An account as its events tell it. It is never stored: it is what is left when its stream was read.
#[derive(Default)]
struct Account {
    cents: i64,
    version: Option<StreamVersion>,
}

impl Account {
    fn load(store: &Store, stream: &str) -> annals::Result<Self> {
        let mut account = Account::default();
        let mut read = store.read(Query::stream(stream));
        // An event is lent until the next one is asked for: nothing is copied but what is kept.
        while let Some(event) = read.next()? {
            account.apply(&event)?;
        }
        Ok(account)
    }

    fn apply(&mut self, event: &Event<'_>) -> annals::Result<()> {
        let amount: Amount = event.decode_payload()?;
        match event.event_type() {
            "Deposited" => self.cents += amount.cents,
            "Withdrawn" => self.cents -= amount.cents,
            _ => {}
        }
        self.version = Some(event.version());
        Ok(())
    }

    /// What a decision on this state expects of the stream when it is appended.
    fn expected(&self) -> ExpectedVersion {
        self.version.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact)
    }
}

fn event(event_type: &'static str, cents: i64) -> annals::Result<NewEvent> {
    NewEvent::json(event_type, &Amount { cents })
}

fn tour(path: &Path) -> Result<()> {
    // A store is a directory. It is created if there is none, and durable unless you say otherwise.
    let store = Store::open(path)?;
    append_the_sample(&store)?;
    load_streams(&store)?;
    decide_too_late(&store)?;
    transfer_once(&store)?;
    count_by_replay(&store)?;
    ask_by_category_and_tag(&store)?;
    reopen(store, path)
}

fn append_the_sample(store: &Store) -> Result<()> {
    step(1, "Append");
    for (stream, event_type, cents) in SAMPLE {
        // `Any` expects nothing of the stream. When the call returns, the event survives a loss of power.
        let appended = store.append(*stream, ExpectedVersion::Any, [event(event_type, *cents)?])?;
        println!(
            "   position {}: {event_type} on {stream}, its version {}",
            appended.last_position(),
            appended.version()
        );
    }
    Ok(())
}

fn load_streams(store: &Store) -> Result<()> {
    step(2, "Load streams");
    for stream in ["account-alice", "account-bob", "account-carol", "account-nobody"] {
        let account = Account::load(store, stream)?;
        match account.version {
            Some(version) => println!("   {stream} is at version {version} and has {}", money(account.cents)),
            None => println!("   {stream} has no events: the stream does not exist"),
        }
    }
    Ok(())
}

fn decide_too_late(store: &Store) -> Result<()> {
    step(3, "Decide on what was read, and be told when it is no longer true");
    let at_the_counter = Account::load(store, "account-alice")?;
    let at_the_machine = Account::load(store, "account-alice")?;
    println!("   Alice has {}, as the counter and the machine both read", money(at_the_counter.cents));

    store.append("account-alice", at_the_counter.expected(), [event("Withdrawn", 30_00)?])?;
    println!("   the counter pays out {}", money(30_00));

    // The machine decided on a version that is gone. Nothing is written, and the error says what is.
    let late = store.append("account-alice", at_the_machine.expected(), [event("Withdrawn", 30_00)?]);
    let conflict = late.expect_err("somebody was faster");
    println!("   the machine gets: {conflict}");

    let again = Account::load(store, "account-alice")?;
    println!("   it loads again, sees {}, and refuses", money(again.cents));
    Ok(())
}

fn transfer_once(store: &Store) -> Result<()> {
    step(4, "Write two streams in one commit, on a condition");
    let alice = Account::load(store, "account-alice")?;
    // Both events are written or none is, and only if no event carries the tag yet.
    let transfer = Commit::new()
        .append("account-alice", alice.expected(), [event("Withdrawn", 5_00)?.tag("transfer:42")])
        .append("account-bob", ExpectedVersion::StreamExists, [event("Deposited", 5_00)?.tag("transfer:42")])
        .unless(Query::tag("transfer:42"));
    let appended = store.send(transfer)?;
    println!("   transfer 42 is at positions {} and {}", appended.first_position(), appended.last_position());

    let twice = store
        .commit()
        .append("account-bob", ExpectedVersion::Any, [event("Deposited", 5_00)?.tag("transfer:42")])
        .unless(Query::tag("transfer:42"))
        .send();
    println!("   another commit for it gets: {}", twice.expect_err("the tag is taken"));

    resend_after_a_lost_answer(store)
}

/// Whoever loses the answer to an append sends the very same events again: ids tell that they are the same.
fn resend_after_a_lost_answer(store: &Store) -> Result<()> {
    let expected = Account::load(store, "account-carol")?.expected();
    let id = EventId::parse("018f4e2a-7c1b-7d2e-9f3a-0123456789ab").ok_or("not an id")?;
    let withdrawal = event("Withdrawn", 20_00)?.id(id);
    let first = store.append("account-carol", expected, [withdrawal.clone()])?;
    let second = store.append("account-carol", expected, [withdrawal])?;
    assert!(second.deduplicated() && second.last_position() == first.last_position());
    println!("   a withdrawal that is sent twice is written once: both answers say {}", second.last_position());
    Ok(())
}

fn count_by_replay(store: &Store) -> Result<()> {
    step(5, "Replay everything, in order, and count");
    for (event_type, count) in count_by_type(store)? {
        println!("   {count:>3} {event_type}");
    }
    Ok(())
}

fn ask_by_category_and_tag(store: &Store) -> Result<()> {
    step(6, "Ask for less than everything");
    let deposits = Query::category("account").and_types(["Deposited"]);
    println!("   deposits on all accounts: {}", store.read(deposits).count()?);
    // An iterator of owned events, where lending is in the way.
    for event in store.read(Query::tag("transfer:42")).reverse().limit(1).owned() {
        let event = event?;
        println!("   the last event of transfer 42: {} on {}", event.event_type, event.stream);
    }
    Ok(())
}

fn reopen(store: Store, path: &Path) -> Result<()> {
    step(7, "Close and open again");
    let head = store.head()?;
    store.close()?;
    let store = Store::open_existing(path)?;
    assert_eq!(store.head()?, head);
    let alice = Account::load(&store, "account-alice")?;
    println!("   all {} events are there, and Alice has {}", store.read(Query::all()).count()?, money(alice.cents));
    Ok(())
}

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn count_by_type(store: &Store) -> annals::Result<BTreeMap<String, u64>> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut read = store.read(Query::all());
    while let Some(event) = read.next()? {
        match counts.get_mut(event.event_type()) {
            Some(count) => *count += 1,
            None => drop(counts.insert(event.event_type().to_owned(), 1)),
        }
    }
    Ok(counts)
}

// --- A file of real events -------------------------------------------------------------------------------------------

/// Events a commit: each is synced once, so that large ones import faster.
const BATCH_EVENTS: usize = 1_000;

/// A line of the file.
#[derive(Deserialize)]
struct Line {
    stream: String,
    #[serde(rename = "type")]
    event_type: String,
    time: Option<String>,
    /// Kept byte for byte.
    data: Box<RawValue>,
}

fn import(path: &Path, file: &Path) -> Result<()> {
    let store = Store::open(path)?;
    let began = Instant::now();
    let events = append_file(&store, file)?;
    let took = began.elapsed();
    println!(
        "Appended {events} events in {} commits, each synced: {}",
        events.div_ceil(BATCH_EVENTS as u64),
        rate(events, took)
    );

    let began = Instant::now();
    let counts = count_by_type(&store)?;
    println!("Replayed them and counted by type: {}", rate(events, began.elapsed()));
    for (event_type, count) in &counts {
        println!("{count:>9} {event_type}");
    }

    store.close()?;
    let began = Instant::now();
    let store = Store::open_existing(path)?;
    println!("Closed, and opened again in {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    show_a_stream(&store)
}

fn append_file(store: &Store, file: &Path) -> Result<u64> {
    let mut events = 0;
    let mut batch = Commit::new();
    for (index, line) in open(file)?.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let (stream, event) = read_line(&line).map_err(|error| format!("line {}: {error}", index + 1))?;
        batch = batch.append(stream, ExpectedVersion::Any, [event]);
        if batch.len() == BATCH_EVENTS {
            events += send(store, std::mem::take(&mut batch))?;
        }
    }
    Ok(events + send(store, batch)?)
}

fn open(file: &Path) -> Result<BufReader<Box<dyn Read>>> {
    let plain = File::open(file).map_err(|error| format!("cannot open {}: {error}", file.display()))?;
    let is_compressed = file.extension().is_some_and(|extension| extension == "gz");
    let bytes: Box<dyn Read> =
        if is_compressed { Box::new(flate2::read::MultiGzDecoder::new(plain)) } else { Box::new(plain) };
    Ok(BufReader::with_capacity(1 << 16, bytes))
}

fn read_line(line: &str) -> Result<(String, NewEvent)> {
    let Line { stream, event_type, time, data } = serde_json::from_str(line)?;
    let mut event = NewEvent::from_bytes(event_type, Codec::Json, data.get());
    if let Some(time) = time {
        let time: jiff::Timestamp = time.parse()?;
        event = event.time(Timestamp::from_nanos(i64::try_from(time.as_nanosecond())?));
    }
    Ok((stream, event))
}

fn send(store: &Store, batch: Commit) -> Result<u64, AppendError> {
    if batch.is_empty() {
        return Ok(0);
    }
    let appended = store.send(batch)?;
    Ok(appended.last_position().number() - appended.first_position().number() + 1)
}

fn show_a_stream(store: &Store) -> Result<()> {
    let mut last = store.read(Query::all()).reverse();
    let Some(stream) = last.next()?.map(|event| event.stream().to_owned()) else { return Ok(()) };
    let began = Instant::now();
    let events = store.read(Query::stream(&stream)).count()?;
    println!("Loaded the {events} events of {stream} in {:.0} µs", began.elapsed().as_secs_f64() * 1e6);
    Ok(())
}

fn rate(events: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    format!("{seconds:.2} s, {:.0} events a second", events as f64 / seconds)
}
