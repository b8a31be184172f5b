//! Projections on a disk that fails while they save: each event is in the model exactly once, whatever call has failed.

use std::time::Duration;

use super::*;
use crate::storage::Written;
use crate::{HandlerError, HandlerState, ProjectionHandle};

/// So many steps of the clock are enough for everything that is tried again.
const STEPS_MAX: usize = 1_000_000;

/// What an event does that is applied twice shows: the payloads in their order.
type Applied = Vec<String>;

fn apply(applied: &mut Applied, event: &crate::Event<'_>) -> Result<(), HandlerError> {
    applied.push(std::str::from_utf8(event.payload())?.trim_start_matches('0').to_owned());
    Ok(())
}

fn start(store: &Store) -> Result<ProjectionHandle<Applied>> {
    store.projection_over("applied", Query::all(), Applied::new(), apply).save_within(Duration::ZERO).start()
}

fn append(store: &Store, number: u64) -> Result<()> {
    let event = NewEvent::raw("Counted", format!("{number:020}"));
    store.append("counter-1", ExpectedVersion::Any, [event]).map(drop).map_err(Error::from)
}

/// What a life on a disk that fails has told.
#[derive(Default)]
struct Told {
    is_stuck: bool,
    saw: usize,
}

/// Starts a projection, appends beside it, and stops it; nothing of that waits for ever.
fn live(store: &Store, clock: &ManualClock, first: u64, told: &mut Told) {
    let started = start(store);
    let mut appended = 0;
    for number in first..first + 4 {
        appended += u64::from(append(store, number).is_ok());
        let Ok(handle) = &started else { continue };
        let head = store.head().unwrap();
        let is_done = (0..STEPS_MAX).any(|_| {
            clock.advance(Duration::from_secs(30));
            std::thread::yield_now();
            let status = handle.handler().status();
            status.position >= head || matches!(status.state, HandlerState::Failed { .. } | HandlerState::Stopped)
        });
        told.is_stuck |= !is_done;
        handle.read(|applied| {
            let expected = (1..=applied.len()).map(|number| number.to_string());
            assert!(applied.iter().eq(&expected.collect::<Vec<_>>()), "{applied:?}");
            told.saw = told.saw.max(applied.len());
        });
    }
    if let Ok(handle) = started {
        let _ = handle.stop();
    }
    assert_eq!(appended, 4, "the log has no fault");
}

/// Fails each call of the state in turn; returns how many there are.
fn fail_at_each(fault: Fault) -> u64 {
    for after in 0.. {
        let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
        let options = || options().clock(clock.clone());
        let disk = FaultyDisk::new(MemoryDisk::new());
        let fault = Fault { after, ..fault }.in_dir("state");
        disk.inject(fault);
        let mut told = Told::default();
        for life in 0..2 {
            let store = open(&disk, options()).unwrap();
            live(&store, &clock, life * 4 + 1, &mut told);
        }
        assert!(!told.is_stuck, "{fault:?}: it neither went on nor stopped");
        let is_over = disk.failed_calls() == 0;
        assert!(!is_over || told.saw == 8, "{fault:?}: {} of 8", told.saw);
        disk.heal();
        for life in 0..2 {
            let store = open(&disk, options()).unwrap();
            append(&store, 9 + life).unwrap();
            let handle = start(&store).unwrap();
            handle.wait_for(store.head().unwrap().unwrap()).unwrap();
            let expected: Vec<String> = (1..=9 + life).map(|number| number.to_string()).collect();
            handle.read(|applied| assert_eq!(*applied, expected, "{fault:?}"));
            handle.stop().unwrap();
        }
        if is_over {
            return after;
        }
    }
    unreachable!()
}

#[test]
fn a_projection_has_each_event_once_whatever_call_of_a_save_fails() {
    for call in [Call::Write, Call::Sync, Call::Allocate, Call::Create, Call::Rename, Call::SyncDir] {
        for forever in [false, true] {
            let calls = fail_at_each(Fault { forever, ..Fault::next(call) });
            assert!(calls > 0, "{call:?}");
        }
    }
}

#[test]
fn a_projection_has_each_event_once_where_a_write_fails_in_its_middle() {
    for written in [Written::Half, Written::Everything] {
        assert!(fail_at_each(Fault { written, ..Fault::next(Call::Write) }) > 4);
    }
}
