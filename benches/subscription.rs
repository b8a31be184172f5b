//! From an append to a handler that sleeps, beside a bare wake-up of a thread: alternately, in one run, so that both meet
//! the same machine.
//!
//! The store appends with `Durability::Os` on a disk; the time runs from before the append to the first line of the
//! handler. `ANNALS_BENCH_ROUNDS` says how often; the medians and their ratio are what counts.
//!
//! Then a backlog of 100,000 events, delivered in each way that there is.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a bench")]

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use annals::{Batch, Durability, ExpectedVersion, Item, Query, Store};

/// How long a thread gets to fall asleep.
const ASLEEP_AFTER: Duration = Duration::from_micros(200);

/// A thread that sleeps until something happens and says when it woke.
struct Sleeper {
    name: &'static str,
    wake: Box<dyn Fn()>,
    woken: Receiver<Instant>,
    latencies: Vec<Duration>,
}

impl Sleeper {
    /// Wakes the thread once, after it has fallen asleep, and notes how long that took.
    fn measure(&mut self) {
        let rest = Instant::now();
        while rest.elapsed() < ASLEEP_AFTER {
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        (self.wake)();
        self.latencies.push(self.woken.recv().unwrap().saturating_duration_since(begun));
    }

    fn percentile(&mut self, percent: usize) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }
}

fn bare() -> Sleeper {
    let (sender, woken) = channel();
    let (ready, waiting) = channel();
    let thread = thread::spawn(move || {
        ready.send(()).unwrap();
        loop {
            thread::park();
            if sender.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    waiting.recv().unwrap();
    let wake = Box::new(move || thread.thread().unpark());
    Sleeper { name: "bare wake-up (park, unpark)", wake, woken, latencies: Vec::new() }
}

fn of_store(
    name: &'static str,
    store: &Store,
    handler: impl FnOnce(Store, Sender<Instant>) + Send + 'static,
) -> Sleeper {
    let (sender, woken) = channel();
    let store = store.clone();
    let reader = store.clone();
    thread::spawn(move || handler(reader, sender));
    let wake = Box::new(move || {
        store.append("account-alice", ExpectedVersion::Any, [common::event(1)]).unwrap();
    });
    Sleeper { name, wake, woken, latencies: Vec::new() }
}

fn follow(store: &Store) -> Sleeper {
    of_store("append to a follow", store, |store, sender| {
        let mut follow = store.follow(Query::all()).visible();
        loop {
            while let Some(event) = follow.next().unwrap() {
                let now = Instant::now();
                assert_eq!(event.payload().len(), common::PAYLOAD_BYTES);
                if sender.send(now).is_err() {
                    return;
                }
            }
            follow.wait(None).unwrap();
        }
    })
}

fn subscription(store: &Store) -> Sleeper {
    of_store("append to a subscription", store, |store, sender| {
        for item in store.subscribe("bench").visible().open().unwrap() {
            let Item::Event(delivery) = item.unwrap() else { continue };
            let now = Instant::now();
            delivery.ack().unwrap();
            if sender.send(now).is_err() {
                return;
            }
        }
    })
}

fn rounds() -> usize {
    if std::env::args().any(|argument| argument == "--test") {
        return 10;
    }
    let asked = std::env::var("ANNALS_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(3_000)
}

/// Events of the backlog.
const BACKLOG: u64 = 100_000;

fn main() {
    latencies();
    backlog();
}

fn backlog() {
    let directory = common::directory();
    let store = common::options().durability(Durability::Os).open(directory.path()).unwrap();
    let events = if rounds() == 10 { 1_000 } else { BACKLOG };
    for _ in 0..events / 1_000 {
        store.append("account-alice", ExpectedVersion::Any, (0..1_000).map(common::event)).unwrap();
    }
    store.sync().unwrap();
    report("follow", events, || {
        let mut follow = store.follow(Query::all());
        while follow.next().unwrap().is_some() {}
    });
    report("subscription without a name", events, || {
        let caught_up = |item: &_| matches!(item, Ok(Item::CaughtUp));
        store.follow(Query::all()).subscribe().find(caught_up).unwrap().unwrap();
    });
    report("subscription, batches of 100", events, || {
        let mut subscription = store.subscribe("batches").batch(100, Duration::ZERO).open().unwrap();
        while !acknowledge(subscription.next_batch().unwrap()) {}
    });
    report("subscription, each acknowledged", events, || {
        for item in store.subscribe("each").open().unwrap() {
            match item.unwrap() {
                Item::Event(delivery) => delivery.ack().unwrap(),
                Item::CaughtUp => return,
            }
        }
    });
}

/// Whether the batch was the last of the backlog.
fn acknowledge(batch: Batch) -> bool {
    let has_caught_up = batch.has_caught_up();
    batch.ack().unwrap();
    has_caught_up
}

fn report(name: &str, events: u64, run: impl FnOnce()) {
    let begun = Instant::now();
    run();
    println!("{name:<34} {:>12.0} events/s", events as f64 / begun.elapsed().as_secs_f64());
}

fn latencies() {
    let directory = common::directory();
    let open = |name: &str| {
        let options = common::options().durability(Durability::Os);
        options.open(directory.path().join(name)).unwrap()
    };
    let (followed, subscribed) = (open("followed"), open("subscribed"));
    let mut sleepers = [bare(), follow(&followed), subscription(&subscribed)];
    for _ in 0..rounds() {
        sleepers.iter_mut().for_each(Sleeper::measure);
    }
    let bare = sleepers[0].percentile(50);
    println!("{:<30} {:>10} {:>10} {:>10} {:>7}", "", "median", "p90", "p99", "ratio");
    for sleeper in &mut sleepers {
        let [median, p90, p99] = [50, 90, 99].map(|percent| sleeper.percentile(percent));
        let ratio = median.as_secs_f64() / bare.as_secs_f64();
        println!("{:<30} {median:>10.1?} {p90:>10.1?} {p99:>10.1?} {ratio:>7.2}", sleeper.name);
    }
}
