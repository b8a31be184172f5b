//! Group 29: typed reads. What is unknown is named, what is old is upcast, what is dropped is read over; migrations.

use annals::{
    Codec, Error, Event, EventCodec, EventTypes, ExpectedVersion, Horizon, Item, Migration, NewEvent, Projection,
    Query, Store, Upcast, Upcaster, Upcasters,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::*;
use crate::world::{check, tiny};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Account {
    Opened { owner: String },
    Deposited { cents: u64, currency: String },
    StreetChanged(String),
    CityChanged(String),
    Closed,
}

fn codec_of(codec: Codec) -> EventCodec<Account> {
    EventTypes::new().encoded_as(codec).check().unwrap()
}

/// Version 2 of deposits, and types that are no more.
fn today() -> EventCodec<Account> {
    declared().check().unwrap()
}

fn declared() -> EventTypes<Account> {
    EventTypes::new()
        .schema_version("Deposited", 2)
        .upcast(Upcaster::one("Deposited", 1, |mut payload| {
            payload["currency"] = "EUR".into();
            Ok(payload)
        }))
        .upcast(split())
        .upcast(Upcaster::drop("Clicked", 1))
}

fn split() -> Upcaster {
    Upcaster::json("Moved", 1, |payload| {
        let street = Upcast::of("StreetChanged", payload["street"].clone());
        Ok(vec![street, Upcast::of("CityChanged", payload["city"].clone())])
    })
    .to("StreetChanged", 1)
    .to("CityChanged", 1)
}

fn json_event(event_type: &'static str, payload: &serde_json::Value) -> NewEvent {
    NewEvent::json(event_type, payload).unwrap()
}

fn accounts() -> [Account; 3] {
    let deposited = Account::Deposited { cents: 500, currency: "EUR".into() };
    [Account::Opened { owner: "Alice".into() }, deposited, Account::Closed]
}

/// What a typed read gives: position, ordinal and event.
fn typed(store: &Store, query: Query, codec: &EventCodec<Account>) -> Vec<(u64, u32, Account)> {
    let mut read = store.read(query).typed(codec);
    let mut events = Vec::new();
    while let Some(event) = read.next().unwrap() {
        events.push((event.position().number(), event.ordinal, event.data));
    }
    assert!(read.next().unwrap().is_none(), "what has ended stays ended");
    events
}

#[test]
fn g29_typed_events_come_back_from_every_codec_in_one_store() {
    check(|world| {
        let codecs: Vec<Codec> =
            [Codec::Json, Codec::Postcard, Codec::Bincode].into_iter().filter(|codec| codec.is_available()).collect();
        for codec in &codecs {
            let events = accounts().map(|event| codec_of(*codec).encode(&event).unwrap());
            world.append("account-a", Any, events).unwrap();
            world.pause();
        }
        world.observe(|store| {
            let events: Vec<Account> =
                typed(store, Query::all(), &codec_of(Codec::Json)).into_iter().map(|(_, _, event)| event).collect();
            let expected: Vec<Account> = codecs.iter().flat_map(|_| accounts()).collect();
            assert_eq!(events, expected);
        });
    });
}

#[test]
fn g29_an_unknown_type_is_an_error_that_names_the_event() {
    check(|world| {
        let events = codec_of(Codec::Json);
        world.append("account-a", Any, accounts().map(|event| events.encode(&event).unwrap())).unwrap();
        world.append("account-a", Any, [json_event("Frozen", &json!({})).id(id(9))]).unwrap();
        world.append("account-a", Any, accounts().map(|event| events.encode(&event).unwrap())).unwrap();
        world.pause();
        world.observe(|store| {
            let mut read = store.read(Query::stream("account-a")).typed(&events);
            for _ in 0..3 {
                assert!(read.next().unwrap().is_some());
            }
            let error = read.next().unwrap_err();
            let Error::UnknownEvent { event_type, schema_version, stream, position: at, id: named } = &error else {
                panic!("{error}");
            };
            assert_eq!((event_type.as_str(), *schema_version, stream.as_str()), ("Frozen", 1, "account-a"));
            assert_eq!((at.number(), *named), (4, id(9)));
            assert!(read.next().unwrap().is_none(), "a read that failed has ended");

            let mut data = store.read(Query::stream("account-a")).typed(&events).data();
            assert_eq!(data.by_ref().take(3).map(Result::unwrap).collect::<Vec<_>>(), accounts());
            assert!(matches!(data.next(), Some(Err(Error::UnknownEvent { .. }))));
            assert!(data.next().is_none());
            assert_eq!(typed(store, events.query(), &events).len(), 6, "its own query does not ask for it");
        });
    });
}

#[test]
fn g29_an_unknown_version_is_an_error_that_names_the_event() {
    check(|world| {
        let deposited = json_event("Deposited", &json!({"cents": 1, "currency": "EUR", "new": true}));
        world.append("account-a", Any, [deposited.schema_version(3)]).unwrap();
        world.pause();
        world.observe(|store| {
            for events in [codec_of(Codec::Json), today()] {
                let error = store.read(events.query()).typed(&events).next().unwrap_err();
                let Error::UnknownEvent { event_type, schema_version: 3, position: at, .. } = &error else {
                    panic!("{error}");
                };
                assert_eq!((event_type.as_str(), at.number()), ("Deposited", 1));
            }
        });
    });
}

#[test]
fn g29_a_payload_that_is_no_such_event_is_an_error_that_names_it() {
    check(|world| {
        world.append("account-a", Any, [json_event("Opened", &json!({"owner": 5}))]).unwrap();
        world.pause();
        world.observe(|store| {
            let events = codec_of(Codec::Json);
            let error = store.read(Query::all()).typed(&events).next().unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Codec { .. }));
            for part in ["Opened", "position 1", "account-a", "expected a string"] {
                assert!(text.contains(part), "{part} is missing in: {text}");
            }
        });
    });
}

