//! Two processes that the tests run: a money transfer between accounts, and an order that is paid and shipped.

#![allow(dead_code, reason = "each test target uses a part of it")]
#![allow(clippy::enum_variant_names, reason = "process managers listen to types of several aggregates by name")]

pub(crate) mod scenario;

use std::time::Duration;

use annals::{
    Aggregate, CommandId, Dispatch, DispatchError, Event, ManualClock, OnError, Options, ProcessHandle, ProcessManager,
    Query, Reactions, Repository, Store, Timestamp,
};
use serde::{Deserialize, Serialize};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

// --- Accounts and transfers ------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
pub(crate) enum AccountEvent {
    Opened { cents: u64 },
    Withdrawn { cents: u64 },
    Deposited { cents: u64 },
    Closed,
}

#[derive(Default)]
pub(crate) struct Account {
    is_open: bool,
    pub(crate) cents: u64,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened { cents } => (self.is_open, self.cents) = (true, *cents),
            AccountEvent::Withdrawn { cents } => self.cents -= cents,
            AccountEvent::Deposited { cents } => self.cents += cents,
            AccountEvent::Closed => self.is_open = false,
        }
    }
}

impl Account {
    fn withdraw(&self, cents: u64) -> Result<AccountEvent, &'static str> {
        if cents > self.cents { Err("overdrawn") } else { Ok(AccountEvent::Withdrawn { cents }) }
    }

    fn deposit(&self, cents: u64) -> Result<AccountEvent, &'static str> {
        if self.is_open { Ok(AccountEvent::Deposited { cents }) } else { Err("closed") }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) enum TransferEvent {
    TransferRequested { from: String, to: String, cents: u64 },
}

#[derive(Default)]
pub(crate) struct TransferRequest;

impl Aggregate for TransferRequest {
    const CATEGORY: &'static str = "request";
    type Event = TransferEvent;

    fn apply(&mut self, _: &TransferEvent) {}
}

#[derive(Default, Serialize, Deserialize, Debug, PartialEq)]
pub(crate) struct Transfer {}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub(crate) enum TransferCommand {
    Withdraw { account: String, cents: u64 },
    Deposit { account: String, cents: u64 },
}

impl ProcessManager for Transfer {
    const NAME: &'static str = "transfer";
    type Event = TransferEvent;
    type Command = TransferCommand;

    fn instance_of(_: &TransferEvent, recorded: &Event<'_>) -> Option<String> {
        id_of(recorded)
    }

    fn on_event(&mut self, event: &TransferEvent, reactions: &mut Reactions<TransferCommand>) {
        let TransferEvent::TransferRequested { from, to, cents } = event;
        let withdraw = TransferCommand::Withdraw { account: from.clone(), cents: *cents };
        let give_back = TransferCommand::Deposit { account: from.clone(), cents: *cents };
        reactions.execute(withdraw).compensated_by(give_back);
        reactions.execute(TransferCommand::Deposit { account: to.clone(), cents: *cents });
        reactions.complete();
    }
}

// --- Orders, payments, parcels ---------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
pub(crate) enum OrderEvent {
    OrderPlaced { cents: u64, address: String },
    OrderConfirmed,
    OrderCancelled,
}

#[derive(Default)]
pub(crate) struct Order;

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Event = OrderEvent;

    fn apply(&mut self, _: &OrderEvent) {}
}

#[derive(Serialize, Deserialize)]
pub(crate) enum PaymentEvent {
    PaymentRequested { cents: u64 },
    PaymentReceived,
    PaymentRefunded,
}

#[derive(Default)]
pub(crate) struct Payment;

impl Aggregate for Payment {
    const CATEGORY: &'static str = "payment";
    type Event = PaymentEvent;

    fn apply(&mut self, _: &PaymentEvent) {}
}

#[derive(Serialize, Deserialize)]
pub(crate) enum ParcelEvent {
    ParcelShipped { address: String },
}

#[derive(Default)]
pub(crate) struct Parcel;

impl Aggregate for Parcel {
    const CATEGORY: &'static str = "parcel";
    type Event = ParcelEvent;

    fn apply(&mut self, _: &ParcelEvent) {}
}

