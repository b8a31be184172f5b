//! Groups 1 to 10: what an append writes, and what it refuses.

use annals::{Commit, Query};

use crate::support::*;
use crate::world::{World, check};

/// Runs an append that must fail and changes nothing, in no index.
fn rejected<T>(world: &mut World, names: &[&str], append: impl FnOnce(&World) -> T) -> T {
    let before = picture(world, names);
    let outcome = append(world);
    assert_eq!(picture(world, names), before);
    world.pause();
    assert_eq!(picture(world, names), before);
    outcome
}

#[test]
fn g01_a_commit_holds_one_to_many_events() {
    check(|world| {
        assert_eq!(told(&world.append("a", NoStream, [event("One")]).unwrap()), (1, 1, false));
        world.pause();
        assert_eq!(told(&world.append("a", Any, events(300)).unwrap()), (2, 301, false));
        world.observe(|store| {
            assert_eq!(positions(store, Query::stream("a")), (1..=301).collect::<Vec<_>>());
            let commits: Vec<u64> = found(store, Query::all()).iter().map(|event| event.commit.number()).collect();
            assert_eq!((commits[0], &commits[1..]), (1, &[2; 300][..]));
        });
    });
}

#[test]
fn g01_an_empty_append_is_invalid() {
    check(|world| {
        let empty = [
            Commit::new(),
            Commit::new().append("a", Any, []),
            Commit::new().expect("a", Any),
            Commit::new().append("a", Any, [event("One")]).append("b", Any, []),
        ];
        for commit in empty {
            let violations = rejected(world, &["a", "b"], |world| violations(world.send(commit)));
            assert_eq!(violations.len(), 1, "{violations:?}");
            assert_eq!((violations[0].event, violations[0].field.as_str()), (None, "events"));
        }
        assert_eq!(head(world), None);
    });
}

#[test]
fn g02_versions_are_expected_one_after_the_other() {
    check(|world| {
        world.append("a", NoStream, [event("One")]).unwrap();
        world.pause();
        world.append("a", exact(1), [event("Two"), event("Three")]).unwrap();
        world.pause();
        assert_eq!(world.append("a", exact(3), [event("Four")]).unwrap().version(), v(4));
        world.observe(|store| assert_eq!(version(store, "a"), Some(4)));
    });
}

#[test]
fn g02_exact_on_an_absent_stream_is_a_conflict() {
    check(|world| {
        let failed = rejected(world, &["a"], |world| conflict(world.append("a", exact(1), [event("One")])));
        assert_eq!(failed.failures, [stream_failure("a", exact(1), None, None)]);
    });
}

#[test]
fn g02_every_version_but_the_last_is_a_conflict() {
    check(|world| {
        world.append("other", Any, [event("Zero")]).unwrap();
        world.append("a", NoStream, events(3)).unwrap();
        world.pause();
        let stale = [(NoStream, Some(2)), (exact(1), Some(3)), (exact(2), Some(4)), (exact(4), None), (exact(9), None)];
        for (expected, position) in stale {
            let failed = rejected(world, &["a"], |world| conflict(world.append("a", expected, [event("Late")])));
            assert_eq!(failed.failures, [stream_failure("a", expected, 3, position)]);
        }
        assert_eq!(world.append("a", exact(3), [event("Four")]).unwrap().version(), v(4));
    });
}

#[test]
fn g03_no_stream_on_an_existing_stream_carries_its_version() {
    check(|world| {
        world.append("a", NoStream, events(2)).unwrap();
        world.pause();
        let failed = rejected(world, &["a"], |world| conflict(world.append("a", NoStream, [event("Late")])));
        assert_eq!(failed.failures, [stream_failure("a", NoStream, 2, 1)]);
        assert!(failed.to_string().contains("version 2"), "{failed}");
    });
}

#[test]
fn g03_stream_exists_needs_a_stream() {
    check(|world| {
        let failed = rejected(world, &["a"], |world| conflict(world.append("a", StreamExists, [event("One")])));
        assert_eq!(failed.failures, [stream_failure("a", StreamExists, None, None)]);
        world.append("a", NoStream, [event("One")]).unwrap();
        world.pause();
        assert_eq!(world.append("a", StreamExists, [event("Two")]).unwrap().version(), v(2));
    });
}

#[test]
fn g03_any_always_succeeds() {
    check(|world| {
        for number in 1..=2 {
            assert_eq!(world.append("a", Any, [event("More")]).unwrap().version(), v(number));
            world.pause();
        }
    });
}