#[test]
fn g29_old_events_are_told_as_they_are_now() {
    check(|world| {
        world.append("account-a", Any, [json_event("Deposited", &json!({"cents": 5}))]).unwrap();
        world.pause();
        let moved = json_event("Moved", &json!({"street": "Rheingasse", "city": "Basel"})).tag("zip:4058");
        world.append("account-a", Any, [json_event("Clicked", &json!({})), moved.id(id(7))]).unwrap();
        world.pause();
        world.append("account-a", Any, [today().encode(&Account::Closed).unwrap()]).unwrap();
        world.observe(|store| {
            let events = today();
            let expected = [
                (1, 0, Account::Deposited { cents: 5, currency: "EUR".into() }),
                (3, 0, Account::StreetChanged("Rheingasse".into())),
                (3, 1, Account::CityChanged("Basel".into())),
                (4, 0, Account::Closed),
            ];
            assert_eq!(typed(store, Query::stream("account-a"), &events), expected);
            assert_eq!(typed(store, events.query(), &events), expected);

            let mut read = store.read(Query::tag("zip:4058")).typed(&events);
            for ordinal in [0, 1] {
                let event = read.next().unwrap().unwrap();
                assert_eq!((event.ordinal, event.id(), event.version().number()), (ordinal, id(7), 3));
                assert_eq!((event.event_type(), event.has_tag("zip:4058")), ("Moved", true), "as it is recorded");
            }
        });
    });
}

#[test]
fn g29_a_backwards_read_keeps_the_order_within_an_event() {
    check(|world| {
        let moved = |street: &str| json_event("Moved", &json!({"street": street, "city": "Basel"}));
        world.append("account-a", Any, [moved("First"), moved("Second")]).unwrap();
        world.observe(|store| {
            let mut read = store.read(Query::all()).reverse().typed(&today());
            let mut told = Vec::new();
            while let Some(event) = read.next().unwrap() {
                told.push((event.position().number(), event.ordinal));
            }
            assert_eq!(told, [(2, 0), (2, 1), (1, 0), (1, 1)]);
        });
    });
}

