//! Groups 11 to 15: a commit that is sent again is written once.

use std::path::Path;

use annals::{Commit, Durability, Error, NewEvent, Options, Query, Store};

use crate::support::*;
use crate::world::{check, tiny};

#[test]
fn g11_the_same_events_at_no_stream_are_deduplicated() {
    check(|world| {
        let send = |store: &Store| store.append("a", NoStream, [numbered(1), numbered(2)]).unwrap();
        let first = send(world);
        assert!(!first.deduplicated());
        world.pause();
        let again = send(world);
        assert_eq!((told(&again), reached(&again)), ((1, 2, true), reached(&first)));
        world.append("b", Any, [numbered(9)]).unwrap();
        world.pause();
        assert_eq!(told(&send(world)), (1, 2, true));
        world.observe(|store| assert_eq!(head(store), Some(3)));
    });
}

#[test]
fn g11_another_part_or_order_is_a_conflict() {
    check(|world| {
        let [e1, e2, e3] = [1, 2, 3].map(numbered);
        world.append("a", NoStream, [e1.clone(), e2.clone()]).unwrap();
        world.pause();
        let others = [vec![e1.clone()], vec![e2.clone(), e1.clone()], vec![e1, e2.clone(), e3], vec![e2]];
        for events in others {
            let failed = conflict(world.append("a", NoStream, events));
            assert_eq!(failed.failures, [stream_failure("a", NoStream, 2, 1)]);
        }
        assert_eq!(head(world), Some(2));
    });
}

#[test]
fn g12_exact_is_deduplicated_even_after_later_events() {
    check(|world| {
        world.append("a", NoStream, [numbered(1), numbered(2)]).unwrap();
        let send = |store: &Store| store.append("a", exact(2), [numbered(3)]).unwrap();
        assert_eq!(told(&send(world)), (3, 3, false));
        world.pause();
        assert_eq!(told(&send(world)), (3, 3, true));
        world.append("a", exact(3), [numbered(4)]).unwrap();
        world.pause();
        let again = send(world);
        assert_eq!((told(&again), again.version()), ((3, 3, true), v(3)));
        // The place is behind the version that is expected, not anywhere.
        let failed = conflict(world.append("a", exact(1), [numbered(3)]));
        assert_eq!(failed.failures, [stream_failure("a", exact(1), 4, 2)]);
    });
}

fn transfer() -> Commit {
    Commit::new().append("a", NoStream, [numbered(1), numbered(2)]).append("b", exact(1), [numbered(3)]).append(
        "a",
        NoStream,
        [numbered(4)],
    )
}

#[test]
fn g13_a_commit_of_several_streams_resent_whole_is_deduplicated() {
    check(|world| {
        world.append("b", NoStream, [numbered(9)]).unwrap();
        let first = world.send(transfer()).unwrap();
        world.append("a", Any, [numbered(10)]).unwrap();
        world.append("b", Any, [numbered(11)]).unwrap();
        world.pause();
        let again = world.send(transfer()).unwrap();
        assert_eq!((told(&again), reached(&again)), ((2, 5, true), reached(&first)));
        assert_eq!(head(world), Some(7));
    });
}

#[test]
fn g13_only_the_stream_that_another_commit_wrote_is_named() {
    check(|world| {
        world.append("b", NoStream, [numbered(9)]).unwrap();
        world.append("a", NoStream, [numbered(1)]).unwrap();
        world.pause();
        let failed = conflict(world.send(transfer()));
        assert_eq!(failed.failures, [stream_failure("a", NoStream, 1, 2)]);
    });
}

#[test]
fn g13_the_same_events_in_two_commits_are_not_the_commit() {
    check(|world| {
        world.append("a", NoStream, [numbered(1)]).unwrap();
        world.append("a", exact(1), [numbered(2)]).unwrap();
        world.pause();
        conflict(world.append("a", NoStream, [numbered(1), numbered(2)]));
        // Nor is a part of a commit.
        world.commit().append("b", NoStream, [numbered(3)]).append("c", NoStream, [numbered(4)]).send().unwrap();
        world.pause();
        conflict(world.append("b", NoStream, [numbered(3)]));
        conflict(world.append("c", NoStream, [numbered(4)]));
    });
}

