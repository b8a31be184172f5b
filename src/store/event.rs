//! Events: new ones that an application appends, and recorded ones that it reads.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::{Error, Result};
use crate::format::frame::FrameHeader;
use crate::format::record::{self, Record};
use crate::types::{Codec, EventId, Position, StreamVersion, Timestamp, category_of};

/// An event that is to be appended.
///
/// ```
/// use annals::NewEvent;
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Deposited { cents: u64 }
///
/// let event = NewEvent::json("Deposited", &Deposited { cents: 500 })?.tag("branch:7");
/// # Ok::<(), annals::Error>(())
/// ```
///
/// Names and sizes are checked when the commit is sent, all at once; see [`crate::limits`].
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a new event is appended with Store::append or in a commit"]
pub struct NewEvent {
    pub(super) event_type: Cow<'static, str>,
    pub(super) payload: Vec<u8>,
    pub(super) codec: Codec,
    pub(super) schema_version: u32,
    pub(super) id: Option<EventId>,
    pub(super) time: Option<Timestamp>,
    pub(super) tags: Vec<String>,
    pub(super) metadata: Option<Vec<u8>>,
}

impl NewEvent {
    /// An event whose payload is `data` as JSON.
    ///
    /// # Errors
    /// [`Error::Codec`] if `data` cannot be told in JSON, such as a map whose keys are not strings.
    pub fn json(event_type: impl Into<Cow<'static, str>>, data: &impl Serialize) -> Result<Self> {
        let event_type = event_type.into();
        let payload = encode(Codec::Json, &event_type, data)?;
        Ok(Self::from_bytes(event_type, Codec::Json, payload))
    }

    /// An event whose payload is these bytes, which only the application understands.
    pub fn raw(event_type: impl Into<Cow<'static, str>>, payload: impl Into<Vec<u8>>) -> Self {
        Self::from_bytes(event_type, Codec::Raw, payload)
    }

    /// An event whose payload is `data` in the postcard format.
    ///
    /// # Errors
    /// [`Error::Codec`] if `data` cannot be told in postcard.
    #[cfg(feature = "postcard")]
    pub fn postcard(event_type: impl Into<Cow<'static, str>>, data: &impl Serialize) -> Result<Self> {
        let event_type = event_type.into();
        let payload = encode(Codec::Postcard, &event_type, data)?;
        Ok(Self::from_bytes(event_type, Codec::Postcard, payload))
    }

    /// An event whose payload is `data` in the format of bincode 1 with fixed-size integers.
    ///
    /// # Errors
    /// [`Error::Codec`] if `data` cannot be told in bincode.
    #[cfg(feature = "bincode")]
    pub fn bincode(event_type: impl Into<Cow<'static, str>>, data: &impl Serialize) -> Result<Self> {
        let event_type = event_type.into();
        let payload = encode(Codec::Bincode, &event_type, data)?;
        Ok(Self::from_bytes(event_type, Codec::Bincode, payload))
    }

    /// An event whose payload was encoded before. The bytes are taken as they are.
    pub fn from_bytes(event_type: impl Into<Cow<'static, str>>, codec: Codec, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            event_type: event_type.into(),
            payload: payload.into(),
            codec,
            schema_version: 1,
            id: None,
            time: None,
            tags: Vec::new(),
            metadata: None,
        }
    }

    /// Gives the event an id. Without one it gets a new UUID of version 7 when it is first sent.
    pub fn id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// Says when the event happened. Without a time it gets the store's when it is first sent.
    pub fn time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// Adds a tag, by custom `key:value`. One that the event has already is dropped.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds tags.
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Sets the schema version of the payload, which is 1 otherwise.
    pub fn schema_version(mut self, schema_version: u32) -> Self {
        self.schema_version = schema_version;
        self
    }

    /// Sets the metadata, which must be told as a JSON object: who, why, correlation and causation ids, trace context.
    ///
    /// # Errors
    /// [`Error::Codec`] if it cannot be told in JSON.
    pub fn metadata(self, metadata: &impl Serialize) -> Result<Self> {
        let encoded = serde_json::to_vec(metadata).map_err(|error| Error::Codec {
            what: format!("cannot encode the metadata of a {:?} event", self.event_type),
            reason: error.to_string(),
        })?;
        Ok(self.metadata_json(encoded))
    }

    /// Sets the metadata from the text of a JSON object, which is kept byte for byte.
    pub fn metadata_json(mut self, metadata: impl Into<Vec<u8>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// Whether the metadata, if any, is the text of a JSON object.
    pub(super) fn has_valid_metadata(&self) -> bool {
        self.metadata.as_deref().is_none_or(|metadata| {
            // Skipping over a value does not look into its strings, so that the encoding is checked on its own.
            std::str::from_utf8(metadata).is_ok_and(|text| {
                let is_object = text.trim_ascii_start().starts_with('{');
                is_object && serde_json::from_str::<IgnoredAny>(text).is_ok()
            })
        })
    }
}

#[expect(clippy::struct_field_names, reason = "`type` is a keyword")]
/// An event that was read, borrowed from the log for as long as the read stands still.
///
/// What must outlive that is made owned with [`Event::to_recorded`].
#[derive(Debug, Clone)]
pub struct Event<'a> {
    pub(super) position: u64,
    pub(super) commit: u64,
    pub(super) commit_time: i64,
    pub(super) id: [u8; 16],
    pub(super) time: i64,
    pub(super) version: u64,
    pub(super) schema_version: u32,
    pub(super) codec: Codec,
    pub(super) stream: &'a str,
    pub(super) event_type: &'a str,
    pub(super) tags: Tags<'a>,
    pub(super) metadata: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
}

