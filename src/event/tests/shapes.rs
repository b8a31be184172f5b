//! Every shape of a variant, in every codec; what is no externally tagged enum is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{codecs, encoded, problems, record, recorded};
use crate::event::EventTypes;
use crate::types::Codec;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inner {
    name: String,
    left: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Nested {
    Unit,
    Newtype(u8),
    Struct { x: i16 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct UnitStruct;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shapes {
    Unit,
    Newtype(u64),
    NewtypeText(String),
    NewtypeStruct(Inner),
    NewtypeUnit(()),
    NewtypeUnitStruct(UnitStruct),
    NewtypeOption(Option<u32>),
    NewtypeSequence(Vec<Inner>),
    NewtypeMap(BTreeMap<String, i64>),
    NewtypeEnum(Nested),
    NewtypeTuple((u8, String)),
    Tuple(u64, String, Option<Nested>),
    EmptyTuple(),
    Struct { id: u64, name: String, left: Option<bool>, inner: Inner, nested: Vec<Nested> },
    EmptyStruct {},
    Numbers { a: i8, b: u16, c: i32, d: i64, e: f32, f: f64, g: char, h: u128 },
}

fn shapes() -> Vec<Shapes> {
    let inner = Inner { name: "Ünïcode \"quoted\"\n".into(), left: None };
    vec![
        Shapes::Unit,
        Shapes::Newtype(u64::MAX),
        Shapes::NewtypeText(String::new()),
        Shapes::NewtypeStruct(inner.clone()),
        Shapes::NewtypeUnit(()),
        Shapes::NewtypeUnitStruct(UnitStruct),
        Shapes::NewtypeOption(None),
        Shapes::NewtypeOption(Some(3)),
        Shapes::NewtypeSequence(vec![inner.clone(), Inner { name: "b".into(), left: Some(1) }]),
        Shapes::NewtypeMap(BTreeMap::from([("a".into(), -1), ("b".into(), i64::MIN)])),
        Shapes::NewtypeEnum(Nested::Unit),
        Shapes::NewtypeEnum(Nested::Struct { x: -2 }),
        Shapes::NewtypeTuple((1, "one".into())),
        Shapes::Tuple(1, "two".into(), Some(Nested::Newtype(3))),
        Shapes::EmptyTuple(),
        Shapes::Struct { id: 1, name: "n".into(), left: Some(true), inner, nested: vec![Nested::Unit] },
        Shapes::EmptyStruct {},
        Shapes::Numbers { a: -1, b: 2, c: -3, d: i64::MAX, e: 0.5, f: -1.25, g: 'ß', h: 5 },
    ]
}

#[test]
fn every_shape_comes_back_in_every_codec() {
    for codec in codecs() {
        let events = EventTypes::new().encoded_as(codec).samples(shapes()).check().unwrap();
        for shape in shapes() {
            let recorded = encoded(&events, &shape);
            assert_eq!(recorded.codec, codec);
            let debug = format!("{shape:?}");
            let name = debug.split([' ', '(', '{']).next().unwrap();
            assert_eq!(recorded.event_type, name, "the name of the variant is the type");
            let decoded: Vec<Shapes> = events.decode(&recorded.as_event()).unwrap().collect();
            assert_eq!(decoded, [shape], "{codec}");
        }
    }
}

#[test]
fn the_payload_is_what_stands_inside_the_variant() {
    let events = EventTypes::new().check().unwrap();
    let json = |shape: &Shapes| String::from_utf8(encoded(&events, shape).payload).unwrap();
    assert_eq!(json(&Shapes::Unit), "null");
    assert_eq!(json(&Shapes::Newtype(5)), "5");
    assert_eq!(json(&Shapes::NewtypeStruct(Inner { name: "a".into(), left: None })), r#"{"name":"a","left":null}"#);
    assert_eq!(json(&Shapes::NewtypeEnum(Nested::Newtype(1))), r#"{"Newtype":1}"#);
    assert_eq!(json(&Shapes::Tuple(1, "b".into(), None)), r#"[1,"b",null]"#);
    assert_eq!(json(&Shapes::EmptyTuple()), "[]");
    assert_eq!(json(&Shapes::EmptyStruct {}), "{}");
}

/// So an event type can be written by one enum, and read by a struct or another codec's tool.
#[test]
fn the_payload_is_that_of_a_struct_with_the_same_fields() {
    #[derive(Serialize)]
    struct Opened<'a> {
        owner: &'a str,
        cents: u64,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Event {
        Opened { owner: String, cents: u64 },
    }
    for codec in codecs() {
        let events = EventTypes::<Event>::new().encoded_as(codec).check().unwrap();
        let by_struct = codec.encode(&Opened { owner: "Alice", cents: 300 }).unwrap();
        let event = Event::Opened { owner: "Alice".into(), cents: 300 };
        assert_eq!(encoded(&events, &event).payload, by_struct, "{codec}");
        let by_hand = recorded("Opened", 1, codec, by_struct);
        assert_eq!(events.decode(&by_hand.as_event()).unwrap().as_slice(), [event]);
    }
}

#[test]
fn attributes_of_serde_that_rename_are_respected() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case", rename_all_fields = "camelCase")]
    enum Event {
        AccountOpened {
            owner_name: String,
        },
        #[serde(rename = "money-in", alias = "money-received")]
        Deposited(u64),
    }
    let samples = || [Event::AccountOpened { owner_name: "A".into() }, Event::Deposited(5)];
    for codec in codecs() {
        let events = EventTypes::new().encoded_as(codec).samples(samples()).check().unwrap();
        assert_eq!(events.event_types(), ["account_opened", "money-in", "money-received"]);
        for (sample, name) in samples().into_iter().zip(["account_opened", "money-in"]) {
            let recorded = encoded(&events, &sample);
            assert_eq!(recorded.event_type, name);
            assert_eq!(events.decode(&recorded.as_event()).unwrap().as_slice(), [sample]);
        }
        let older = recorded("money-received", 1, codec, codec.encode(&5_u64).unwrap());
        assert_eq!(events.decode(&older.as_event()).unwrap().as_slice(), [Event::Deposited(5)]);
    }
    let json = EventTypes::new().check().unwrap();
    assert_eq!(encoded(&json, &samples()[0]).payload, br#"{"ownerName":"A"}"#);
}

#[test]
fn generic_enums_are_events() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Changed<K, V> {
        Set { key: K, value: V },
        Removed(K),
    }
    for codec in codecs() {
        let events = EventTypes::<Changed<u32, Vec<String>>>::new().encoded_as(codec).check().unwrap();
        for event in [Changed::Set { key: 1, value: vec!["a".into()] }, Changed::Removed(2)] {
            let recorded = encoded(&events, &event);
            assert_eq!(events.decode(&recorded.as_event()).unwrap().as_slice(), [event]);
        }
    }
}

/// A projection may care that something happened, and not what.
#[test]
fn a_unit_variant_ignores_the_fields_of_a_format_that_describes_itself() {
    #[derive(Debug, PartialEq, Deserialize)]
    enum Seen {
        Opened,
    }
    let events = EventTypes::<Seen>::new().check().unwrap();
    for payload in ["null", "{}", r#"{"owner":{"name":"Alice"}}"#, "[1,2]"] {
        let opened = recorded("Opened", 1, Codec::Json, payload);
        assert_eq!(events.decode(&opened.as_event()).unwrap().as_slice(), [Seen::Opened], "{payload}");
    }
    let broken = recorded("Opened", 1, Codec::Json, r#"{"owner":"#);
    assert!(events.decode(&broken.as_event()).is_err());
}

#[test]
#[cfg(feature = "postcard")]
fn bytes_left_over_are_an_error() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    enum Event {
        Unit,
        Number(u8),
    }
    let events = EventTypes::<Event>::new().check().unwrap();
    for (name, payload) in [("Unit", vec![1]), ("Number", vec![1, 2])] {
        let event = recorded(name, 1, Codec::Postcard, payload);
        let error = events.decode(&event.as_event()).unwrap_err().to_string();
        assert!(error.contains("1 bytes are left over") && error.contains("position 7"), "{error}");
    }
}

macro_rules! refused {
    ($name:ident, $type:ty, $reason:literal) => {
        #[test]
        fn $name() {
            let problems = problems(EventTypes::<$type>::new());
            assert!(problems.contains("externally tagged enum, which this is not"), "{problems}");
            assert!(problems.contains($reason), "{problems}");
            assert!(problems.contains(std::any::type_name::<$type>()), "{problems}");
        }
    };
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
enum Internally {
    A { x: u8 },
}
refused!(an_internally_tagged_enum_is_refused, Internally, "internally tagged enum Internally");

#[derive(Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacently {
    A { x: u8 },
}
refused!(an_adjacently_tagged_enum_is_refused, Adjacently, "adjacently tagged enum");

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    A { x: u8 },
}
refused!(an_untagged_enum_is_refused, Untagged, "any value");

#[derive(Serialize, Deserialize)]
enum PartlyUntagged {
    A,
    #[serde(untagged)]
    B(u8),
}
refused!(an_enum_with_an_untagged_variant_is_refused, PartlyUntagged, "any value");

refused!(a_struct_is_refused, Inner, "the struct \"Inner\"");
refused!(a_number_is_refused, u64, "u64");
refused!(an_option_is_refused, Option<Nested>, "option");
refused!(a_value_is_refused, serde_json::Value, "any valid JSON value");

#[derive(Deserialize)]
enum Empty {}
refused!(an_enum_without_variants_is_refused, Empty, "it has no variants");

/// The two halves of serde need not agree.
#[test]
fn a_variant_that_is_written_under_a_name_that_is_not_read_is_refused() {
    #[derive(Serialize, Deserialize)]
    enum Event {
        #[serde(rename(serialize = "written", deserialize = "read"))]
        Opened,
    }
    let problems = problems(EventTypes::new().samples([Event::Opened]));
    assert!(problems.contains("samples[0]: ") && problems.contains(r#"as variant "written""#), "{problems}");
    let events = EventTypes::<Event>::new().check().unwrap();
    assert!(events.encode(&Event::Opened).unwrap_err().to_string().contains(r#"as variant "written""#));
}

#[test]
fn what_serializes_as_no_variant_is_an_error() {
    #[derive(Deserialize)]
    enum Event {
        Opened,
    }
    impl Serialize for Event {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let Event::Opened = self;
            serializer.serialize_str("Opened")
        }
    }
    for codec in codecs() {
        let events = EventTypes::<Event>::new().encoded_as(codec).check().unwrap();
        let error = events.encode(&Event::Opened).unwrap_err().to_string();
        assert!(error.contains("serializes as a string"), "{codec}: {error}");
    }
}

#[test]
fn raw_payloads_are_made_and_read_by_the_application() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Event {
        Measured { celsius: f32 },
    }
    let types = EventTypes::new().raw(
        |event: &Event| match event {
            Event::Measured { celsius } => Ok(celsius.to_be_bytes().to_vec()),
        },
        |event_type, bytes| {
            assert_eq!(event_type, "Measured");
            let bytes = bytes.try_into().map_err(|_| crate::Error::Codec {
                what: "a temperature".into(),
                reason: format!("{} bytes instead of 4", bytes.len()),
            })?;
            Ok(Event::Measured { celsius: f32::from_be_bytes(bytes) })
        },
    );
    let events = types.samples([Event::Measured { celsius: 20.5 }]).check().unwrap();
    let measured = encoded(&events, &Event::Measured { celsius: 36.5 });
    assert_eq!((measured.codec, measured.payload.as_slice()), (Codec::Raw, &36.5_f32.to_be_bytes()[..]));
    assert_eq!(events.decode(&measured.as_event()).unwrap().as_slice(), [Event::Measured { celsius: 36.5 }]);

    let older = record(crate::NewEvent::from_bytes("Measured", Codec::Json, r#"{"celsius":1.5}"#));
    assert_eq!(events.decode(&older.as_event()).unwrap().as_slice(), [Event::Measured { celsius: 1.5 }]);
    let short = recorded("Measured", 1, Codec::Raw, [1, 2]);
    assert!(events.decode(&short.as_event()).unwrap_err().to_string().contains("2 bytes instead of 4"));
}

#[test]
fn raw_payloads_without_functions_are_refused() {
    let problems = problems(EventTypes::<Nested>::new().encoded_as(Codec::Raw));
    assert!(problems.contains("EventTypes::raw"), "{problems}");
}

#[test]
fn an_event_that_is_borrowed_is_not_copied() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Event<'a> {
        Opened {
            #[serde(borrow)]
            owner: &'a str,
        },
        Noted(&'a str),
    }
    for codec in codecs() {
        let opened = recorded("Opened", 1, codec, codec.encode(&("Alice",)).unwrap());
        let noted = recorded("Noted", 1, codec, codec.encode("a note").unwrap());
        assert_eq!(opened.as_event().decode_as::<Event<'_>>().unwrap(), Event::Opened { owner: "Alice" });
        let Event::Noted(text) = noted.as_event().decode_as().unwrap() else { panic!("another variant") };
        assert!(noted.payload.as_ptr_range().contains(&text.as_ptr()), "{codec}: the text was copied");
        let other = recorded("Closed", 1, codec, noted.payload.clone());
        let error = other.as_event().decode_as::<Event<'_>>().unwrap_err().to_string();
        assert!(error.contains(r#"the "Closed" event at position 7"#), "{error}");
    }
}
