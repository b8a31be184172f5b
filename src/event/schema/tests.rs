//! Schemas as they are derived, compared and registered.

#![allow(clippy::items_after_statements, reason = "a type stands beside the one that it is compared with")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::event::{EventTypes, Upcaster};

/// The schemas of an enum that is declared on the spot.
macro_rules! schemas {
    (in $codec:ident, $($body:tt)*) => {{
        #[derive(Serialize, Deserialize, JsonSchema)]
        enum Event { $($body)* }
        EventTypes::<Event>::new().encoded_as(Codec::$codec).check().unwrap().schemas()
    }};
    ($($body:tt)*) => { schemas!(in Json, $($body)*) };
}

/// What is different, one change a line.
fn told(after: &EventSchemas, before: &EventSchemas) -> String {
    after.compare(before).iter().fold(String::new(), |told, change| format!("{told}{change}\n"))
}

/// Both directions of a change: from the first to the second, and back.
fn check(before: &EventSchemas, after: &EventSchemas, there: &str, back: &str) {
    assert_eq!(told(after, before), there, "there");
    assert_eq!(told(before, after), back, "back");
}

#[test]
fn there_is_a_schema_for_each_type() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Owner {
        name: String,
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Event {
        Opened { owner: Owner, limit: Option<u64> },
        Noted(String),
        Closed,
    }
    let types = EventTypes::<Event>::new().rename("noted", "Remarked").schema_version("opened", 2);
    let events = types.upcast(Upcaster::rename("opened", 1)).check().unwrap();
    let schemas = events.schemas();
    assert_eq!(schemas.types().collect::<Vec<_>>(), [("Remarked", 1), ("closed", 1), ("opened", 2)]);
    assert_eq!(schemas.schema("Remarked", 1).unwrap().written, json!({"type": "string"}));
    assert_eq!(schemas.schema("closed", 1).unwrap().written, json!({"type": "null"}));
    assert_eq!(schemas.schema("opened", 1), None);
    let opened = schemas.schema("opened", 2).unwrap();
    let owner = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    assert_eq!(opened.written["$defs"], json!({"Owner": owner}));
    assert_eq!(opened.written["required"], json!(["owner", "limit"]));
    assert_eq!(opened.read["required"], json!(["owner"]), "an absent option is read as none");
}

#[test]
fn the_same_schemas_have_no_differences() {
    let schemas = || schemas! { Placed { lines: Vec<(u8, String)>, notes: BTreeMap<String, Option<char>> }, Closed };
    assert_eq!(told(&schemas(), &schemas()), "");
}

#[test]
fn a_new_field_that_must_be_there_breaks_recorded_events() {
    check(
        &schemas! { Opened { owner: String } },
        &schemas! { Opened { owner: String, currency: String } },
        "Opened v1: there is a new field \"currency\", which must be there; recorded events cannot be read\n",
        "Opened v1, currency: the field is gone, and read over\n\
         Opened v1: there is a new field \"currency\", which must be there; older programs cannot read new events\n",
    );
}

