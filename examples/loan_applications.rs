//! Loan applications of a bank, folded from their real events, and what became of them.
//!
//! ```text
//! cargo run --release --example loan_applications
//! ```
//!
//! Reads `../shared/data/loan-applications.ndjson.gz` beside the crate if it is there: the log of the BPI Challenge 2012,
//! 262,200 events of 13,087 applications. Otherwise it makes up a small sample, the same each time, and says so.

#![allow(clippy::disallowed_methods, reason = "this is not the library: it may use files and time directly")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use annals::{
    Aggregate, Codec, Commit, EventTypes, ExpectedVersion, NewEvent, Query, Repository, SnapshotPolicy, Store,
    Timestamp,
};
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// The stages of an application that goes well.
const STAGES: [&str; 6] =
    ["A_SUBMITTED", "A_PARTLYSUBMITTED", "A_PREACCEPTED", "A_ACCEPTED", "A_FINALIZED", "A_APPROVED"];
/// Applications of the sample.
const SAMPLE_LOANS: u64 = 300;
/// Events a commit while they are imported.
const BATCH_EVENTS: usize = 1_000;

// --- The domain ------------------------------------------------------------------------------------------------------

/// What happens to an application, by the names that the bank gave it: `A` for the application, `O` for offers, `W` for
/// work on it.
#[derive(Serialize, Deserialize)]
enum LoanEvent {
    #[serde(rename = "A_SUBMITTED")]
    Submitted(Submitted),
    #[serde(rename = "A_PARTLYSUBMITTED")]
    PartlySubmitted(Step),
    #[serde(rename = "A_PREACCEPTED")]
    Preaccepted(Step),
    #[serde(rename = "A_ACCEPTED")]
    Accepted(Step),
    #[serde(rename = "A_FINALIZED")]
    Finalized(Step),
    #[serde(rename = "A_APPROVED")]
    Approved(Step),
    #[serde(rename = "A_REGISTERED")]
    Registered(Step),
    #[serde(rename = "A_ACTIVATED")]
    Activated(Step),
    #[serde(rename = "A_DECLINED")]
    Declined(Step),
    #[serde(rename = "A_CANCELLED")]
    Cancelled(Step),
    #[serde(rename = "O_SELECTED")]
    OfferSelected(Step),
    #[serde(rename = "O_CREATED")]
    OfferCreated(Step),
    #[serde(rename = "O_SENT")]
    OfferSent(Step),
    #[serde(rename = "O_SENT_BACK")]
    OfferSentBack(Step),
    #[serde(rename = "O_ACCEPTED")]
    OfferAccepted(Step),
    #[serde(rename = "O_DECLINED")]
    OfferDeclined(Step),
    #[serde(rename = "O_CANCELLED")]
    OfferCancelled(Step),
    #[serde(rename = "W_Afhandelen leads")]
    FollowUpLeads(Step),
    #[serde(rename = "W_Completeren aanvraag")]
    CompleteApplication(Step),
    #[serde(rename = "W_Nabellen offertes")]
    CallAboutOffers(Step),
    #[serde(rename = "W_Nabellen incomplete dossiers")]
    CallAboutDocuments(Step),
    #[serde(rename = "W_Valideren aanvraag")]
    ValidateApplication(Step),
    #[serde(rename = "W_Beoordelen fraude")]
    JudgeFraud(Step),
    #[serde(rename = "W_Wijzigen contractgegevens")]
    ChangeContract(Step),
}

/// Who did it, and whether work was scheduled, begun or completed.
#[derive(Serialize, Deserialize)]
struct Step {
    #[serde(rename = "org:resource", default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(rename = "lifecycle:transition")]
    transition: String,
}

#[derive(Serialize, Deserialize)]
struct Submitted {
    #[serde(flatten)]
    step: Step,
    case: Case,
}

#[derive(Serialize, Deserialize)]
struct Case {
    #[serde(rename = "AMOUNT_REQ")]
    amount: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
enum Outcome {
    #[default]
    Undecided,
    Approved,
    Declined,
    Cancelled,
}

/// An application: how much is asked for, what was done, what became of it.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Loan {
    amount_euros: u64,
    outcome: Outcome,
    offers_sent: u32,
    work_completed: u32,
}

