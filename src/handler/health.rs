//! The whole of a store's handlers: how they are, and ending them.

use std::time::Duration;

use serde::Serialize;

use super::handle::{HandlerStatus, Remainder, drain_to, remainder, status_of};
use super::letters::load_letters;
use super::registry::Registry;
use crate::error::Result;
use crate::{Lag, Store};

/// How a store and its handlers are. Made to be served as JSON under `/healthz`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether the store takes appends.
    pub writable: bool,
    /// The write or sync that failed, after which it takes none.
    pub poisoned: Option<String>,
    /// Bytes that the file system has left; `None` where that is not known.
    pub disk_free_bytes: Option<u64>,
    /// The lag of the handler that is furthest behind, in events.
    pub worst_lag_events: u64,
    /// The lag of the handler that is furthest behind, in time.
    pub worst_lag_time: Duration,
    /// Dead letters of all registered handlers.
    pub parked: usize,
    /// The handlers that were started since the store was opened.
    pub handlers: Vec<HandlerStatus>,
    /// The names of handlers that are registered and do not run.
    pub not_running: Vec<String>,
}

impl Health {
    /// Whether appends are taken, every registered handler runs without [trouble](HandlerStatus::trouble), and nothing is
    /// parked. How much lag and how little space is too much is for the caller to say.
    pub fn is_ok(&self) -> bool {
        let is_untroubled = self.handlers.iter().all(|handler| handler.trouble.is_none());
        self.writable && self.poisoned.is_none() && self.not_running.is_empty() && self.parked == 0 && is_untroubled
    }
}

/// What all handlers of a store have left.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// What each handler has left that ran.
    pub handlers: Vec<Remainder>,
}

impl ShutdownReport {
    /// Whether every handler has handled everything.
    pub fn is_drained(&self) -> bool {
        self.handlers.iter().all(Remainder::is_drained)
    }
}

impl Store {
    /// How the store and its handlers are, as of now.
    ///
    /// ```
    /// use annals::Store;
    ///
    /// let store = Store::in_memory()?;
    /// let health = store.health()?;
    /// assert!(health.is_ok() && health.handlers.is_empty());
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Store::condition`], [`Store::handlers`] and [`Lag::behind`].
    pub fn health(&self) -> Result<Health> {
        let condition = self.condition()?;
        let mut worst = Lag::default();
        let mut handlers = Vec::new();
        for shared in self.attachment::<Registry>().all() {
            let lag = Lag::behind(self, shared.progress())?;
            worst = Lag { events: worst.events.max(lag.events), time: worst.time.max(lag.time) };
            handlers.push(status_of(&shared));
        }
        let (mut parked, mut not_running) = (0, Vec::new());
        for handler in self.handlers()? {
            if !handler.is_running() {
                parked += load_letters(&self.state()?, &handler.name)?.len();
                not_running.push(handler.name);
            }
        }
        parked +=
            handlers.iter().filter(|handler| !handler.state.is_over()).map(|handler| handler.parked).sum::<usize>();
        Ok(Health {
            writable: condition.is_writable,
            poisoned: condition.failure.map(|failure| failure.to_string()),
            disk_free_bytes: condition.free_bytes,
            worst_lag_events: worst.events,
            worst_lag_time: worst.time,
            parked,
            handlers,
            not_running,
        })
    }

    /// Lets every handler of the store handle everything up to the visible head as of now, and stops it; stops those that
    /// take longer than this, on the clock of the store, where they are. The store stays open: close it next.
    ///
    /// ```
    /// use std::time::Duration;
    /// use annals::Store;
    ///
    /// let store = Store::in_memory()?;
    /// store.react("mailer", |event| Ok(println!("{}", event.event_type()))).start()?.detach();
    /// let report = store.shutdown(Duration::from_secs(5))?;
    /// assert!(report.is_drained() && report.handlers[0].name == "mailer");
    /// store.close()?;
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Store::head`].
    pub fn shutdown(&self, time: Duration) -> Result<ShutdownReport> {
        let mut running = self.attachment::<Registry>().all();
        running.retain(|shared| !shared.has_ended());
        let head = self.head()?;
        let deadline = self.clock().monotonic().saturating_add(time);
        for shared in &running {
            drain_to(shared, head);
        }
        let handlers = running.iter().map(|shared| remainder(shared, head, deadline)).collect();
        Ok(ShutdownReport { handlers })
    }
}
