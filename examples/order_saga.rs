//! An order saga: reserve, take the payment, ship; and undo in reverse order what was done when something fails.
//!
//! Three aggregates know nothing of each other: orders, payments, parcels. The process manager `Fulfilment` listens to
//! them and tells them what to do. It is a plain struct whose functions only say what should happen, so that the whole
//! process can be read in one place. The crate records what was asked for, carries it out exactly once, survives a kill
//! between any two steps, and remembers the timers.
//!
//!     cargo run --example order_saga

#![allow(clippy::enum_variant_names, reason = "a process manager listens to types of several aggregates by name")]

use std::sync::Arc;
use std::time::Duration;

use annals::{
    Aggregate, Dispatch, DispatchError, Event, ManualClock, Options, ProcessManager, ProcessStatus, Reactions,
    Repository, Store, Timestamp,
};
use serde::{Deserialize, Serialize};

// --- Three aggregates ------------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize, Clone)]
enum OrderEvent {
    OrderPlaced { cents: u64, address: String },
    OrderConfirmed,
    OrderCancelled,
}

#[derive(Default)]
struct Order {
    is_open: bool,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Event = OrderEvent;

    fn apply(&mut self, event: &OrderEvent) {
        self.is_open = matches!(event, OrderEvent::OrderPlaced { .. });
    }
}

impl Order {
    /// What has ended stays as it is: no event, and no error either.
    fn end(&self, event: OrderEvent) -> Option<OrderEvent> {
        self.is_open.then_some(event)
    }
}

#[derive(Serialize, Deserialize)]
enum PaymentEvent {
    PaymentRequested { cents: u64 },
    PaymentReceived,
    PaymentRefunded,
}

#[derive(Default)]
struct Payment {
    is_received: bool,
}

impl Aggregate for Payment {
    const CATEGORY: &'static str = "payment";
    type Event = PaymentEvent;

    fn apply(&mut self, event: &PaymentEvent) {
        self.is_received = matches!(event, PaymentEvent::PaymentReceived);
    }
}

impl Payment {
    const LIMIT_CENTS: u64 = 100_000;

    fn request(&self, cents: u64) -> Result<PaymentEvent, String> {
        if self.is_received {
            return Err("it is paid already".into());
        }
        if cents > Self::LIMIT_CENTS {
            return Err(format!("{cents} cents are more than the limit"));
        }
        Ok(PaymentEvent::PaymentRequested { cents })
    }

    fn refund(&self) -> Option<PaymentEvent> {
        self.is_received.then_some(PaymentEvent::PaymentRefunded)
    }
}

#[derive(Serialize, Deserialize)]
enum ParcelEvent {
    ParcelShipped { address: String },
}

#[derive(Default)]
struct Parcel {
    is_shipped: bool,
}

impl Aggregate for Parcel {
    const CATEGORY: &'static str = "parcel";
    type Event = ParcelEvent;

    fn apply(&mut self, _: &ParcelEvent) {
        self.is_shipped = true;
    }
}

impl Parcel {
    fn ship(&self, address: &str) -> Result<ParcelEvent, &'static str> {
        if self.is_shipped {
            return Err("it is on its way already");
        }
        if address.is_empty() {
            return Err("there is no address");
        }
        Ok(ParcelEvent::ParcelShipped { address: address.to_owned() })
    }
}

// --- The process manager ---------------------------------------------------------------------------------------------

/// The state of one order on its way.
#[derive(Default, Serialize, Deserialize)]
struct Fulfilment {
    address: String,
}

/// What it listens to: any events of any aggregates, with the fields that it needs.
#[derive(Deserialize)]
enum Heard {
    OrderPlaced { cents: u64, address: String },
    PaymentReceived,
    ParcelShipped {},
}

/// What it can ask for.
#[derive(Serialize, Deserialize)]
enum Command {
    RequestPayment { cents: u64 },
    Refund,
    Ship { address: String },
    Confirm,
    Cancel,
}

impl ProcessManager for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Event = Heard;
    type Command = Command;

    /// The order, its payment and its parcel share an id: `order-1`, `payment-1`, `parcel-1`.
    fn instance_of(_: &Heard, recorded: &Event<'_>) -> Option<String> {
        Some(recorded.stream().split_once('-')?.1.to_owned())
    }

    fn on_event(&mut self, event: &Heard, reactions: &mut Reactions<Command>) {
        match event {
            Heard::OrderPlaced { cents, address } => {
                self.address.clone_from(address);
                reactions.compensate_with(Command::Cancel);
                reactions.execute(Command::RequestPayment { cents: *cents });
                reactions.after(Duration::from_secs(30 * 60), "payment");
            }
            Heard::PaymentReceived => {
                reactions.cancel("payment");
                reactions.compensate_with(Command::Refund);
                reactions.execute(Command::Ship { address: self.address.clone() });
            }
            Heard::ParcelShipped {} => {
                reactions.execute(Command::Confirm);
                reactions.complete();
            }
        }
    }

    fn on_timer(&mut self, timer: &str, reactions: &mut Reactions<Command>) {
        reactions.fail(format!("no {timer} in time"));
    }

    // A rejected command fails the process, which undoes what was done: that is the default.

    /// A payment that comes when the order is cancelled is given back.
    fn on_late_event(&self, event: &Heard, reactions: &mut Reactions<Command>) {
        if matches!(event, Heard::PaymentReceived) {
            reactions.execute(Command::Refund);
        }
    }
}