#[derive(Default, Serialize, Deserialize, Debug, PartialEq)]
pub(crate) struct Fulfilment {
    pub(crate) address: String,
    pub(crate) is_paid: bool,
}

#[derive(Deserialize)]
pub(crate) enum Heard {
    OrderPlaced { cents: u64, address: String },
    PaymentReceived,
    ParcelShipped {},
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub(crate) enum OrderCommand {
    RequestPayment { cents: u64 },
    Refund,
    Ship { address: String },
    Confirm,
    Cancel,
}

/// A payment of more cents than this is declined.
pub(crate) const PAYMENT_CENTS_MAX: u64 = 1_000;

impl ProcessManager for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Event = Heard;
    type Command = OrderCommand;

    fn instance_of(_: &Heard, recorded: &Event<'_>) -> Option<String> {
        id_of(recorded)
    }

    fn on_event(&mut self, event: &Heard, reactions: &mut Reactions<OrderCommand>) {
        match event {
            Heard::OrderPlaced { cents, address } => {
                self.address.clone_from(address);
                reactions.compensate_with(OrderCommand::Cancel);
                reactions.execute(OrderCommand::RequestPayment { cents: *cents });
                reactions.after(HOUR, "payment");
            }
            Heard::PaymentReceived => {
                // Nobody can pay for what was not ordered.
                if self.address.is_empty() {
                    return;
                }
                self.is_paid = true;
                reactions.cancel("payment");
                reactions.compensate_with(OrderCommand::Refund);
                reactions.execute(OrderCommand::Ship { address: self.address.clone() });
            }
            Heard::ParcelShipped {} => {
                reactions.execute(OrderCommand::Confirm);
                reactions.complete();
            }
        }
    }

    fn on_timer(&mut self, timer: &str, reactions: &mut Reactions<OrderCommand>) {
        reactions.fail(format!("no {timer}"));
    }

    fn on_late_event(&self, event: &Heard, reactions: &mut Reactions<OrderCommand>) {
        if matches!(event, Heard::PaymentReceived) {
            reactions.execute(OrderCommand::Refund);
        }
    }
}

fn id_of(recorded: &Event<'_>) -> Option<String> {
    Some(recorded.stream().split_once('-')?.1.to_owned())
}

// --- The application -------------------------------------------------------------------------------------------------

/// All aggregates of a store.
#[derive(Clone)]
pub(crate) struct Application {
    pub(crate) store: Store,
    pub(crate) accounts: Repository<Account>,
    pub(crate) requests: Repository<TransferRequest>,
    pub(crate) orders: Repository<Order>,
    pub(crate) payments: Repository<Payment>,
    pub(crate) parcels: Repository<Parcel>,
}

