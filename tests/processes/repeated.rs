//! Events that come late, again, or to nobody.

use annals::{Event, EventTypes, NewEvent, OnError, ProcessManager, Reactions, Upcast, Upcaster};
use serde::{Deserialize, Serialize};

use crate::sagas::{HOUR, check};
use crate::{failed, head, status};

#[test]
fn a_late_event_is_handled_by_choice_and_ignored_otherwise() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        world.clock.advance(HOUR);
        fulfilment.settle().unwrap();
        application.pay("o1");
        fulfilment.settle().unwrap();
        assert_eq!(application.types("payment-o1"), ["PaymentRequested", "PaymentReceived", "PaymentRefunded"]);
        assert_eq!(status(&fulfilment, "o1"), failed("no payment"), "it has ended all the same");

        let before = head(&application);
        application
            .parcels
            .execute("o1", |_| crate::sagas::ParcelEvent::ParcelShipped { address: "x".into() })
            .unwrap();
        fulfilment.settle().unwrap();
        assert_eq!(head(&application), before + 1, "nothing is written for what is ignored");
    });
}

#[test]
fn events_that_all_come_again_change_nothing() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 100);
        application.open_account("bob", 0);
        let (transfers, fulfilment) =
            (application.start_transfers(OnError::stop()), application.start_fulfilment(OnError::stop()));
        application.request_transfer("t1", "alice", "bob", 30);
        application.request_transfer("t2", "alice", "nobody", 30);
        application.request_transfer("t3", "alice", "bob", 3_000);
        application.place_order("paid", 500, "Main Street");
        application.place_order("unpaid", 500, "Main Street");
        application.place_order("open", 500, "Main Street");
        fulfilment.settle().unwrap();
        application.pay("paid");
        transfers.settle().unwrap();
        fulfilment.settle().unwrap();
        world.clock.advance(HOUR);
        fulfilment.settle().unwrap();
        application.pay("unpaid");
        application.place_order("later", 500, "Main Street");
        fulfilment.settle().unwrap();
        transfers.stop().unwrap();
        fulfilment.stop().unwrap();
        let before = head(&application);

        // Both forget how far they were.
        let state = application.store.state().unwrap();
        for key in ["checkpoint-transfer", "checkpoint-fulfilment"] {
            assert!(state.get(key).unwrap().is_some());
            state.delete(key).unwrap();
        }
        let application = world.reopened(application);
        let (transfers, fulfilment) =
            (application.start_transfers(OnError::stop()), application.start_fulfilment(OnError::stop()));
        transfers.settle().unwrap();
        fulfilment.settle().unwrap();
        assert_eq!(head(&application), before);
        assert_eq!(fulfilment.instances().open().unwrap(), ["later"]);
        assert_eq!(fulfilment.instances().timers().unwrap().len(), 1);
    });
}

#[test]
fn an_instance_does_not_begin_with_an_event_that_is_of_no_account() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.pay("o1");
        fulfilment.settle().unwrap();
        assert!(fulfilment.instances().get("o1").unwrap().is_none());
        assert!(fulfilment.instances().open().unwrap().is_empty());
    });
}

#[test]
fn instances_that_have_ended_leave_nothing_beside_their_events() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 100);
        application.open_account("bob", 0);
        let transfers = application.start_transfers(OnError::stop());
        (0..20).for_each(|number| application.request_transfer(&number.to_string(), "alice", "bob", 1));
        transfers.settle().unwrap();
        transfers.stop().unwrap();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        fulfilment.stop().unwrap();
        let state = application.store.state().unwrap();
        assert!(state.keys("process_transfer-").unwrap().is_empty());
        assert_eq!(state.keys("process_fulfilment-").unwrap().len(), 1);
    });
}

#[test]
fn two_events_that_one_was_upcast_into_are_both_handled_once() {
    #[derive(Default, Serialize, Deserialize)]
    struct Sum {
        cents: u64,
    }
    #[derive(Deserialize)]
    enum Booked {
        Booked { cents: u64 },
    }
    impl ProcessManager for Sum {
        const NAME: &'static str = "sum";
        type Event = Booked;
        type Command = ();

        fn event_types() -> EventTypes<Booked> {
            let split = Upcaster::json("Booked", 1, |_| {
                Ok(vec![
                    Upcast::same(serde_json::json!({ "cents": 1 })),
                    Upcast::same(serde_json::json!({ "cents": 2 })),
                ])
            });
            EventTypes::new().schema_version("Booked", 2).upcast(split)
        }

        fn instance_of(_: &Booked, _: &Event<'_>) -> Option<String> {
            Some("all".into())
        }

        fn on_event(&mut self, event: &Booked, _: &mut Reactions<()>) {
            let Booked::Booked { cents } = event;
            self.cents += cents;
        }
    }
    check(|world| {
        let store = world.application().store;
        let sum = store.process::<Sum>(|(), _| Ok(())).start().unwrap();
        let old = || NewEvent::json("Booked", &serde_json::json!({})).unwrap();
        store.append("books", annals::ExpectedVersion::Any, [old(), old()]).unwrap();
        sum.settle().unwrap();
        assert_eq!(sum.instances().get("all").unwrap().unwrap().state().cents, 6);
        sum.stop().unwrap();
        store.state().unwrap().delete("checkpoint-sum").unwrap();
        let sum = store.process::<Sum>(|(), _| Ok(())).start().unwrap();
        sum.settle().unwrap();
        assert_eq!(sum.instances().get("all").unwrap().unwrap().state().cents, 6);
    });
}
