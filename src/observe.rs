//! What metrics and tracing are told. It wraps what it observes and never stands inside it; without the features it is
//! nothing at all.
//!
//! Metrics, feature `metrics`: `annals_append_duration_seconds` and `annals_fsync_duration_seconds` (histograms; buckets
//! from a microsecond up suit them), `annals_events_appended_total`, `annals_version_conflicts_total` (counters). No
//! label ever names a stream. A store can be given one label of its own, for all its metrics. Spans and events, feature `tracing`, have the target `annals`.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;

/// A label on all metrics of a store.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "nobody listens"))]
pub(crate) struct Label {
    name: &'static str,
    value: Arc<str>,
}

impl Label {
    pub(crate) fn new(name: &'static str, value: &str) -> Self {
        Self { name, value: Arc::from(value) }
    }
}

/// The labels of a metric; without one of the store's own this allocates nothing.
#[cfg(feature = "metrics")]
fn labels(label: Option<&Label>) -> Vec<metrics::Label> {
    label.map(|label| metrics::Label::new(label.name, Arc::clone(&label.value))).into_iter().collect()
}

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendOutcome {
    /// So many events were written.
    Appended(usize),
    /// They had been written before.
    Deduplicated,
    /// An expectation did not hold.
    Conflict,
    Failed,
}

/// Observes an append.
#[inline]
pub(crate) fn append<T>(
    clock: &dyn Clock,
    label: Option<&Label>,
    events: usize,
    append: impl FnOnce() -> T,
    outcome: impl FnOnce(&T) -> AppendOutcome,
) -> T {
    if !cfg!(any(feature = "metrics", feature = "tracing")) {
        return append();
    }
    let _span = span(events);
    let begun = clock.monotonic();
    let result = append();
    tell_append(label, outcome(&result), clock.monotonic().saturating_sub(begun));
    result
}

/// Observes appends that are sent together: each takes as long as all of them.
pub(crate) fn appends<T>(
    clock: &dyn Clock,
    label: Option<&Label>,
    append: impl FnOnce() -> Vec<T>,
    outcome: impl Fn(&T) -> AppendOutcome,
) -> Vec<T> {
    if !cfg!(any(feature = "metrics", feature = "tracing")) {
        return append();
    }
    let begun = clock.monotonic();
    let results = append();
    let duration = clock.monotonic().saturating_sub(begun);
    for result in &results {
        tell_append(label, outcome(result), duration);
    }
    results
}

#[cfg(feature = "tracing")]
fn span(events: usize) -> tracing::span::EnteredSpan {
    tracing::debug_span!(target: "annals", "append", events).entered()
}

/// Stands for the span that nobody asked for.
#[cfg(not(feature = "tracing"))]
struct NoSpan;

#[cfg(not(feature = "tracing"))]
fn span(_events: usize) -> NoSpan {
    NoSpan
}

#[cfg_attr(not(any(feature = "metrics", feature = "tracing")), expect(unused_variables, reason = "nobody listens"))]
fn tell_append(label: Option<&Label>, outcome: AppendOutcome, duration: Duration) {
    #[cfg(feature = "metrics")]
    {
        metrics::histogram!("annals_append_duration_seconds", labels(label)).record(duration.as_secs_f64());
        match outcome {
            AppendOutcome::Appended(events) => {
                metrics::counter!("annals_events_appended_total", labels(label)).increment(events as u64);
            }
            AppendOutcome::Conflict => metrics::counter!("annals_version_conflicts_total", labels(label)).increment(1),
            AppendOutcome::Deduplicated | AppendOutcome::Failed => {}
        }
    }
    #[cfg(feature = "tracing")]
    {
        let label = label.map(|label| &*label.value);
        tracing::debug!(target: "annals", label, ?outcome, micros = duration.as_micros() as u64, "appended");
    }
}

/// Tells of a sync of the log that took so long.
#[cfg(feature = "metrics")]
pub(crate) fn synced(label: Option<&Label>, duration: Duration) {
    metrics::histogram!("annals_fsync_duration_seconds", labels(label)).record(duration.as_secs_f64());
}

/// Tells of what opening a store found.
#[cfg_attr(not(feature = "tracing"), expect(unused_variables, reason = "nobody listens"))]
pub(crate) fn opened(path: &std::path::Path, cut_bytes: u64, indexed_events: u64) {
    #[cfg(feature = "tracing")]
    if cut_bytes == 0 {
        tracing::info!(target: "annals", path = %path.display(), indexed_events, "opened");
    } else {
        tracing::warn!(target: "annals", path = %path.display(), cut_bytes, indexed_events, "opened after a crash");
    }
}
