//! Process managers whose stores are migrated.

use annals::{
    Error, ExpectedVersion, Migration, NewEvent, OnError, Options, ProcessStatus, Query, Store, Upcast, Upcaster,
    Upcasters,
};
use serde_json::json;

use crate::sagas::{Application, World, check};
use crate::status;

/// A transfer that was carried out, behind two events of somebody else that are the first of the store.
fn transferred(world: &World) -> Application {
    let application = world.application();
    let of_pages = ["Clicked", "Moved"].map(|event_type| NewEvent::json(event_type, &json!({})).unwrap());
    application.store.append("page-1", ExpectedVersion::Any, of_pages).unwrap();
    application.open_account("alice", 100);
    application.open_account("bob", 0);
    let transfers = application.start_transfers(OnError::stop());
    application.request_transfer("t1", "alice", "bob", 30);
    transfers.settle().unwrap();
    transfers.stop().unwrap();
    assert_eq!(positions(&application.store, "ProcessReacted"), [6]);
    application
}

fn positions(store: &Store, event_type: &'static str) -> Vec<u64> {
    store.read(Query::types([event_type])).owned().map(|event| event.unwrap().position.number()).collect()
}

fn drop_clicks() -> Upcaster {
    Upcaster::drop("Clicked", 1)
}

/// Makes two of one.
fn split_moves() -> Upcaster {
    let split =
        Upcaster::json("Moved", 1, |_| Ok(vec![Upcast::of("Left", json!({})), Upcast::of("Entered", json!({}))]));
    split.to("Left", 1).to("Entered", 1)
}

/// What process managers write names the positions of what they have reacted to, and it was copied as it was where
/// those changed: in the target they did things again, or passed over what came.
#[test]
fn a_migration_that_changes_positions_before_what_a_process_manager_has_written_is_refused() {
    check(|world| {
        let store = transferred(world).store;
        // Behind the last of these, everything stands where it stood.
        for upcasters in [vec![drop_clicks()], vec![split_moves()], vec![drop_clicks(), split_moves()]] {
            let migration = Migration::new(Upcasters::new(upcasters).unwrap());
            let refused = [migration.preview(&store), migration.run(&store, Options::in_memory).map(|(_, told)| told)];
            for refused in refused {
                let error = refused.unwrap_err();
                assert!(matches!(error, Error::Invalid(_)), "{error}");
                let named = r#"event 6 is of a process manager, on "transfer-t1""#;
                assert!(error.to_string().contains(named), "{error}");
            }
        }
    });
}

#[test]
fn a_process_manager_goes_on_in_a_migrated_store_where_positions_are_the_same_before_it() {
    check(|world| {
        let source = transferred(world).store;
        let last = source.head().unwrap();
        let noise = NewEvent::json("Scrolled", &json!({})).unwrap();
        source.append("page-1", ExpectedVersion::Any, [noise]).unwrap();
        let renamed = Upcaster::rename("Moved", 1).to("Entered", 1);
        let dropped_behind = Upcaster::drop("Scrolled", 1);
        let migration = Migration::new(Upcasters::new([renamed, dropped_behind]).unwrap());
        let (target, report) = migration.run(&source, Options::in_memory).unwrap();
        assert_eq!(migration.preview(&source).unwrap(), report);
        assert_eq!((positions(&target, "Entered"), positions(&target, "ProcessReacted")), (vec![2], vec![6]));

        let application = Application::new(&target);
        let transfers = application.start_transfers(OnError::stop());
        transfers.settle().unwrap();
        assert_eq!(target.head().unwrap(), last, "nothing is done again");
        application.request_transfer("t2", "alice", "bob", 5);
        transfers.settle().unwrap();
        assert_eq!((application.balance("alice"), application.balance("bob")), (65, 35));
        assert_eq!(status(&transfers, "t2"), ProcessStatus::Completed);
    });
}

#[test]
fn events_that_are_only_called_like_those_of_process_managers_are_migrated() {
    let store = Store::in_memory().unwrap();
    let own = [("Clicked", json!({})), ("ProcessReacted", json!({ "who": "alice" }))];
    let own = own.map(|(event_type, data)| NewEvent::json(event_type, &data).unwrap());
    store.append("page-1", ExpectedVersion::Any, own).unwrap();
    let migration = Migration::new(Upcasters::new([drop_clicks()]).unwrap());
    let (target, _) = migration.run(&store, Options::in_memory).unwrap();
    assert_eq!(positions(&target, "ProcessReacted"), [1]);
}
