//! Failures that are no rejections: retried, parked, given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use annals::{
    Dispatch, DispatchError, Error, Event, HandlerState, OnError, ProcessHandle, ProcessManager, ProcessStatus,
    Reactions, Rejection, Result, Store,
};
use serde::{Deserialize, Serialize};

use crate::sagas::{Application, Fulfilment, HOUR, Heard, OrderCommand, check};
use crate::timers::seconds;
use crate::{failed, status};

/// A shop whose shipping fails for as long as `is_down` says, and that notes every attempt.
struct Shaky {
    is_down: Arc<AtomicBool>,
    attempts: Arc<Mutex<Vec<String>>>,
}

impl Shaky {
    fn new() -> Self {
        Self { is_down: Arc::new(AtomicBool::new(true)), attempts: Arc::default() }
    }

    fn start(&self, application: &Application, policy: OnError) -> ProcessHandle<Fulfilment> {
        let (is_down, attempts, this) = (Arc::clone(&self.is_down), Arc::clone(&self.attempts), application.clone());
        let dispatch = move |command: &OrderCommand, dispatch: &Dispatch<'_>| -> Result<(), DispatchError> {
            if matches!(command, OrderCommand::Ship { .. }) {
                attempts.lock().unwrap().push(dispatch.command_id().to_string());
                if is_down.load(Ordering::Relaxed) {
                    return Err(DispatchError::failed("the carrier does not answer"));
                }
            }
            this.fulfil(command, dispatch)
        };
        application.store.process::<Fulfilment>(dispatch).policy(policy).start().unwrap()
    }

    fn repair(&self) {
        self.is_down.store(false, Ordering::Relaxed);
    }

    /// The ids under which it was tried to ship, each once.
    fn ids(&self) -> (usize, usize) {
        let attempts = self.attempts.lock().unwrap();
        (attempts.len(), attempts.iter().collect::<std::collections::HashSet<_>>().len())
    }
}

#[test]
fn a_failure_that_is_no_rejection_stops_it_and_the_next_start_goes_on() {
    check(|world| {
        let application = world.application();
        let shaky = Shaky::new();
        let fulfilment = shaky.start(&application, OnError::stop());
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        application.pay("o1");
        assert!(matches!(fulfilment.settle(), Err(Error::HandlerFailed { .. })));
        let instance = fulfilment.instances().get("o1").unwrap().unwrap();
        assert_eq!(instance.pending().collect::<Vec<_>>(), [&OrderCommand::Ship { address: "Main Street".into() }]);
        assert_eq!(instance.compensations().collect::<Vec<_>>(), [&OrderCommand::Refund, &OrderCommand::Cancel]);
        assert!(fulfilment.stop().is_err());

        let application = world.reopened(application);
        shaky.repair();
        let fulfilment = shaky.start(&application, OnError::stop());
        fulfilment.settle().unwrap();
        assert_eq!(status(&fulfilment, "o1"), ProcessStatus::Completed);
        assert_eq!(shaky.ids(), (2, 1), "both attempts were under one id");
    });
}

#[test]
fn a_retry_dispatches_the_same_command() {
    check(|world| {
        let application = world.application();
        let shaky = Shaky::new();
        let fulfilment = shaky.start(&application, OnError::retry(5).backoff(seconds(1), seconds(1)).without_jitter());
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        application.pay("o1");
        fulfilment.wait_for_state(|state| matches!(state, HandlerState::Retrying { .. }));
        shaky.repair();
        world.clock.advance(seconds(1));
        fulfilment.settle().unwrap();
        assert_eq!(status(&fulfilment, "o1"), ProcessStatus::Completed);
        let (attempts, ids) = shaky.ids();
        assert!(attempts >= 2 && ids == 1, "{attempts} attempts, {ids} ids");
    });
}

#[test]
fn an_instance_that_cannot_get_on_holds_back_what_comes_for_it_and_nobody_else() {
    check(|world| {
        let application = world.application();
        let shaky = Shaky::new();
        let fulfilment = shaky.start(&application, OnError::park());
        application.place_order("held", 500, "Main Street");
        application.place_order("other", 5_000, "Main Street");
        fulfilment.settle().unwrap();
        application.pay("held");
        fulfilment.settle().unwrap();
        // Comes from another stream, and is parked all the same.
        application
            .parcels
            .execute("held", |_| crate::sagas::ParcelEvent::ParcelShipped { address: "x".into() })
            .unwrap();
        fulfilment.settle().unwrap();
        assert_eq!(application.types("order-other"), ["OrderPlaced", "OrderCancelled"]);
        assert_eq!(application.types("order-held"), ["OrderPlaced"]);
        let letters = application.store.dead_letters("fulfilment").unwrap();
        assert_eq!(letters.list().unwrap().len(), 2);

        shaky.repair();
        letters.retry_all().unwrap();
        fulfilment.wait_for_requests().unwrap();
        fulfilment.settle().unwrap();
        assert!(letters.list().unwrap().is_empty());
        assert_eq!(status(&fulfilment, "held"), ProcessStatus::Completed);
        assert_eq!(application.types("parcel-held"), ["ParcelShipped", "ParcelShipped"]);
        assert_eq!(application.types("order-held"), ["OrderPlaced", "OrderConfirmed"]);
    });
}

