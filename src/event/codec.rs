//! The checked declaration of an enum of events: encodes its values, and decodes recorded events, through upcasters
//! where they are old.
//!
//! Decoding an event of a current version looks its type up in a small table and allocates nothing but what the value
//! itself does.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed};
use smallvec::{SmallVec, smallvec};

use super::capture::{Body, Captured, capture};
use super::chain::{Stage, StagePayload, Upcasters, unknown};
use super::names::NameTable;
use super::variant::VariantSeed;
use crate::error::{Error, Result};
use crate::limits::QUERY_ITEM_NAMES_MAX;
use crate::types::Codec;
use crate::{Event, NewEvent, Query};

/// Encodes and decodes the events of an enum, as [`EventTypes`](crate::EventTypes) declared them. Cheap to clone.
pub struct EventCodec<E> {
    shared: Arc<Shared<E>>,
}

pub(super) struct Shared<E> {
    pub(super) codec: Codec,
    /// By name of the variant: what it is recorded as.
    pub(super) variants: NameTable<Recorded>,
    /// By event type: what is decoded without upcasting.
    pub(super) current: NameTable<Current>,
    pub(super) upcasters: Upcasters,
    pub(super) event_types: Vec<String>,
    pub(super) tags: Option<Arc<TagsOf<E>>>,
    pub(super) raw: Option<RawCodec<E>>,
    pub(super) samples: Vec<E>,
}

pub(super) type TagsOf<E> = dyn Fn(&E) -> Vec<String> + Send + Sync;

/// An event type and the schema version that it is written in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recorded {
    pub(super) event_type: &'static str,
    pub(super) version: u32,
}

/// The variant that a type is decoded as, in the one version that needs no upcasting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) variant: &'static str,
    pub(super) version: u32,
}

/// Bytes that the application makes and understands itself.
pub(super) struct RawCodec<E> {
    pub(super) encode: Arc<RawEncode<E>>,
    pub(super) decode: Arc<RawDecode<E>>,
}

type RawEncode<E> = dyn Fn(&E) -> Result<Vec<u8>> + Send + Sync;
type RawDecode<E> = dyn Fn(&str, &[u8]) -> Result<E> + Send + Sync;

/// The body of an event, encoded, and what it is recorded as.
pub(super) struct Encoded {
    pub(super) recorded: Recorded,
    pub(super) payload: Vec<u8>,
}

impl<E> EventCodec<E> {
    pub(super) fn new(shared: Shared<E>) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// The types of events that can be decoded: those of the variants, and those that upcasters take.
    pub fn event_types(&self) -> &[String] {
        &self.shared.event_types
    }

    /// The query for every event that can be decoded. Narrow it with [`Query::and_stream`] and the like if there are at
    /// most [`QUERY_ITEM_NAMES_MAX`] types, which then are one item.
    pub fn query(&self) -> Query {
        let items = self.shared.event_types.chunks(QUERY_ITEM_NAMES_MAX).map(Query::types);
        items.reduce(Query::or).expect("an enum of events has a variant")
    }

    /// The samples that were declared.
    pub fn samples(&self) -> &[E] {
        &self.shared.samples
    }

    /// How new events are encoded.
    pub fn codec(&self) -> Codec {
        self.shared.codec
    }

    /// The schema version that events of this type are written in; `None` if no variant is recorded as it.
    pub fn schema_version(&self, event_type: &str) -> Option<u32> {
        self.shared.current.find(event_type).map(|current| current.version)
    }
}

#[cfg(feature = "schema")]
impl<E> EventCodec<E> {
    /// What each variant is recorded as.
    pub(super) fn recorded(&self) -> impl Iterator<Item = (&str, &Recorded)> {
        self.shared.variants.iter()
    }

    /// The types and schema versions that upcasters take.
    pub(super) fn upcast_sources(&self) -> impl Iterator<Item = (&str, u32)> {
        self.shared.upcasters.sources()
    }
}

impl<E: Serialize> EventCodec<E> {
    /// The event as it is appended: its type, payload, schema version, codec and tags are set.
    ///
    /// # Errors
    /// [`Error::Codec`] if the codec cannot tell the event.
    pub fn encode(&self, event: &E) -> Result<NewEvent> {
        let Encoded { recorded, payload } = self.shared.encode(event)?;
        let new = NewEvent::from_bytes(recorded.event_type, self.shared.codec, payload);
        let new = new.schema_version(recorded.version);
        Ok(match &self.shared.tags {
            Some(tags) => new.tags(tags(event)),
            None => new,
        })
    }
}

impl<E: DeserializeOwned> EventCodec<E> {
    /// Decodes a recorded event. What it was upcast into comes in order: usually one event, none if it was dropped.
    ///
    /// # Errors
    /// [`Error::UnknownEvent`] if its type or schema version was not declared; [`Error::Codec`], naming the event, if
    /// its payload cannot be decoded or upcast.
    #[inline]
    pub fn decode(&self, event: &Event<'_>) -> Result<Decoded<E>> {
        match self.shared.current.find(event.event_type()) {
            Some(current) if current.version == event.schema_version() => {
                let decoded = self.shared.decode(current.variant, event.event_type(), event.codec(), event.payload());
                let event = decoded.map_err(|reason| cannot_decode(event, reason))?;
                Ok(Decoded(smallvec![event].into_iter()))
            }
            _ => self.shared.decode_old(event),
        }
    }
}

