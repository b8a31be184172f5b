//! A live dashboard: a fundraiser with commands over HTTP, a read model, events as they happen, and a health report.
//!
//!     cargo run --example dashboard --features tokio                            starts, tries itself out, and ends
//!     cargo run --example dashboard --features tokio -- serve 127.0.0.1:8080    serves until it is told to stop
//!
//! | request | answer |
//! |---|---|
//! | `POST /causes/{cause}/donations` with `{"donor":"Ada","cents":500}` | 201 and the position, or 422 with everything that is wrong |
//! | `GET /top/{count}` | so many causes with the most money |
//! | `GET /events` | server-sent events: what happened, and then what happens; goes on behind `Last-Event-ID` |
//! | `GET /healthz` | 200 or 503, and how the store and the read model are |
//!
//! The store is synchronous. What waits for a disk runs on the threads that the runtime keeps for that, and a
//! subscription becomes a stream with a thread of its own: no request ever waits for another.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{
    Aggregate, Error, Event, EventStream, ExecuteError, Item, OnError, OutOfLimit, Parts, Position, Problems,
    Projection, ProjectionHandle, Query, ReadModel, Repository, Stopper, Store, Table,
};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response, Sse, sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt};

const DONOR_BYTES_MAX: usize = 40;
const DONATION_CENTS_MAX: u64 = 1_000_000;
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

// --- The domain ------------------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
enum CauseEvent {
    Donated { donor: String, cents: u64 },
}

#[derive(Default)]
struct Cause;

impl Aggregate for Cause {
    const CATEGORY: &'static str = "cause";
    type Event = CauseEvent;

    fn apply(&mut self, _: &CauseEvent) {}
}

#[derive(Debug)]
enum Problem {
    Empty,
    TooLong(OutOfLimit<usize>),
    NoMoney,
    TooGenerous(OutOfLimit<u64>),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Empty => write!(f, "is empty"),
            Problem::TooLong(bytes) => write!(f, "has {} bytes, at most {} are allowed", bytes.actual, bytes.limit),
            Problem::NoMoney => write!(f, "is nothing"),
            Problem::TooGenerous(cents) => write!(f, "is {}, at most {} are allowed", cents.actual, cents.limit),
        }
    }
}

#[derive(Deserialize)]
struct Donation {
    donor: String,
    cents: u64,
}

impl Cause {
    /// Tells everything that is wrong with a donation at once.
    fn donate(donation: &Donation) -> Result<CauseEvent, Problems<Problem>> {
        let mut problems = Problems::new();
        let Donation { donor, cents } = donation;
        problems.field("donor").check(!donor.trim().is_empty(), Problem::Empty);
        problems.field("donor").at_most(donor.len(), DONOR_BYTES_MAX, Problem::TooLong);
        problems.field("cents").check(*cents > 0, Problem::NoMoney);
        problems.field("cents").at_most(*cents, DONATION_CENTS_MAX, Problem::TooGenerous);
        problems.into_result_with(|| CauseEvent::Donated { donor: donor.clone(), cents: *cents })
    }
}

// --- The read model --------------------------------------------------------------------------------------------------

#[derive(Clone, Default, Serialize, Deserialize)]
struct Total {
    cents: u64,
    donations: u64,
}

/// The totals of all causes, in a table that knows which have the most.
#[derive(Clone)]
struct Totals {
    causes: Table<String, Total>,
}

impl Totals {
    fn new() -> Self {
        Self { causes: Table::new().index("cents", |total: &Total| total.cents) }
    }
}

impl ReadModel for Totals {
    fn parts(&mut self, parts: &mut Parts<'_>) {
        parts.table("causes", &mut self.causes);
    }
}

impl Projection for Totals {
    type Event = CauseEvent;

    fn apply(&mut self, CauseEvent::Donated { cents, .. }: &CauseEvent, recorded: &Event<'_>) {
        let cause = recorded.stream().trim_start_matches("cause-").to_owned();
        self.causes.upsert(cause, Total::default, |total| {
            total.cents += cents;
            total.donations += 1;
        });
    }
}

// --- The server ------------------------------------------------------------------------------------------------------

#[derive(Clone)]
struct App {
    store: Store,
    causes: Repository<Cause>,
    totals: Arc<ProjectionHandle<Totals>>,
    /// What is streamed now: it has to be stopped before the server can end.
    streams: Arc<Mutex<BTreeMap<u64, Stopper>>>,
}

