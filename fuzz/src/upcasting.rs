//! Rules, an event, and an enum that it may be read as, out of the fuzzer's bytes.

use annals::limits::UPCAST_EVENTS_MAX;
use annals::{
    Codec, Error, EventCodec, EventId, EventTypes, Position, RecordedEvent, StreamVersion, Timestamp, UpcastRules,
    Upcasters,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::allocation::within;

/// One event, and what it is upcast by. The bytes are three lines: type and schema version, the payload, the rules.
struct Case {
    /// The event.
    event: RecordedEvent,
    /// The rules, which fit together.
    upcasters: Upcasters,
}

/// What events may be read as; it has every shape of a variant.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Shapes {
    Unit,
    Newtype(Option<i64>),
    Tuple(u8, String),
    Struct { name: String, left: Option<Vec<u32>>, nested: Nested },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Nested {
    None,
    Number(f64),
    Text { text: String },
}

/// What is allocated whatever the rules are, of which 2 KiB were seen.
const BYTES_MAX: usize = 4 << 10;
/// What an event that is read may take for each byte of its text and of what rules add to it, of which 95 were seen: an
/// object of one field has a node for eleven, and a text of seven bytes.
const FACTOR: usize = 128;

/// Reads the bytes as rules and an event, and does everything that can be done with them.
pub fn check(bytes: &[u8]) {
    within(BYTES_MAX + FACTOR * bytes.len() * events_max(bytes), || check_case(bytes));
}

/// How many events the rules may make of one on its way: each rule splits it once, into so many parts. When there are too
/// many, that is found behind the last split.
fn events_max(bytes: &[u8]) -> usize {
    let text = bytes.splitn(3, |byte| *byte == b'\n').nth(2);
    let rules = text.and_then(|text| serde_json::from_slice::<Value>(text).ok());
    let rules = rules.as_ref().and_then(|rules| rules["rules"].as_array());
    let parts = || rules.into_iter().flatten().filter_map(|rule| rule["split"].as_array()).map(Vec::len);
    let made = parts().fold(1, |made: usize, parts| made.saturating_mul(parts.max(1)));
    made.min(UPCAST_EVENTS_MAX + parts().max().unwrap_or(0))
}

fn check_case(bytes: &[u8]) {
    let Some(case) = Case::parse(bytes) else { return };
    // What was upcast can be upcast no further, and reads as an event of the enum or as an error that names it.
    for event in case.upcast() {
        assert!(!case.upcasters.takes(&event.event_type, event.schema_version));
        check_decoding(&event);
    }
    check_decoding(&case.event);
}

impl Case {
    /// `None` if the bytes are not three lines, or the last is no file of rules.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
        let (name, payload) = (std::str::from_utf8(lines.next()?).ok()?, lines.next()?);
        let rules = UpcastRules::from_json(std::str::from_utf8(lines.next()?).ok()?).ok()?;
        let (event_type, version) = name.rsplit_once(' ')?;
        let event = RecordedEvent {
            position: Position::FIRST,
            commit: Position::FIRST,
            commit_time: Timestamp::default(),
            stream: "fuzzed".into(),
            version: StreamVersion::FIRST,
            id: EventId::from_bytes([7; 16]),
            event_type: event_type.into(),
            schema_version: version.parse().ok()?,
            time: Timestamp::default(),
            tags: Vec::new(),
            metadata: None,
            codec: Codec::Json,
            payload: payload.into(),
        };
        Some(Self { event, upcasters: Upcasters::new(rules).ok()? })
    }

    /// What the event is upcast into; nothing if a rule cannot be applied.
    fn upcast(&self) -> Vec<RecordedEvent> {
        let events = match self.upcasters.upcast(&self.event.as_event()) {
            Ok(events) => events,
            Err(Error::Codec { .. }) => return Vec::new(),
            Err(other) => panic!("another error: {other}"),
        };
        for event in &events {
            let stands = |event: &RecordedEvent| (event.position, event.version, event.id, event.stream.clone());
            assert_eq!(stands(event), stands(&self.event), "an event left its place");
        }
        events
    }
}

/// Reads the event as one of `Shapes`. What can be read is written and read again, the same.
fn check_decoding(event: &RecordedEvent) {
    let shapes: EventCodec<Shapes> = EventTypes::new().check().expect("the declaration is right");
    match shapes.decode(&event.as_event()) {
        Ok(decoded) => {
            for shape in decoded {
                assert!(shapes.encode(&shape).is_ok(), "what was read can be written");
                let text = Codec::Json.encode(&shape).expect("what was read can be written");
                assert_eq!(Codec::Json.decode::<Shapes>(&text).expect("it can be read"), shape);
            }
        }
        Err(Error::Codec { .. } | Error::UnknownEvent { .. }) => {}
        Err(other) => panic!("another error: {other}"),
    }
}