#[test]
fn a_new_field_that_may_be_absent_breaks_nothing() {
    check(
        &schemas! { Opened { owner: String } },
        &schemas! { Opened { owner: String, currency: Option<String>, #[serde(default)] limit: u64 } },
        "",
        "Opened v1, currency: the field is gone, and read over\nOpened v1, limit: the field is gone, and read over\n",
    );
}

#[test]
fn a_field_that_may_be_absent_and_then_must_not_breaks_recorded_events() {
    check(
        &schemas! { Opened { #[serde(default, skip_serializing_if = "String::is_empty")] owner: String } },
        &schemas! { Opened { owner: String } },
        "Opened v1: the field \"owner\" must be there now; recorded events cannot be read\n",
        "Opened v1: the field \"owner\" must be there now; older programs cannot read new events\n",
    );
}

#[test]
fn a_field_that_is_refused_is_told() {
    check(
        &schemas! { Opened(Loose) },
        &schemas! { Opened(Strict) },
        "Opened v1, limit: the field is gone, and refused; recorded events cannot be read\n\
         Opened v1: there is a new field \"limit\", which must be there; older programs cannot read new events\n",
        "Opened v1: there is a new field \"limit\", which must be there; recorded events cannot be read\n\
         Opened v1, limit: the field is gone, and refused; older programs cannot read new events\n",
    );
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Loose {
        owner: String,
        limit: u64,
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        owner: String,
    }
}

#[test]
fn changed_types_are_told_with_their_paths() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Line<C> {
        count: C,
    }
    check(
        &schemas! { Placed { lines: Vec<Line<u64>> } },
        &schemas! { Placed { lines: Vec<Line<String>> } },
        "Placed v1, lines[].count: integer became string; recorded events cannot be read\n\
         Placed v1, lines[].count: string became integer; older programs cannot read new events\n",
        "Placed v1, lines[].count: string became integer; recorded events cannot be read\n\
         Placed v1, lines[].count: integer became string; older programs cannot read new events\n",
    );
    let changed = |after: EventSchemas| told(&after, &schemas! { A { x: Option<u16>, y: (u8, bool), z: Vec<f64> } });
    let unchanged = changed(schemas! { A { x: Option<u16>, y: (u8, bool), z: Vec<f64> } });
    assert_eq!(unchanged, "");
    let x = changed(schemas! { A { x: u16, y: (u8, bool), z: Vec<f64> } });
    assert!(x.contains("A v1, x: null became integer; recorded"), "{x}");
    let x = changed(schemas! { A { x: Option<u8>, y: (u8, bool), z: Vec<f64> } });
    assert!(x.contains("A v1, x: numbers from 0e0 to 6.5535e4 became 0e0 to 2.55e2; recorded"), "{x}");
    let x = changed(schemas! { A { x: Option<u32>, y: (u8, bool), z: Vec<f64> } });
    assert!(x.contains("A v1, x: numbers from 0e0 to 4.294967295e9 became 0e0 to 6.5535e4; older programs"), "{x}");
    assert!(!x.contains("recorded"), "{x}");
    let y = changed(schemas! { A { x: Option<u16>, y: (u8, bool, u8), z: Vec<f64> } });
    assert!(y.contains("A v1, y: 2 elements became 3; recorded"), "{y}");
    let y = changed(schemas! { A { x: Option<u16>, y: (bool, bool), z: Vec<f64> } });
    assert!(y.contains("A v1, y[0]: integer became boolean; recorded"), "{y}");
    let z = changed(schemas! { A { x: Option<u16>, y: (u8, bool), z: (f64, f64) } });
    assert!(z.contains("A v1, z: a list became a tuple; recorded"), "{z}");
    let z = changed(schemas! { A { x: Option<u16>, y: (u8, bool), z: BTreeMap<String, f64> } });
    assert!(z.contains("A v1, z: array became object; recorded"), "{z}");
    let z = changed(schemas! { A { x: Option<u16>, y: (u8, bool), z: Vec<i64> } });
    assert!(z.contains("A v1, z[]: number became integer; recorded") && !z.contains("older"), "{z}");
    let any = schemas! { A { x: serde_json::Value, y: serde_json::Value, z: serde_json::Value } };
    let any = told(&any, &schemas! { A { x: Option<u16>, y: (u8, bool), z: Vec<f64> } });
    assert!(any.contains("A v1, x: anything became integer or null; older") && !any.contains("recorded"), "{any}");
    let text = told(&schemas! { A(char) }, &schemas! { A(String) });
    assert!(text.contains("A v1: texts must be of maxLength 1 now; recorded"), "{text}");
}

#[test]
fn a_changed_length_of_an_array_is_told() {
    let (three, four, any) = (schemas! { A([u8; 3]) }, schemas! { A([u8; 4]) }, schemas! { A(Vec<u8>) });
    let longer = told(&four, &three);
    assert!(longer.contains("A v1: 3 elements became 4; recorded events cannot be read"), "{longer}");
    let fixed = told(&three, &any);
    assert!(fixed.contains("A v1: 0 or more elements became 3; recorded") && !fixed.contains("older"), "{fixed}");
    let freed = told(&any, &three);
    assert!(freed.contains("older") && !freed.contains("recorded"), "{freed}");
    assert_eq!(told(&three, &schemas! { A([u8; 3]) }), "");
}

#[cfg(feature = "postcard")]
#[test]
fn a_list_and_an_array_are_other_bytes_without_names() {
    let told = told(&schemas! { in Postcard, A(Vec<u8>) }, &schemas! { in Postcard, A([u8; 3]) });
    assert!(told.contains("recorded events cannot be read"), "{told}");
}

#[test]
fn variants_of_nested_enums_are_compared_by_their_names() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Before {
        Cash,
        Card(u32),
        Transfer { iban: String },
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum After {
        Transfer { iban: String, bic: String },
        Card(u16),
        Cheque,
    }
    check(
        &schemas! { Paid { by: Option<Before> } },
        &schemas! { Paid { by: Option<After> } },
        "Paid v1, by: there is no variant \"Cash\"; recorded events cannot be read\n\
         Paid v1, by<Card>: numbers from 0e0 to 4.294967295e9 became 0e0 to 6.5535e4; recorded events cannot be read\n\
         Paid v1, by<Transfer>: there is a new field \"bic\", which must be there; recorded events cannot be read\n\
         Paid v1, by: there is no variant \"Cheque\"; older programs cannot read new events\n",
        "Paid v1, by: there is no variant \"Cheque\"; recorded events cannot be read\n\
         Paid v1, by<Transfer>.bic: the field is gone, and read over\n\
         Paid v1, by: there is no variant \"Cash\"; older programs cannot read new events\n\
         Paid v1, by<Card>: numbers from 0e0 to 4.294967295e9 became 0e0 to 6.5535e4; older programs cannot read new \
         events\n\
         Paid v1, by<Transfer>: there is a new field \"bic\", which must be there; older programs cannot read new events\n",
    );
}

#[test]
fn tagged_and_untagged_enums_inside_are_compared() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "kind")]
    enum Tagged<C> {
        Cash,
        Card { number: C },
    }
    let tagged = told(&schemas! { Paid(Tagged<String>) }, &schemas! { Paid(Tagged<u64>) });
    assert!(tagged.contains("Paid v1, number: integer became string; recorded"), "{tagged}");

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(untagged)]
    enum Untagged<C> {
        Card { number: C },
        Transfer { iban: String },
        Cheque { bank: u8 },
    }
    let same = told(&schemas! { Paid(Untagged<u64>) }, &schemas! { Paid(Untagged<u64>) });
    assert_eq!(same, "");
    let untagged = told(&schemas! { Paid(Untagged<String>) }, &schemas! { Paid(Untagged<u64>) });
    assert!(untagged.contains("Paid v1, number: integer became string; recorded"), "{untagged}");
}