impl App {
    fn open(store: Store) -> Result<Self, Error> {
        let totals = store.projection("totals", Totals::new()).policy(OnError::park()).start()?;
        let causes = store.repository::<Cause>()?;
        Ok(Self { store, causes, totals: Arc::new(totals), streams: Arc::default() })
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/causes/{cause}/donations", post(donate))
            .route("/top/{count}", get(top))
            .route("/events", get(events))
            .route("/healthz", get(health))
            .with_state(self.clone())
    }

    fn stop_streams(&self) {
        self.streams.lock().expect("nobody panics with it").values().for_each(Stopper::stop);
    }
}

/// A stream that is open, for as long as somebody reads it.
struct Open {
    number: u64,
    app: App,
}

impl Open {
    fn new(app: App, stream: &EventStream) -> Self {
        let mut streams = app.streams.lock().expect("nobody panics with it");
        let number = streams.last_key_value().map_or(0, |(last, _)| last + 1);
        streams.insert(number, stream.stopper());
        drop(streams);
        Self { number, app }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.app.streams.lock().expect("nobody panics with it").remove(&self.number);
    }
}

/// A command. The answer says the position, and comes when the read model shows it: who asks next sees it.
async fn donate(State(app): State<App>, Path(cause): Path<String>, Json(donation): Json<Donation>) -> Response {
    let donated = blocking(move || {
        let executed = app.causes.execute(&cause, |_| Cause::donate(&donation))?;
        let position = executed.position().expect("a donation is an event");
        app.totals.wait_for(position)?;
        Ok(position)
    });
    match donated.await {
        Ok(position) => (StatusCode::CREATED, Json(json!({ "position": position }))).into_response(),
        Err(ExecuteError::Rejected(problems)) => {
            let told = problems
                .iter()
                .map(|located| json!({ "field": located.field, "problem": located.problem.to_string() }));
            (StatusCode::UNPROCESSABLE_ENTITY, Json(told.collect::<Vec<_>>())).into_response()
        }
        Err(ExecuteError::Store(error)) => failed(&error),
    }
}

async fn top(State(app): State<App>, Path(count): Path<usize>) -> Response {
    let found = app.totals.read(|totals| totals.causes.query().sort_desc("cents").limit(count).fetch());
    match found {
        Ok(rows) => {
            let told = rows
                .iter()
                .map(|(cause, total)| json!({ "cause": cause, "cents": total.cents, "donations": total.donations }));
            Json(told.collect::<Vec<_>>()).into_response()
        }
        Err(error) => failed(&error),
    }
}

/// What happened and what happens, until the client or the server goes. A client that lost its connection sends the last
/// position that it saw, and goes on behind it.
async fn events(State(app): State<App>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok()?.parse().ok());
    let after = last.and_then(Position::new);
    match app.store.follow(Query::category("cause")).after(after).subscribe().into_stream() {
        Ok(stream) => {
            let open = Open::new(app, &stream);
            Sse::new(told(stream, open)).into_response()
        }
        Err(error) => failed(&error),
    }
}

fn told(stream: EventStream, open: Open) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream.map_while(Result::ok).map(move |item| {
        let _until_the_client_goes = &open;
        Ok(match item {
            Item::Event(event) => sse::Event::default()
                .id(event.position.to_string())
                .event(event.event_type.clone())
                .data(String::from_utf8_lossy(&event.payload)),
            Item::CaughtUp => sse::Event::default().event("caught-up").data(""),
        })
    })
}

