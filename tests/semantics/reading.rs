//! Groups 24 to 28: what a read finds, in which order, and how far.

use annals::{Codec, Durability, Error, NewEvent, Options, Query, Store, Timestamp};

use crate::support::*;
use crate::world::{World, check, check_roomy};

#[test]
fn g24_an_absent_stream_reads_as_empty() {
    check(|world| {
        let absent = |store: &Store| {
            assert_eq!(version(store, "absent"), None);
            for query in [Query::stream("absent"), Query::category("absent"), Query::types(["T"]), Query::tag("t")] {
                assert_eq!(positions(store, query.clone()), [0; 0]);
                assert_eq!(positions_of(store.read(query).reverse()), [0; 0]);
            }
        };
        world.observe(|store| {
            absent(store);
            assert_eq!((head(store), positions(store, Query::all())), (None, vec![]));
            assert_eq!(positions_of(store.read(Query::all()).reverse()), [0; 0]);
        });
        world.append("present", Any, events(3)).unwrap();
        world.observe(absent);
    });
}

#[test]
fn g24_after_its_end_a_read_stays_ended() {
    check(|world| {
        world.append("a", Any, events(2)).unwrap();
        for query in [Query::all(), Query::stream("a"), Query::types(["Counted"]), Query::tag("none")] {
            let mut read = world.read(query.clone());
            while read.next().unwrap().is_some() {}
            let mut owned = world.read(query).reverse().owned();
            while owned.next().is_some() {}
            world.append("a", Any, [tagged("Counted", &["none"])]).unwrap();
            for _ in 0..3 {
                assert!(read.next().unwrap().is_none());
                assert!(owned.next().is_none());
            }
        }
    });
}

#[test]
fn g24_a_read_that_failed_stays_ended() {
    check(|world| {
        world.append("a", Any, events(2)).unwrap();
        let mut read = world.read(Query::tag(""));
        assert!(matches!(read.next(), Err(Error::Invalid(_))));
        assert!(read.next().unwrap().is_none());
    });
}

/// A read of everything that was to end in the middle of a commit went on to the end of that commit.
#[test]
fn g24_a_read_ends_where_it_was_asked_to_in_the_middle_of_a_commit_as_well() {
    check(|world| {
        world.append("a", Any, events(2)).unwrap();
        world.append("a", Any, events(3)).unwrap();
        world.observe(|store| {
            for query in [Query::all(), Query::stream("a"), Query::types(["Counted"])] {
                for upto in 1..=5 {
                    let read = || store.read(query.clone()).upto(p(upto));
                    assert_eq!(positions_of(read()), (1..=upto).collect::<Vec<_>>(), "{query:?}");
                    assert_eq!(positions_of(read().reverse()), (1..=upto).rev().collect::<Vec<_>>(), "{query:?}");
                    let times = read().since(Timestamp::MIN).until(Timestamp::MAX);
                    assert_eq!(positions_of(times), (1..=upto).collect::<Vec<_>>(), "{query:?}");
                }
            }
        });
    });
}

/// e1 to e6 at seconds 1 to 6, on two streams of one category and one of another.
fn six(world: &mut World) {
    let streams = ["a-1", "b-1", "a-2", "a-1", "b-1", "a-1"];
    let types = ["One", "Two", "One", "Three", "One", "Two"];
    let tags: [&[&str]; 6] = [&["x"], &["x", "y"], &["y"], &[], &["y", "x", "z"], &["z"]];
    for (index, stream) in streams.into_iter().enumerate() {
        let time = Timestamp::from_millis(1_000 * (index as i64 + 1));
        world.append(stream, Any, [tagged(types[index], tags[index]).time(time)]).unwrap();
        world.pause();
    }
}

