//! Three versions of a program, one store: how events outlive the code that wrote them.
//!
//! Run it with `cargo run --example upcasting`. It works in a temporary directory and checks what it claims.
//!
//! The log is never rewritten. What version 1 wrote in the first year stands there in the third; each time it is read,
//! *upcasters* turn it into what the program of today understands. You declare them once, beside the enum of your
//! events, and everything that reads uses them: typed reads, aggregates, projections, subscriptions.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "an example may end with a panic")]

use annals::{
    Error, EventTypes, ExpectedVersion, Migration, NewEvent, Query, Result, Store, Upcast, UpcastRules, Upcaster,
    Upcasters,
};
use serde_json::json;

/// The first year. A customer has a name and an address; somebody thought that clicks would be worth keeping.
mod first_year {
    use annals::EventTypes;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, Serialize, Deserialize)]
    pub(super) enum CustomerEvent {
        Registered { name: String },
        Moved { street: String, city: String },
        Clicked { button: u32 },
    }

    /// The variant's name is the type of the event, and what stands inside it is the payload. That is all.
    pub(super) fn events() -> EventTypes<CustomerEvent> {
        EventTypes::new()
    }
}

/// The second year. Names have two parts, and nobody looks at clicks any more.
mod second_year {
    use annals::{EventTypes, Upcaster};
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, Serialize, Deserialize)]
    pub(super) enum CustomerEvent {
        Registered { given_name: String, family_name: String },
        Moved { street: String, city: String },
    }

    /// A `Registered` is written in schema version 2 now, and those of version 1 get there by an upcaster. Forget it, and
    /// `check` says that there is a gap.
    pub(super) fn events() -> EventTypes<CustomerEvent> {
        EventTypes::new()
            .schema_version("Registered", 2)
            .upcast(Upcaster::one("Registered", 1, |payload| {
                let name = payload["name"].as_str().ok_or("the name is missing")?;
                let (given, family) = name.split_once(' ').unwrap_or((name, ""));
                Ok(serde_json::json!({ "given_name": given, "family_name": family }))
            }))
            .upcast(Upcaster::drop("Clicked", 1))
    }
}

/// The third year. A move has become two facts, and customers are called members.
mod third_year {
    use annals::{EventTypes, Upcast, Upcaster};
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(super) enum MemberEvent {
        Joined { given_name: String, family_name: String },
        StreetChanged { street: String },
        CityChanged { city: String },
    }

    /// The upcasters of the second year stay as they are: a chain goes on where the last one ended.
    pub(super) fn events() -> EventTypes<MemberEvent> {
        EventTypes::new()
            .upcast(Upcaster::one("Registered", 1, |payload| {
                let name = payload["name"].as_str().ok_or("the name is missing")?;
                let (given, family) = name.split_once(' ').unwrap_or((name, ""));
                Ok(serde_json::json!({ "given_name": given, "family_name": family }))
            }))
            .upcast(Upcaster::rename("Registered", 2).to("Joined", 1))
            .upcast(
                Upcaster::json("Moved", 1, |payload| {
                    Ok(vec![
                        Upcast::of("StreetChanged", serde_json::json!({ "street": payload["street"] })),
                        Upcast::of("CityChanged", serde_json::json!({ "city": payload["city"] })),
                    ])
                })
                .to("StreetChanged", 1)
                .to("CityChanged", 1),
            )
            .upcast(Upcaster::drop("Clicked", 1))
            // Samples are encoded and decoded when the declaration is checked.
            .samples([MemberEvent::CityChanged { city: "Basel".into() }])
    }
}

/// The same, as a tool without the types sees it: a file for `annals read --upcast` and `annals migrate`.
const RULES: &str = r#"{
    "rules": [
        { "type": "Registered", "version": 2, "to": { "type": "Joined", "version": 1 } },
        { "type": "Moved", "version": 1, "split": [
            { "type": "StreetChanged", "version": 1, "keep": ["street"] },
            { "type": "CityChanged", "version": 1, "keep": ["city"] }
        ] },
        { "type": "Clicked", "version": 1, "drop": true }
    ]
}"#;

fn main() -> Result<()> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(directory.path().join("members.annals"))?;

    in_the_first_year(&store)?;
    in_the_second_year(&store)?;
    in_the_third_year(&store)?;
    what_is_unknown_is_named(&store)?;
    a_copy_without_the_past(&store)
}

