//! What the `metrics` feature tells of handlers, by the names that dashboards are built on.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use annals::{Event, ExpectedVersion, NewEvent, OnError, Store};
use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Remembers each counter and gauge by its name and its label. Handlers work in threads of their own, so that it is the
/// recorder of the whole process.
#[derive(Debug, Clone, Default)]
struct Remembered(Arc<Mutex<BTreeMap<String, f64>>>);

#[derive(Debug)]
struct Named(String, Remembered);

impl Named {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = self.1.0.lock().unwrap();
        let value = values.entry(self.0.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for Named {
    fn increment(&self, value: u64) {
        self.change(|old| old + value as f64);
    }

    fn absolute(&self, _value: u64) {
        panic!("{} only ever grows by what happened", self.0);
    }
}

impl GaugeFn for Named {
    fn increment(&self, value: f64) {
        self.change(|old| old + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|old| old - value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl Remembered {
    fn named(&self, key: &Key) -> Arc<Named> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Named(format!("{} {}", key.name(), labels.join(" ")).trim_end().to_owned(), self.clone()))
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.0.lock().unwrap().get(name).map(|value| *value as u64)
    }
}

impl Recorder for Remembered {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.named(key))
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.named(key))
    }

    fn register_histogram(&self, _key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn handled_events_failures_dead_letters_and_lag_are_told_by_handler() {
    let told = Remembered::default();
    metrics::set_global_recorder(told.clone()).unwrap();
    let store = Store::in_memory().unwrap();
    let react = |event: &Event<'_>| if event.stream() == "bad" { Err("it is bad".into()) } else { Ok(()) };
    let mailer = store.react("mailer", react).policy(OnError::park()).start().unwrap();
    let event = || [NewEvent::raw("Happened", "")];
    let commit = ["a", "bad", "b", "bad"].iter();
    let commit = commit.fold(store.commit(), |commit, stream| commit.append(*stream, ExpectedVersion::Any, event()));
    mailer.wait_for(commit.send().unwrap().last_position()).unwrap();
    mailer.stop().unwrap();
    assert_eq!(told.get("annals_events_handled_total handler=mailer"), Some(2));
    assert_eq!(told.get("annals_handler_failures_total handler=mailer"), Some(1));
    assert_eq!(told.get("annals_dead_letters handler=mailer"), Some(2));
    assert_eq!(told.get("annals_subscription_lag_events handler=mailer"), Some(0));
}
