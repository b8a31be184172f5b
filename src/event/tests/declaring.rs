//! Declarations: names, versions, tags, samples; everything that is wrong is found at once.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{codecs, encoded, problems, recorded};
use crate::event::EventTypes;
use crate::limits::{QUERY_ITEM_NAMES_MAX, TYPE_NAME_BYTES_MAX};
use crate::types::Codec;
use crate::{Query, Violation};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Event {
    Opened { owner: String },
    Closed,
}

#[test]
fn a_variant_can_be_recorded_under_another_name() {
    let types = EventTypes::<Event>::new().rename("Opened", "account-opened").samples([Event::Closed]);
    let events = types.check().unwrap();
    let opened = Event::Opened { owner: "Alice".into() };
    let recorded = encoded(&events, &opened);
    assert_eq!(recorded.event_type, "account-opened");
    assert_eq!(events.decode(&recorded.as_event()).unwrap().as_slice(), [opened]);
    assert_eq!(events.event_types(), ["account-opened", "Closed"]);
    assert_eq!(events.query(), Query::types(["account-opened", "Closed"]));
    assert_eq!(events.samples(), [Event::Closed]);
    assert_eq!(events.codec(), Codec::Json);
    assert_eq!((events.schema_version("Closed"), events.schema_version("Opened")), (Some(1), None));
    let old_name = super::recorded("Opened", 1, Codec::Json, r#"{"owner":"Alice"}"#);
    assert!(events.decode(&old_name.as_event()).is_err(), "the variant's own name is no type any more");
}

#[test]
fn variants_can_swap_their_names() {
    let events = EventTypes::<Event>::new().rename("Opened", "Closed").rename("Closed", "Opened").check().unwrap();
    let closed = encoded(&events, &Event::Closed);
    assert_eq!(closed.event_type, "Opened");
    assert_eq!(events.decode(&closed.as_event()).unwrap().as_slice(), [Event::Closed]);
}

#[test]
fn tags_are_read_from_the_event() {
    let types = EventTypes::new().tagged_by(|event: &Event| match event {
        Event::Opened { owner } => vec![format!("owner:{owner}"), "kind:opened".into()],
        Event::Closed => vec![],
    });
    let events = types.check().unwrap();
    assert_eq!(encoded(&events, &Event::Opened { owner: "a".into() }).tags, ["kind:opened", "owner:a"]);
    assert!(encoded(&events, &Event::Closed).tags.is_empty());
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let types = EventTypes::<Event>::new()
        .rename("Opned", "x")
        .rename("Opened", "Closed")
        .rename("Opened", "")
        .schema_version("Missing", 2)
        .schema_version("Closed", 0)
        .schema_version("Closed", 3)
        .encoded_as(Codec::Raw);
    let problems = problems(types);
    for part in [
        r#"variant "Opned": cannot be renamed to "x": there is no such variant, only ["Opened", "Closed"]"#,
        r#"variant "Opened": is renamed twice"#,
        r#"variant "Opened": the name of an event type is empty"#,
        r#"event type "Missing": is given a schema version, and no variant is recorded as it"#,
        r#"event type "Closed": is given schema version 0"#,
        r#"event type "Closed": is given a schema version twice"#,
        "codec: raw payloads need functions of your own",
    ] {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
}

#[test]
fn two_variants_cannot_be_one_type() {
    let problems = problems(EventTypes::<Event>::new().rename("Opened", "Closed"));
    assert_eq!(problems, "variant \"Closed\": is recorded as \"Closed\", and so is \"Opened\"\n");
}

#[test]
fn the_length_of_a_type_has_a_limit() {
    let named =
        |bytes: usize| EventTypes::<Event>::new().rename("Closed", Box::leak("x".repeat(bytes).into_boxed_str()));
    assert!(named(TYPE_NAME_BYTES_MAX).check().is_ok());
    assert!(problems(named(TYPE_NAME_BYTES_MAX + 1)).contains("257 bytes, at most 256"));
}

#[test]
fn a_query_of_more_types_than_an_item_holds_has_several() {
    let with_old_types = |count: usize| {
        let drops = (0..count).map(|index| crate::Upcaster::drop(format!("old-{index}"), 1));
        drops.fold(EventTypes::<Event>::new(), EventTypes::upcast).check().unwrap()
    };
    let one = with_old_types(QUERY_ITEM_NAMES_MAX - 2);
    assert_eq!(one.query(), Query::types(one.event_types()));
    let two = with_old_types(QUERY_ITEM_NAMES_MAX - 1);
    let (first, last) = two.event_types().split_at(QUERY_ITEM_NAMES_MAX);
    assert_eq!(two.query(), Query::types(first).or(Query::types(last)));
    let event = super::record(crate::NewEvent::raw(last[0].clone(), ""));
    assert!(two.query().matches(&event.as_event()));
}

/// `#[serde(other)]` would take in whatever is unknown without a word.
#[test]
fn an_unknown_type_does_not_become_the_other_variant() {
    #[derive(Debug, Serialize, Deserialize)]
    enum WithOther {
        #[serde(other)]
        Other,
    }
    let events = EventTypes::<WithOther>::new().check().unwrap();
    let event = recorded("Unheard", 1, Codec::Json, "null");
    assert!(matches!(events.decode(&event.as_event()), Err(crate::Error::UnknownEvent { .. })));
}

#[test]
fn samples_may_hold_maps_in_any_order() {
    #[derive(Serialize, Deserialize)]
    enum Event {
        Counted(HashMap<String, u32>),
    }
    let sample = || Event::Counted((0..50).map(|index| (format!("key-{index}"), index)).collect());
    for codec in codecs() {
        assert!(EventTypes::new().encoded_as(codec).samples([sample()]).check().is_ok(), "{codec}");
    }
}

#[test]
fn samples_that_json_cannot_hold_are_compared_by_their_bytes() {
    #[derive(Serialize, Deserialize)]
    enum Event {
        Placed(std::collections::BTreeMap<(u8, u8), u32>),
    }
    let sample = || [Event::Placed([((1, 2), 3)].into())];
    for codec in codecs() {
        let checked = EventTypes::new().encoded_as(codec).samples(sample()).check();
        assert_eq!(checked.is_ok(), codec != Codec::Json, "{codec}: {checked:?}");
    }
}

#[test]
fn a_sample_that_changes_on_the_way_is_refused() {
    #[derive(Serialize, Deserialize)]
    enum Event {
        Measured {
            #[serde(deserialize_with = "halved")]
            value: u32,
        },
    }
    fn halved<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        u32::deserialize(deserializer).map(|value| value / 2)
    }
    for codec in codecs() {
        let types = || EventTypes::new().encoded_as(codec);
        let problems = problems(types().samples([Event::Measured { value: 0 }, Event::Measured { value: 4 }]));
        let expected = format!("samples[1]: \"Measured\" is another value when it is read back from {codec}\n");
        assert_eq!(problems, expected);
    }
}

#[test]
fn a_violation_names_its_place() {
    let problem = EventTypes::<Event>::new().rename("x", "y").check().unwrap_err();
    let crate::Error::Invalid(invalid) = problem else { panic!("{problem}") };
    assert!(matches!(&invalid.violations[..], [Violation { event: None, field, .. }] if field == "variant \"x\""));
}

/// Each of them is written without complaint.
#[test]
fn what_a_format_can_write_and_never_read_is_refused_without_a_sample() {
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Means {
        Card { number: u64 },
    }
    #[derive(Serialize, Deserialize)]
    enum Event {
        Paid { cents: u64, means: Means },
        Noted(Option<serde_json::Value>),
        Closed,
    }
    for codec in codecs() {
        let checked = EventTypes::<Event>::new().encoded_as(codec).check();
        if codec == Codec::Json {
            assert!(checked.is_ok());
            continue;
        }
        let paid = Event::Paid { cents: 5, means: Means::Card { number: 1 } };
        let events = EventTypes::<Event>::new().check().unwrap();
        assert!(events.decode(&encoded(&events, &paid).as_event()).is_ok(), "JSON can");
        let crate::Error::Invalid(invalid) = checked.unwrap_err() else { panic!("another error") };
        let fields: Vec<&str> = invalid.violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, [r#"variant "Paid""#, r#"variant "Noted""#], "{codec}");
        assert!(invalid.violations[0].problem.contains("asks the format what comes next"));
    }
}

/// What only shows in a value is found by a sample.
#[test]
fn a_field_that_is_left_out_is_found_by_a_sample() {
    #[derive(Serialize, Deserialize)]
    enum Event {
        Opened {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            owner: Option<String>,
            limit: u32,
        },
    }
    let samples = || [Some("Alice".to_owned()), None].map(|owner| Event::Opened { owner, limit: 7 });
    for codec in codecs() {
        let types = EventTypes::new().encoded_as(codec).samples(samples());
        if codec == Codec::Json {
            assert!(types.check().is_ok());
        } else {
            let problems = problems(types);
            assert!(problems.starts_with(r#"samples[1]: "Opened""#) && problems.lines().count() == 1, "{problems}");
        }
    }
}