fn in_the_first_year(store: &Store) -> Result<()> {
    use first_year::CustomerEvent::{Clicked, Moved, Registered};

    let events = first_year::events().check()?;
    let happened = [
        Registered { name: "Ada Lovelace".into() },
        Clicked { button: 7 },
        Moved { street: "St James's Square".into(), city: "London".into() },
    ];
    let encoded = happened.iter().map(|event| events.encode(event)).collect::<Result<Vec<_>>>()?;
    store.append("customer-ada", ExpectedVersion::NoStream, encoded)?;
    println!("year 1: wrote {} events", happened.len());
    Ok(())
}

fn in_the_second_year(store: &Store) -> Result<()> {
    let events = second_year::events().check()?;
    let grace = second_year::CustomerEvent::Registered { given_name: "Grace".into(), family_name: "Hopper".into() };
    store.append("customer-grace", ExpectedVersion::NoStream, [events.encode(&grace)?])?;

    // Both versions of `Registered` are read as the same variant; the click is read over.
    let mut names = Vec::new();
    for event in store.read(Query::category("customer")).typed(&events).data() {
        match event? {
            second_year::CustomerEvent::Registered { family_name, .. } => names.push(family_name),
            second_year::CustomerEvent::Moved { street, city } => println!("year 2: moved to {street}, {city}"),
        }
    }
    assert_eq!(names, ["Lovelace", "Hopper"]);
    Ok(())
}

fn in_the_third_year(store: &Store) -> Result<()> {
    use third_year::MemberEvent::{CityChanged, Joined, StreetChanged};

    let events = third_year::events().check()?;
    // What was one event is two now. They share position, version and id, and have an ordinal.
    let mut told = Vec::new();
    let mut read = store.read(Query::stream("customer-ada")).typed(&events);
    while let Some(event) = read.next()? {
        println!("year 3: {}.{} {:?}", event.position(), event.ordinal, event.data);
        told.push((event.position().number(), event.ordinal, event.data));
    }
    let expected = [
        (1, 0, Joined { given_name: "Ada".into(), family_name: "Lovelace".into() }),
        (3, 0, StreetChanged { street: "St James's Square".into() }),
        (3, 1, CityChanged { city: "London".into() }),
    ];
    assert_eq!(told, expected);
    Ok(())
}

/// An event that a program does not know is never skipped without a word.
fn what_is_unknown_is_named(store: &Store) -> Result<()> {
    let from_the_future = NewEvent::json("Joined", &json!({ "name": { "full": "?" } }))?.schema_version(9);
    store.append("customer-zoe", ExpectedVersion::NoStream, [from_the_future])?;

    let events = third_year::events().check()?;
    let error = store.read(Query::stream("customer-zoe")).typed(&events).next().unwrap_err();
    assert!(matches!(&error, Error::UnknownEvent { event_type, schema_version: 9, .. } if event_type == "Joined"));
    println!("year 3: {error}");

    // And what cannot work is refused before the first event is read.
    let forgotten = EventTypes::<third_year::MemberEvent>::new().schema_version("Joined", 2);
    println!("year 3: {}", forgotten.check().unwrap_err());
    Ok(())
}

/// Should the past become a burden, a store can be copied through upcasters: by a program, or by `annals migrate`.
fn a_copy_without_the_past(store: &Store) -> Result<()> {
    let by_rules = UpcastRules::from_json(RULES)?.into_iter();
    let by_code = Upcaster::json("Registered", 1, |payload| {
        let name = payload["name"].as_str().unwrap_or_default();
        let (given, family) = name.split_once(' ').unwrap_or((name, ""));
        Ok(vec![Upcast::same(json!({ "given_name": given, "family_name": family }))])
    });
    let migration = Migration::new(Upcasters::new(by_rules.chain([by_code]))?);

    let preview = migration.preview(store)?;
    for change in &preview.changes {
        println!("migrating: {} v{}: {} events", change.event_type, change.schema_version, change.read);
    }
    let (copy, report) = migration.run(store, annals::Options::in_memory)?;
    assert_eq!(report, preview);
    assert_eq!((report.read, report.written), (5, 5));
    assert_eq!(copy.read(Query::types(["Clicked", "Moved", "Registered"])).count()?, 0);
    assert_eq!(copy.read(Query::types(["StreetChanged", "CityChanged"])).count()?, 2);
    println!("migrated {} events into {}", report.read, report.written);
    Ok(())
}
