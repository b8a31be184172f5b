//! A step of a process manager: an event is told to its instance, recorded, a command dispatched to an aggregate, and the
//! outcome recorded.
//!
//! In the same run the same commits are made by hand, with nothing around them: only the ratio to them can be carried to
//! another machine. `step` is the time from the append of an event until its process has ended; `backlog` the time for
//! each of many that wait; `start` that of a process manager with 100 open instances, among few and many that have ended.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::time::{Duration, Instant};

use annals::{
    Aggregate, Durability, Event, ExpectedVersion, NewEvent, Options, ProcessHandle, ProcessManager, Reactions, Store,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};

/// Processes that wait for a process manager to start.
const BACKLOG: u64 = 1_000;
const OPEN: u64 = 100;
const ENDED: [u64; 2] = [100, 10_000];

#[derive(Serialize, Deserialize, Clone)]
enum Asked {
    Asked { question: String, stays_open: bool },
}

#[derive(Default)]
struct Question;

impl Aggregate for Question {
    const CATEGORY: &'static str = "question";
    type Event = Asked;

    fn apply(&mut self, _: &Asked) {}
}

#[derive(Serialize, Deserialize)]
enum Answered {
    Answered { answer: String },
}

#[derive(Default)]
struct Answer;

impl Aggregate for Answer {
    const CATEGORY: &'static str = "answer";
    type Event = Answered;

    fn apply(&mut self, _: &Answered) {}
}

#[derive(Default, Serialize, Deserialize)]
struct Answering {
    question: String,
}

impl ProcessManager for Answering {
    const NAME: &'static str = "answering";
    type Event = Asked;
    type Command = String;

    fn instance_of(_: &Asked, recorded: &Event<'_>) -> Option<String> {
        Some(recorded.stream().split_once('-')?.1.to_owned())
    }

    fn on_event(&mut self, event: &Asked, reactions: &mut Reactions<String>) {
        let Asked::Asked { question, stays_open } = event;
        self.question.clone_from(question);
        if *stays_open {
            reactions.after(Duration::from_secs(1_000_000), "late");
        } else {
            reactions.execute("it depends".to_owned());
            reactions.complete();
        }
    }
}

fn start(store: &Store) -> ProcessHandle<Answering> {
    let answers = store.repository::<Answer>().unwrap();
    let answering = store.process::<Answering>(move |command, dispatch| {
        dispatch.execute(&answers, dispatch.instance(), |_| Answered::Answered { answer: command.clone() })
    });
    answering.start().unwrap()
}

/// Asks so many questions, numbered from `first`, and returns the last position.
fn ask(store: &Store, first: u64, count: u64, stays_open: bool) -> annals::Position {
    let questions = store.repository::<Question>().unwrap();
    let asked = Asked::Asked { question: "why?".into(), stays_open };
    let mut last = None;
    for id in first..first + count {
        last = questions.execute(id, |_| asked.clone()).unwrap().position();
    }
    last.unwrap()
}

/// The commits of a step, made by hand.
fn by_hand(store: &Store, id: u64) {
    let payload = common::payload;
    let event = |event_type: &'static str| [NewEvent::from_bytes(event_type, annals::Codec::Json, payload())];
    let (own, question, answer) = (format!("answering-{id}"), format!("question-{id}"), format!("answer-{id}"));
    store.append(question, ExpectedVersion::NoStream, event("Asked")).unwrap();
    let record = store.commit().append(&own, ExpectedVersion::NoStream, event("ProcessReacted"));
    let reacted = record.durability(Durability::Os).send().unwrap();
    store.append(answer, ExpectedVersion::NoStream, event("Answered")).unwrap();
    let settled = store.commit().append(&own, reacted.version(), event("ProcessCommandsSettled"));
    settled.durability(Durability::Os).send().unwrap();
}

fn step(c: &mut Criterion) {
    for (name, durability) in [("process/os", Durability::Os), ("process/synced", Durability::Synced)] {
        let mut group = c.benchmark_group(name);
        group.bench_function("by-hand", |b| {
            let directory = common::directory();
            let store = Options::new().durability(durability).open(directory.path().join("store")).unwrap();
            let mut ids = 0..;
            b.iter(|| by_hand(&store, ids.next().unwrap()));
        });
        group.bench_function("step", |b| {
            let directory = common::directory();
            let store = Options::new().durability(durability).open(directory.path().join("store")).unwrap();
            let answering = start(&store);
            let mut ids = 0..;
            b.iter(|| answering.wait_for(ask(&store, ids.next().unwrap(), 1, false)).unwrap());
        });
        group.throughput(Throughput::Elements(BACKLOG));
        group.bench_function("backlog", |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| work_off_backlog(durability)).sum());
        });
        group.finish();
    }
}

fn work_off_backlog(durability: Durability) -> Duration {
    let directory = common::directory();
    let store = Options::new().durability(durability).open(directory.path().join("store")).unwrap();
    let last = ask(&store, 0, BACKLOG, false);
    let began = Instant::now();
    let answering = start(&store);
    answering.wait_for(last).unwrap();
    began.elapsed()
}

fn start_with_open_instances(c: &mut Criterion) {
    let mut group = c.benchmark_group("process/start");
    for ended in ENDED {
        let directory = common::directory();
        let store = Options::new().durability(Durability::Os).open(directory.path().join("store")).unwrap();
        let answering = start(&store);
        ask(&store, 0, OPEN, true);
        let last = ask(&store, OPEN, ended, false);
        answering.wait_for(last).unwrap();
        answering.stop().unwrap();
        group.bench_function(BenchmarkId::new("ended", ended), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| start_and_stop(&store)).sum());
        });
    }
    group.finish();
}

/// How long it takes to start, which ends with all open instances and their timers known.
fn start_and_stop(store: &Store) -> Duration {
    let began = Instant::now();
    let answering = start(store);
    let took = began.elapsed();
    answering.stop().unwrap();
    took
}

criterion_group! { name = benches; config = common::criterion(); targets = step, start_with_open_instances }
criterion_main!(benches);