impl Aggregate for Loan {
    const CATEGORY: &'static str = "loan";
    type Event = LoanEvent;

    fn apply(&mut self, event: &LoanEvent) {
        match event {
            LoanEvent::Submitted(submitted) => self.amount_euros = submitted.case.amount.parse().unwrap_or(0),
            LoanEvent::Approved(_) | LoanEvent::Registered(_) | LoanEvent::Activated(_) => {
                self.outcome = Outcome::Approved;
            }
            LoanEvent::Declined(_) => self.outcome = Outcome::Declined,
            LoanEvent::Cancelled(_) => self.outcome = Outcome::Cancelled,
            LoanEvent::OfferSent(_) => self.offers_sent += 1,
            LoanEvent::FollowUpLeads(step)
            | LoanEvent::CompleteApplication(step)
            | LoanEvent::CallAboutOffers(step)
            | LoanEvent::CallAboutDocuments(step)
            | LoanEvent::ValidateApplication(step)
            | LoanEvent::JudgeFraud(step)
            | LoanEvent::ChangeContract(step) => self.work_completed += u32::from(step.transition == "COMPLETE"),
            _ => {}
        }
    }

    fn event_types() -> EventTypes<LoanEvent> {
        let step = || Step { resource: None, transition: "COMPLETE".into() };
        let submitted = Submitted { step: step(), case: Case { amount: "5000".into() } };
        EventTypes::new().samples([
            LoanEvent::Submitted(submitted),
            LoanEvent::OfferSent(step()),
            LoanEvent::Approved(step()),
        ])
    }
}

impl Loan {
    /// An application that nobody has decided on is cancelled; one that was decided on stays as it is.
    fn expire(&self) -> Option<LoanEvent> {
        let step = Step { resource: Some("clock".into()), transition: "COMPLETE".into() };
        (self.outcome == Outcome::Undecided).then_some(LoanEvent::Cancelled(step))
    }
}

// --- The stages ------------------------------------------------------------------------------------------------------

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("loans.annals"))?;
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/loan-applications.ndjson.gz");
    let is_real = data.exists();
    let events = if is_real {
        timed("import", || import(&store, &data))?
    } else {
        println!("There is no file of real events: {SAMPLE_LOANS} applications are made up.");
        timed("import", || append_sample(&store))?
    };

    let loans = store.repository::<Loan>()?;
    let ids = timed("find the applications", || find_ids(&store))?;
    let counts = timed("fold all of them", || count(&loans, &ids))?;
    println!("\n{events} events of {} applications:", ids.len());
    for (outcome, (applications, euros)) in &counts {
        println!("{applications:>9} {outcome:?}, {euros} euros asked for");
    }
    println!();
    for (stage, hours) in STAGES.windows(2).zip(median_hours(&store)?) {
        println!("{hours:>9.1} hours from {} to {}", stage[0], stage[1]);
    }
    println!();
    if is_real {
        let published = [(Outcome::Approved, 2_246), (Outcome::Declined, 7_635), (Outcome::Cancelled, 2_807)];
        assert!(published.iter().all(|(outcome, applications)| counts[outcome].0 == *applications), "{counts:?}");
    }

    let saved = loans.clone().snapshots(SnapshotPolicy::every_events(1))?;
    assert_eq!(timed("fold all of them, and save snapshots", || count(&saved, &ids))?, counts);
    assert_eq!(timed("load all of them from snapshots", || count(&saved, &ids))?, counts);
    let cached = loans.cached(ids.len());
    count(&cached, &ids)?;
    assert_eq!(timed("load all of them from the cache", || count(&cached, &ids))?, counts);

    let expired = timed("cancel those that nobody decided on", || expire(&cached, &ids))?;
    assert_eq!(expired, counts.get(&Outcome::Undecided).map_or(0, |(applications, _)| *applications));
    assert_eq!(count(&cached, &ids)?.get(&Outcome::Undecided), None);
    println!("{expired} applications were cancelled");
    Ok(())
}

fn timed<T>(stage: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let outcome = run()?;
    println!("{:>9.1} ms to {stage}", began.elapsed().as_secs_f64() * 1e3);
    Ok(outcome)
}

/// Applications and euros by outcome.
type Counts = BTreeMap<Outcome, (u64, u64)>;