impl<'a> Event<'a> {
    /// The event of a record, whose bytes were verified.
    #[inline]
    pub(super) fn decode(header: &FrameHeader, position: u64, bytes: &'a [u8]) -> Result<Self, &'static str> {
        let record = Record::decode(bytes)?;
        Ok(Self {
            position,
            commit: header.link.first_position,
            commit_time: header.link.commit_time,
            id: record.id(),
            time: record.time(),
            version: record.version(),
            schema_version: record.schema_version(),
            codec: record.codec(),
            stream: record.stream,
            event_type: record.event_type,
            tags: Tags(TagList::Encoded(record.tags())),
            metadata: record.metadata,
            payload: record.payload,
        })
    }

    /// Its place in the store.
    pub fn position(&self) -> Position {
        Position::new(self.position).expect("positions count from 1")
    }

    /// The position of the first event of the commit that it was written with.
    pub fn commit(&self) -> Position {
        Position::new(self.commit).expect("positions count from 1")
    }

    /// When it was committed. Never less than that of an earlier commit.
    pub fn commit_time(&self) -> Timestamp {
        Timestamp::from_nanos(self.commit_time)
    }

    /// Its stream.
    pub fn stream(&self) -> &'a str {
        self.stream
    }

    /// The category of its stream.
    pub fn category(&self) -> &'a str {
        category_of(self.stream)
    }

    /// Its place in its stream.
    pub fn version(&self) -> StreamVersion {
        StreamVersion::new(self.version).expect("versions count from 1")
    }

    /// Its id.
    pub fn id(&self) -> EventId {
        EventId::from_bytes(self.id)
    }

    /// Its type.
    pub fn event_type(&self) -> &'a str {
        self.event_type
    }

    /// The schema version of its payload.
    pub fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// When it happened, by its author.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.time)
    }

    /// Its tags, ascending.
    pub fn tags(&self) -> Tags<'a> {
        self.tags.clone()
    }

    /// Whether it has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags().any(|own| own == tag)
    }

    /// Its metadata as it was given, the text of a JSON object; `None` if it has none.
    pub fn metadata(&self) -> Option<&'a [u8]> {
        self.metadata
    }

    /// How its payload is encoded.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Its payload, as it was encoded.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Its payload decoded by the codec that it was encoded with.
    ///
    /// # Errors
    /// [`Error::Codec`], naming the event, if the payload is not a `T`, or the codec is [`Codec::Raw`] or belongs to a
    /// feature that is not on.
    pub fn decode_payload<T: DeserializeOwned>(&self) -> Result<T> {
        self.codec.decode(self.payload).map_err(|error| {
            error.of(format!(
                "cannot decode the {:?} event at position {} of stream {:?}",
                self.event_type, self.position, self.stream
            ))
        })
    }

    /// The event, owned.
    pub fn to_recorded(&self) -> RecordedEvent {
        RecordedEvent {
            position: self.position(),
            commit: self.commit(),
            commit_time: self.commit_time(),
            stream: self.stream.to_owned(),
            version: self.version(),
            id: self.id(),
            event_type: self.event_type.to_owned(),
            schema_version: self.schema_version,
            time: self.time(),
            tags: self.tags().map(str::to_owned).collect(),
            metadata: self.metadata.map(<[u8]>::to_vec),
            codec: self.codec,
            payload: self.payload.to_vec(),
        }
    }
}

/// An event that was read, owned. Its fields are public, so that tests can build one by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    /// Its place in the store.
    pub position: Position,
    /// The position of the first event of its commit.
    pub commit: Position,
    /// When it was committed.
    pub commit_time: Timestamp,
    /// Its stream.
    pub stream: String,
    /// Its place in its stream.
    pub version: StreamVersion,
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: String,
    /// The schema version of its payload.
    pub schema_version: u32,
    /// When it happened, by its author.
    pub time: Timestamp,
    /// Its tags, ascending, each once.
    pub tags: Vec<String>,
    /// The text of a JSON object; `None` if it has none.
    pub metadata: Option<Vec<u8>>,
    /// How the payload is encoded.
    pub codec: Codec,
    /// The payload, as it was encoded.
    pub payload: Vec<u8>,
}

impl RecordedEvent {
    /// The same event, borrowed.
    pub fn as_event(&self) -> Event<'_> {
        Event {
            position: self.position.number(),
            commit: self.commit.number(),
            commit_time: self.commit_time.nanos(),
            id: self.id.to_bytes(),
            time: self.time.nanos(),
            version: self.version.number(),
            schema_version: self.schema_version,
            codec: self.codec,
            stream: &self.stream,
            event_type: &self.event_type,
            tags: Tags(TagList::Owned(self.tags.iter())),
            metadata: self.metadata.as_deref(),
            payload: &self.payload,
        }
    }
}

/// The tags of an event, ascending.
#[derive(Debug, Clone)]
pub struct Tags<'a>(TagList<'a>);

#[derive(Debug, Clone)]
enum TagList<'a> {
    Encoded(record::Tags<'a>),
    Owned(std::slice::Iter<'a, String>),
}

impl<'a> Iterator for Tags<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match &mut self.0 {
            TagList::Encoded(tags) => tags.next(),
            TagList::Owned(tags) => tags.next().map(String::as_str),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            TagList::Encoded(tags) => tags.size_hint(),
            TagList::Owned(tags) => tags.size_hint(),
        }
    }
}

impl ExactSizeIterator for Tags<'_> {}

fn encode(codec: Codec, event_type: &str, data: &impl Serialize) -> Result<Vec<u8>> {
    codec.encode(data).map_err(|error| error.of(format!("cannot encode the payload of a {event_type:?} event")))
}
