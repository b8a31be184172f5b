//! Upcasters: chains, splits, drops, renames, in every codec; what is wrong with a chain is found before it is used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{codecs, encoded, problems, recorded};
use crate::event::{EventTypes, Upcast, UpcastRules, Upcaster, Upcasters};
use crate::limits::{TYPE_NAME_BYTES_MAX, UPCAST_EVENTS_MAX, UPCASTERS_MAX};
use crate::types::Codec;
use crate::{Error, RecordedEvent};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Event {
    Opened { owner: String, currency: String },
    StreetChanged(String),
    CityChanged(String),
}

fn types() -> EventTypes<Event> {
    EventTypes::new()
        .schema_version("Opened", 3)
        .upcast(Upcaster::one("Opened", 1, |payload| Ok(json!({ "owner": payload["name"] }))))
        .upcast(Upcaster::one("Opened", 2, |mut payload| {
            payload["currency"] = "EUR".into();
            Ok(payload)
        }))
        .upcast(
            Upcaster::json("Moved", 1, |payload| {
                let street = Upcast::of("StreetChanged", payload["street"].clone());
                Ok(vec![street, Upcast::of("CityChanged", payload["city"].clone())])
            })
            .to("StreetChanged", 1)
            .to("CityChanged", 1),
        )
        .upcast(Upcaster::drop("Clicked", 1))
        .upcast(Upcaster::rename("TownChanged", 1).to("CityChanged", 1))
}

fn opened(owner: &str, currency: &str) -> Event {
    Event::Opened { owner: owner.into(), currency: currency.into() }
}

fn json_event(event_type: &str, version: u32, payload: &serde_json::Value) -> RecordedEvent {
    recorded(event_type, version, Codec::Json, payload.to_string())
}

#[test]
fn each_version_goes_on_from_where_it_stands() {
    let events = types().check().unwrap();
    let decode = |event: RecordedEvent| -> Vec<Event> { events.decode(&event.as_event()).unwrap().collect() };
    assert_eq!(decode(json_event("Opened", 1, &json!({"name": "Alice"}))), [opened("Alice", "EUR")]);
    assert_eq!(decode(json_event("Opened", 2, &json!({"owner": "Bob"}))), [opened("Bob", "EUR")]);
    let now = json!({"owner": "Carol", "currency": "USD"});
    assert_eq!(decode(json_event("Opened", 3, &now)), [opened("Carol", "USD")]);
    assert_eq!(decode(json_event("TownChanged", 1, &json!("Basel"))), [Event::CityChanged("Basel".into())]);
    assert_eq!(decode(json_event("Clicked", 1, &json!({"x": 1}))), []);
    assert_eq!(
        decode(json_event("Moved", 1, &json!({"street": "Rheingasse", "city": "Basel"}))),
        [Event::StreetChanged("Rheingasse".into()), Event::CityChanged("Basel".into())]
    );
    assert_eq!(encoded(&events, &opened("Dora", "CHF")).schema_version, 3, "new events are of the current version");
    assert_eq!(
        events.event_types(),
        ["Opened", "StreetChanged", "CityChanged", "Moved", "Clicked", "TownChanged"],
        "old types are asked for too"
    );
}

