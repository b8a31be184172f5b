//! Order, payment, shipping: the way through, and each way out of it.

use std::time::Duration;

use annals::{OnError, ProcessStatus, Query};

use crate::sagas::{HOUR, check};
use crate::{failed, status};

#[test]
fn an_order_is_paid_shipped_and_confirmed() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        application.pay("o1");
        fulfilment.settle().unwrap();
        assert_eq!(application.types("order-o1"), ["OrderPlaced", "OrderConfirmed"]);
        assert_eq!(application.types("payment-o1"), ["PaymentRequested", "PaymentReceived"]);
        assert_eq!(application.types("parcel-o1"), ["ParcelShipped"]);
        assert_eq!(status(&fulfilment, "o1"), ProcessStatus::Completed);
        assert!(fulfilment.instances().timers().unwrap().is_empty());
    });
}

#[test]
fn a_declined_payment_cancels_the_order() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.place_order("o1", 5_000, "Main Street");
        fulfilment.settle().unwrap();
        assert_eq!(application.types("order-o1"), ["OrderPlaced", "OrderCancelled"]);
        assert_eq!(status(&fulfilment, "o1"), failed("declined"));
        world.clock.advance(2 * HOUR);
        fulfilment.settle().unwrap();
        assert_eq!(application.count("fulfilment", "ProcessTimerDue"), 0, "its timer is gone with it");
    });
}

#[test]
fn a_failed_shipment_gives_the_payment_back_and_then_cancels_the_order() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.place_order("o1", 500, "nowhere");
        fulfilment.settle().unwrap();
        application.pay("o1");
        fulfilment.settle().unwrap();
        assert_eq!(status(&fulfilment, "o1"), failed("no such place"));
        let query = Query::types(["PaymentRefunded", "OrderCancelled"]);
        let undone: Vec<_> = application.store.read(query).owned().map(|event| event.unwrap().event_type).collect();
        assert_eq!(undone, ["PaymentRefunded", "OrderCancelled"], "the last is undone first");
    });
}

#[test]
fn an_order_that_nobody_pays_times_out() {
    check(|world| {
        let application = world.application();
        let fulfilment = application.start_fulfilment(OnError::stop());
        application.place_order("o1", 500, "Main Street");
        fulfilment.settle().unwrap();
        world.clock.advance(HOUR.checked_sub(Duration::from_nanos(1)).unwrap());
        fulfilment.settle().unwrap();
        assert_eq!(status(&fulfilment, "o1"), ProcessStatus::Running, "a nanosecond too early");
        world.clock.advance(Duration::from_nanos(1));
        fulfilment.settle().unwrap();
        assert_eq!(status(&fulfilment, "o1"), failed("no payment"));
        assert_eq!(application.types("order-o1"), ["OrderPlaced", "OrderCancelled"]);
        world.clock.advance(10 * HOUR);
        fulfilment.settle().unwrap();
        assert_eq!(application.count("fulfilment", "ProcessTimerDue"), 1, "a timer fires once");
    });
}