#[test]
fn g05_a_rejected_append_changes_nothing_and_can_be_corrected() {
    check(|world| {
        world.append("a-1", NoStream, [tagged("Made", &["x"])]).unwrap();
        world.append("b-1", NoStream, [tagged("Made", &["y"])]).unwrap();
        world.pause();
        let names = ["a-1", "b-1", "c-1", "a", "b", "c", "Made", "Late", "x", "y", "z"];
        let late = || tagged("Late", &["x", "z"]);
        rejected(world, &names, |world| conflict(world.append("a-1", NoStream, [late()])));
        rejected(world, &names, |world| violations(world.append("c-1", Any, [late(), event("")])));
        rejected(world, &names, |world| {
            let commit = world.commit().append("c-1", NoStream, [late()]).append("b-1", exact(2), [late()]);
            conflict(commit.send())
        });
        rejected(world, &names, |world| {
            conflict(world.commit().append("c-1", NoStream, [late()]).unless(Query::tag("y")).send())
        });
        let corrected = world.commit().append("c-1", NoStream, [late()]).append("b-1", exact(1), [late()]).send();
        assert_eq!(told(&corrected.unwrap()), (3, 4, false));
        world.observe(|store| {
            assert_eq!(positions(store, Query::tag("z")), [3, 4]);
            assert_eq!(positions(store, Query::category("b")), [2, 4]);
        });
    });
}

#[test]
fn g06_several_streams_are_written_in_one_commit() {
    check(|world| {
        world.append("a", NoStream, events(3)).unwrap();
        world.append("b", NoStream, events(2)).unwrap();
        world.pause();
        let appended = world
            .commit()
            .append("a", exact(3), [event("A")])
            .append("b", StreamExists, [event("B")])
            .append("c", NoStream, [event("C")])
            .send()
            .unwrap();
        assert_eq!(told(&appended), (6, 8, false));
        world.observe(|store| {
            let commit: Vec<_> = found(store, Query::all()).into_iter().filter(|e| e.commit == p(6)).collect();
            let versions: Vec<u64> = commit.iter().map(|event| event.version.number()).collect();
            assert_eq!(versions, [4, 3, 1]);
            assert!(commit.iter().all(|event| event.commit_time == commit[0].commit_time));
        });
    });
}

#[test]
fn g06_every_failed_expectation_is_listed() {
    check(|world| {
        let failed = rejected(world, &["a", "b", "c"], |world| {
            let commit = world.commit().append("a", exact(1), [event("A")]).append("b", Any, [event("B")]);
            conflict(commit.append("c", exact(2), [event("C")]).send())
        });
        let expected = [stream_failure("a", exact(1), None, None), stream_failure("c", exact(2), None, None)];
        assert_eq!(failed.failures, expected);
    });
}

#[test]
fn g06_streams_and_conditions_that_fail_are_listed_together() {
    check(|world| {
        world.append("a", NoStream, [tagged("Made", &["x"])]).unwrap();
        world.pause();
        let failed = rejected(world, &["a", "b", "c"], |world| {
            let commit = world.commit().append("c", exact(1), [event("C")]).unless(Query::tag("none"));
            conflict(commit.unless(Query::tag("x")).append("a", NoStream, [event("A")]).expect("b", exact(7)).send())
        });
        let expected = [
            stream_failure("c", exact(1), None, None),
            stream_failure("a", NoStream, 1, 1),
            stream_failure("b", exact(7), None, None),
            condition_failure(1, 1),
        ];
        assert_eq!(failed.failures, expected);
    });
}

