//! Handlers whose process dies: an event that kills it ends as a dead letter, what is saved in one step is taken into
//! account once, and effects outside can be told apart by their keys.
//!
//! The tests run their own binary as a child, whose handlers end the process at chosen events and steps, as often as it
//! takes until a child ends by itself.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use annals::{
    Checkpoint, Event, ExpectedVersion, HandlerError, HandlerHandle, HandlerKind, NewEvent, OnError, Outgoing,
    Position, Query, Reactor, Runner, Sink, StateBatch, Store, Work,
};

/// What the child is to do, in the environment.
const ROLE: &str = "ANNALS_KILL_HANDLER_ROLE";
const PATH: &str = "ANNALS_KILL_HANDLER_PATH";
/// The step at which the child dies, such as `save 3`.
const DIES_AT: &str = "ANNALS_KILL_HANDLER_DIES_AT";
const HOUR: Duration = Duration::from_secs(3_600);
/// Children that are run until one ends by itself.
const LIVES_MAX: usize = 20;

/// The child: does nothing when the tests are run.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let place = Place { directory: PathBuf::from(std::env::var(PATH).unwrap()) };
    let store = place.open();
    let handler = match role.as_str() {
        "mailer, patient" => mailer(&place, &store, OnError::retry(1), true),
        "mailer, impatient" => mailer(&place, &store, OnError::park(), true),
        "mailer, stubborn" => mailer(&place, &store, OnError::stop(), true),
        "mailer, stubborn and mended" => mailer(&place, &store, OnError::stop(), false),
        "mailer, mended" => mailer(&place, &store, OnError::park(), false),
        "relay" => store.relay("relay", FileSink { place, doom: Doom::read() }).batch(4).start().unwrap(),
        "counter" => counter(&store),
        "courier" => courier(place, &store),
        "mailer, late to save" => {
            let mailer = mailer_of(&place, &store, OnError::park(), false).save_within(HOUR).start().unwrap();
            mailer.wait_for(store.head().unwrap().unwrap()).unwrap();
            // Everything is handled, and nothing is saved.
            std::process::abort();
        }
        other => panic!("unknown role {other}"),
    };
    handler.wait_for_requests().unwrap();
    handler.wait_for(store.head().unwrap().unwrap()).unwrap();
    handler.stop().unwrap();
    store.close().unwrap();
}

/// Where a store and the effects of its handlers are.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn open(&self) -> Store {
        Store::open(self.directory.join("store")).unwrap()
    }

    fn effects_path(&self) -> PathBuf {
        self.directory.join("effects")
    }

    /// Something outside of the store that cannot be undone.
    fn effect(&self, key: &str) {
        let mut file = std::fs::File::options().append(true).create(true).open(self.effects_path()).unwrap();
        writeln!(file, "{key}").unwrap();
    }

    /// The effects, each where it was first seen.
    fn effects(&self) -> Vec<u64> {
        let mut seen = Vec::new();
        for line in std::fs::read_to_string(self.effects_path()).unwrap_or_default().lines() {
            let position = line.parse().unwrap();
            if !seen.contains(&position) {
                seen.push(position);
            }
        }
        seen
    }
}

/// Mails about each event, and ends the process at those of the stream `deadly`.
fn mailer(place: &Place, store: &Store, policy: OnError, is_deadly: bool) -> HandlerHandle {
    mailer_of(place, store, policy, is_deadly).start().unwrap()
}

fn mailer_of(place: &Place, store: &Store, policy: OnError, is_deadly: bool) -> Reactor {
    let place = Place { directory: place.directory.clone() };
    let mail = move |event: &Event<'_>| {
        if is_deadly && event.stream() == "deadly" {
            std::process::abort();
        }
        place.effect(&event.position().to_string());
        Ok(())
    };
    let policy = if policy == OnError::stop() { policy } else { policy.then_park() };
    store.react("mailer", mail).from_start().policy(policy)
}

/// The step at which the process ends.
struct Doom {
    step: String,
    left: u32,
}

impl Doom {
    fn read() -> Self {
        let dies_at = std::env::var(DIES_AT).unwrap_or_default();
        let (step, number) = dies_at.split_once(' ').unwrap_or(("never", "0"));
        Self { step: step.to_owned(), left: number.parse().unwrap() }
    }

    fn pass(&mut self, step: &str) {
        if self.step == step {
            self.left -= 1;
            if self.left == 0 {
                std::process::abort();
            }
        }
    }
}

/// Delivers to a file.
struct FileSink {
    place: Place,
    doom: Doom,
}

impl Sink for FileSink {
    fn deliver(&mut self, batch: &[Outgoing]) -> Result<(), HandlerError> {
        self.doom.pass("before");
        for outgoing in batch {
            self.place.effect(&outgoing.key.position.to_string());
            self.doom.pass("amid");
        }
        self.doom.pass("after");
        Ok(())
    }
}