// --- The application -------------------------------------------------------------------------------------------------

struct Shop {
    orders: Repository<Order>,
    payments: Repository<Payment>,
    parcels: Repository<Parcel>,
}

impl Shop {
    fn new(store: &Store) -> annals::Result<Self> {
        Ok(Self { orders: store.repository()?, payments: store.repository()?, parcels: store.repository()? })
    }

    /// Carries out one command. What is executed through `dispatch` happens once, however often it is called.
    fn carry_out(&self, command: &Command, dispatch: &Dispatch<'_>) -> Result<(), DispatchError> {
        let id = dispatch.instance();
        match command {
            Command::RequestPayment { cents } => {
                dispatch.execute(&self.payments, id, |payment| payment.request(*cents))
            }
            Command::Refund => dispatch.execute(&self.payments, id, Payment::refund),
            Command::Ship { address } => dispatch.execute(&self.parcels, id, |parcel| parcel.ship(address)),
            Command::Confirm => dispatch.execute(&self.orders, id, |order| order.end(OrderEvent::OrderConfirmed)),
            Command::Cancel => dispatch.execute(&self.orders, id, |order| order.end(OrderEvent::OrderCancelled)),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    // A clock that is moved by hand, so that nobody has to wait for half an hour.
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let store = Options::new().clock(clock.clone()).open(directory.path().join("shop.annals"))?;
    let shop = Arc::new(Shop::new(&store)?);

    let fulfilment = store.process::<Fulfilment>({
        let shop = Arc::clone(&shop);
        move |command, dispatch| shop.carry_out(command, dispatch)
    });
    let fulfilment = fulfilment.start()?;
    let place = |id: &str, cents: u64, address: &str| {
        let placed = OrderEvent::OrderPlaced { cents, address: address.into() };
        shop.orders.execute(id, |_| placed.clone()).map(drop)
    };
    let pay = |id: &str| shop.payments.execute(id, |_| PaymentEvent::PaymentReceived).map(drop);

    // Everything goes well.
    place("1", 5_000, "1 Main Street")?;
    fulfilment.settle()?;
    pay("1")?;
    fulfilment.settle()?;

    // The payment is declined: the order is cancelled.
    place("2", 500_000, "2 Main Street")?;

    // It is paid and cannot be shipped: first the payment is given back, then the order cancelled.
    place("3", 5_000, "")?;
    fulfilment.settle()?;
    pay("3")?;

    // Nobody pays. After half an hour the order is cancelled; a payment that comes too late is given back.
    place("4", 5_000, "4 Main Street")?;
    fulfilment.settle()?;
    assert_eq!(fulfilment.instances().open()?, ["4"]);
    clock.advance(Duration::from_secs(30 * 60));
    fulfilment.settle()?;
    pay("4")?;
    fulfilment.settle()?;

    for id in ["1", "2", "3", "4"] {
        let order = fulfilment.instances().get(id)?.ok_or("it began")?;
        println!("order {id}: {:?}", order.status());
        for event in history(&store, id)? {
            println!("    {event}");
        }
    }
    let ends = |id: &str| history(&store, id).map(|events| events[events.len() - 2..].to_vec());
    assert_eq!(ends("1")?, ["parcel-1 ParcelShipped", "order-1 OrderConfirmed"]);
    assert_eq!(ends("2")?, ["order-2 OrderPlaced", "order-2 OrderCancelled"]);
    assert_eq!(ends("3")?, ["payment-3 PaymentRefunded", "order-3 OrderCancelled"]);
    assert_eq!(ends("4")?, ["payment-4 PaymentReceived", "payment-4 PaymentRefunded"]);

    // Those that failed can be listed with their reasons; those that ended wait for nothing any more.
    let instances = fulfilment.instances();
    assert_eq!(instances.failed()?, ["2", "3", "4"]);
    let unpaid = instances.get("4")?.ok_or("it began")?;
    assert_eq!(unpaid.status(), &ProcessStatus::Failed { reason: "no payment in time".into() });
    assert!(instances.open()?.is_empty() && instances.timers()?.is_empty());

    fulfilment.stop()?;
    store.close()?;
    Ok(())
}

/// What happened to an order, its payment and its parcel.
fn history(store: &Store, id: &str) -> annals::Result<Vec<String>> {
    let streams = ["order", "payment", "parcel"].map(|category| format!("{category}-{id}"));
    let [order, payment, parcel] = streams.map(annals::Query::stream);
    let events = store.read(order.or(payment).or(parcel)).owned();
    events.map(|event| event.map(|event| format!("{} {}", event.stream, event.event_type))).collect()
}