#[test]
fn g29_events_that_become_none_are_read_over() {
    check(|world| {
        world.append("account-a", Any, (0..300).map(|_| json_event("Clicked", &json!({})))).unwrap();
        world.pause();
        world.observe(|store| assert_eq!(typed(store, Query::all(), &today()), []));
        world.append("account-a", Any, [today().encode(&Account::Closed).unwrap()]).unwrap();
        world.observe(|store| assert_eq!(typed(store, Query::all(), &today()), [(301, 0, Account::Closed)]));
    });
}

#[test]
fn g29_a_migrated_store_reads_as_the_old_one_does_through_upcasters() {
    check(|world| {
        for number in 0..12_u64 {
            let moved = json_event("Moved", &json!({"street": format!("{number}"), "city": "Basel"}));
            let deposited = json_event("Deposited", &json!({"cents": number}));
            let commit = world.commit().append(format!("account-{}", number % 3), Any, [deposited, moved]);
            commit.append("clicks", Any, [json_event("Clicked", &json!({}))]).send().unwrap();
            world.pause();
        }
        let upcasters = || {
            let currency = Upcaster::one("Deposited", 1, |mut payload| {
                payload["currency"] = "EUR".into();
                Ok(payload)
            });
            Upcasters::new([currency, split(), Upcaster::drop("Clicked", 1)]).unwrap()
        };
        world.observe(|store| {
            let before: Vec<Account> =
                typed(store, Query::all(), &today()).into_iter().map(|(_, _, event)| event).collect();
            let preview = Migration::new(upcasters()).preview(store).unwrap();
            for on_disk in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let open = |options: annals::Options| match on_disk {
                    true => options.open(directory.path()),
                    false => options.in_memory(),
                };
                let (target, report) = Migration::new(upcasters()).run(store, open).unwrap();
                assert_eq!(report, preview);
                assert_eq!((report.read, report.written, report.commits), (36, 36, 12));
                let after: Vec<Account> =
                    target.read(Query::all()).typed(&today()).data().map(Result::unwrap).collect();
                assert_eq!(after, before);
                assert_eq!(target.synced_head().unwrap(), target.head().unwrap());
                assert_eq!(target.read(Query::types(["Moved", "Clicked"])).count().unwrap(), 0);
            }
        });
    });
}

#[test]
fn g29_a_store_with_events_is_not_migrated_into() {
    check(|world| {
        world.append("account-a", Any, [json_event("Clicked", &json!({}))]).unwrap();
        world.observe(|store| {
            let full = |options: annals::Options| {
                let target = options.in_memory()?;
                target.append("other", ExpectedVersion::Any, [NewEvent::raw("Other", "")])?;
                Ok(target)
            };
            let error = Migration::new(Upcasters::new([]).unwrap()).run(store, full).unwrap_err();
            assert!(error.to_string().contains("target: it has 1 events already"), "{error}");
        });
    });
}

/// The commits of a source may be anywhere between the tiniest and the largest that its options allow.
#[test]
fn g29_a_commit_that_outgrows_its_limit_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for source in [tiny().in_memory().unwrap(), tiny().open(directory.path()).unwrap()] {
        source.append("a", Any, [json_event("Moved", &json!({"street": "s", "city": "c"}))]).unwrap();
        let long = "x".repeat(annals::limits::COMMIT_BYTES_MAX);
        let grow = Upcaster::one("Moved", 1, move |_| Ok(long.clone().into()));
        let error = Migration::new(Upcasters::new([grow]).unwrap()).run(&source, annals::Options::in_memory);
        assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
    }
}

/// What somebody is told of the events, with the positions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Told(Vec<(u64, Account)>);

impl Projection for Told {
    type Event = Account;

    fn apply(&mut self, event: &Account, recorded: &Event<'_>) {
        self.0.push((recorded.position().number(), event.clone()));
    }

    fn event_types() -> EventTypes<Account> {
        declared()
    }
}

