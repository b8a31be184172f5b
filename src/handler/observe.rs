//! What metrics and tracing are told of handlers; without the features it is nothing at all.
//!
//! Metrics, feature `metrics`, each with the label `handler`: `annals_subscription_lag_events` and `annals_dead_letters`
//! (gauges), `annals_events_handled_total` and `annals_handler_failures_total` (counters).

#![cfg_attr(
    not(all(feature = "metrics", feature = "tracing")),
    allow(clippy::unused_self, unused_variables, reason = "nobody listens")
)]

use crate::types::Position;

/// Tells of one handler.
#[derive(Debug)]
pub(super) struct Observer {
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    handler: String,
}

impl Observer {
    pub(super) fn new(handler: &str) -> Self {
        Self {
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            handler: handler.to_owned(),
        }
    }

    pub(super) fn handled(&self, events: usize) {
        #[cfg(feature = "metrics")]
        metrics::counter!("annals_events_handled_total", "handler" => self.handler.clone()).increment(events as u64);
    }

    pub(super) fn failed(&self, position: Position, attempts: u32, error: &super::HandlerError) {
        #[cfg(feature = "metrics")]
        metrics::counter!("annals_handler_failures_total", "handler" => self.handler.clone()).increment(1);
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "annals", handler = self.handler, position = position.number(), attempts, %error, "an event was not handled");
    }

    pub(super) fn gave_up(&self, position: Position, error: &str) {
        #[cfg(feature = "tracing")]
        tracing::error!(target: "annals", handler = self.handler, position = position.number(), error, "an event was put aside");
    }

    pub(super) fn dead_letters(&self, letters: usize) {
        #[cfg(feature = "metrics")]
        metrics::gauge!("annals_dead_letters", "handler" => self.handler.clone()).set(letters as f64);
    }

    /// Whether anybody wants to know the lag, which costs a look at the head.
    pub(super) const fn wants_lag() -> bool {
        cfg!(feature = "metrics")
    }

    pub(super) fn lag(&self, events: u64) {
        #[cfg(feature = "metrics")]
        metrics::gauge!("annals_subscription_lag_events", "handler" => self.handler.clone()).set(events as f64);
    }
}