#[test]
fn an_unknown_type_or_version_is_named() {
    let events = types().check().unwrap();
    for (event_type, version) in [("Closed", 1), ("Opened", 4), ("Opened", 0), ("Moved", 2), ("CityChanged", 2)] {
        let event = json_event(event_type, version, &json!(null));
        let error = events.decode(&event.as_event()).unwrap_err();
        let Error::UnknownEvent { event_type: named, schema_version, stream, position, id } = &error else {
            panic!("{error}");
        };
        assert_eq!((named.as_str(), *schema_version), (event_type, version));
        assert_eq!((stream, *position, *id), (&event.stream, event.position, event.id));
        let text = error.to_string();
        for part in [event_type, "account-alice", "position 7", &format!("version {version}"), &event.id.to_string()] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}

#[test]
fn structs_as_they_were_are_upcast_in_every_codec() {
    #[derive(Serialize, Deserialize)]
    struct OpenedV1 {
        name: String,
    }
    #[derive(Serialize, Deserialize)]
    struct OpenedV2 {
        owner: String,
    }
    #[derive(Serialize, Deserialize)]
    struct OpenedV3 {
        owner: String,
        currency: String,
    }
    let types = |codec| {
        EventTypes::<Event>::new()
            .encoded_as(codec)
            .schema_version("Opened", 3)
            .upcast(Upcaster::typed("Opened", 1, |old: OpenedV1| OpenedV2 { owner: old.name }))
            .upcast(Upcaster::typed("Opened", 2, |old: OpenedV2| OpenedV3 { owner: old.owner, currency: "EUR".into() }))
            .upcast(
                Upcaster::typed_many("Moved", 1, |(street, city): (String, String)| {
                    vec![Upcast::typed("CityChanged", city), Upcast::typed("StreetChanged", street)]
                })
                .to("StreetChanged", 1)
                .to("CityChanged", 1),
            )
            .upcast(Upcaster::rename("TownChanged", 1).to("CityChanged", 1))
            .upcast(Upcaster::drop("Clicked", 1))
    };
    for codec in codecs() {
        let events = types(codec).check().unwrap();
        let decode = |event_type: &str, version, payload: Vec<u8>| -> Vec<Event> {
            events.decode(&recorded(event_type, version, codec, payload).as_event()).unwrap().collect()
        };
        let first = codec.encode(&OpenedV1 { name: "Alice".into() }).unwrap();
        let second = codec.encode(&OpenedV2 { owner: "Bob".into() }).unwrap();
        let moved = codec.encode(&("Rheingasse", "Basel")).unwrap();
        let town = codec.encode("Bern").unwrap();
        assert_eq!(decode("Opened", 1, first), [opened("Alice", "EUR")], "{codec}");
        assert_eq!(decode("Opened", 2, second), [opened("Bob", "EUR")], "{codec}");
        let (city, street) = (Event::CityChanged("Basel".into()), Event::StreetChanged("Rheingasse".into()));
        assert_eq!(decode("Moved", 1, moved), [city, street], "{codec}");
        assert_eq!(decode("TownChanged", 1, town), [Event::CityChanged("Bern".into())], "{codec}");
        assert_eq!(decode("Clicked", 1, vec![0xFF; 3]), [], "{codec}: what is dropped is not looked at");
    }
}

#[test]
#[cfg(feature = "postcard")]
fn upcasters_on_json_refuse_other_codecs() {
    let events = types().check().unwrap();
    let event = recorded("Opened", 1, Codec::Postcard, Codec::Postcard.encode("Alice").unwrap());
    let error = events.decode(&event.as_event()).unwrap_err().to_string();
    assert!(error.contains("works on JSON, and the codec is postcard") && error.contains("position 7"), "{error}");

    let types = EventTypes::<Event>::new().upcast(
        Upcaster::typed_many("Moved", 1, |city: String| vec![Upcast::of("CityChanged", city.into())])
            .to("CityChanged", 1),
    );
    let event = recorded("Moved", 1, Codec::Postcard, Codec::Postcard.encode("Basel").unwrap());
    let error = types.check().unwrap().decode(&event.as_event()).unwrap_err().to_string();
    assert!(error.contains("a JSON payload for an event of codec postcard"), "{error}");
}

#[test]
fn an_upcaster_that_fails_is_told_with_its_event() {
    let failing = |upcaster: Upcaster| {
        let events = EventTypes::<Event>::new().upcast(upcaster).check().unwrap();
        let error = events.decode(&json_event("Old", 1, &json!({"a": 1})).as_event()).unwrap_err();
        assert!(matches!(error, Error::Codec { .. }), "{error}");
        let text = error.to_string();
        for part in [r#"cannot upcast "Old" of schema version 1"#, "position 7", "account-alice"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        text
    };
    let to_city = |upcaster: Upcaster| upcaster.to("CityChanged", 1);
    let text = failing(to_city(Upcaster::one("Old", 1, |_| Err("there is no city".into()))));
    assert!(text.contains("there is no city"), "{text}");
    let text = failing(to_city(Upcaster::typed("Old", 1, |city: String| city)));
    assert!(text.contains("invalid type: map, expected a string"), "{text}");
    let text = failing(to_city(Upcaster::json("Old", 1, |value| Ok(vec![Upcast::of("TownChanged", value)]))));
    assert!(text.contains(r#""TownChanged", which was not declared"#), "{text}");
    let two = to_city(Upcaster::json("Old", 1, |value| Ok(vec![Upcast::same(value)]))).to("StreetChanged", 1);
    assert!(failing(two).contains("without a type, and has several targets"));
}

/// A tree of JSON values has 64 bits for an integer. It rounded what had more, and the event said something else.
#[test]
fn an_upcaster_on_json_refuses_an_integer_that_it_would_round() {
    let on_json = || {
        let rules =
            r#"{"rules": [{"type": "Counted", "version": 1, "changes": [{"rename": {"field": "a", "to": "b"}}]}]}"#;
        let by_rule = UpcastRules::from_json(rules).unwrap().into_iter().next().unwrap();
        [
            Upcaster::one("Counted", 1, Ok),
            Upcaster::json("Counted", 1, |payload| Ok(vec![Upcast::same(payload)])),
            by_rule,
        ]
    };
    let upcast = |upcaster: Upcaster, payload: &str| {
        let event = recorded("Counted", 1, Codec::Json, payload);
        let events = Upcasters::new([upcaster]).unwrap().upcast(&event.as_event())?;
        Ok::<_, Error>(String::from_utf8(events[0].payload.clone()).unwrap())
    };
    for integer in ["18446744073709551616", "-9223372036854775809", "340282366920938463463374607431768211455"] {
        let payload = format!(r#"{{"count":[{integer}]}}"#);
        for upcaster in on_json() {
            let error = upcast(upcaster, &payload).unwrap_err();
            assert!(matches!(error, Error::Codec { .. }), "{error}");
            for part in [integer, r#"cannot upcast "Counted""#, "position 7", "account-alice"] {
                assert!(error.to_string().contains(part), "{part} is missing in: {error}");
            }
        }
        // These look at no tree of values.
        assert_eq!(upcast(Upcaster::rename("Counted", 1), &payload).unwrap(), payload);
        let typed = Upcaster::typed("Counted", 1, |count: BTreeMap<String, [i128; 1]>| count);
        if integer.parse::<i128>().is_ok() {
            assert_eq!(upcast(typed, &payload).unwrap(), payload);
        }
    }
    for fits in ["18446744073709551615", "-9223372036854775808", "\"18446744073709551616\"", "1.8446744073709552e+19"] {
        let payload = format!(r#"{{"count":[{fits}]}}"#);
        for upcaster in on_json() {
            assert_eq!(upcast(upcaster, &payload).unwrap(), payload);
        }
    }
}

#[test]
fn a_result_that_is_no_event_is_an_error_of_the_event() {
    let types = EventTypes::<Event>::new().upcast(Upcaster::rename("Old", 1).to("CityChanged", 1));
    let error = types.check().unwrap().decode(&json_event("Old", 1, &json!({})).as_event()).unwrap_err().to_string();
    assert!(error.contains(r#"cannot decode the "Old" event at position 7"#), "{error}");
}

#[test]
fn upcast_events_share_where_their_source_stands() {
    let rename = Upcaster::rename("Opened", 1).to("AccountOpened", 1);
    let split = Upcaster::json("Moved", 1, |payload| {
        Ok(["street", "city"].map(|field| Upcast::of(format!("{field}-changed"), payload[field].clone())).into())
    });
    let split = split.to("street-changed", 1).to("city-changed", 4);
    let upcasters = Upcasters::new([rename, split]).unwrap();

    let moved = json_event("Moved", 1, &json!({"street": "Rheingasse", "city": "Basel"}));
    let events = upcasters.upcast(&moved.as_event()).unwrap();
    let expected = [
        RecordedEvent { event_type: "street-changed".into(), payload: br#""Rheingasse""#.into(), ..moved.clone() },
        RecordedEvent {
            event_type: "city-changed".into(),
            schema_version: 4,
            payload: br#""Basel""#.into(),
            ..moved.clone()
        },
    ];
    assert_eq!(events, expected);
    assert!(upcasters.takes("Moved", 1) && !upcasters.takes("Moved", 2));
    let other = json_event("Moved", 2, &json!(1));
    assert_eq!(upcasters.upcast(&other.as_event()).unwrap(), [other], "what no upcaster takes stays");
}

#[test]
fn results_are_in_order_however_deep_the_chain() {
    let fork = |event_type: &'static str, left: &'static str, right: &'static str| {
        Upcaster::json(event_type, 1, move |_| Ok(vec![Upcast::of(left, json!(1)), Upcast::of(right, json!(2))]))
            .to(left, 1)
            .to(right, 1)
    };
    let upcasters = Upcasters::new([fork("a", "b", "c"), fork("b", "d", "e"), fork("c", "f", "g")]).unwrap();
    let events = upcasters.upcast(&json_event("a", 1, &json!(0)).as_event()).unwrap();
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["d", "e", "f", "g"]);
}

#[test]
fn the_number_of_results_has_a_limit() {
    let multiply = |factor: usize| {
        let one =
            Upcaster::json("one", 1, move |value| Ok((0..factor).map(|_| Upcast::of("many", value.clone())).collect()));
        Upcasters::new([one.to("many", 1)]).unwrap()
    };
    let event = json_event("one", 1, &json!(0));
    // The event itself is counted too.
    assert_eq!(multiply(UPCAST_EVENTS_MAX - 1).upcast(&event.as_event()).unwrap().len(), UPCAST_EVENTS_MAX - 1);
    let error = multiply(UPCAST_EVENTS_MAX).upcast(&event.as_event()).unwrap_err().to_string();
    assert!(error.contains("more than 1024 events"), "{error}");
}

#[test]
fn the_number_of_upcasters_has_a_limit() {
    let many = |count: usize| Upcasters::new((0..count).map(|index| Upcaster::drop(format!("type-{index}"), 1)));
    assert!(many(UPCASTERS_MAX).is_ok());
    assert!(many(UPCASTERS_MAX + 1).unwrap_err().to_string().contains("1025 upcasters, at most 1024"));
}

fn chain_problems(upcasters: impl IntoIterator<Item = Upcaster>) -> String {
    Upcasters::new(upcasters).unwrap_err().to_string()
}

#[test]
fn gaps_circles_and_duplicates_are_found_when_upcasters_are_put_together() {
    let keep = Upcaster::rename;
    assert!(chain_problems([keep("a", 1), keep("a", 1)]).contains("two upcasters"));
    assert!(
        chain_problems([keep("a", 1), keep("a", 4)]).contains("a gap: schema version 2 has no upcaster, and 4 has")
    );

    let circle = chain_problems([
        keep("a", 1).to("b", 1),
        keep("b", 1).to("c", 1),
        keep("c", 1).to("a", 1),
        keep("d", 1).to("a", 1),
    ]);
    for event_type in ["a", "b", "c"] {
        assert!(circle.contains(&format!(r#"upcaster of "{event_type}" in schema version 1: a circle"#)), "{circle}");
    }
    assert!(!circle.contains(r#"upcaster of "d""#), "{circle}");
    assert!(chain_problems([keep("a", 1).to("a", 1)]).contains("a circle"));
}

#[test]
fn targets_are_checked() {
    let keep = || Upcaster::rename("a", 1);
    assert!(chain_problems([keep().to("b", 1).to("c", 1)]).contains("gives one event and has 2 targets"));
    assert!(chain_problems([Upcaster::drop("a", 1).to("b", 1)]).contains("drops the event and has a target"));
    let many = Upcaster::json("a", 1, |_| Ok(vec![])).to("b", 1).to("b", 2);
    assert!(chain_problems([many]).contains("the same type as a target twice"));
    assert!(chain_problems([keep().to("b", 0)]).contains(r#"schema version 0 of "b""#));
    assert!(chain_problems([Upcaster::drop("a", 0)]).contains("schema versions count from 1"));
    assert!(chain_problems([Upcaster::drop("a", u32::MAX)]).contains("no schema version behind the last"));
    assert!(chain_problems([keep().to("", 1)]).contains("is empty"));

    let long = |bytes: usize| Upcasters::new([keep().to("x".repeat(bytes), 1)]);
    assert!(long(TYPE_NAME_BYTES_MAX).is_ok());
    assert!(long(TYPE_NAME_BYTES_MAX + 1).unwrap_err().to_string().contains("257 bytes, at most 256"));
}

#[test]
fn a_declaration_finds_what_no_upcaster_reaches() {
    let opened_in_3 = || EventTypes::<Event>::new().schema_version("Opened", 3);
    let keep = Upcaster::rename;
    let none = problems(opened_in_3());
    assert!(none.contains(r#"event type "Opened": a gap: schema version 1 has no upcaster"#), "{none}");
    let late = problems(opened_in_3().upcast(keep("Opened", 2)));
    assert!(late.contains("a gap: schema version 1 has no upcaster"), "{late}");
    let early = problems(opened_in_3().upcast(keep("Opened", 1)));
    assert!(early.contains("a gap: schema version 2 has no upcaster"), "{early}");
    let beyond = problems(EventTypes::<Event>::new().upcast(keep("Opened", 1)));
    assert!(beyond.contains("has an upcaster for schema version 1, and is written in 1"), "{beyond}");
    let old = problems(EventTypes::<Event>::new().upcast(keep("Old", 2).to("CityChanged", 1)));
    assert!(old.contains(r#"event type "Old": a gap: schema version 1 has no upcaster"#), "{old}");
    let nowhere = problems(EventTypes::<Event>::new().upcast(keep("Old", 1)));
    assert!(nowhere.contains(r#"leads to "Old" in schema version 2, which nothing reads"#), "{nowhere}");
    let newer = problems(EventTypes::<Event>::new().upcast(keep("Old", 1).to("CityChanged", 2)));
    assert!(newer.contains(r#"leads to "CityChanged" in schema version 2, which nothing reads"#), "{newer}");
    assert!(opened_in_3().upcast(keep("Opened", 1)).upcast(keep("Opened", 2)).check().is_ok());
}

/// A projection that asks for one variant has to say that it does not want the others that a split gives.
#[test]
fn what_a_split_gives_can_be_dropped() {
    #[derive(Debug, PartialEq, Deserialize)]
    enum Cities {
        CityChanged(String),
    }
    let split = || {
        Upcaster::json("Moved", 1, |payload| {
            let street = Upcast::of("StreetChanged", payload["street"].clone());
            Ok(vec![street, Upcast::of("CityChanged", payload["city"].clone())])
        })
        .to("StreetChanged", 1)
        .to("CityChanged", 1)
    };
    assert!(problems(EventTypes::<Cities>::new().upcast(split())).contains(r#"leads to "StreetChanged""#));
    let cities =
        EventTypes::<Cities>::new().upcast(split()).upcast(Upcaster::drop("StreetChanged", 1)).check().unwrap();
    let moved = json_event("Moved", 1, &json!({"street": "Rheingasse", "city": "Basel"}));
    assert_eq!(cities.decode(&moved.as_event()).unwrap().as_slice(), [Cities::CityChanged("Basel".into())]);
}