#[test]
fn g06_interleaved_events_keep_their_order() {
    check(|world| {
        let commit = world.commit().append("a", NoStream, [event("A1")]).append("b", NoStream, [event("B1")]);
        let appended = commit.append("a", NoStream, [event("A2")]).send().unwrap();
        assert_eq!(reached(&appended), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        world.observe(|store| {
            assert_eq!(places(store), [place(1, "a", 1), place(2, "b", 1), place(3, "a", 2)]);
            assert_eq!(types(store, Query::all()), ["A1", "B1", "A2"]);
        });
    });
}

#[test]
fn g06_a_stream_with_two_different_expectations_is_invalid() {
    check(|world| {
        let contradictory = [
            Commit::new().append("a", NoStream, [event("A")]).append("a", exact(1), [event("A")]),
            Commit::new().append("a", Any, [event("A")]).expect("a", NoStream),
            Commit::new().append("b", Any, [event("B")]).expect("a", StreamExists).expect("a", exact(1)),
        ];
        for commit in contradictory {
            let violations = rejected(world, &["a", "b"], |world| violations(world.send(commit)));
            assert_eq!(violations.len(), 1, "{violations:?}");
            assert_eq!(violations[0].field, "expected");
        }
        // The same expectation twice is one expectation.
        let twice = world.commit().append("a", NoStream, [event("A")]).expect("a", NoStream);
        assert_eq!(twice.append("a", NoStream, [event("A")]).send().unwrap().version(), v(2));
    });
}

#[test]
fn g07_a_checked_stream_gets_nothing() {
    check(|world| {
        world.append("limits", NoStream, events(2)).unwrap();
        world.pause();
        let commit = world.commit().append("a", NoStream, [event("A")]).expect("limits", exact(2));
        let appended = commit.expect("absent", NoStream).expect("whatever", Any).send().unwrap();
        assert_eq!(reached(&appended), [("a".to_owned(), 1)]);
        assert_eq!(appended.version_of("limits"), None);
        world.observe(|store| {
            assert_eq!(version(store, "limits"), Some(2));
            assert_eq!((version(store, "absent"), version(store, "whatever")), (None, None));
        });
    });
}

#[test]
fn g07_a_stale_check_fails_the_whole_commit() {
    check(|world| {
        world.append("limits", NoStream, events(2)).unwrap();
        world.pause();
        for (expected, position) in [(exact(1), Some(2)), (NoStream, Some(1)), (exact(3), None)] {
            let failed = rejected(world, &["a", "limits"], |world| {
                conflict(world.commit().append("a", NoStream, [event("A")]).expect("limits", expected).send())
            });
            assert_eq!(failed.failures, [stream_failure("limits", expected, 2, position)]);
        }
    });
}

#[test]
fn g09_a_result_names_positions_and_versions() {
    check(|world| {
        world.append("z", Any, events(4)).unwrap();
        world.pause();
        let commit = world.commit().append("b", NoStream, events(2)).append("z", exact(4), events(1));
        let appended = commit.append("b", NoStream, events(1)).send().unwrap();
        assert_eq!(told(&appended), (5, 8, false));
        assert_eq!(reached(&appended), [("b".to_owned(), 3), ("z".to_owned(), 5)]);
        assert_eq!((appended.version(), appended.version_of("z"), appended.version_of("y")), (v(3), Some(v(5)), None));
    });
}

#[test]
fn g10_all_problems_are_told_at_once() {
    check(|world| {
        let bad = [event(""), event("Good"), event("Long").tag("t".repeat(257)), event("Odd").metadata_json("[]")];
        let violations = rejected(world, &["a"], |world| violations(world.append("a", Any, bad)));
        let fields: Vec<(Option<usize>, &str)> = violations.iter().map(|v| (v.event, v.field.as_str())).collect();
        assert_eq!(fields, [(Some(0), "type"), (Some(2), "tags[0]"), (Some(3), "metadata")]);
        assert!(violations[1].problem.contains("257") && violations[1].problem.contains("256"), "{violations:?}");
    });
}

#[test]
fn g10_problems_of_streams_events_conditions_and_counts_come_together() {
    check(|world| {
        let commit = Commit::new()
            .append("a", NoStream, [event("One"), event("")])
            .append("", Any, [event("Two").id(id(1)), event("Three").id(id(1))])
            .expect("a", exact(1))
            .expect("", Any)
            .unless(Query::category("b-c").or(Query::types(Vec::<String>::new())));
        let violations = rejected(world, &["a"], |world| violations(world.send(commit)));
        let mut fields: Vec<(Option<usize>, &str)> = violations.iter().map(|v| (v.event, v.field.as_str())).collect();
        fields.sort_unstable();
        let expected = [
            (None, "conditions[0].items[0].category"),
            (None, "conditions[0].items[1]"),
            (None, "expectations[1].stream"),
            (None, "expected"),
            (Some(1), "type"),
            (Some(2), "stream"),
            (Some(3), "id"),
        ];
        assert_eq!(fields, expected);
    });
}

#[test]
fn g10_invalid_is_decided_before_conflicts() {
    check(|world| {
        world.append("a", NoStream, [tagged("Made", &["x"])]).unwrap();
        world.pause();
        let violations = rejected(world, &["a"], |world| {
            let commit = world.commit().append("a", NoStream, [event("")]).unless(Query::tag("x"));
            violations(commit.expect("b", StreamExists).send())
        });
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!(violations[0].field, "type");
    });
}
