//! What the `metrics` feature tells, by the names that dashboards are built on.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use annals::{ExpectedVersion, NewEvent, Store};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Remembers the sum of each counter and the number of values of each histogram, and refuses labels.
#[derive(Debug, Clone, Default)]
struct Remembered(Arc<Mutex<BTreeMap<String, u64>>>);

#[derive(Debug)]
struct Named(String, Remembered);

impl Named {
    fn add(&self, value: u64) {
        *self.1.0.lock().unwrap().entry(self.0.clone()).or_default() += value;
    }
}

impl CounterFn for Named {
    fn increment(&self, value: u64) {
        self.add(value);
    }

    fn absolute(&self, _value: u64) {
        panic!("{} only ever grows by what happened", self.0);
    }
}

impl HistogramFn for Named {
    fn record(&self, value: f64) {
        assert!(value >= 0.0, "{} are seconds", self.0);
        self.add(1);
    }
}

impl Remembered {
    fn named(&self, key: &Key) -> Arc<Named> {
        assert_eq!(key.labels().len(), 0, "no metric of the store has a label, least of all a stream");
        Arc::new(Named(key.name().to_owned(), self.clone()))
    }

    fn get(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl Recorder for Remembered {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.named(key))
    }

    fn register_gauge(&self, _key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.named(key))
    }
}

#[test]
fn appends_conflicts_events_and_syncs_are_counted() {
    let told = Remembered::default();
    metrics::with_local_recorder(&told, || {
        let store = Store::in_memory().unwrap();
        let events = || [NewEvent::raw("A", "1"), NewEvent::raw("B", "2")];
        store.append("account-1", ExpectedVersion::NoStream, events()).unwrap();
        store.append("account-1", ExpectedVersion::NoStream, events()).unwrap_err();
        store.append("account-2", ExpectedVersion::NoStream, events()).unwrap();
    });
    assert_eq!(told.get("annals_events_appended_total"), 4);
    assert_eq!(told.get("annals_version_conflicts_total"), 1);
    assert_eq!(told.get("annals_append_duration_seconds"), 3);
    assert!(told.get("annals_fsync_duration_seconds") >= 2, "two commits were synced");
}

/// Those of the state were counted twice: its disk stands in that of the store, which is observed as well.
#[test]
#[cfg(feature = "testing")]
fn every_sync_is_counted_once() {
    let (told, disk) = (Remembered::default(), annals::testing::FaultyDisk::new());
    metrics::with_local_recorder(&told, || {
        let store = disk.open(annals::Options::new().without_background_work()).unwrap();
        store.append("account-1", ExpectedVersion::NoStream, [NewEvent::raw("A", "1")]).unwrap();
        store.state().unwrap().put("key", "value").unwrap();
        store.close().unwrap();
    });
    assert_eq!(told.get("annals_fsync_duration_seconds"), disk.syncs());
}
