//! A webhook: events leave the store, signed, each until the receiver has taken it.
//!
//! The log is the outbox. A relay follows it and hands events to a sink; this one posts each as JSON over HTTP. The
//! receiver, which runs here as well, checks the signature, remembers the keys that it has seen, and refuses its very
//! first request, so that the relay has something to retry.
//!
//! ```text
//! cargo run --example webhook
//! ```

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use annals::{ExpectedVersion, HandlerError, NewEvent, OnError, Outgoing, Query, Sink, Store};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

/// What sender and receiver agreed on. Yours comes from the environment or a vault.
const SECRET: &[u8] = b"correct horse battery staple";
const KEY_HEADER: &str = "idempotency-key";
const SIGNATURE_HEADER: &str = "x-signature-256";

fn main() -> Result<(), Box<dyn Error>> {
    let (receiver, deliveries) = receive()?;
    let store = Store::in_memory()?;

    // 1. The relay begins with the first event, and goes on where it came to when it is started again. An event that the
    //    receiver does not take is retried for a while and then parked, with those of its stream behind it; the other
    //    streams go on.
    let sink = Webhook::new(format!("http://{receiver}/events"));
    let policy = OnError::retry(5).backoff(Duration::from_millis(10), Duration::from_secs(1)).then_park();
    let relay = store.relay("partner", sink).query(Query::category("order")).policy(policy).start()?;

    // 2. Whatever is committed will be delivered, even if the process ends here: there is no second step to forget.
    let placed = NewEvent::json("OrderPlaced", &json!({ "cents": 4_200 }))?;
    let shipped = NewEvent::json("OrderShipped", &json!({ "carrier": "DHL" }))?;
    store.append("order-1", ExpectedVersion::NoStream, [placed])?;
    store.append("customer-7", ExpectedVersion::NoStream, [NewEvent::raw("Registered", "")])?;
    let last = store.append("order-1", ExpectedVersion::Any, [shipped])?;

    // 3. Both orders arrive, in their order, although the receiver was busy at first.
    relay.wait_for(last.last_position())?;
    let told: Vec<_> = deliveries.try_iter().collect();
    let types: Vec<_> = told.iter().map(|delivery| delivery.event_type.as_str()).collect();
    assert_eq!(types, ["OrderPlaced", "OrderShipped"]);
    assert_eq!(told[1].data["carrier"], "DHL");
    assert_eq!(relay.status().failures, 1, "the first request was refused");
    assert!(store.dead_letters("partner")?.list()?.is_empty());

    // 4. A request that somebody else has made up is refused.
    let forged = ureq::post(format!("http://{receiver}/events"))
        .header(KEY_HEADER, "made up")
        .header(SIGNATURE_HEADER, "00".repeat(32))
        .send(r#"{"type":"OrderShipped","stream":"order-2","data":{}}"#);
    assert!(matches!(forged, Err(ureq::Error::StatusCode(401))), "{forged:?}");
    assert_eq!(deliveries.try_iter().count(), 0);

    println!("{} events were delivered to {receiver}: {types:?}", told.len());
    relay.stop()?;
    Ok(())
}

// --- The sender ------------------------------------------------------------------------------------------------------

struct Webhook {
    url: String,
    agent: ureq::Agent,
}

impl Webhook {
    /// A receiver that does not answer counts as one that refuses, so that it cannot keep the relay waiting for ever.
    fn new(url: String) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build();
        Self { url, agent: config.into() }
    }
}

impl Sink for Webhook {
    /// Posts one after the other. If one fails, those before it come again, with the same keys.
    fn deliver(&mut self, batch: &[Outgoing]) -> Result<(), HandlerError> {
        for outgoing in batch {
            let event = &outgoing.event;
            let data: Value = serde_json::from_slice(&event.payload)?;
            let body = json!({ "type": event.event_type, "stream": event.stream, "data": data }).to_string();
            let key = outgoing.key.to_string();
            let request = self.agent.post(&self.url).header(KEY_HEADER, &key);
            let sent = request.header(SIGNATURE_HEADER, sign(&key, body.as_bytes())).send(&body);
            match sent {
                Ok(_) => {}
                // The receiver says that no retry will help: no need to try.
                Err(ureq::Error::StatusCode(status @ (400 | 401 | 410))) => {
                    return Err(HandlerError::permanent(format!("the receiver answers {status}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The key is signed with the body, so that nobody can send a body again under another key.
fn authentication(key: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut code = Hmac::<Sha256>::new_from_slice(SECRET).expect("a secret may have any length");
    code.update(key.as_bytes());
    code.update(b"\n");
    code.update(body);
    code
}

fn sign(key: &str, body: &[u8]) -> String {
    let code = authentication(key, body).finalize().into_bytes();
    code.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

// --- The receiver ----------------------------------------------------------------------------------------------------

#[derive(Debug, Deserialize)]
struct Delivery {
    #[serde(rename = "type")]
    event_type: String,
    data: Value,
}

/// Starts a receiver on a free port, and gives what it takes, each delivery once.
fn receive() -> io::Result<(SocketAddr, Receiver<Delivery>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (taken, deliveries) = mpsc::channel();
    std::thread::spawn(move || {
        let mut office = Office { seen: HashSet::new(), is_open: false, taken };
        for connection in listener.incoming().flatten() {
            // A sender that goes away in the middle of a request sends it again.
            let _ = office.answer(connection);
        }
    });
    Ok((address, deliveries))
}

struct Office {
    /// The keys of what was taken. Since a stream is delivered in order, its last position would be enough.
    seen: HashSet<String>,
    is_open: bool,
    taken: Sender<Delivery>,
}

impl Office {
    /// Answers the one request of a connection.
    fn answer(&mut self, mut connection: TcpStream) -> io::Result<()> {
        let (headers, body) = read_request(&mut BufReader::new(connection.try_clone()?))?;
        let status = self.take(&headers, &body);
        write!(connection, "HTTP/1.1 {status} \r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    }

    fn take(&mut self, headers: &HashMap<String, String>, body: &[u8]) -> u16 {
        let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
        let (key, signature) = (header(KEY_HEADER), unhex(header(SIGNATURE_HEADER)));
        // Compares in constant time.
        if authentication(key, body).verify_slice(&signature).is_err() {
            return 401;
        }
        if !std::mem::replace(&mut self.is_open, true) {
            return 503;
        }
        if self.seen.contains(key) {
            return 204;
        }
        let Ok(delivery) = serde_json::from_slice(body) else { return 400 };
        self.seen.insert(key.to_owned());
        if self.taken.send(delivery).is_ok() { 204 } else { 410 }
    }
}

type Request = (HashMap<String, String>, Vec<u8>);

/// The headers and the body of a request.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let mut headers = HashMap::new();
    let mut line = String::new();
    reader.read_line(&mut line)?;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok((headers, body))
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    (0..text.len()).step_by(2).map_while(byte).collect()
}