#[test]
fn g25_by_stream_category_types_tags_and_all() {
    check(|world| {
        six(world);
        world.observe(|store| {
            let cases: [(Query, &[u64]); 13] = [
                (Query::all(), &[1, 2, 3, 4, 5, 6]),
                (Query::stream("a-1"), &[1, 4, 6]),
                (Query::category("a"), &[1, 3, 4, 6]),
                (Query::types(["One"]), &[1, 3, 5]),
                (Query::types(["Three", "Two"]), &[2, 4, 6]),
                (Query::tag("x"), &[1, 2, 5]),
                (Query::tags(["x", "y"]), &[2, 5]),
                (Query::types(["One"]).and_tag("y"), &[3, 5]),
                (Query::category("a").and_types(["One", "Two"]), &[1, 3, 6]),
                (Query::stream("b-1").and_tag("z"), &[5]),
                (Query::stream("a-1").and_category("b"), &[]),
                (Query::category("b").and_stream("b-1").and_types(["Two"]).and_tag("x"), &[2]),
                (Query::stream("a-2").or(Query::tag("z")).or(Query::types(["Three"])), &[3, 4, 5, 6]),
            ];
            for (query, expected) in cases {
                assert_eq!(positions(store, query.clone()), expected, "{query:?}");
                let mut backwards = positions_of(store.read(query.clone()).reverse());
                backwards.reverse();
                assert_eq!(backwards, expected, "{query:?}, backwards");
                assert_eq!(store.read(query).count().unwrap(), expected.len() as u64);
            }
        });
    });
}

#[test]
fn g25_a_name_without_a_dash_is_its_own_category() {
    check(|world| {
        for stream in ["a", "ab", "a-", "a-1", "a-1-2", "-", "-a"] {
            world.append(stream, NoStream, [event("Made")]).unwrap();
            world.pause();
        }
        world.observe(|store| {
            assert_eq!(positions(store, Query::category("a")), [1, 3, 4, 5]);
            assert_eq!(positions(store, Query::category("ab")), [2]);
            assert_eq!(positions(store, Query::stream("a")), [1]);
            let categories: Vec<String> =
                found(store, Query::all()).iter().map(|event| event.as_event().category().to_owned()).collect();
            assert_eq!(categories, ["a", "ab", "a", "a", "a", "", ""]);
        });
    });
}

#[test]
fn g25_a_category_with_a_dash_is_refused() {
    check(|world| {
        let read = world.read(Query::category("a-1")).count();
        let Err(Error::Invalid(invalid)) = read else { panic!("{read:?}") };
        assert_eq!(invalid.violations[0].field, "query.items[0].category");
    });
}

#[test]
fn g25_a_time_range_is_event_time_since_included_until_not() {
    check(|world| {
        six(world);
        // Time and order are unrelated: this one happened first of all.
        world.append("a-1", Any, [tagged("One", &["x"]).time(Timestamp::from_millis(-5))]).unwrap();
        world.pause();
        world.observe(|store| {
            let s = |seconds: i64| Timestamp::from_millis(1_000 * seconds);
            let all = || store.read(Query::all());
            assert_eq!(positions_of(all().since(s(2)).until(s(5))), [2, 3, 4]);
            assert_eq!(positions_of(all().since(s(2)).until(s(5)).reverse()), [4, 3, 2]);
            assert_eq!(positions_of(all().since(s(6))), [6]);
            assert_eq!(positions_of(all().until(s(2))), [1, 7]);
            assert_eq!(positions_of(all().since(Timestamp::from_nanos(s(6).nanos() + 1))), [0; 0]);
            assert_eq!(positions_of(all().since(s(3)).until(s(3))), [0; 0]);
            assert_eq!(positions_of(all().since(s(5)).until(s(2))), [0; 0]);
            assert_eq!(positions_of(all().since(Timestamp::MIN).until(Timestamp::MAX)), [1, 2, 3, 4, 5, 6, 7]);
            assert_eq!(positions_of(store.read(Query::stream("a-1")).until(s(4))), [1, 7]);
            assert_eq!(positions_of(store.read(Query::category("a")).since(s(3)).limit(2)), [3, 4]);
            assert_eq!(positions_of(store.read(Query::tag("x")).since(s(1)).until(s(5)).reverse()), [2, 1]);
        });
    });
}