/// Keeps the positions that it has handled, with its checkpoint.
struct Counter {
    store: Store,
    counts: Vec<String>,
    doom: Doom,
}

fn counter(store: &Store) -> HandlerHandle {
    let work = Counter { store: store.clone(), counts: Vec::new(), doom: Doom::read() };
    Runner::new("counter", HandlerKind::Projection)
        .batch(3)
        .policy(OnError::park())
        .start(store, Box::new(work))
        .unwrap()
}

impl Work for Counter {
    fn load(&mut self, store: &Store) -> annals::Result<Option<Checkpoint>> {
        self.roll_back()?;
        Checkpoint::load(store, "counter")
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        self.doom.pass("handle");
        self.counts.push(event.position().to_string());
        if event.stream() == "bad" { Err("it is bad".into()) } else { Ok(()) }
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> annals::Result<()> {
        self.doom.pass("save");
        let batch = checkpoint.add_to(StateBatch::new().put("counts", self.counts.join(" ")));
        self.store.state()?.write(batch)?;
        self.doom.pass("saved");
        Ok(())
    }

    fn roll_back(&mut self) -> annals::Result<()> {
        self.doom.pass("undo");
        let saved = self.store.state()?.get("counts")?.unwrap_or_default();
        self.counts = String::from_utf8(saved).unwrap().split_whitespace().map(str::to_owned).collect();
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        false
    }
}

/// Has an effect outside for each event, and keeps nothing but its checkpoint.
struct Courier {
    place: Place,
    store: Store,
    doom: Doom,
}

fn courier(place: Place, store: &Store) -> HandlerHandle {
    let work = Courier { place, store: store.clone(), doom: Doom::read() };
    Runner::new("courier", HandlerKind::Reactor).policy(OnError::park()).start(store, Box::new(work)).unwrap()
}

impl Work for Courier {
    fn load(&mut self, store: &Store) -> annals::Result<Option<Checkpoint>> {
        Checkpoint::load(store, "courier")
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        self.place.effect(&event.position().to_string());
        Ok(())
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> annals::Result<()> {
        self.doom.pass("save");
        self.store.state()?.write(checkpoint.add_to(StateBatch::new()))?;
        self.doom.pass("saved");
        Ok(())
    }

    fn roll_back(&mut self) -> annals::Result<()> {
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        true
    }
}

/// A place with a store that holds one event for each of these streams.
fn place_with(streams: &[&str]) -> (tempfile::TempDir, Place) {
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path().to_owned() };
    let store = place.open();
    for stream in streams {
        store.append(*stream, ExpectedVersion::Any, [NewEvent::raw("Happened", "")]).unwrap();
    }
    store.close().unwrap();
    (directory, place)
}

fn run(role: &str, place: &Path, dies_at: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ROLE, role)
        .env(PATH, place)
        .env(DIES_AT, dies_at)
        .output()
        .unwrap()
}

/// Runs children until one ends by itself; how many did not. Only the first dies at the step.
fn run_to_the_end(role: &str, place: &Place, dies_at: &str) -> usize {
    for died in 0..LIVES_MAX {
        let ended = run(role, &place.directory, if died == 0 { dies_at } else { "" });
        if ended.status.success() {
            return died;
        }
        // A test that fails ends with a code; one that is aborted does not, where there are signals.
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(!errors.contains("panicked"), "{role}, {dies_at}: {errors}");
    }
    panic!("{role}: {LIVES_MAX} children died");
}

/// The positions of the dead letters of a handler, with their attempts.
fn letters(store: &Store, name: &str) -> Vec<(u64, u32)> {
    let letters = store.dead_letters(name).unwrap().list().unwrap();
    letters.iter().map(|letter| (letter.position.number(), letter.attempts)).collect()
}

const STREAMS: [&str; 8] = ["a", "b", "deadly", "a", "deadly", "b", "deadly", "a"];

#[test]
fn an_event_that_kills_its_process_ends_parked_with_those_behind_it() {
    let (_directory, place) = place_with(&STREAMS);
    // Once in the batch, and then by itself, as often as the policy says.
    assert_eq!(run_to_the_end("mailer, patient", &place, ""), 3);
    assert_eq!(place.effects(), [1, 2, 4, 6, 8]);
    let store = place.open();
    assert_eq!(letters(&store, "mailer"), [(3, 2), (5, 0), (7, 0)]);
    let dead = store.dead_letters("mailer").unwrap();
    assert!(dead.list().unwrap()[0].error.as_deref().unwrap().contains("the process ended"));

    // What is asked for is remembered: the child that comes next carries it out.
    dead.retry(Position::new(3).unwrap()).unwrap();
    drop(dead);
    store.close().unwrap();
    assert_eq!(run_to_the_end("mailer, mended", &place, ""), 0);
    assert_eq!(place.effects(), [1, 2, 4, 6, 8, 3, 5, 7]);
    assert_eq!(letters(&place.open(), "mailer"), []);
}