#[test]
fn types_that_hold_themselves_are_compared() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Tree<V> {
        value: V,
        children: Vec<Tree<V>>,
        parent: Option<Box<Tree<V>>>,
    }
    let grown = told(&schemas! { Grown(Tree<bool>) }, &schemas! { Grown(Tree<u8>) });
    assert!(grown.contains(".value: integer became boolean; recorded"), "{grown}");
    assert_eq!(told(&schemas! { Grown(Tree<u8>) }, &schemas! { Grown(Tree<u8>) }), "");
}

#[test]
fn a_variant_that_loses_its_fields_reads_over_them() {
    check(
        &schemas! { Opened { owner: String } },
        &schemas! { Opened },
        "Opened v1: the payload is read over\n\
         Opened v1: null became object; older programs cannot read new events\n",
        "Opened v1: null became object; recorded events cannot be read\n",
    );
}

#[test]
fn a_type_that_is_gone_breaks_recorded_events_unless_it_is_upcast() {
    check(
        &schemas! { Opened, Moved { city: String } },
        &schemas! { Opened },
        "Moved v1: nothing reads it any more; recorded events cannot be read\n",
        "Moved v1: it is new; older programs cannot read new events\n",
    );
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Event {
        Opened,
    }
    let events = EventTypes::<Event>::new().upcast(Upcaster::drop("Moved", 1)).check().unwrap();
    assert_eq!(told(&events.schemas(), &schemas! { Opened, Moved { city: String } }), "");
}