#[test]
fn g25_from_is_inclusive_and_after_is_exclusive() {
    check(|world| {
        world.append("a", NoStream, events(3)).unwrap();
        world.pause();
        world.observe(|store| {
            for query in [Query::all(), Query::stream("a"), Query::category("a"), Query::types(["Counted"])] {
                let read = || store.read(query.clone());
                assert_eq!(positions_of(read().from(p(2))), [2, 3]);
                assert_eq!(positions_of(read().from(p(2)).reverse()), [2, 1]);
                assert_eq!(positions_of(read().reverse().from(p(2))), [2, 1]);
                assert_eq!(positions_of(read().after(p(2))), [3]);
                assert_eq!(positions_of(read().after(p(2)).reverse()), [1]);
                assert_eq!(positions_of(read().after(None)), [1, 2, 3]);
                assert_eq!(positions_of(read().after(None).reverse()), [3, 2, 1]);
                for beyond in [4, 1_000, u64::MAX] {
                    assert_eq!(positions_of(read().from(p(beyond)).reverse()), [3, 2, 1]);
                    assert_eq!(positions_of(read().after(p(beyond)).reverse()), [3, 2, 1]);
                    assert_eq!(positions_of(read().from(p(beyond))), [0; 0]);
                    assert_eq!(positions_of(read().after(p(beyond))), [0; 0]);
                }
                assert_eq!(positions_of(read().from(p(1))), [1, 2, 3]);
                assert_eq!(positions_of(read().after(p(3))), [0; 0]);
                assert_eq!(positions_of(read().after(p(1)).reverse()), [0; 0]);
                assert_eq!(positions_of(read().from(p(1)).reverse()), [1]);
                // The last one that is named counts.
                assert_eq!(positions_of(read().after(p(1)).from(p(3))), [3]);
                assert_eq!(positions_of(read().from(p(1)).after(p(2))), [3]);
            }
        });
    });
}

#[test]
fn g25_a_limit_counts_what_matches() {
    check(|world| {
        six(world);
        world.observe(|store| {
            let read = || store.read(Query::types(["One"]));
            assert_eq!(positions_of(read().limit(2)), [1, 3]);
            assert_eq!(positions_of(read().limit(2).reverse()), [5, 3]);
            assert_eq!(positions_of(read().limit(2).after(p(1))), [3, 5]);
            assert_eq!(positions_of(read().limit(0)), [0; 0]);
            assert_eq!(positions_of(read().limit(u64::MAX)), [1, 3, 5]);
            assert_eq!(positions_of(store.read(Query::all()).limit(4).reverse()), [6, 5, 4, 3]);
            assert_eq!(store.read(Query::all()).limit(4).count().unwrap(), 4);
        });
    });
}

/// 1,500 events in commits of one to seven events, of which every 97th is rare, over many segments and windows.
fn fifteen_hundred(world: &mut World) {
    let mut number = 0;
    let mut size = 1;
    while number < 1_500 {
        let count = size.min(1_500 - number);
        let batch = (number + 1..=number + count).map(|number| {
            let event_type = if number % 97 == 0 { "Rare" } else { "Common" };
            let event = NewEvent::raw(event_type, vec![b'x'; number % 50]).tag(format!("mod:{}", number % 13));
            event.time(Timestamp::from_nanos(number as i64))
        });
        let commit = world.commit().append(format!("s-{}", size % 3), Any, batch);
        commit.durability(Durability::Os).send().unwrap();
        number += count;
        size = size % 7 + 1;
        if number % 400 < count {
            world.pause();
        }
    }
}

#[test]
fn g26_fifteen_hundred_events_across_all_seams_are_exact() {
    check(|world| {
        fifteen_hundred(world);
        world.observe(|store| {
            let all: Vec<u64> = (1..=1_500).collect();
            assert_eq!(positions(store, Query::all()), all);
            let backwards: Vec<u64> = all.iter().rev().copied().collect();
            assert_eq!(positions_of(store.read(Query::all()).reverse()), backwards);
            let multiples = |of: u64| all.iter().copied().filter(|n| n % of == 0).collect::<Vec<_>>();
            assert_eq!(positions(store, Query::types(["Rare"])), multiples(97));
            assert_eq!(positions(store, Query::tag("mod:0")), multiples(13));
            assert_eq!(positions(store, Query::tag("mod:0").and_types(["Rare"])), multiples(97 * 13));
            assert_eq!(positions(store, Query::category("s")), all);
            let mut of_streams: Vec<u64> = Vec::new();
            for stream in ["s-0", "s-1", "s-2"] {
                let events = found(store, Query::stream(stream));
                let versions: Vec<u64> = events.iter().map(|event| event.version.number()).collect();
                assert_eq!(versions, (1..=events.len() as u64).collect::<Vec<_>>(), "{stream}");
                assert_eq!(version(store, stream), Some(events.len() as u64));
                of_streams.extend(events.iter().map(|event| event.position.number()));
            }
            of_streams.sort_unstable();
            assert_eq!(of_streams, all);
            let between =
                store.read(Query::all()).since(Timestamp::from_nanos(700)).until(Timestamp::from_nanos(1_100));
            assert_eq!(positions_of(between), (700..1_100).collect::<Vec<_>>());
        });
    });
}

