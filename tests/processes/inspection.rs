//! What can be seen of process managers, and what is refused.

use annals::{
    Error, Event, Metadata, OnError, ProcessManager, ProcessStatus, Query, Reactions, Result, Store, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::sagas::{Application, Fulfilment, Heard, Transfer, World, check};

#[test]
fn commands_carry_the_correlation_of_what_led_to_them() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 100);
        application.open_account("bob", 0);
        let request = application.store.with_metadata(&Metadata::new().correlation_id("request-7")).unwrap();
        Application::new(&request).request_transfer("t1", "alice", "bob", 30);
        let transfers = application.start_transfers(OnError::stop());
        transfers.settle().unwrap();
        let events: Vec<_> = application.store.read(Query::all()).owned().collect::<Result<_>>().unwrap();
        let withdrawn = events.iter().find(|event| event.event_type == "Withdrawn").unwrap();
        let reacted = events.iter().find(|event| event.event_type == "ProcessReacted").unwrap();
        let requested = events.iter().find(|event| event.event_type == "TransferRequested").unwrap();
        let (command, reaction) = (withdrawn.read_metadata().unwrap(), reacted.read_metadata().unwrap());
        assert_eq!(command.correlation_id.as_deref(), Some("request-7"));
        assert_eq!(command.causation_id, Some(reacted.id.to_string()));
        assert_eq!(reaction.correlation_id.as_deref(), Some("request-7"));
        assert_eq!(reaction.causation_id, Some(requested.id.to_string()));
    });
}

#[test]
fn instances_are_seen_without_a_process_manager_that_runs() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.place_order("o1", 500, "Main Street");
        application.place_order("o2", 500, "Main Street");
        fulfilment.settle().unwrap();
        application.pay("o1");
        fulfilment.settle().unwrap();
        fulfilment.stop().unwrap();
        let application = world.reopened(application);
        check_from_outside(&application.store);
        world.read_only().iter().for_each(check_from_outside);
    });
}

fn check_from_outside(store: &Store) {
    let instances = store.processes::<Fulfilment>();
    assert_eq!(instances.open().unwrap(), ["o2"]);
    let [timer] = instances.timers().unwrap().try_into().unwrap();
    assert_eq!((timer.instance.as_str(), timer.name.as_str()), ("o2", "payment"));
    assert_eq!(timer.due, Timestamp::from_millis(1_000_000 + 3_600_000));
    let instance = instances.get("o1").unwrap().unwrap();
    assert_eq!((instance.id(), instance.status()), ("o1", &ProcessStatus::Completed));
    assert_eq!(instance.state(), &Fulfilment { address: "Main Street".into(), is_paid: true });
    assert!(instances.get("o3").unwrap().is_none());
}

#[test]
fn one_process_manager_of_a_name_runs_at_a_time() {
    check(|world| {
        let application = world.application();
        let transfers = application.start_transfers(OnError::stop());
        let second = application.store.process::<Transfer>(|_, _| Ok(())).start();
        assert!(matches!(second, Err(Error::Held { .. })));
        transfers.stop().unwrap();
        application.start_transfers(OnError::stop()).stop().unwrap();
    });
}

#[test]
fn a_new_process_manager_can_begin_at_the_end() {
    check(|world: &mut World| {
        let application = world.application();
        application.open_account("alice", 100);
        application.open_account("bob", 0);
        application.request_transfer("old", "alice", "bob", 30);
        let this = application.clone();
        let transfers =
            application.store.process::<Transfer>(move |command, dispatch| this.transfer(command, dispatch));
        let transfers = transfers.from_end().start().unwrap();
        application.request_transfer("new", "alice", "bob", 5);
        transfers.settle().unwrap();
        assert_eq!(application.balance("bob"), 5);
        assert!(transfers.instances().get("old").unwrap().is_none());
    });
}

#[test]
fn names_that_cannot_be_categories_are_refused() {
    macro_rules! named {
        ($type:ident, $name:expr) => {
            #[derive(Default, Serialize, Deserialize)]
            struct $type;
            impl ProcessManager for $type {
                const NAME: &'static str = $name;
                type Event = Heard;
                type Command = ();

                fn instance_of(_: &Heard, _: &Event<'_>) -> Option<String> {
                    None
                }

                fn on_event(&mut self, _: &Heard, _: &mut Reactions<()>) {}
            }
        };
    }
    named!(Empty, "");
    named!(Dashed, "order-saga");
    let store = Store::in_memory().unwrap();
    assert!(matches!(store.process::<Empty>(|(), _| Ok(())).start(), Err(Error::Invalid(_))));
    assert!(matches!(store.process::<Dashed>(|(), _| Ok(())).start(), Err(Error::Invalid(_))));
}