#[test]
fn g13_a_checked_stream_that_moved_does_not_stop_a_retry() {
    check(|world| {
        let send = |store: &Store| store.commit().append("a", NoStream, [numbered(1)]).expect("b", NoStream).send();
        send(world).unwrap();
        world.append("b", NoStream, [numbered(2)]).unwrap();
        world.pause();
        assert_eq!(told(&send(world).unwrap()), (1, 1, true));
    });
}

#[test]
fn g13_a_checked_stream_alone_has_no_place() {
    check(|world| {
        let send = |store: &Store| store.commit().append("a", Any, [numbered(1)]).expect("b", NoStream).send();
        send(world).unwrap();
        world.append("b", NoStream, [numbered(2)]).unwrap();
        world.pause();
        assert_eq!(conflict(send(world)).failures, [stream_failure("b", NoStream, 1, 2)]);
    });
}

#[test]
fn g14_a_conditional_append_resent_is_deduplicated() {
    check(|world| {
        let send = |store: &Store| {
            let event = numbered(1).tag("order:7");
            store.commit().append("a", Any, [event]).unless(Query::tag("order:7")).send()
        };
        world.append("z", Any, [numbered(9)]).unwrap();
        assert_eq!(told(&send(world).unwrap()), (2, 2, false));
        world.append("a", Any, [numbered(10).tag("order:7")]).unwrap();
        world.pause();
        let again = send(world).unwrap();
        assert_eq!((told(&again), again.version()), ((2, 2, true), v(1)));
        world.observe(|store| assert_eq!(positions(store, Query::tag("order:7")), [2, 3]));
    });
}

#[test]
fn g14_a_condition_whose_first_match_is_another_event_is_a_conflict() {
    check(|world| {
        world.append("z", Any, [numbered(9).tag("order:7")]).unwrap();
        let send = |store: &Store| {
            let event = numbered(1).tag("order:7");
            store.commit().append("a", Any, [event]).unless_after(Query::tag("order:7"), p(1)).send()
        };
        assert_eq!(told(&send(world).unwrap()), (2, 2, false));
        world.pause();
        assert_eq!(told(&send(world).unwrap()), (2, 2, true));
        let unconditional = world.commit().append("a", Any, [numbered(1).tag("order:7")]).unless(Query::tag("order:7"));
        assert_eq!(conflict(unconditional.send()).failures, [condition_failure(0, 1)]);
    });
}

#[test]
fn g14_any_without_a_condition_is_written_again() {
    check(|world| {
        for first in 1..=2 {
            assert_eq!(told(&world.append("a", Any, [numbered(1)]).unwrap()), (first, first, false));
            world.pause();
        }
        assert_eq!(told(&world.append("a", StreamExists, [numbered(1)]).unwrap()), (3, 3, false));
        // Now that a check fails it has a place: the first copy.
        assert_eq!(told(&world.append("a", NoStream, [numbered(1)]).unwrap()), (1, 1, true));
    });
}

#[test]
fn g15_the_same_id_twice_in_one_commit_is_invalid() {
    check(|world| {
        let commit = world.commit().append("a", NoStream, [numbered(1), numbered(2)]);
        let violations = violations(commit.append("b", NoStream, [numbered(1)]).send());
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!((violations[0].event, violations[0].field.as_str()), (Some(2), "id"));
        assert_eq!(head(world), None);
    });
}

#[test]
fn g15_any_beside_exact_is_deduplicated_through_the_exact_one() {
    check(|world| {
        let send = |store: &Store| {
            store.commit().append("any", Any, [numbered(1)]).append("a", NoStream, [numbered(2)]).send().unwrap()
        };
        send(world);
        world.append("any", Any, [numbered(3)]).unwrap();
        world.pause();
        let again = send(world);
        assert_eq!((told(&again), reached(&again)), ((1, 2, true), vec![("any".to_owned(), 1), ("a".to_owned(), 1)]));
    });
}