async fn health(State(app): State<App>) -> Response {
    match blocking(move || app.store.health()).await {
        Ok(health) if health.is_ok() => (StatusCode::OK, Json(health)).into_response(),
        Ok(health) => (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

/// Runs what may wait for a disk where it holds up no other request.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

/// Serves until it is told to stop, and then ends in order: no new requests, no more streams, handlers that are up to
/// date, a closed store.
async fn serve(
    address: &str,
    ready: oneshot::Sender<SocketAddr>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AnyError> {
    let app = App::open(Store::in_memory()?)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    let _ = ready.send(listener.local_addr()?);
    let stopping = {
        let app = app.clone();
        async move {
            stop.await;
            app.stop_streams();
        }
    };
    axum::serve(listener, app.router()).with_graceful_shutdown(stopping).await?;
    let report = blocking(move || {
        let report = app.store.shutdown(SHUTDOWN_TIME)?;
        app.store.close()?;
        Ok::<_, Error>(report)
    });
    let report = report.await?;
    println!("stopped; everything was handled: {}", report.is_drained());
    assert!(report.is_drained());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (ready, address) = oneshot::channel();
    if let [command, place] = arguments.as_slice()
        && command == "serve"
    {
        println!("http://{place}, until Ctrl-C");
        let interrupted = async {
            let _ = tokio::signal::ctrl_c().await;
        };
        return serve(place, ready, interrupted).await;
    }

    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve("127.0.0.1:0", ready, async {
        let _ = stopped.await;
    }));
    let address = address.await?;
    let live = tokio::task::spawn_blocking(move || try_out(address)).await?;
    let _ = stop.send(());
    server.await??;
    // The server ended the stream that was left open, and was not held up by it.
    live.into_iter().for_each(Live::check_ended);
    Ok(())
}

// --- Trying it out ---------------------------------------------------------------------------------------------------

/// Does what browsers would do, and looks at the answers. Returns the streams of events that are still open.
fn try_out(address: SocketAddr) -> [Live; 2] {
    let (status, body) = request(address, "POST", "/causes/trees/donations", r#"{"donor":"Ada","cents":500}"#);
    assert_eq!((status, body.as_str()), (201, r#"{"position":1}"#));
    request(address, "POST", "/causes/bees/donations", r#"{"donor":"Grace","cents":2000}"#);
    request(address, "POST", "/causes/trees/donations", r#"{"donor":"Alan","cents":700}"#);

    // Everything that is wrong, at once.
    let (status, body) = request(address, "POST", "/causes/trees/donations", r#"{"donor":" ","cents":0}"#);
    let problems = r#"[{"field":"donor","problem":"is empty"},{"field":"cents","problem":"is nothing"}]"#;
    assert_eq!((status, body.as_str()), (422, problems));
    println!("refused: {body}");

    // The answer to a command comes when the read model shows it.
    let (status, body) = request(address, "GET", "/top/1", "");
    assert_eq!((status, body.as_str()), (200, r#"[{"cause":"bees","cents":2000,"donations":1}]"#));
    let (_, body) = request(address, "GET", "/top/10", "");
    assert!(body.contains(r#"{"cause":"trees","cents":1200,"donations":2}"#), "{body}");
    println!("causes: {body}");

    // What happened, that this is all, and what happens next.
    let mut live = Live::connect(address, None);
    assert_eq!(live.next(), (Some(1), "Donated".into(), r#"{"donor":"Ada","cents":500}"#.into()));
    assert_eq!(live.next().0, Some(2));
    assert_eq!(live.next().0, Some(3));
    assert_eq!(live.next().1, "caught-up");
    request(address, "POST", "/causes/bees/donations", r#"{"donor":"Edsger","cents":1}"#);
    assert_eq!(live.next(), (Some(4), "Donated".into(), r#"{"donor":"Edsger","cents":1}"#.into()));

    // A client that comes back misses nothing and sees nothing twice.
    let mut again = Live::connect(address, Some(3));
    assert_eq!(again.next().0, Some(4));

    let (status, body) = request(address, "GET", "/healthz", "");
    assert_eq!(status, 200);
    assert!(body.contains(r#""writable":true"#) && body.contains(r#""name":"totals""#), "{body}");
    println!("health: {body}");
    [live, again]
}

/// One request on a connection of its own: the status, and the body.
fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).expect("the server listens");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: dashboard\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(head.as_bytes()).expect("the server reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("the server answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a head has a status");
    (status, body.to_owned())
}

/// A stream of server-sent events.
struct Live {
    lines: BufReader<TcpStream>,
}

impl Live {
    fn connect(address: SocketAddr, last: Option<u64>) -> Self {
        let mut connection = TcpStream::connect(address).expect("the server listens");
        let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        let head = format!("GET /events HTTP/1.1\r\nHost: dashboard\r\n{last}\r\n");
        connection.write_all(head.as_bytes()).expect("the server reads");
        Self { lines: BufReader::new(connection) }
    }

    fn check_ended(mut self) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("the end can be read");
        // The chunk without bytes that ends an answer: the connection was not just cut.
        assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    }

    /// The id, the name and the data of the next event.
    fn next(&mut self) -> (Option<u64>, String, String) {
        let (mut id, mut name, mut data) = (None, String::new(), String::new());
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("the stream goes on") > 0, "the stream has ended");
            match line.trim_end().split_once(':') {
                Some(("id", value)) => id = value.trim().parse().ok(),
                Some(("event", value)) => value.trim().clone_into(&mut name),
                Some(("data", value)) => value.trim().clone_into(&mut data),
                // An empty line ends an event; the rest is the head of the answer and the sizes of its chunks.
                None if line.trim_end().is_empty() && !name.is_empty() => return (id, name, data),
                _ => {}
            }
        }
    }
}