#[test]
fn g26_paged_reading_equals_one_read() {
    check(|world| {
        fifteen_hundred(world);
        world.maintain().unwrap();
        let queries = [
            Query::all(),
            Query::types(["Rare"]),
            Query::stream("s-1"),
            Query::tag("mod:5").or(Query::types(["Rare"])),
        ];
        for query in queries {
            let whole = positions(world, query.clone());
            for page in [1, 7, 100] {
                let mut paged = Vec::new();
                loop {
                    let read = world.read(query.clone()).after(paged.last().copied().map(p)).limit(page);
                    let found = positions_of(read);
                    if found.is_empty() {
                        break;
                    }
                    assert!(found.len() as u64 <= page);
                    paged.extend(found);
                    if page == 1 && paged.len() > 100 {
                        break;
                    }
                }
                assert_eq!(paged, whole[..paged.len()], "{query:?} by {page}");
                assert!(page == 1 || paged.len() == whole.len(), "{query:?} by {page}");
            }
            let mut backwards = Vec::new();
            loop {
                let after = backwards.last().copied().map(p);
                let found = positions_of(world.read(query.clone()).reverse().after(after).limit(100));
                if found.is_empty() {
                    break;
                }
                backwards.extend(found);
            }
            backwards.reverse();
            assert_eq!(backwards, whole, "{query:?}, backwards");
        }
    });
}

#[test]
fn g27_unicode_and_control_characters_are_kept() {
    check(|world| {
        let names = ["žluťoučký kůň", "日本語-注文", "a\0b\n\t\u{7f}", "\u{1F600}-\u{202E}x", " ", "é", "e\u{301}"];
        for (index, name) in names.into_iter().enumerate() {
            let event = NewEvent::raw(name, format!("{name}{index}")).tag(name).tag(format!("{name}:\u{0}"));
            world
                .append(name, NoStream, [event.metadata_json(format!("{{\"k\":{name:?}}}").replace("\\u{", "u{"))])
                .map(drop)
                .or_else(|error| match error.error() {
                    // Not every Rust escape is one of JSON.
                    Error::Invalid(_) => world.append(name, NoStream, [tagged(name, &[name])]).map(drop),
                    _ => Err(error),
                })
                .unwrap();
            world.pause();
        }
        world.observe(|store| {
            for (index, name) in names.into_iter().enumerate() {
                let position = index as u64 + 1;
                let events = found(store, Query::stream(name).and_types([name]).and_tag(name));
                assert_eq!(events.len(), 1, "{name:?}");
                assert_eq!((events[0].stream.as_str(), events[0].event_type.as_str()), (name, name));
                assert_eq!(events[0].position.number(), position);
                assert_eq!(version(store, name), Some(1));
            }
        });
    });
}

#[test]
fn g27_payloads_from_nothing_to_a_mebibyte_are_kept() {
    check_roomy(|world| {
        let large: Vec<u8> = (0..1024 * 1024_u32).map(|number| (number * 7 % 251) as u8).collect();
        for payload in [vec![], large.clone(), vec![0]] {
            world.append("a", Any, [NewEvent::raw("Made", payload)]).unwrap();
            world.pause();
        }
        world.observe(|store| {
            let payloads: Vec<Vec<u8>> = found(store, Query::stream("a")).into_iter().map(|e| e.payload).collect();
            assert_eq!(payloads.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1024 * 1024, 1]);
            assert!(payloads[1] == large, "the large payload is kept");
        });
    });
}

