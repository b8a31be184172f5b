//! Payloads of typed events: random values come back from every codec, and the bytes of each codec are frozen.
//!
//! The vectors below are what events in stores look like. They are never changed: a codec that gives other bytes is
//! another codec.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use annals::{
    Aggregate, Codec, Error, EventCodec, EventTypes, ExecuteError, ExpectedVersion, NewEvent, Query, RecordedEvent,
    Store,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    item: String,
    count: u32,
    price: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Means {
    Cash,
    Card(u16),
    Transfer { iban: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Order {
    Cancelled,
    Noted(String),
    Weighed(f64),
    Counted(u64, i8, bool),
    Placed { id: u64, lines: Vec<Line>, means: Means, notes: BTreeMap<String, i32> },
    Shipped { to: (String, u32), express: Option<bool>, mark: char, id: u128 },
}

fn codecs() -> Vec<Codec> {
    [Codec::Json, Codec::Postcard, Codec::Bincode].into_iter().filter(|codec| codec.is_available()).collect()
}

fn events(codec: Codec) -> EventCodec<Order> {
    EventTypes::new().encoded_as(codec).check().unwrap()
}

fn recorded(codec: Codec, event: &Order) -> RecordedEvent {
    let store = Store::in_memory().unwrap();
    store.append("order-1", ExpectedVersion::Any, [events(codec).encode(event).unwrap()]).unwrap();
    store.read(Query::all()).owned().next().unwrap().unwrap()
}

// --- Random values -----------------------------------------------------------------------------------------------------

fn line() -> impl Strategy<Value = Line> {
    (any::<String>(), any::<u32>(), any::<Option<i64>>()).prop_map(|(item, count, price)| Line { item, count, price })
}

fn means() -> impl Strategy<Value = Means> {
    prop_oneof![
        Just(Means::Cash),
        any::<u16>().prop_map(Means::Card),
        any::<String>().prop_map(|iban| Means::Transfer { iban })
    ]
}

fn order() -> impl Strategy<Value = Order> {
    let lines = prop::collection::vec(line(), 0..5);
    let notes = prop::collection::btree_map(any::<String>(), any::<i32>(), 0..4);
    prop_oneof![
        Just(Order::Cancelled),
        any::<String>().prop_map(Order::Noted),
        // What is no number has no JSON.
        prop::num::f64::NORMAL.prop_map(Order::Weighed),
        any::<(u64, i8, bool)>().prop_map(|(a, b, c)| Order::Counted(a, b, c)),
        (any::<u64>(), lines, means(), notes).prop_map(|(id, lines, means, notes)| Order::Placed {
            id,
            lines,
            means,
            notes
        }),
        (any::<(String, u32)>(), any::<Option<bool>>(), any::<char>(), any::<u128>())
            .prop_map(|(to, express, mark, id)| Order::Shipped { to, express, mark, id }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_events_come_back_from_every_codec(order in order()) {
        for codec in codecs() {
            let recorded = recorded(codec, &order);
            let decoded: Vec<Order> = events(codec).decode(&recorded.as_event()).unwrap().collect();
            prop_assert_eq!(&decoded, std::slice::from_ref(&order), "{}", codec);
        }
    }

    /// Whatever stands in a payload, it is an event or an error, and never a panic.
    #[test]
    fn random_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for codec in codecs() {
            for event_type in events(codec).event_types() {
                let event = RecordedEvent {
                    event_type: event_type.clone(),
                    payload: bytes.clone(),
                    ..recorded(codec, &Order::Cancelled)
                };
                if let Ok(decoded) = events(codec).decode(&event.as_event()) {
                    prop_assert_eq!(decoded.len(), 1);
                }
            }
        }
    }
}

// --- What a codec cannot tell ----------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Reading {
    Measured { degrees: f64, limit: Option<f64> },
    Noted(serde_json::Value),
}

/// A thermometer, whose readings are recorded as JSON.
#[derive(Debug, Default)]
struct Thermometer;

impl Aggregate for Thermometer {
    const CATEGORY: &'static str = "thermometer";
    type Event = Reading;

    fn apply(&mut self, _: &Reading) {}
}

fn nested(depth: usize) -> Reading {
    Reading::Noted((0..depth).fold(serde_json::Value::Null, |inner, _| vec![inner].into()))
}

/// JSON has no word for what is no finite number. It became `null`, with which the event could not be read any more,
/// and the aggregate not be loaded; or, where there need not be a number, was read as none.
#[test]
fn what_is_no_number_is_refused_by_json_before_it_is_appended() {
    let store = Store::in_memory().unwrap();
    let thermometers = store.repository::<Thermometer>().unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (degrees, limit) in [(value, None), (20.5, Some(value))] {
            let measured = || [Reading::Measured { degrees: 1.0, limit: None }, Reading::Measured { degrees, limit }];
            let error = thermometers.execute("1", |_| measured()).unwrap_err();
            assert!(matches!(error, ExecuteError::Store(Error::Codec { .. })), "{error}");
            assert!(error.to_string().contains(&format!("{value} is no number of JSON")), "{error}");
            assert!(matches!(thermometers.append("1", ExpectedVersion::Any, measured()), Err(Error::Codec { .. })));
            assert!(matches!(NewEvent::json("Measured", &limit.unwrap_or(degrees)), Err(Error::Codec { .. })));
        }
    }
    assert_eq!(store.head().unwrap(), None, "nothing was appended");
    thermometers.execute("1", |_| Reading::Measured { degrees: 20.5, limit: None }).unwrap();
    thermometers.load("1").unwrap();
}

/// It was written at any depth, and read at 127 arrays and objects inside each other at most.
#[test]
fn what_json_reads_no_more_for_its_depth_is_refused_before_it_is_appended() {
    let store = Store::in_memory().unwrap();
    let thermometers = store.repository::<Thermometer>().unwrap();
    let error = thermometers.execute("1", |_| nested(128)).unwrap_err();
    assert!(matches!(error, ExecuteError::Store(Error::Codec { .. })), "{error}");
    assert_eq!(store.head().unwrap(), None, "nothing was appended");
    thermometers.execute("1", |_| nested(127)).unwrap();
    let types = Thermometer::event_types().check().unwrap();
    let read: Vec<Reading> = store.read(Query::all()).typed(&types).data().map(Result::unwrap).collect();
    assert_eq!(read, [nested(127)]);
}

/// The others have words for all of them.
#[test]
#[cfg(any(feature = "postcard", feature = "bincode"))]
fn what_is_no_number_comes_back_from_codecs_that_have_it() {
    for codec in codecs().into_iter().filter(|codec| *codec != Codec::Json) {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let recorded = recorded(codec, &Order::Weighed(value));
            let decoded: Vec<Order> = events(codec).decode(&recorded.as_event()).unwrap().collect();
            let [Order::Weighed(decoded)] = decoded.as_slice() else { panic!("{codec}: {decoded:?}") };
            assert_eq!(decoded.to_bits(), value.to_bits(), "{codec}");
        }
    }
}

