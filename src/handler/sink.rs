//! Sinks: where a relay delivers events to, and how a receiver tells those that it has seen.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::error::HandlerError;
use crate::types::{Position, StoreId};
use crate::{Event, RecordedEvent};

/// Where a relay delivers events: a broker, a webhook, another store. See [`Store::relay`](crate::Store::relay).
///
/// Deliveries come in the order of the store, and at least once: a receiver that must not act twice remembers the
/// [keys](DeduplicationKey) that it has seen, or that of the last of each stream.
pub trait Sink: Send {
    /// Delivers a batch, in its order. All or nothing: after an error none of it counts as delivered, and all of it comes
    /// again, one by one.
    ///
    /// # Errors
    /// What the policy of the relay is to deal with.
    fn deliver(&mut self, batch: &[Outgoing]) -> Result<(), HandlerError>;

    /// The order that the receivers rely on: that within each stream, unless this is implemented.
    fn order(&self) -> DeliveryOrder {
        DeliveryOrder::PerStream
    }
}

/// Which order of deliveries is kept when one fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeliveryOrder {
    /// That within each stream: one that is parked keeps back those of its stream, and others overtake it.
    #[default]
    PerStream,
    /// That of all events: policies that park are refused, and a delivery that fails keeps back all others.
    Global,
}

/// An event on its way out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Outgoing {
    /// What tells it from every other delivery, of this store or another, and is the same each time it is delivered.
    pub key: DeduplicationKey,
    /// The event.
    pub event: RecordedEvent,
}

impl Outgoing {
    /// The only delivery that an event leads to.
    pub fn of(store: StoreId, event: &Event<'_>) -> Self {
        Self { key: DeduplicationKey { store, position: event.position(), ordinal: 0 }, event: event.to_recorded() }
    }
}

/// Tells deliveries apart: the store, the position of the event, and which of the events that it stands for it is.
///
/// As text it is `store/position/ordinal`, such as `018f4e2a-7c1b-7d2e-9f3a-0123456789ab/17/0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeduplicationKey {
    /// The store that the event is in.
    pub store: StoreId,
    /// Its place there.
    pub position: Position,
    /// Which of the events it is that the recorded one stands for, from 0: upcasting can split one.
    pub ordinal: u32,
}

impl fmt::Display for DeduplicationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.store, self.position, self.ordinal)
    }
}

/// A sink that keeps what is delivered in memory, each delivery once, and fails when it is told to: for tests.
///
/// ```
/// use annals::{ExpectedVersion, MemorySink, NewEvent, Store};
///
/// let store = Store::in_memory()?;
/// let sink = MemorySink::new();
/// let relay = store.relay("outbox", sink.clone()).start()?;
/// let opened = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
/// relay.wait_for(opened.last_position())?;
/// assert_eq!(sink.delivered()[0].event.event_type, "Opened");
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemorySink {
    received: Arc<Mutex<Received>>,
    order: DeliveryOrder,
}

#[derive(Debug, Default)]
struct Received {
    delivered: Vec<Outgoing>,
    seen: HashSet<DeduplicationKey>,
    duplicates: usize,
    failures_left: u32,
    refused: HashSet<String>,
}

impl MemorySink {
    /// An empty sink. Its clones are the same sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same sink, for receivers that rely on the order of all events.
    #[must_use]
    pub fn in_global_order(self) -> Self {
        Self { order: DeliveryOrder::Global, ..self }
    }

    /// Everything that was delivered, each once, in the order of the deliveries.
    pub fn delivered(&self) -> Vec<Outgoing> {
        self.received.lock().delivered.clone()
    }

    /// How often something was delivered that had been before.
    pub fn duplicates(&self) -> usize {
        self.received.lock().duplicates
    }

    /// Fails the next calls, so many of them.
    pub fn fail_next(&self, calls: u32) {
        self.received.lock().failures_left = calls;
    }

    /// Fails every call with an event of this stream, until [`accept`](MemorySink::accept).
    pub fn refuse(&self, stream: impl Into<String>) {
        self.received.lock().refused.insert(stream.into());
    }

    /// Takes events of this stream again.
    pub fn accept(&self, stream: &str) {
        self.received.lock().refused.remove(stream);
    }
}

impl Sink for MemorySink {
    fn deliver(&mut self, batch: &[Outgoing]) -> Result<(), HandlerError> {
        let mut received = self.received.lock();
        if received.failures_left > 0 {
            received.failures_left -= 1;
            return Err("the sink was told to fail".into());
        }
        if let Some(refused) = batch.iter().find(|outgoing| received.refused.contains(&outgoing.event.stream)) {
            return Err(format!("the sink refuses events of {:?}", refused.event.stream).into());
        }
        for outgoing in batch {
            if received.seen.insert(outgoing.key) {
                received.delivered.push(outgoing.clone());
            } else {
                received.duplicates += 1;
            }
        }
        Ok(())
    }

    fn order(&self) -> DeliveryOrder {
        self.order
    }
}