#[test]
fn g27_no_metadata_is_not_empty_metadata() {
    check(|world| {
        let metadata = [None, Some("{}"), Some("  { \"correlation_id\" : 7 }\n")];
        for metadata in metadata {
            let event = event("Made");
            let event = metadata.map_or(event.clone(), |text| event.metadata_json(text));
            world.append("a", Any, [event]).unwrap();
            world.pause();
        }
        world.observe(|store| {
            let kept: Vec<Option<Vec<u8>>> = found(store, Query::all()).into_iter().map(|e| e.metadata).collect();
            let expected: Vec<Option<Vec<u8>>> =
                metadata.iter().map(|text| text.map(|text| text.as_bytes().to_vec())).collect();
            assert_eq!(kept, expected);
        });
    });
}

#[test]
fn g27_every_field_of_an_event_is_kept() {
    check(|world| {
        let time = Timestamp::from_nanos(-1_234_567_890_123);
        let full = NewEvent::from_bytes("Made", Codec::Postcard, [1, 2, 3])
            .id(id(77))
            .time(time)
            .schema_version(u32::MAX)
            .tags(["b", "a", "b"])
            .tag("a:c")
            .metadata(&std::collections::BTreeMap::from([("who", "me")]))
            .unwrap();
        world.append("cat-1", NoStream, [event("First"), full]).unwrap();
        world.pause();
        world.observe(|store| {
            let event = found(store, Query::all()).pop().unwrap();
            assert_eq!((event.position, event.commit, event.version), (p(2), p(1), v(2)));
            assert_eq!((event.id, event.time, event.schema_version), (id(77), time, u32::MAX));
            assert_eq!((event.codec, event.payload.as_slice()), (Codec::Postcard, &[1, 2, 3][..]));
            assert_eq!(event.tags, ["a", "a:c", "b"]);
            assert_eq!(event.metadata.as_deref(), Some(&br#"{"who":"me"}"#[..]));
            assert_eq!(event.as_event().to_recorded(), event, "owned and lent are the same");
            let mut read = store.read(Query::stream("cat-1")).reverse();
            let lent = read.next().unwrap().unwrap();
            assert_eq!(
                (lent.stream(), lent.category(), lent.has_tag("a:c"), lent.has_tag("c")),
                ("cat-1", "cat", true, false)
            );
            assert_eq!(lent.to_recorded(), event);
        });
    });
}

#[test]
fn g27_an_event_without_id_and_time_gets_them() {
    check(|world| {
        world.append("a", Any, events(3)).unwrap();
        let events = found(world, Query::all());
        let mut ids: Vec<_> = events.iter().map(|event| event.id).collect();
        // Version 7: the upper half of the seventh byte.
        assert!(ids.iter().all(|id| id.to_bytes()[6] >> 4 == 7));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert!(events.iter().all(|event| event.time == event.commit_time && event.time > Timestamp::from_nanos(0)));
    });
}

#[test]
fn g28_a_read_does_not_see_what_is_appended_later() {
    check(|world| {
        world.append("a-1", NoStream, [tagged("Made", &["t"])]).unwrap();
        world.pause();
        let queries =
            [Query::all(), Query::stream("a-1"), Query::category("a"), Query::types(["Made"]), Query::tag("t")];
        for query in queries {
            let before = positions(world, query.clone());
            let untouched = world.read(query.clone());
            let backwards = world.read(query.clone()).reverse();
            let mut begun = world.read(query.clone());
            let first = begun.next().unwrap().unwrap().position().number();
            world.append("a-1", Any, [tagged("Made", &["t"])]).unwrap();
            world.maintain().unwrap();
            assert_eq!(positions_of(untouched), before, "{query:?}");
            assert_eq!(positions_of(backwards), before.iter().rev().copied().collect::<Vec<_>>(), "{query:?}");
            assert_eq!([vec![first], positions_of(begun)].concat(), before, "{query:?}");
            assert_eq!(positions(world, query.clone()).len(), before.len() + 1, "{query:?}");
        }
    });
}

#[test]
fn g28_a_read_outlives_its_store() {
    let store = Options::new().in_memory().unwrap();
    store.append("a", Any, events(3)).unwrap();
    let mut read = store.read(Query::all());
    read.next().unwrap().unwrap();
    store.close().unwrap();
    assert_eq!(positions_of(read), [2, 3]);
}
