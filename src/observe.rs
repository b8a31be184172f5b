//! What metrics and tracing are told. It wraps what it observes and never stands inside it; without the features it is
//! nothing at all.
//!
//! Metrics, feature `metrics`: `annals_append_duration_seconds` and `annals_fsync_duration_seconds` (histograms; buckets
//! from a microsecond up suit them), `annals_events_appended_total`, `annals_version_conflicts_total` (counters). No
//! label ever names a stream. Spans and events, feature `tracing`, have the target `annals`.

use std::time::Duration;

use crate::clock::Clock;

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
    tell_append(outcome(&result), clock.monotonic().saturating_sub(begun));
    result
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
fn tell_append(outcome: AppendOutcome, duration: Duration) {
    #[cfg(feature = "metrics")]
    {
        metrics::histogram!("annals_append_duration_seconds").record(duration.as_secs_f64());
        match outcome {
            AppendOutcome::Appended(events) => {
                metrics::counter!("annals_events_appended_total").increment(events as u64);
            }
            AppendOutcome::Conflict => metrics::counter!("annals_version_conflicts_total").increment(1),
            AppendOutcome::Deduplicated | AppendOutcome::Failed => {}
        }
    }
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "annals", ?outcome, micros = duration.as_micros() as u64, "appended");
}

/// Tells of a sync of the log that took so long.
#[cfg(feature = "metrics")]
pub(crate) fn synced(duration: Duration) {
    metrics::histogram!("annals_fsync_duration_seconds").record(duration.as_secs_f64());
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
