//! Upcasters: what turns one event as it was written then into the events that it is told as now.
//!
//! An upcaster knows its source (a type and a schema version) and all that it can turn it into, so that a chain of them
//! can be checked before the first event is read. It never sees where an event stands, and never changes the log.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::types::Codec;

/// What a function that upcasts may fail with: any error, or a text with `?` or `.into()`.
pub type UpcastError = Box<dyn std::error::Error + Send + Sync>;

/// Turns events of one type and schema version into 0 to n events of the next.
///
/// By default the result has the same type and the next schema version. [`Upcaster::to`] names other targets.
///
/// ```
/// use annals::{Upcast, Upcaster};
///
/// // Version 2 has a currency.
/// let currency = Upcaster::one("Deposited", 1, |mut payload| {
///     payload["currency"] = "EUR".into();
///     Ok(payload)
/// });
/// // What was one event became two.
/// let moved = Upcaster::json("Moved", 1, |payload| {
///     Ok(vec![Upcast::of("StreetChanged", payload["street"].clone()), Upcast::of("CityChanged", payload["city"].clone())])
/// })
/// .to("StreetChanged", 1)
/// .to("CityChanged", 1);
/// let renamed = Upcaster::rename("Opened", 1).to("AccountOpened", 1);
/// let dropped = Upcaster::drop("Clicked", 1);
/// ```
#[derive(Clone)]
#[must_use = "an upcaster is given to EventTypes::upcast or Upcasters::new"]
pub struct Upcaster {
    event_type: String,
    version: u32,
    /// Empty for the same type in the next version.
    targets: Vec<(String, u32)>,
    step: Step,
}

type JsonStep = dyn Fn(Value) -> Result<Vec<Upcast>, UpcastError> + Send + Sync;
type OneStep = dyn Fn(Value) -> Result<Value, UpcastError> + Send + Sync;
type TypedStep = dyn Fn(Codec, &[u8]) -> Result<Vec<Upcast>> + Send + Sync;

#[derive(Clone)]
pub(super) enum Step {
    /// The payload stays as it is.
    Keep,
    Drop,
    Json(Arc<JsonStep>),
    One(Arc<OneStep>),
    Typed(Arc<TypedStep>),
}

impl Upcaster {
    fn new(event_type: impl Into<String>, version: u32, step: Step) -> Self {
        Self { event_type: event_type.into(), version, targets: Vec::new(), step }
    }

    /// Turns a JSON payload into any number of events. Works for events whose codec is [`Codec::Json`].
    pub fn json(
        event_type: impl Into<String>,
        version: u32,
        upcast: impl Fn(Value) -> Result<Vec<Upcast>, UpcastError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(event_type, version, Step::Json(Arc::new(upcast)))
    }

    /// Turns a JSON payload into that of one event. Works for events whose codec is [`Codec::Json`].
    pub fn one(
        event_type: impl Into<String>,
        version: u32,
        upcast: impl Fn(Value) -> Result<Value, UpcastError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(event_type, version, Step::One(Arc::new(upcast)))
    }

    /// Turns the payload as it was, an `Old`, into that of one event, a `New`. Works for every codec of serde.
    ///
    /// The payload of a variant is what stands inside: for `Opened { owner: String }` a struct with that field.
    pub fn typed<Old: DeserializeOwned, New: Serialize>(
        event_type: impl Into<String>,
        version: u32,
        upcast: impl Fn(Old) -> New + Send + Sync + 'static,
    ) -> Self {
        let step = move |codec: Codec, payload: &[u8]| {
            let new = upcast(codec.decode(payload)?);
            Ok(vec![Upcast { event_type: None, payload: Payload::Encoded(codec.encode(&new)?) }])
        };
        Self::new(event_type, version, Step::Typed(Arc::new(step)))
    }