/// The event of a batch of one may have been handled when the process ended: it is given a look of its own as well.
#[test]
fn an_event_that_is_alone_and_never_retried_is_parked_at_its_second_death() {
    let (_directory, place) = place_with(&["deadly"]);
    assert_eq!(run_to_the_end("mailer, impatient", &place, ""), 2);
    assert_eq!(letters(&place.open(), "mailer"), [(1, 1)]);
}

/// Killed again and again between handling and saving, an event that does no harm was parked as one that kills.
#[test]
fn a_kill_between_handling_and_saving_parks_nothing() {
    for streams in [&["a"][..], &["a", "b", "a"]] {
        let (_directory, place) = place_with(streams);
        for _ in 0..3 {
            assert!(!run("mailer, late to save", &place.directory, "").status.success());
        }
        assert_eq!(run_to_the_end("mailer, mended", &place, ""), 0);
        assert_eq!(letters(&place.open(), "mailer"), [], "{streams:?}");
        assert_eq!(place.effects(), (1..=streams.len() as u64).collect::<Vec<_>>());
    }
}

/// The first death is in a batch, the later ones are where each event is handled by itself.
#[test]
fn a_kill_amid_each_save_parks_nothing() {
    for step in ["save 1", "saved 1", "save 2"] {
        let (_directory, place) = place_with(&["a", "b", "a"]);
        for _ in 0..3 {
            let ended = run("courier", &place.directory, step);
            assert!(!String::from_utf8_lossy(&ended.stderr).contains("panicked"));
        }
        assert_eq!(run_to_the_end("courier", &place, ""), 0);
        assert_eq!(letters(&place.open(), "courier"), [], "{step}");
        assert_eq!(place.effects(), [1, 2, 3], "{step}");
    }
}

#[test]
fn a_retry_that_kills_its_process_is_not_tried_again_by_itself() {
    let (_directory, place) = place_with(&["a", "deadly", "deadly"]);
    assert_eq!(run_to_the_end("mailer, impatient", &place, ""), 2);
    let store = place.open();
    store.dead_letters("mailer").unwrap().retry_all().unwrap();
    store.close().unwrap();
    assert_eq!(run_to_the_end("mailer, impatient", &place, ""), 1);
    assert_eq!(letters(&place.open(), "mailer"), [(2, 2), (3, 0)]);
    assert_eq!(place.effects(), [1]);
}

/// Whoever starts a handler that stops means its event to be tried again, however often it has killed.
#[test]
fn a_handler_that_stops_tries_a_deadly_event_at_every_start() {
    let (_directory, place) = place_with(&["a", "deadly", "a"]);
    for _ in 0..5 {
        assert!(!run("mailer, stubborn", &place.directory, "").status.success());
    }
    assert_eq!(place.effects(), [1]);
    assert_eq!(run_to_the_end("mailer, stubborn and mended", &place, ""), 0);
    assert_eq!(place.effects(), [1, 2, 3]);
}

/// Killed before, amid and after each delivery: everything is delivered, in order, and what comes twice has the same key.
#[test]
fn a_relay_delivers_everything_wherever_it_is_killed() {
    let streams = ["a", "b", "a", "c", "b", "a", "c", "a", "b", "a"];
    for step in ["before", "amid", "after"] {
        for number in 1.. {
            let (_directory, place) = place_with(&streams);
            let died = run_to_the_end("relay", &place, &format!("{step} {number}"));
            assert_eq!(place.effects(), (1..=10).collect::<Vec<_>>(), "{step} {number}");
            let store = place.open();
            assert_eq!(letters(&store, "relay"), [], "{step} {number}");
            if died == 0 {
                assert!(number > 3, "there are as many steps as deliveries");
                break;
            }
        }
    }
}

/// Killed at each step of handling, failing, undoing and saving: every event counts once or is a dead letter.
#[test]
fn what_is_saved_in_one_step_counts_once_wherever_it_is_killed() {
    let streams = ["a", "bad", "b", "bad", "a", "b", "c", "a"];
    for step in ["handle", "save", "saved", "undo"] {
        for number in 1.. {
            let (_directory, place) = place_with(&streams);
            let died = run_to_the_end("counter", &place, &format!("{step} {number}"));
            let store = place.open();
            let counts = store.state().unwrap().get("counts").unwrap().unwrap();
            assert_eq!(String::from_utf8(counts).unwrap(), "1 3 5 6 7 8", "{step} {number}");
            let parked: Vec<_> = letters(&store, "counter").iter().map(|letter| letter.0).collect();
            assert_eq!(parked, [2, 4], "{step} {number}");
            assert_eq!(store.read(Query::all()).count().unwrap(), 8);
            if died == 0 {
                assert!(number > 2, "{step} is a step that is made");
                break;
            }
        }
    }
}