#[test]
fn an_instance_that_can_never_get_on_is_abandoned() {
    check(|world| {
        let application = world.application();
        let shaky = Shaky::new();
        let fulfilment = shaky.start(&application, OnError::skip());
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        application.pay("o1");
        fulfilment.settle().unwrap();
        assert!(fulfilment.abandon("o1", "the carrier is no more").unwrap());
        assert_eq!(status(&fulfilment, "o1"), failed("the carrier is no more"));
        assert!(fulfilment.instances().open().unwrap().is_empty());
        assert!(!fulfilment.abandon("o1", "again").unwrap());
        assert!(!fulfilment.abandon("unknown", "never began").unwrap());
        assert_eq!(application.types("order-o1"), ["OrderPlaced"], "nothing is undone");
    });
}

#[test]
fn a_panic_in_the_dispatch_is_a_failure() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.store.process::<Fulfilment>(|_, _| panic!("a bug"));
        let fulfilment = fulfilment.policy(OnError::park()).start().unwrap();
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        let letters = application.store.dead_letters("fulfilment").unwrap().list().unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!(fulfilment.instances().open().unwrap(), ["o1"]);
    });
}

#[test]
fn a_process_manager_may_ask_again_after_a_rejection() {
    #[derive(Default, Serialize, Deserialize)]
    struct Patient {
        rejections: u32,
    }
    impl ProcessManager for Patient {
        const NAME: &'static str = "patient";
        type Event = Heard;
        type Command = u32;

        fn instance_of(_: &Heard, recorded: &Event<'_>) -> Option<String> {
            Some(recorded.stream().to_owned())
        }

        fn on_event(&mut self, _: &Heard, reactions: &mut Reactions<u32>) {
            reactions.execute(0);
            reactions.complete();
        }

        fn on_rejected(&mut self, command: &u32, _: &Rejection, reactions: &mut Reactions<u32>) {
            self.rejections += 1;
            reactions.execute(command + 1);
            reactions.complete();
        }
    }
    check(|world| {
        let application = world.application();
        let dispatch = |command: &u32, _: &Dispatch<'_>| {
            if *command < 3 { Err(DispatchError::rejected("too small")) } else { Ok(()) }
        };
        let patient = application.store.process::<Patient>(dispatch).start().unwrap();
        application.place_order("o1", 500, "Main Street");
        patient.settle().unwrap();
        let instance = patient.instances().get("order-o1").unwrap().unwrap();
        assert_eq!((instance.status(), instance.state().rejections), (&ProcessStatus::Completed, 3));
    });
}

#[test]
fn a_restored_backup_goes_on_without_doing_anything_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, restored) = (directory.path().join("store"), directory.path().join("restored"));
    let store = Store::open(&path).unwrap();
    let application = Application::new(&store);
    application.open_account("alice", 100);
    application.open_account("bob", 0);
    let transfers = application.start_transfers(OnError::stop());
    application.request_transfer("t1", "alice", "bob", 30);
    application.request_transfer("t2", "alice", "nobody", 30);
    transfers.settle().unwrap();
    let fulfilment = application.start_fulfilment(OnError::stop());
    application.place_order("o1", 500, "Main Street");
    fulfilment.settle().unwrap();
    transfers.stop().unwrap();
    fulfilment.stop().unwrap();
    store.backup(&restored).unwrap();

    let store = Store::open(&restored).unwrap();
    let before = store.head().unwrap();
    let application = Application::new(&store);
    let (transfers, fulfilment) =
        (application.start_transfers(OnError::stop()), application.start_fulfilment(OnError::stop()));
    transfers.settle().unwrap();
    fulfilment.settle().unwrap();
    assert_eq!(store.head().unwrap(), before);
    assert_eq!(fulfilment.instances().open().unwrap(), ["o1"]);
    application.pay("o1");
    fulfilment.settle().unwrap();
    assert_eq!(status(&fulfilment, "o1"), ProcessStatus::Completed);
}

#[test]
fn draining_handles_what_is_there_and_stops() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 100);
        application.open_account("bob", 0);
        let transfers = application.start_transfers(OnError::stop());
        (0..10).for_each(|number| application.request_transfer(&number.to_string(), "alice", "bob", 1));
        assert!(transfers.drain(HOUR).unwrap().is_drained());
        assert_eq!(application.balance("bob"), 10);
        application.start_transfers(OnError::stop()).stop().unwrap();
    });
}