    /// Turns the payload as it was, an `Old`, into any number of events. Works for every codec of serde; the results
    /// are made with [`Upcast::typed`].
    pub fn typed_many<Old: DeserializeOwned>(
        event_type: impl Into<String>,
        version: u32,
        upcast: impl Fn(Old) -> Vec<Upcast> + Send + Sync + 'static,
    ) -> Self {
        let step = move |codec: Codec, payload: &[u8]| Ok(upcast(codec.decode(payload)?));
        Self::new(event_type, version, Step::Typed(Arc::new(step)))
    }

    /// Leaves the payload as it is and gives the event the type, and schema version, that [`Upcaster::to`] names; or
    /// the next schema version if it names none. Works for every codec.
    pub fn rename(event_type: impl Into<String>, version: u32) -> Self {
        Self::new(event_type, version, Step::Keep)
    }

    /// Turns the event into none: it is read over. Works for every codec.
    pub fn drop(event_type: impl Into<String>, version: u32) -> Self {
        Self::new(event_type, version, Step::Drop)
    }

    /// Says what comes out: a type and its schema version. Call it once for each type that the function can return.
    pub fn to(mut self, event_type: impl Into<String>, version: u32) -> Self {
        self.targets.push((event_type.into(), version));
        self
    }

    /// The type and schema version of the events that it takes.
    pub fn source(&self) -> (&str, u32) {
        (&self.event_type, self.version)
    }

    /// The types and schema versions that can come out; empty if it drops the event.
    pub fn targets(&self) -> impl Iterator<Item = (&str, u32)> {
        let named = self.targets.iter().map(|(event_type, version)| (event_type.as_str(), *version));
        let is_next = self.targets.is_empty() && !matches!(self.step, Step::Drop);
        let next = is_next.then(|| (self.event_type.as_str(), self.version.saturating_add(1)));
        named.chain(next)
    }

    /// Whether it can only return one event, so that the result need not say its type.
    pub(super) fn is_one_to_one(&self) -> bool {
        matches!(self.step, Step::Keep | Step::One(_))
    }

    pub(super) fn drops(&self) -> bool {
        matches!(self.step, Step::Drop)
    }

    pub(super) fn step(&self) -> &Step {
        &self.step
    }
}

impl fmt::Debug for Upcaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upcaster")
            .field("source", &self.source())
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

/// One event that comes out of an upcaster.
#[derive(Debug)]
#[must_use = "what comes out of an upcaster is returned from its function"]
pub struct Upcast {
    pub(super) event_type: Option<String>,
    pub(super) payload: Payload,
}

impl Upcast {
    /// An event of the upcaster's own type, or of its only target.
    pub fn same(payload: Value) -> Self {
        Self { event_type: None, payload: Payload::Json(payload) }
    }

    /// An event of another type, which is one of the upcaster's targets.
    pub fn of(event_type: impl Into<String>, payload: Value) -> Self {
        Self { event_type: Some(event_type.into()), payload: Payload::Json(payload) }
    }

    /// An event of one of the upcaster's targets, with a typed payload: for [`Upcaster::typed_many`].
    pub fn typed(event_type: impl Into<String>, payload: impl Serialize + 'static) -> Self {
        let encode = move |codec: Codec| codec.encode(&payload);
        Self { event_type: Some(event_type.into()), payload: Payload::Typed(Box::new(encode)) }
    }
}

/// What an upcaster made of a payload.
pub(super) enum Payload {
    Json(Value),
    Encoded(Vec<u8>),
    /// Encoded once the codec is known.
    Typed(Box<dyn Fn(Codec) -> Result<Vec<u8>>>),
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Json(value) => value.fmt(f),
            Payload::Encoded(bytes) => bytes.fmt(f),
            Payload::Typed(_) => f.write_str("typed"),
        }
    }
}

/// The error of an upcaster, before anybody has said which event it was about.
pub(super) fn failed(reason: impl fmt::Display) -> Error {
    Error::Codec { what: "cannot upcast".into(), reason: reason.to_string() }
}