/// Old events of each kind, the last of which become none, and what they are today.
fn append_old(store: &Store) -> Told {
    let old = [
        json_event("Opened", &json!({ "owner": "Alice" })),
        json_event("Deposited", &json!({ "cents": 500 })),
        json_event("Moved", &json!({ "street": "Oudegracht", "city": "Utrecht" })),
        json_event("Clicked", &json!({})),
        json_event("Clicked", &json!({})),
    ];
    store.append("account-a", Any, old).unwrap();
    Told(vec![
        (1, Account::Opened { owner: "Alice".into() }),
        (2, Account::Deposited { cents: 500, currency: "EUR".into() }),
        (3, Account::StreetChanged("Oudegracht".into())),
        (3, Account::CityChanged("Utrecht".into())),
    ])
}

#[test]
fn g29_projections_are_told_what_old_events_became_and_go_on_behind_those_that_became_none() {
    check(|world| {
        let expected = append_old(world);
        let told = world.projection("told", Told::default()).start().unwrap();
        told.wait_for(p(5)).unwrap();
        assert_eq!(told.read(Told::clone), expected);
        told.stop().unwrap();
        let told = world.projection("told", Told::default()).start().unwrap();
        assert_eq!(told.start_report().resumed_behind, Some(p(5)), "what became nothing advances the checkpoint");
        told.wait_for(p(5)).unwrap();
        assert_eq!(told.read(Told::clone), expected);
    });
}

#[test]
fn g29_subscriptions_and_replays_are_told_what_old_events_became() {
    check(|world| {
        let (expected, events) = (append_old(world), today());
        let decode = |event: &Event<'_>| {
            let position = event.position().number();
            events.decode(event).unwrap().map(move |event| (position, event)).collect::<Vec<_>>()
        };
        let mut told = Vec::new();
        world.replay(events.query()).run(|event| told.extend(decode(event))).unwrap();
        assert_eq!(Told(told), expected);

        let mut told = Vec::new();
        for item in world.subscribe("told").query(events.query()).visible().open().unwrap() {
            let Item::Event(delivery) = item.unwrap() else { break };
            told.extend(decode(&delivery.as_event()));
            delivery.ack().unwrap();
        }
        assert_eq!(Told(told), expected);
        let checkpoint = world.subscription_checkpoint("told").unwrap().unwrap();
        assert_eq!(checkpoint.position, p(5), "what became nothing advances the checkpoint");
    });
}

#[test]
fn g29_reactors_are_told_what_old_events_became() {
    check(|world| {
        let expected = append_old(world);
        let (sender, told) = std::sync::mpsc::channel();
        let reactor = world
            .react_to("told", &today(), move |event: Account, recorded| {
                Ok(sender.send((recorded.position().number(), event))?)
            })
            .from_start()
            .upto(Horizon::Visible)
            .start()
            .unwrap();
        reactor.wait_for(p(5)).unwrap();
        reactor.stop().unwrap();
        assert_eq!(Told(told.iter().collect()), expected);
    });
}

#[cfg(feature = "sqlite")]
#[test]
fn g29_sql_projections_are_told_what_old_events_became_and_go_on_behind_those_that_became_none() {
    check(|world| {
        let expected = append_old(world);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("told.sqlite");
        let start = || {
            let tell = "INSERT INTO told VALUES (?1, ?2)";
            world
                .sql_projection("told", &path, declared(), move |tables, event, recorded| {
                    let event = serde_json::to_string(event)?;
                    tables.prepare_cached(tell)?.execute((recorded.position().number().cast_signed(), event))?;
                    Ok(())
                })
                .schema("CREATE TABLE told (position INTEGER, event TEXT)")
                .start()
                .unwrap()
        };
        let projection = start();
        projection.wait_for(p(5)).unwrap();
        let told = projection.read(|tables| {
            let mut statement = tables.prepare("SELECT position, event FROM told ORDER BY rowid").unwrap();
            let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))).unwrap();
            rows.map(Result::unwrap)
                .map(|(at, event)| (at.cast_unsigned(), serde_json::from_str(&event).unwrap()))
                .collect()
        });
        assert_eq!(Told(told), expected);
        projection.stop().unwrap();
        let projection = start();
        assert_eq!(projection.start_report().resumed_behind, Some(p(5)), "what became nothing advances the checkpoint");
    });
}