fn count(loans: &Repository<Loan>, ids: &[String]) -> Result<Counts> {
    let mut counts = Counts::new();
    for id in ids {
        let loan = loans.load(id)?;
        let (applications, euros) = counts.entry(loan.outcome).or_default();
        *applications += 1;
        *euros += loan.amount_euros;
    }
    Ok(counts)
}

/// How long half of the applications stay in each stage, at most: from the time at which it is reached to that of the next.
fn median_hours(store: &Store) -> Result<Vec<f64>> {
    let mut reached: HashMap<String, (usize, Timestamp)> = HashMap::new();
    let mut nanos = vec![Vec::new(); STAGES.len() - 1];
    let mut read = store.read(Query::category("loan").and_types(STAGES));
    while let Some(event) = read.next()? {
        let stage = STAGES.iter().position(|stage| *stage == event.event_type()).ok_or("another type was read")?;
        match reached.insert(event.stream().to_owned(), (stage, event.time())) {
            Some((before, since)) if before + 1 == stage => nanos[before].push(event.time().nanos() - since.nanos()),
            _ => {}
        }
    }
    let median = |mut nanos: Vec<i64>| {
        nanos.sort_unstable();
        nanos.get(nanos.len() / 2).map_or(0.0, |nanos| *nanos as f64 / 3.6e12)
    };
    Ok(nanos.into_iter().map(median).collect())
}

fn expire(loans: &Repository<Loan>, ids: &[String]) -> Result<u64> {
    let mut expired = 0;
    for id in ids {
        let executed = loans.execute(id, Loan::expire)?;
        expired += u64::from(executed.appended().is_some());
    }
    Ok(expired)
}

fn find_ids(store: &Store) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut read = store.read(Query::category("loan").and_types(["A_SUBMITTED"]));
    while let Some(event) = read.next()? {
        ids.extend(event.stream().strip_prefix("loan-").map(str::to_owned));
    }
    Ok(ids)
}

// --- Where the events come from --------------------------------------------------------------------------------------

/// A line of the file.
#[derive(Deserialize)]
struct Line {
    stream: String,
    #[serde(rename = "type")]
    event_type: String,
    time: String,
    /// Kept byte for byte.
    data: Box<RawValue>,
}

fn import(store: &Store, path: &Path) -> Result<u64> {
    let mut events = 0;
    let mut batch = Commit::new();
    for line in BufReader::with_capacity(1 << 16, MultiGzDecoder::new(File::open(path)?)).lines() {
        let Line { stream, event_type, time, data } = serde_json::from_str(&line?)?;
        let event = NewEvent::from_bytes(event_type, Codec::Json, data.get());
        let time: jiff::Timestamp = time.parse()?;
        let time = Timestamp::from_nanos(i64::try_from(time.as_nanosecond())?);
        batch = batch.append(stream, ExpectedVersion::Any, [event.time(time)]);
        events += 1;
        if batch.len() == BATCH_EVENTS {
            store.send(std::mem::take(&mut batch))?;
        }
    }
    if !batch.is_empty() {
        store.send(batch)?;
    }
    Ok(events)
}

/// Applications that go one of four ways by their number.
fn append_sample(store: &Store) -> Result<u64> {
    let loans = store.repository::<Loan>()?;
    let mut events = 0;
    for number in 0..SAMPLE_LOANS {
        let step = || Step { resource: Some("clerk".into()), transition: "COMPLETE".into() };
        let case = Case { amount: (1_000 + number * 37 % 20_000).to_string() };
        let mut story =
            vec![LoanEvent::Submitted(Submitted { step: step(), case }), LoanEvent::PartlySubmitted(step())];
        story.extend((0..number % 5).map(|_| LoanEvent::CallAboutOffers(step())));
        story.extend(match number % 10 {
            0..5 => vec![LoanEvent::Declined(step())],
            5 | 6 => vec![LoanEvent::OfferSent(step()), LoanEvent::Cancelled(step())],
            7 | 8 => vec![LoanEvent::OfferSent(step()), LoanEvent::OfferAccepted(step()), LoanEvent::Approved(step())],
            _ => vec![],
        });
        events += story.len() as u64;
        loans.append(number, ExpectedVersion::NoStream, story)?;
    }
    Ok(events)
}
