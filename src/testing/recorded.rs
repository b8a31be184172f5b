//! Recorded events by hand, for what takes one: projections, handlers, upcasters.

use serde::Serialize;

use super::store::{START, store};
use crate::error::{Error, ExpectedVersion, Result};
use crate::types::{Codec, EventId, Position, StreamVersion, Timestamp};
use crate::{EventCodec, Query, RecordedEvent};

/// Begins an event of this type, as if it had been read: at position 1, version 1 of the stream `test-1`, of the time
/// [`START`](super::START), with an empty JSON object as its payload.
///
/// ```
/// use annals::testing::recorded;
/// use serde_json::json;
///
/// let event = recorded("Deposited").stream("account-alice").version(2).position(17).json(&json!({ "cents": 500 }))?.build();
/// assert_eq!(event.as_event().category(), "account");
/// assert_eq!(event.payload, br#"{"cents":500}"#);
/// # Ok::<(), annals::Error>(())
/// ```
pub fn recorded(event_type: impl Into<String>) -> RecordedBuilder {
    let event = RecordedEvent {
        position: Position::FIRST,
        commit: Position::FIRST,
        commit_time: START,
        stream: "test-1".into(),
        version: StreamVersion::FIRST,
        id: EventId::from_bytes([0; 16]),
        event_type: event_type.into(),
        schema_version: 1,
        time: START,
        tags: Vec::new(),
        metadata: None,
        codec: Codec::Json,
        payload: b"{}".to_vec(),
    };
    RecordedBuilder { event }
}

/// Begins an event as this codec records it: its type, schema version, tags and payload are those of `event`. For the
/// rest it is like [`recorded`].
///
/// # Errors
/// [`Error::Codec`] if the codec cannot tell the event; those of [`Store::send`](crate::Store::send) if it cannot be
/// recorded.
pub fn recorded_as<E: Serialize>(codec: &EventCodec<E>, event: &E) -> Result<RecordedBuilder> {
    let store = store();
    store.append("test-1", ExpectedVersion::NoStream, [codec.encode(event)?])?;
    let read = store.read(Query::all()).owned().next().expect("it was appended")?;
    let blank = recorded(read.event_type.clone()).event;
    Ok(RecordedBuilder { event: RecordedEvent { id: blank.id, ..read } })
}

/// A recorded event that is being put together.
#[derive(Debug, Clone)]
#[must_use]
pub struct RecordedBuilder {
    event: RecordedEvent,
}

impl RecordedBuilder {
    /// Its stream.
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.event.stream = stream.into();
        self
    }

    /// Its version.
    ///
    /// # Panics
    /// If the version is 0: they count from 1.
    pub fn version(mut self, version: u64) -> Self {
        self.event.version = StreamVersion::new(version).expect("versions count from 1");
        self
    }

    /// Its position, in a commit of its own. Its id follows from that, unless it is given later.
    ///
    /// # Panics
    /// If the position is 0: they count from 1.
    pub fn position(mut self, position: u64) -> Self {
        self.event.position = Position::new(position).expect("positions count from 1");
        self.event.commit = self.event.position;
        self.event.id = EventId::from_bytes(u128::from(position).to_be_bytes());
        self
    }

    /// Its id.
    pub fn id(mut self, id: EventId) -> Self {
        self.event.id = id;
        self
    }

    /// When it happened and was committed.
    pub fn time(mut self, time: Timestamp) -> Self {
        (self.event.time, self.event.commit_time) = (time, time);
        self
    }

    /// The schema version of its payload.
    pub fn schema_version(mut self, schema_version: u32) -> Self {
        self.event.schema_version = schema_version;
        self
    }

    /// Adds a tag.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.event.tags.push(tag.into());
        self.event.tags.sort_unstable();
        self.event.tags.dedup();
        self
    }

    /// Its payload, as JSON.
    ///
    /// # Errors
    /// [`Error::Codec`] if `data` cannot be told in JSON.
    pub fn json(self, data: &impl Serialize) -> Result<Self> {
        let payload = serde_json::to_vec(data).map_err(|error| Error::Codec {
            what: format!("cannot encode the payload of a {:?} event", self.event.event_type),
            reason: error.to_string(),
        })?;
        Ok(self.payload(Codec::Json, payload))
    }

    /// Its payload, of any codec.
    pub fn payload(mut self, codec: Codec, payload: impl Into<Vec<u8>>) -> Self {
        (self.event.codec, self.event.payload) = (codec, payload.into());
        self
    }

    /// Its metadata, the text of a JSON object.
    pub fn metadata_json(mut self, metadata: impl Into<Vec<u8>>) -> Self {
        self.event.metadata = Some(metadata.into());
        self
    }

    /// The event.
    pub fn build(self) -> RecordedEvent {
        self.event
    }
}
