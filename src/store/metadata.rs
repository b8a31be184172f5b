//! Metadata by its customary names: what an event was caused by, and the trace that it belongs to.
//!
//! The store keeps any JSON object byte for byte; this is the shape that the crate itself writes and reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Store;
use super::event::{Event, RecordedEvent};
use crate::error::{Error, Invalid, Result};
use crate::limits::METADATA_BYTES_MAX;

/// The metadata of an event.
///
/// ```
/// use annals::{ExpectedVersion, Metadata, NewEvent, Query, Store};
///
/// let store = Store::in_memory()?;
/// let request = store.with_metadata(&Metadata::new().correlation_id("request-7").set("user", "alice"))?;
/// request.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
///
/// let mut read = store.read(Query::all());
/// let opened = read.next()?.expect("it was appended");
/// let follow_up = Metadata::caused_by(&opened);
/// assert_eq!(follow_up.correlation_id.as_deref(), Some("request-7"));
/// assert_eq!(follow_up.causation_id, Some(opened.id().to_string()));
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// Shared by everything that one request led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The id of the event or command that led to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// The trace context of the W3C: the trace and the span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The trace context of the W3C: what vendors add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Metadata {
    /// Metadata that says nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The metadata of what an event leads to: its correlation id, or its own id if it has none; its id as the cause;
    /// its trace. What of the event's metadata is not of that form is not taken over.
    pub fn caused_by(event: &Event<'_>) -> Self {
        let cause = event.read_metadata().unwrap_or_default();
        let id = event.id().to_string();
        Self {
            correlation_id: Some(cause.correlation_id.unwrap_or_else(|| id.clone())),
            causation_id: Some(id),
            traceparent: cause.traceparent,
            tracestate: cause.tracestate,
            other: Map::new(),
        }
    }

    /// Sets the correlation id.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the causation id.
    #[must_use]
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.causation_id = Some(id.into());
        self
    }

    /// Sets the trace and the span, as the `traceparent` header has them.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// Sets what vendors add to the trace, as the `tracestate` header has it.
    #[must_use]
    pub fn tracestate(mut self, tracestate: impl Into<String>) -> Self {
        self.tracestate = Some(tracestate.into());
        self
    }

    /// Sets another field.
    #[must_use]
    pub fn set(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.other.insert(field.into(), value.into());
        self
    }

    /// The text of the JSON object, for [`NewEvent::metadata_json`](crate::NewEvent::metadata_json).
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has more than [`METADATA_BYTES_MAX`] bytes.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::Codec { what: "cannot encode metadata".into(), reason: error.to_string() })?;
        if json.len() > METADATA_BYTES_MAX {
            let problem = format!("has {} bytes, at most {METADATA_BYTES_MAX} are allowed", json.len());
            return Err(Invalid::of("metadata", problem).into());
        }
        Ok(json)
    }
}

impl Event<'_> {
    /// Its metadata by the customary names; empty if it has none.
    ///
    /// # Errors
    /// [`Error::Codec`], naming the event, if one of the customary names has another value than a text.
    pub fn read_metadata(&self) -> Result<Metadata> {
        let Some(json) = self.metadata() else { return Ok(Metadata::default()) };
        serde_json::from_slice(json).map_err(|error| Error::Codec {
            what: format!(
                "cannot decode the metadata of the {:?} event at position {}",
                self.event_type(),
                self.position()
            ),
            reason: error.to_string(),
        })
    }
}

impl RecordedEvent {
    /// See [`Event::read_metadata`].
    ///
    /// # Errors
    /// Those of [`Event::read_metadata`].
    pub fn read_metadata(&self) -> Result<Metadata> {
        self.as_event().read_metadata()
    }
}

impl Store {
    /// The metadata that this handle gives to events without any, as the text of a JSON object; `None` if it gives none.
    pub fn given_metadata(&self) -> Option<&[u8]> {
        self.metadata.as_deref()
    }

    /// A handle of the same store that gives this metadata to every event appended through it that has none of its own.
    /// It replaces what this handle gives.
    ///
    /// # Errors
    /// Those of [`Metadata::to_json`].
    pub fn with_metadata(&self, metadata: &Metadata) -> Result<Store> {
        let metadata = Arc::from(metadata.to_json()?);
        Ok(Store { metadata: Some(metadata), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExpectedVersion;
    use crate::store::{NewEvent, Query};

    fn metadata_of(store: &Store) -> Vec<Metadata> {
        store.read(Query::all()).owned().map(|event| event.unwrap().read_metadata().unwrap()).collect()
    }

    #[test]
    fn a_handle_gives_its_metadata_to_events_without() {
        let store = Store::in_memory().unwrap();
        let given = Metadata::new().correlation_id("c").traceparent("00-1-2-01").tracestate("a=b").set("user", "alice");
        let request = store.with_metadata(&given).unwrap();
        let own = Metadata::new().causation_id("x");
        let events = [NewEvent::raw("A", ""), NewEvent::raw("B", "").metadata(&own).unwrap()];
        request.commit().append("a-1", ExpectedVersion::Any, events).send().unwrap();
        store.append("a-1", ExpectedVersion::Any, [NewEvent::raw("C", "")]).unwrap();
        let replaced = request.with_metadata(&Metadata::new().set("user", "bob")).unwrap();
        replaced.append("a-1", ExpectedVersion::Any, [NewEvent::raw("D", "")]).unwrap();
        let bob = Metadata::new().set("user", "bob");
        assert_eq!(metadata_of(&store), [given, own, Metadata::new(), bob]);
    }

    #[test]
    fn what_an_event_leads_to_carries_its_correlation_and_trace() {
        let store = Store::in_memory().unwrap();
        let given = Metadata::new().correlation_id("c").traceparent("00-1-2-01").set("user", "alice");
        store.with_metadata(&given).unwrap().append("a-1", ExpectedVersion::Any, [NewEvent::raw("A", "")]).unwrap();
        let odd = NewEvent::raw("B", "").metadata_json(r#"{"correlation_id": 7}"#);
        store.append("a-1", ExpectedVersion::Any, [odd]).unwrap();
        let events: Vec<_> = store.read(Query::all()).owned().map(Result::unwrap).collect();
        let caused = Metadata::caused_by(&events[0].as_event());
        let id = events[0].id.to_string();
        assert_eq!(caused, Metadata::new().correlation_id("c").causation_id(id).traceparent("00-1-2-01"));
        assert!(matches!(events[1].read_metadata(), Err(Error::Codec { .. })));
        let id = events[1].id.to_string();
        assert_eq!(Metadata::caused_by(&events[1].as_event()), Metadata::new().correlation_id(&id).causation_id(&id));
    }

    #[test]
    fn metadata_has_a_limit() {
        let store = Store::in_memory().unwrap();
        let around = Metadata::new().set("a", "").to_json().unwrap().len();
        let longest = Metadata::new().set("a", "x".repeat(METADATA_BYTES_MAX - around));
        store.with_metadata(&longest).unwrap().append("a-1", ExpectedVersion::Any, [NewEvent::raw("A", "")]).unwrap();
        let longer = Metadata::new().set("a", "x".repeat(METADATA_BYTES_MAX - around + 1));
        assert!(matches!(store.with_metadata(&longer), Err(Error::Invalid(_))));
    }
}