impl<E: Serialize> Shared<E> {
    pub(super) fn encode(&self, event: &E) -> Result<Encoded> {
        let (payload, captured) = match &self.raw {
            Some(raw) if self.codec == Codec::Raw => ((raw.encode)(event), capture(event)),
            _ => {
                let body = Body::new(event);
                (self.codec.encode(&body), body.captured())
            }
        };
        let recorded = self.recorded_as(captured)?;
        let what = || format!("cannot encode the payload of a {:?} event", recorded.event_type);
        Ok(Encoded { recorded, payload: payload.map_err(|error| error.of(what()))? })
    }

    fn recorded_as(&self, captured: Captured) -> Result<Recorded> {
        let reason = match captured {
            Captured::Variant(variant) => match self.variants.find(variant) {
                Some(recorded) => return Ok(*recorded),
                None => format!("it is written as variant {variant:?}, which it cannot be read as"),
            },
            Captured::Other(what) => {
                format!("an event is a variant of an externally tagged enum, and this serializes as {what}")
            }
            Captured::Nothing => "it gives an error of its own, or nothing".into(),
        };
        Err(Error::Codec { what: format!("cannot encode an event of {}", std::any::type_name::<E>()), reason })
    }
}

impl<E: DeserializeOwned> Shared<E> {
    #[inline]
    pub(super) fn decode(&self, variant: &str, event_type: &str, codec: Codec, payload: &[u8]) -> Result<E, String> {
        match (&self.raw, codec) {
            (Some(raw), Codec::Raw) => (raw.decode)(event_type, payload).map_err(|error| error.to_string()),
            _ => codec.try_decode(payload, VariantSeed::new(variant)),
        }
    }

    /// Decodes what is not of a current version.
    #[cold]
    fn decode_old(&self, event: &Event<'_>) -> Result<Decoded<E>> {
        if !self.upcasters.takes(event.event_type(), event.schema_version()) {
            return Err(unknown(event, event.event_type(), event.schema_version()));
        }
        let stages = self.upcasters.follow(event)?;
        let decoded: Result<SmallVec<[E; 1]>> =
            stages.into_iter().map(|stage| self.decode_stage(stage, event)).collect();
        Ok(Decoded(decoded?.into_iter()))
    }

    fn decode_stage(&self, stage: Stage<'_>, event: &Event<'_>) -> Result<E> {
        let current =
            self.current.find(&stage.event_type).filter(|current| stage.is(&stage.event_type, current.version));
        let Some(current) = current else { return Err(unknown(event, &stage.event_type, stage.version)) };
        let decoded = match stage.payload {
            StagePayload::Json(value) => {
                VariantSeed::new(current.variant).deserialize(value).map_err(|error| error.to_string())
            }
            StagePayload::Bytes(bytes) => self.decode(current.variant, &stage.event_type, event.codec(), &bytes),
        };
        decoded.map_err(|reason| cannot_decode(event, reason))
    }
}

impl<'a> Event<'a> {
    /// Decodes the event as a variant of a plain enum, the one that is named as its type, without a declaration:
    /// nothing is renamed or upcast, and its schema version is not looked at. Texts may be borrowed from the payload.
    ///
    /// ```
    /// use annals::{ExpectedVersion, NewEvent, Query, Store};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Debug, PartialEq, Deserialize)]
    /// enum AccountEvent<'a> {
    ///     Opened { owner: &'a str },
    /// }
    ///
    /// let store = Store::in_memory()?;
    /// let opened = NewEvent::json("Opened", &serde_json::json!({ "owner": "Alice" }))?;
    /// store.append("account-alice", ExpectedVersion::Any, [opened])?;
    /// let mut read = store.read(Query::all());
    /// let event = read.next()?.expect("there is an event");
    /// assert_eq!(event.decode_as::<AccountEvent<'_>>()?, AccountEvent::Opened { owner: "Alice" });
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Codec`], naming the event, if it is no such variant.
    pub fn decode_as<E: Deserialize<'a>>(&self) -> Result<E> {
        let decoded = self.codec().try_decode(self.payload(), VariantSeed::new(self.event_type()));
        decoded.map_err(|reason| cannot_decode(self, reason))
    }
}

#[cold]
fn cannot_decode(event: &Event<'_>, reason: String) -> Error {
    let (event_type, position, stream) = (event.event_type(), event.position(), event.stream());
    Error::Codec {
        what: format!("cannot decode the {event_type:?} event at position {position} of stream {stream:?}"),
        reason,
    }
}

impl<E> Clone for EventCodec<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<E> fmt::Debug for EventCodec<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventCodec")
            .field("codec", &self.shared.codec)
            .field("event_types", &self.shared.event_types)
            .finish_non_exhaustive()
    }
}

/// The events that one recorded event is told as, in order of their ordinals, which count from 0.
#[derive(Debug)]
pub struct Decoded<E>(smallvec::IntoIter<[E; 1]>);

impl<E> Decoded<E> {
    /// The events that are left.
    pub fn as_slice(&self) -> &[E] {
        self.0.as_slice()
    }
}

impl<E> Iterator for Decoded<E> {
    type Item = E;

    #[inline]
    fn next(&mut self) -> Option<E> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<E> ExactSizeIterator for Decoded<E> {}
