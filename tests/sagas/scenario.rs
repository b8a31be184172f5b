//! A few transfers and orders, and everything that must have come of them: once, however often the process that did it
//! was started again.

use std::sync::Arc;
use std::time::Duration;

use annals::{DispatchError, ManualClock, OnError, ProcessManager, ProcessStatus, Store};

use super::{Application, Fulfilment, HOUR, Transfer};

/// Lets everything happen, as far as it did not happen before, and stops. `step` is called right before and behind each
/// dispatch.
pub(crate) fn run(store: &Store, clock: &ManualClock, step: &Arc<dyn Fn() + Send + Sync>) {
    let application = Application::new(store);
    // A crash counts as a failed attempt.
    let policy = OnError::retry(1_000).backoff(Duration::ZERO, Duration::ZERO);
    let (this, own_step) = (application.clone(), Arc::clone(step));
    let transfers =
        store.process::<Transfer>(move |command, dispatch| between(&*own_step, || this.transfer(command, dispatch)));
    let transfers = transfers.policy(policy.clone()).start().unwrap();
    let (this, own_step) = (application.clone(), Arc::clone(step));
    let fulfilment =
        store.process::<Fulfilment>(move |command, dispatch| between(&*own_step, || this.fulfil(command, dispatch)));
    let fulfilment = fulfilment.policy(policy).start().unwrap();

    application.open_account("alice", 100);
    application.open_account("bob", 0);
    application.request_transfer("good", "alice", "bob", 30);
    application.request_transfer("undone", "alice", "nobody", 50);
    application.request_transfer("refused", "alice", "bob", 1_000);
    transfers.settle().unwrap();
    application.place_order("shipped", 500, "Main Street");
    application.place_order("lost", 500, "nowhere");
    application.place_order("unpaid", 500, "Main Street");
    fulfilment.settle().unwrap();
    application.pay("shipped");
    application.pay("lost");
    fulfilment.settle().unwrap();
    clock.advance(HOUR);
    fulfilment.settle().unwrap();
    application.pay("unpaid");
    fulfilment.settle().unwrap();
    transfers.stop().unwrap();
    fulfilment.stop().unwrap();
}

fn between(step: &dyn Fn(), dispatch: impl FnOnce() -> Result<(), DispatchError>) -> Result<(), DispatchError> {
    step();
    let done = dispatch();
    step();
    done
}

/// Everything happened once.
pub(crate) fn check(store: &Store, context: &str) {
    let application = Application::new(store);
    let types = |stream: &str| application.types(stream);
    assert_eq!((application.balance("alice"), application.balance("bob")), (70, 30), "{context}");
    assert_eq!(types("account-alice"), ["Opened", "Withdrawn", "Withdrawn", "Deposited"], "{context}");
    assert_eq!(types("account-bob"), ["Opened", "Deposited"], "{context}");
    assert_eq!(types("order-shipped"), ["OrderPlaced", "OrderConfirmed"], "{context}");
    assert_eq!(types("order-lost"), ["OrderPlaced", "OrderCancelled"], "{context}");
    assert_eq!(types("order-unpaid"), ["OrderPlaced", "OrderCancelled"], "{context}");
    assert_eq!(types("parcel-shipped"), ["ParcelShipped"], "{context}");
    assert_eq!(types("payment-shipped"), ["PaymentRequested", "PaymentReceived"], "{context}");
    for id in ["lost", "unpaid"] {
        let paid_back = ["PaymentRequested", "PaymentReceived", "PaymentRefunded"];
        assert_eq!(types(&format!("payment-{id}")), paid_back, "{context}");
    }
    assert_eq!(application.count("fulfilment", "ProcessTimerDue"), 1, "{context}: a timer fires once");
    let reactions = application.count("fulfilment", "ProcessReacted");
    assert_eq!(reactions, 3 + 2 + 1 + 1 + 1, "{context}: orders, payments, a parcel, a timer, a late payment");
    check_instances(store, context);
}

fn check_instances(store: &Store, context: &str) {
    let (transfers, fulfilment) = (store.processes::<Transfer>(), store.processes::<Fulfilment>());
    assert_eq!(transfers.failed().unwrap(), ["refused", "undone"], "{context}");
    assert_eq!(fulfilment.failed().unwrap(), ["lost", "unpaid"], "{context}");
    assert!(transfers.open().unwrap().is_empty() && fulfilment.open().unwrap().is_empty(), "{context}");
    assert!(fulfilment.timers().unwrap().is_empty(), "{context}");
    let shipped = fulfilment.get("shipped").unwrap().unwrap();
    assert_eq!(shipped.status(), &ProcessStatus::Completed, "{context}");
    for name in [Transfer::NAME, Fulfilment::NAME] {
        assert!(store.dead_letters(name).unwrap().list().unwrap().is_empty(), "{context}: {name}");
    }
}
