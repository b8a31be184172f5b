//! Tests of typed events: every shape of a variant in every codec, declarations, upcasters.

#![allow(clippy::unwrap_used, reason = "tests")]

mod declaring;
mod shapes;
mod upcasting;

use serde::Serialize;

use super::{EventCodec, EventTypes};
use crate::types::Codec;
use crate::{EventId, NewEvent, Position, RecordedEvent, StreamVersion, Timestamp};

/// The codecs of serde that this build has.
fn codecs() -> Vec<Codec> {
    [Codec::Json, Codec::Postcard, Codec::Bincode].into_iter().filter(|codec| codec.is_available()).collect()
}

/// A recorded event, by hand.
fn recorded(event_type: &str, schema_version: u32, codec: Codec, payload: impl Into<Vec<u8>>) -> RecordedEvent {
    RecordedEvent {
        position: Position::new(7).unwrap(),
        commit: Position::new(6).unwrap(),
        commit_time: Timestamp::from_millis(1),
        stream: "account-alice".into(),
        version: StreamVersion::new(2).unwrap(),
        id: EventId::from_bytes([5; 16]),
        event_type: event_type.into(),
        schema_version,
        time: Timestamp::from_millis(2),
        tags: vec!["branch:7".into()],
        metadata: None,
        codec,
        payload: payload.into(),
    }
}

/// An event as it would be recorded, through a store.
fn record(event: NewEvent) -> RecordedEvent {
    let store = crate::Store::in_memory().unwrap();
    store.append("account-alice", crate::ExpectedVersion::Any, [event]).unwrap();
    store.read(crate::Query::all()).owned().next().unwrap().unwrap()
}

fn encoded<E: Serialize>(codec: &EventCodec<E>, event: &E) -> RecordedEvent {
    record(codec.encode(event).unwrap())
}

/// Everything that is wrong with a declaration, one violation a line.
fn problems<E: serde::de::DeserializeOwned>(types: EventTypes<E>) -> String {
    match types.check() {
        Ok(codec) => panic!("the declaration is accepted: {codec:?}"),
        Err(crate::Error::Invalid(invalid)) => {
            invalid.violations.iter().fold(String::new(), |told, violation| format!("{told}{violation}\n"))
        }
        Err(other) => panic!("another error: {other}"),
    }
}
