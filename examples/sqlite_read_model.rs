//! A read model in SQLite: tables that follow the events, in a database that any SQL tool can open.
//!
//! ```sh
//! cargo run --features sqlite --example sqlite_read_model
//! ```
//!
//! A shop records orders as events. A projection keeps two tables, `orders` and `revenue`, and SQLite changes them and
//! the place in the log that they stand for in one transaction. So each event is in the tables exactly once, however the
//! program ends, and reports are plain SQL.

#![allow(clippy::disallowed_methods, reason = "an example")]

use std::error::Error;
use std::path::Path;

use annals::rusqlite::Connection;
use annals::{Event, EventTypes, ExpectedVersion, HandlerError, Position, SqlProjectionHandle, Store};
use serde::{Deserialize, Serialize};

// The events of an order. The name of a variant is the type that is recorded, its body the payload.
#[derive(Serialize, Deserialize)]
enum OrderEvent {
    Placed { customer: String, cents: i64 },
    Paid,
    Cancelled { reason: String },
}

// The tables. When the projection is built anew, what this creates is dropped and created again.
const SCHEMA: &str = "
    CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT NOT NULL, cents INTEGER NOT NULL, status TEXT NOT NULL);
    CREATE INDEX orders_by_customer ON orders (customer);
    CREATE TABLE revenue (customer TEXT PRIMARY KEY, cents INTEGER NOT NULL)";

// What an event does to the tables. It runs in a transaction that it neither begins nor ends.
fn apply(tables: &Connection, event: &OrderEvent, recorded: &Event<'_>) -> Result<(), HandlerError> {
    let id = recorded.stream();
    match event {
        OrderEvent::Placed { customer, cents } => {
            let insert = "INSERT INTO orders VALUES (?1, ?2, ?3, 'placed')";
            tables.prepare_cached(insert)?.execute((id, customer, cents))?;
        }
        OrderEvent::Paid => {
            tables.prepare_cached("UPDATE orders SET status = 'paid' WHERE id = ?1")?.execute([id])?;
            let earn = "INSERT INTO revenue SELECT customer, cents FROM orders WHERE id = ?1
                ON CONFLICT DO UPDATE SET cents = cents + excluded.cents";
            tables.prepare_cached(earn)?.execute([id])?;
        }
        OrderEvent::Cancelled { reason } => {
            let cancel = "UPDATE orders SET status = 'cancelled: ' || ?2 WHERE id = ?1";
            tables.prepare_cached(cancel)?.execute((id, reason))?;
        }
    }
    Ok(())
}

fn start(store: &Store, path: &Path) -> annals::Result<SqlProjectionHandle> {
    store.sql_projection("orders", path, EventTypes::new(), apply).schema(SCHEMA).start()
}

fn record(store: &Store, order: &str, events: &[OrderEvent]) -> annals::Result<Position> {
    let codec = EventTypes::<OrderEvent>::new().check()?;
    let events = events.iter().map(|event| codec.encode(event)).collect::<annals::Result<Vec<_>>>()?;
    Ok(store.append(order, ExpectedVersion::Any, events)?.last_position())
}

// A report is SQL, over a connection of its own: readers and the projection do not wait for each other.
fn report(path: &Path) -> Result<Vec<(String, i64)>, Box<dyn Error>> {
    let reader = Connection::open(path)?;
    let mut statement = reader.prepare("SELECT customer, cents FROM revenue ORDER BY cents DESC")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("orders.sqlite");
    let store = Store::open(directory.path().join("shop.annals"))?;
    let placed = |customer: &str, cents| OrderEvent::Placed { customer: customer.into(), cents };

    // 1. Events first, the read model later: it catches up with what is there.
    record(&store, "order-1", &[placed("Alice", 5_000), OrderEvent::Paid])?;
    record(&store, "order-2", &[placed("Bob", 3_000), OrderEvent::Cancelled { reason: "too slow".into() }])?;
    let last = record(&store, "order-3", &[placed("Bob", 8_000), OrderEvent::Paid])?;
    let orders = start(&store, &path)?;
    orders.wait_for(last)?;
    println!("revenue: {:?}", report(&path)?);
    assert_eq!(report(&path)?, [("Bob".to_owned(), 8_000), ("Alice".to_owned(), 5_000)]);

    // 2. Read your own writes: wait for the position of an append, then query.
    let last = record(&store, "order-4", &[placed("Alice", 4_000), OrderEvent::Paid])?;
    orders.wait_for(last)?;
    println!("after another order: {:?}", report(&path)?);
    assert_eq!(report(&path)?[0], ("Alice".to_owned(), 9_000));

    // 3. Stopped and started again, it goes on where the tables say that they are.
    orders.stop()?;
    let orders = start(&store, &path)?;
    let resumed_behind = orders.start_report().resumed_behind.ok_or("it was saved")?;
    println!("resumed behind event {resumed_behind}");
    assert_eq!(resumed_behind, last);

    // 4. Somebody has damaged the table by hand. The events know better: the tables are built anew in one transaction,
    //    and readers see the old ones until it is committed.
    Connection::open(&path)?.execute("UPDATE revenue SET cents = 1", [])?;
    let rebuilt = orders.rebuild()?;
    println!("rebuilt from {} events: {:?}", rebuilt.events, report(&path)?);
    assert_eq!(report(&path)?[0], ("Alice".to_owned(), 9_000));

    orders.stop()?;
    store.close()?;
    Ok(())
}