#[test]
#[cfg(feature = "postcard")]
fn every_change_breaks_a_format_that_does_not_describe_itself() {
    let changed =
        |after: EventSchemas| told(&after, &schemas!(in Postcard, Opened { owner: String, limit: u16 }, Closed));
    assert_eq!(changed(schemas!(in Postcard, Opened { owner: String, limit: u16 }, Closed)), "");
    for (after, expected) in [
        (
            schemas!(in Postcard, Opened { owner: String, limit: u16, x: Option<u8> }, Closed),
            "Opened v1, x: the field is new",
        ),
        (schemas!(in Postcard, Opened { owner: String }, Closed), "Opened v1, limit: the field is gone"),
        (
            schemas!(in Postcard, Opened { limit: u16, owner: String }, Closed),
            "Opened v1: the fields stand in another order",
        ),
        (schemas!(in Postcard, Opened { owner: String, limit: u32 }, Closed), "Opened v1, limit: numbers from 0e0 to"),
        (schemas!(in Postcard, Opened { owner: String, limit: Option<u16> }, Closed), "limit: integer became null too"),
        (schemas!(in Postcard, Opened { owner: String, limit: u16 }, Closed(u8)), "Closed v1: null became integer"),
    ] {
        let changes = changed(after);
        assert!(
            changes.contains(expected) && changes.contains("recorded events cannot be read"),
            "{expected}: {changes}"
        );
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Before {
        A(u8),
        B(u8),
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Appended {
        A(u8),
        B(u8),
        C(u8),
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Inserted {
        A(u8),
        C(u8),
        B(u8),
    }
    let before = schemas!(in Postcard, Chosen(Before));
    assert_eq!(told(&schemas!(in Postcard, Chosen(Appended)), &before), "");
    let inserted = told(&schemas!(in Postcard, Chosen(Inserted)), &before);
    assert!(inserted.contains("the variant \"B\" stands at place 2, and stood at 1; recorded"), "{inserted}");
}

#[test]
fn schemas_are_registered_beside_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let first = schemas! { Opened { owner: String } };
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(EventSchemas::registered(&store, "account").unwrap(), None);
    assert_eq!(first.register(&store, "account").unwrap(), []);
    store.close().unwrap();

    let store = Store::open(directory.path()).unwrap();
    assert_eq!(EventSchemas::registered(&store, "account").unwrap(), Some(first.clone()));
    assert_eq!(EventSchemas::registered(&store, "order").unwrap(), None, "names are apart");
    assert_eq!(first.register(&store, "account").unwrap(), [], "once more changes nothing");
    assert_eq!(store.head().unwrap(), None, "the log has no part in it");

    let broken = schemas! { Opened { owner: u64 } };
    let error = broken.register(&store, "account").unwrap_err();
    assert!(matches!(&error, Error::Invalid(invalid) if invalid.violations.len() == 1), "{error}");
    assert!(error.to_string().contains("owner: string became integer; recorded events cannot be read"), "{error}");
    assert_eq!(EventSchemas::registered(&store, "account").unwrap(), Some(first.clone()), "nothing was written");

    let grown = schemas! { Opened { owner: String, limit: Option<u64> }, Closed };
    let changes = grown.register(&store, "account").unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0].kind, changes[0].breaks), (ChangeKind::RemovedVariant, Breaks::OlderPrograms));
    assert_eq!(EventSchemas::registered(&store, "account").unwrap(), Some(grown));
}