impl Application {
    pub(crate) fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            accounts: store.repository().unwrap(),
            requests: store.repository().unwrap(),
            orders: store.repository().unwrap(),
            payments: store.repository().unwrap(),
            parcels: store.repository().unwrap(),
        }
    }

    pub(crate) fn open_account(&self, id: &str, cents: u64) {
        self.accounts.command(name(&["open", id])).execute(id, |_| AccountEvent::Opened { cents }).unwrap();
    }

    /// Each request, order and payment is made once, however often it is asked for.
    pub(crate) fn request_transfer(&self, id: &str, from: &str, to: &str, cents: u64) {
        let requested = || TransferEvent::TransferRequested { from: from.into(), to: to.into(), cents };
        self.requests.command(name(&["request", id])).execute(id, |_| requested()).unwrap();
    }

    pub(crate) fn place_order(&self, id: &str, cents: u64, address: &str) {
        let placed = || OrderEvent::OrderPlaced { cents, address: address.into() };
        self.orders.command(name(&["place", id])).execute(id, |_| placed()).unwrap();
    }

    pub(crate) fn pay(&self, id: &str) {
        self.payments.command(name(&["pay", id])).execute(id, |_| PaymentEvent::PaymentReceived).unwrap();
    }

    pub(crate) fn transfer(&self, command: &TransferCommand, dispatch: &Dispatch<'_>) -> Result<(), DispatchError> {
        match command {
            TransferCommand::Withdraw { account, cents } => {
                dispatch.execute(&self.accounts, account, |account| account.withdraw(*cents))
            }
            TransferCommand::Deposit { account, cents } => {
                dispatch.execute(&self.accounts, account, |account| account.deposit(*cents))
            }
        }
    }

    pub(crate) fn fulfil(&self, command: &OrderCommand, dispatch: &Dispatch<'_>) -> Result<(), DispatchError> {
        let id = dispatch.instance();
        match command {
            OrderCommand::RequestPayment { cents } if *cents > PAYMENT_CENTS_MAX => {
                Err(DispatchError::rejected("declined"))
            }
            OrderCommand::RequestPayment { cents } => {
                dispatch.execute(&self.payments, id, |_| PaymentEvent::PaymentRequested { cents: *cents })
            }
            OrderCommand::Refund => dispatch.execute(&self.payments, id, |_| PaymentEvent::PaymentRefunded),
            OrderCommand::Ship { address } if address == "nowhere" => Err(DispatchError::rejected("no such place")),
            OrderCommand::Ship { address } => {
                dispatch.execute(&self.parcels, id, |_| ParcelEvent::ParcelShipped { address: address.clone() })
            }
            OrderCommand::Confirm => dispatch.execute(&self.orders, id, |_| OrderEvent::OrderConfirmed),
            OrderCommand::Cancel => dispatch.execute(&self.orders, id, |_| OrderEvent::OrderCancelled),
        }
    }

    pub(crate) fn start_transfers(&self, policy: OnError) -> ProcessHandle<Transfer> {
        let this = self.clone();
        let transfers = self.store.process::<Transfer>(move |command, dispatch| this.transfer(command, dispatch));
        transfers.policy(policy).start().unwrap()
    }

    pub(crate) fn start_fulfilment(&self, policy: OnError) -> ProcessHandle<Fulfilment> {
        let this = self.clone();
        let fulfilment = self.store.process::<Fulfilment>(move |command, dispatch| this.fulfil(command, dispatch));
        fulfilment.policy(policy).start().unwrap()
    }

    pub(crate) fn balance(&self, id: &str) -> u64 {
        self.accounts.load(id).unwrap().cents
    }

    /// The types of the events of a stream, in order.
    pub(crate) fn types(&self, stream: &str) -> Vec<String> {
        self.store.read(Query::stream(stream)).owned().map(|event| event.unwrap().event_type).collect()
    }

    /// How many events of a type there are in a category.
    pub(crate) fn count(&self, category: &str, event_type: &str) -> u64 {
        self.store.read(Query::category(category).and_types([event_type])).count().unwrap()
    }
}

fn name(parts: &[&str]) -> CommandId {
    CommandId::of_name(&parts.join("/"))
}

// --- Both stores -----------------------------------------------------------------------------------------------------

/// A store whose time is moved by hand, and that is closed and opened again where that is possible.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    directory: Option<tempfile::TempDir>,
    store: Option<Store>,
}

/// Runs a case on a store in memory and on one on disk.
pub(crate) fn check(case: impl Fn(&mut World)) {
    for on_disk in [false, true] {
        let directory = on_disk.then(|| tempfile::tempdir().unwrap());
        let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
        let mut world = World { clock, directory, store: None };
        world.store = Some(world.open());
        println!("on disk: {on_disk}");
        case(&mut world);
    }
}

impl World {
    pub(crate) fn application(&self) -> Application {
        Application::new(self.store.as_ref().unwrap())
    }

    /// The application after the store was closed and opened again. A store in memory stays as it is.
    pub(crate) fn reopened(&mut self, application: Application) -> Application {
        drop(application);
        if self.directory.is_some() {
            self.store.take().unwrap().close().unwrap();
            self.store = Some(self.open());
        }
        self.application()
    }

    /// A reader beside the writer, of a store on disk.
    pub(crate) fn read_only(&self) -> Option<Store> {
        let directory = self.directory.as_ref()?;
        Some(Store::open_read_only(directory.path().join("store")).unwrap())
    }

    fn open(&self) -> Store {
        let options = Options::new().clock(self.clock.clone());
        match &self.directory {
            Some(directory) => options.open(directory.path().join("store")).unwrap(),
            None => options.in_memory().unwrap(),
        }
    }
}