// --- Frozen bytes ------------------------------------------------------------------------------------------------------

/// One event of each shape.
fn samples() -> Vec<Order> {
    let line = |item: &str, count, price| Line { item: item.into(), count, price };
    vec![
        Order::Cancelled,
        Order::Noted("Grüße".into()),
        Order::Weighed(-1.5),
        Order::Counted(300, -1, true),
        Order::Placed {
            id: 1,
            lines: vec![line("pen", 2, Some(-250)), line("", 0, None)],
            means: Means::Transfer { iban: "CH93".into() },
            notes: [("b".into(), -1), ("a".into(), 70_000)].into(),
        },
        Order::Placed { id: u64::MAX, lines: vec![], means: Means::Cash, notes: BTreeMap::new() },
        Order::Shipped { to: ("Basel".into(), 4058), express: Some(false), mark: 'ß', id: 1 << 70 },
        Order::Shipped { to: (String::new(), 0), express: None, mark: 'a', id: 0 },
    ]
}

/// The payload of each sample; in hex where it is no text. Made by hand from the description of each format.
const JSON: [&str; 8] = [
    "null",
    r#""Grüße""#,
    "-1.5",
    "[300,-1,true]",
    r#"{"id":1,"lines":[{"item":"pen","count":2,"price":-250},{"item":"","count":0,"price":null}],"means":{"Transfer":{"iban":"CH93"}},"notes":{"a":70000,"b":-1}}"#,
    r#"{"id":18446744073709551615,"lines":[],"means":"Cash","notes":{}}"#,
    r#"{"to":["Basel",4058],"express":false,"mark":"ß","id":1180591620717411303424}"#,
    r#"{"to":["",0],"express":null,"mark":"a","id":0}"#,
];

#[cfg(feature = "postcard")]
const POSTCARD: [&str; 8] = [
    "",
    "074772c3bcc39f65",
    "000000000000f8bf",
    "ac02ff01",
    "01020370656e0201f303000000020443483933020161e0c508016201",
    "ffffffffffffffffff01000000",
    "05426173656cda1f010002c39f8080808080808080808001",
    "000000016100",
];

#[cfg(feature = "bincode")]
const BINCODE: [&str; 8] = [
    "",
    "07000000000000004772c3bcc39f65",
    "000000000000f8bf",
    "2c01000000000000ff01",
    "01000000000000000200000000000000030000000000000070656e020000000106ffffffffffffff0000000000000000000000000002000000040000000000000043483933020000000000000001000000000000006170110100010000000000000062ffffffff",
    "ffffffffffffffff0000000000000000000000000000000000000000",
    "0500000000000000426173656cda0f00000100c39f00000000000000004000000000000000",
    "000000000000000000000000006100000000000000000000000000000000",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn check_frozen(codec: Codec, vectors: [&str; 8]) {
    assert_eq!(samples().len(), vectors.len());
    for (sample, expected) in samples().into_iter().zip(vectors) {
        let recorded = recorded(codec, &sample);
        let told = match codec {
            Codec::Json => String::from_utf8(recorded.payload.clone()).unwrap(),
            _ => hex(&recorded.payload),
        };
        assert_eq!(told, expected, "{codec} of {sample:?}");
        assert_eq!(events(codec).decode(&recorded.as_event()).unwrap().as_slice(), [sample]);
    }
}

#[test]
fn the_bytes_of_json_are_frozen() {
    check_frozen(Codec::Json, JSON);
}

#[test]
#[cfg(feature = "postcard")]
fn the_bytes_of_postcard_are_frozen() {
    check_frozen(Codec::Postcard, POSTCARD);
}

#[test]
#[cfg(feature = "bincode")]
fn the_bytes_of_bincode_are_frozen() {
    check_frozen(Codec::Bincode, BINCODE);
}
