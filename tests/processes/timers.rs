//! Timers: fired once, in the order of their times, moved and cancelled.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{Event, EventTypes, HandlerState, ProcessHandle, ProcessManager, Query, Reactions, Store};
use serde::{Deserialize, Serialize};

use crate::sagas::check;

/// Sets, moves and cancels timers as its events say, and notes which fired.
#[derive(Default, Serialize, Deserialize)]
struct Alarm {
    fired: Vec<String>,
}

#[derive(Serialize, Deserialize)]
enum AlarmEvent {
    TimerAsked { instance: String, name: String, seconds: u64 },
    TimerUnasked { instance: String, name: String },
    AlarmEnded { instance: String },
}

impl ProcessManager for Alarm {
    const NAME: &'static str = "alarm";
    type Event = AlarmEvent;
    type Command = String;

    fn instance_of(event: &AlarmEvent, _: &Event<'_>) -> Option<String> {
        let (AlarmEvent::TimerAsked { instance, .. }
        | AlarmEvent::TimerUnasked { instance, .. }
        | AlarmEvent::AlarmEnded { instance }) = event;
        Some(instance.clone())
    }

    fn on_event(&mut self, event: &AlarmEvent, reactions: &mut Reactions<String>) {
        match event {
            AlarmEvent::TimerAsked { name, seconds, .. } => reactions.after(Duration::from_secs(*seconds), name),
            AlarmEvent::TimerUnasked { name, .. } => reactions.cancel(name),
            AlarmEvent::AlarmEnded { .. } => reactions.complete(),
        }
    }

    fn on_timer(&mut self, timer: &str, reactions: &mut Reactions<String>) {
        self.fired.push(timer.to_owned());
        reactions.execute(timer.to_owned());
    }
}

type Rung = Arc<Mutex<Vec<String>>>;

fn start_alarm(store: &Store, rung: &Rung) -> ProcessHandle<Alarm> {
    let rung = Arc::clone(rung);
    let alarm = store.process::<Alarm>(move |command, dispatch| {
        rung.lock().unwrap().push(format!("{} {command}", dispatch.instance()));
        Ok(())
    });
    alarm.start().unwrap()
}

fn tell(store: &Store, event: &AlarmEvent) {
    let codec = EventTypes::<AlarmEvent>::new().check().unwrap();
    store.append("wishes", annals::ExpectedVersion::Any, [codec.encode(event).unwrap()]).unwrap();
}

fn ask(store: &Store, instance: &str, name: &str, seconds: u64) {
    tell(store, &AlarmEvent::TimerAsked { instance: instance.into(), name: name.into(), seconds });
}

fn rung(rung: &Rung) -> Vec<String> {
    std::mem::take(&mut rung.lock().unwrap())
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn timers_that_came_due_while_nobody_ran_fire_at_the_start_in_the_order_of_their_times() {
    check(|world| {
        let application = world.application();
        let rang = Rung::default();
        let alarm = start_alarm(&application.store, &rang);
        ask(&application.store, "a", "third", 30);
        ask(&application.store, "b", "first", 10);
        ask(&application.store, "a", "second", 20);
        ask(&application.store, "b", "not-yet", 1_000);
        alarm.settle().unwrap();
        alarm.stop().unwrap();
        let application = world.reopened(application);
        world.clock.advance(seconds(100));

        let alarm = start_alarm(&application.store, &rang);
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), ["b first", "a second", "a third"]);
        let waiting = alarm.instances().timers().unwrap();
        assert_eq!(waiting.iter().map(|timer| timer.name.as_str()).collect::<Vec<_>>(), ["not-yet"]);
        world.clock.advance(seconds(900));
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), ["b not-yet"]);
    });
}

#[test]
fn a_timer_is_moved_and_cancelled() {
    check(|world| {
        let application = world.application();
        let (store, rang) = (&application.store, Rung::default());
        let alarm = start_alarm(store, &rang);
        ask(store, "a", "moved-back", 10);
        ask(store, "a", "moved-forward", 100);
        ask(store, "a", "cancelled", 10);
        ask(store, "a", "moved-back", 50);
        ask(store, "a", "moved-forward", 5);
        tell(store, &AlarmEvent::TimerUnasked { instance: "a".into(), name: "cancelled".into() });
        alarm.settle().unwrap();
        world.clock.advance(seconds(10));
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), ["a moved-forward"]);
        world.clock.advance(seconds(90));
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), ["a moved-back"]);
    });
}

#[test]
fn a_timer_that_is_due_is_cancelled_by_what_happened_before_it() {
    check(|world| {
        let application = world.application();
        let (store, rang) = (&application.store, Rung::default());
        let alarm = start_alarm(store, &rang);
        ask(store, "a", "late", 10);
        alarm.settle().unwrap();
        // The event lies in the log before the timer is due, and is handled after that.
        alarm.pause();
        alarm.wait_for_state(|state| *state == HandlerState::Paused);
        tell(store, &AlarmEvent::TimerUnasked { instance: "a".into(), name: "late".into() });
        world.clock.advance(seconds(10));
        wait_for(store, &Query::types(["ProcessTimerDue"]), 1);
        alarm.resume();
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), Vec::<String>::new());
    });
}

#[test]
fn a_timer_set_by_a_timer_and_a_timer_that_is_due_at_once_fire() {
    check(|world| {
        let application = world.application();
        let (store, rang) = (&application.store, Rung::default());
        let alarm = start_alarm(store, &rang);
        ask(store, "a", "now", 0);
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), ["a now"]);
        ask(store, "a", "now", 0);
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), ["a now"], "one of the same name, set again");
    });
}

#[test]
fn the_timers_of_an_instance_that_has_ended_never_fire() {
    check(|world| {
        let application = world.application();
        let (store, rang) = (&application.store, Rung::default());
        let alarm = start_alarm(store, &rang);
        ask(store, "a", "late", 10);
        tell(store, &AlarmEvent::AlarmEnded { instance: "a".into() });
        alarm.settle().unwrap();
        world.clock.advance(seconds(10));
        alarm.settle().unwrap();
        assert_eq!(rung(&rang), Vec::<String>::new());
        assert_eq!(application.count("alarm", "ProcessTimerDue"), 0);
    });
}

/// Waits until so many events match.
fn wait_for(store: &Store, query: &Query, count: u64) {
    let watch = store.watch();
    while store.read(query.clone()).count().unwrap() < count {
        watch.wait(None).unwrap();
    }
}