/// So that a program that writes version 2 is held against what version 1 was, should it ever write it again.
#[test]
fn versions_that_are_only_upcast_now_are_kept() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Event {
        Opened { owner: u64 },
    }
    let store = Store::in_memory().unwrap();
    schemas! { Opened { owner: String } }.register(&store, "account").unwrap();
    let types = EventTypes::<Event>::new().schema_version("Opened", 2).upcast(Upcaster::rename("Opened", 1));
    let second = types.check().unwrap().schemas();
    second.register(&store, "account").unwrap();
    let registered = EventSchemas::registered(&store, "account").unwrap().unwrap();
    assert_eq!(registered.types().collect::<Vec<_>>(), [("Opened", 1), ("Opened", 2)]);
    assert_eq!(second.compare(&registered), []);
    let error = schemas! { Opened { owner: bool } }.register(&store, "account").unwrap_err().to_string();
    assert!(error.contains("Opened v1, owner: string became boolean"), "{error}");
    assert!(error.contains("Opened v2: nothing reads it any more"), "{error}");
}

/// Only the codec of the last registration was looked at: after one in JSON, a new field passed with which the events
/// that had been recorded in postcard before could not be read.
#[test]
#[cfg(feature = "postcard")]
fn what_was_recorded_in_postcard_is_read_field_by_field_also_after_the_move_to_json() {
    let store = Store::in_memory().unwrap();
    let register = |schemas: EventSchemas| schemas.register(&store, "account");
    register(schemas!(in Postcard, Opened { owner: String })).unwrap();
    register(schemas! { Opened { owner: String }, Moved { city: String } }).unwrap();
    let registered = EventSchemas::registered(&store, "account").unwrap();

    let refused = |schemas: EventSchemas| register(schemas).unwrap_err().to_string();
    let error = refused(schemas! { Opened { owner: String, limit: Option<u64> }, Moved { city: String } });
    assert!(error.contains("Opened v1, limit: the field is new; recorded events cannot be read"), "{error}");
    assert_eq!(EventSchemas::registered(&store, "account").unwrap(), registered, "nothing was written");

    // What was never recorded in postcard may become more, as anything in JSON may, and changes nothing of that.
    let grown = schemas! { Opened { owner: String }, Moved { city: String, zip: Option<String> } };
    assert_eq!(register(grown).unwrap(), []);
    let more = schemas! { Opened { owner: String, limit: Option<u64> }, Moved { city: String, zip: Option<String> } };
    assert!(refused(more).contains("Opened v1, limit: the field is new"));
}

/// As above: a version that appears after the move was never recorded in anything but JSON.
#[test]
#[cfg(feature = "postcard")]
fn a_new_version_of_a_type_that_was_recorded_in_postcard_may_change_as_json_may() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Second {
        Opened { owner: String, limit: u64 },
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Grown {
        Opened { owner: String, limit: u64, note: Option<String> },
    }
    fn second<E: Serialize + serde::de::DeserializeOwned + JsonSchema>() -> EventSchemas {
        let types = EventTypes::<E>::new().schema_version("Opened", 2).upcast(Upcaster::rename("Opened", 1));
        types.check().unwrap().schemas()
    }
    let store = Store::in_memory().unwrap();
    schemas!(in Postcard, Opened { owner: String }).register(&store, "account").unwrap();
    second::<Second>().register(&store, "account").unwrap();
    assert_eq!(second::<Grown>().register(&store, "account").unwrap(), []);
}

#[test]
fn what_is_no_registration_is_an_error() {
    let store = Store::in_memory().unwrap();
    store.state().unwrap().put("schema-account", "[]").unwrap();
    let error = EventSchemas::registered(&store, "account").unwrap_err().to_string();
    assert!(error.contains(r#"cannot read the schemas registered as "account""#), "{error}");
}