#[test]
fn g15_the_same_ids_with_another_content_are_a_conflict() {
    check(|world| {
        world.commit().append("a", NoStream, [numbered(1)]).append("b", Any, [numbered(2)]).send().unwrap();
        world.pause();
        let payload = NewEvent::raw("E1", "other").id(id(1));
        let event_type = NewEvent::raw("Other", "E1").id(id(1));
        for changed in [payload, event_type, numbered(1).id(id(7))] {
            let commit = world.commit().append("a", NoStream, [changed]).append("b", Any, [numbered(2)]);
            assert_eq!(conflict(commit.send()).failures, [stream_failure("a", NoStream, 1, 1)]);
        }
        let stream = world.commit().append("a", NoStream, [numbered(1)]).append("c", Any, [numbered(2)]);
        conflict(stream.send());
    });
}

#[test]
fn g15_a_failed_append_hands_back_a_commit_that_can_be_resent() {
    check(|world| {
        world.append("b", NoStream, [event("First")]).unwrap();
        world.pause();
        // Neither ids nor times are given: the commit that comes back has them.
        let failed = world.commit().append("a", NoStream, events(2)).append("b", NoStream, events(1)).send();
        let commit = failed.unwrap_err().into_commit();
        assert_eq!(commit.len(), 3);
        assert_eq!(conflict(world.send(commit)).failures, [stream_failure("b", NoStream, 1, 1)]);
    });
    // A closed store decides nothing, so that the same commit can go to one that is opened again.
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.clone().close().unwrap();
    let error = store.append("a", NoStream, events(2)).unwrap_err();
    assert!(matches!(error.error(), Error::Closed), "{error}");
    drop(store);
    let commit = error.into_commit();
    let store = Store::open_existing(directory.path()).unwrap();
    assert_eq!(told(&store.send(commit.clone()).unwrap()), (1, 2, false));
    assert_eq!(told(&store.send(commit).unwrap()), (1, 2, true));
}

/// What a crash leaves of a commit whose outcome was never told, and what its sender does about it.
#[test]
fn g15_resent_after_a_crash_it_is_deduplicated_or_written_never_both() {
    let directory = tempfile::tempdir().unwrap();
    let options = || tiny().without_background_work().durability(Durability::Os);
    let store = options().open(directory.path().join("store")).unwrap();
    store.append("a", NoStream, [numbered(1)]).unwrap();
    store.sync().unwrap();
    let commit = || Commit::new().append("a", exact(1), [numbered(2), numbered(3)]).append("b", Any, [numbered(4)]);
    copy(&directory.path().join("store"), &directory.path().join("before"));
    store.send(commit()).unwrap();
    copy(&directory.path().join("store"), &directory.path().join("after"));

    for (copy, written) in [("before", false), ("after", true)] {
        let store = options().open_existing(directory.path().join(copy)).unwrap();
        assert_eq!(told(&store.send(commit()).unwrap()), (2, 4, written), "{copy}");
        assert_eq!(told(&store.send(commit()).unwrap()), (2, 4, true), "{copy}");
        assert_eq!(types(&store, Query::all()), ["E1", "E2", "E3", "E4"], "{copy}");
    }
}

/// Copies a store as a crash would leave it: while its writer has it open.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn g15_a_deduplicated_result_is_as_durable_as_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = Options::new().without_background_work().open(directory.path()).unwrap();
    let commit = || Commit::new().append("a", NoStream, [numbered(1)]);
    store.send(commit().durability(Durability::Os)).unwrap();
    assert_eq!(store.synced_head().unwrap(), None);
    assert_eq!(told(&store.send(commit().durability(Durability::Os)).unwrap()), (1, 1, true));
    assert_eq!(store.synced_head().unwrap(), None);
    assert_eq!(told(&store.send(commit().durability(Durability::Synced)).unwrap()), (1, 1, true));
    assert_eq!(store.synced_head().unwrap(), Some(p(1)));
}
