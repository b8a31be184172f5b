//! The command line on old events: `migrate`, and `--upcast` on the commands that read. Run as a process.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use annals::{
    Codec, Commit, EventId, ExpectedVersion, ManualClock, NewEvent, Options, Query, RecordedEvent, Store, Timestamp,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a store of old events and a file of rules.
struct Place {
    directory: TempDir,
}

const RULES: &str = r#"{ "rules": [
    { "type": "Deposited", "version": 1, "changes": [
        { "rename": { "field": "amount", "to": "cents" } },
        { "add": { "field": "currency", "value": "EUR" } } ] },
    { "type": "Opened", "version": 1, "to": { "type": "AccountOpened", "version": 1 } },
    { "type": "Clicked", "version": 1, "drop": true },
    { "type": "Moved", "version": 1, "split": [
        { "type": "StreetChanged", "version": 1, "keep": ["street"] },
        { "type": "CityChanged", "version": 1, "keep": ["city"] } ] }
] }"#;

fn id(number: u8) -> EventId {
    EventId::from_bytes([number; 16])
}

fn json_event(event_type: &'static str, number: u8, payload: &str) -> NewEvent {
    NewEvent::from_bytes(event_type, Codec::Json, payload).id(id(number)).time(Timestamp::from_millis(number.into()))
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(place.path("rules.json"), RULES).unwrap();
        let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
        let store = Options::new().clock(clock.clone()).open(place.path("old.annals")).unwrap();
        store
            .send(
                Commit::new()
                    .append("account-a", ExpectedVersion::Any, [json_event("Opened", 1, r#"{"owner": "Alice"}"#)])
                    .append(
                        "person-p",
                        ExpectedVersion::Any,
                        [json_event("Moved", 2, r#"{"street":"Rheingasse","city":"Basel"}"#).tag("zip:4058")],
                    )
                    .append(
                        "account-a",
                        ExpectedVersion::Any,
                        [json_event("Deposited", 3, r#"{"amount":500}"#).metadata_json(r#"{"user": 1}"#)],
                    ),
            )
            .unwrap();
        clock.advance(std::time::Duration::from_secs(60));
        store.append("person-p", ExpectedVersion::Any, [json_event("Clicked", 4, "{}")]).unwrap();
        clock.advance(std::time::Duration::from_secs(60));
        store
            .append(
                "account-a",
                ExpectedVersion::Any,
                [
                    json_event("Clicked", 5, "{}"),
                    json_event("Deposited", 6, r#"{"cents":7,  "currency":"USD"}"#).schema_version(2),
                ],
            )
            .unwrap();
        store.close().unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
        command.current_dir(self.directory.path()).args(line.split_whitespace()).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && complaint.is_empty(), "annals {line}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn lines(&self, line: &str) -> Vec<Value> {
        self.ok(line).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn fails(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(code), "annals {line}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn events(&self, store: &str) -> Vec<RecordedEvent> {
        let store = Store::open_read_only(self.path(store)).unwrap();
        store.read(Query::all()).owned().map(Result::unwrap).collect()
    }
}

/// Type, schema version and payload of each event.
fn told(events: &[RecordedEvent]) -> Vec<(&str, u32, &str)> {
    let payload = |event: &RecordedEvent| std::str::from_utf8(Box::leak(event.payload.clone().into())).unwrap();
    events.iter().map(|event| (event.event_type.as_str(), event.schema_version, payload(event))).collect()
}

const TOLD: [(&str, u32, &str); 5] = [
    ("AccountOpened", 1, r#"{"owner": "Alice"}"#),
    ("StreetChanged", 1, r#"{"street":"Rheingasse"}"#),
    ("CityChanged", 1, r#"{"city":"Basel"}"#),
    ("Deposited", 2, r#"{"cents":500,"currency":"EUR"}"#),
    ("Deposited", 2, r#"{"cents":7,  "currency":"USD"}"#),
];

#[test]
fn a_migrated_store_holds_what_old_events_became() {
    let place = Place::new();
    place.ok("migrate old.annals new.annals --upcast rules.json");
    let (old, new) = (place.events("old.annals"), place.events("new.annals"));
    assert_eq!(told(&new), TOLD);

    let ids: Vec<EventId> = new.iter().map(|event| event.id).collect();
    assert_eq!(ids, [id(1), id(2), id(2).derived(1), id(3), id(6)]);
    let streams: Vec<&str> = new.iter().map(|event| event.stream.as_str()).collect();
    assert_eq!(streams, ["account-a", "person-p", "person-p", "account-a", "account-a"]);
    let commits: Vec<u64> = new.iter().map(|event| event.commit.number()).collect();
    assert_eq!(commits, [1, 1, 1, 1, 5], "a commit all of whose events are dropped is left out");
    let times: Vec<Timestamp> = new.iter().map(|event| event.commit_time).collect();
    assert_eq!(times, [0, 0, 0, 2, 5].map(|source: usize| old[source].commit_time));
    let happened: Vec<Timestamp> = new.iter().map(|event| event.time).collect();
    assert_eq!(happened, [0, 1, 1, 2, 5].map(|source: usize| old[source].time));
    assert_eq!((&new[1].tags, &new[2].tags), (&vec!["zip:4058".to_owned()], &vec!["zip:4058".to_owned()]));
    assert_eq!(new[3].metadata.as_deref(), Some(&br#"{"user": 1}"#[..]));
    place.ok("verify new.annals");
    let left: Vec<_> = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing else is left behind: {left:?}");
}

#[test]
fn a_migration_gives_the_same_events_each_time() {
    let place = Place::new();
    place.ok("migrate old.annals first.annals --upcast rules.json");
    place.ok("migrate old.annals second.annals --upcast rules.json");
    assert_eq!(place.ok("export first.annals"), place.ok("export second.annals"));
    assert_eq!(place.events("first.annals"), place.events("second.annals"));
}

#[test]
fn a_dry_run_shows_what_would_change_and_writes_nothing() {
    let place = Place::new();
    let shown = place.ok("migrate old.annals new.annals --upcast rules.json --dry-run");
    let expected = concat!(
        "Clicked v1: 2 events -> 2 dropped\n  position 4\n  - Clicked v1  {}\n",
        "Deposited v1: 1 events -> 1 Deposited v2\n  position 3\n  - Deposited v1  {\"amount\":500}\n",
        "  + Deposited v2  {\"cents\":500,\"currency\":\"EUR\"}\n",
        "Moved v1: 1 events -> 1 CityChanged v1 -> 1 StreetChanged v1\n  position 2\n",
        "  - Moved v1  {\"street\":\"Rheingasse\",\"city\":\"Basel\"}\n",
        "  + StreetChanged v1  {\"street\":\"Rheingasse\"}\n  + CityChanged v1  {\"city\":\"Basel\"}\n",
        "Opened v1: 1 events -> 1 AccountOpened v1\n  position 1\n  - Opened v1  {\"owner\": \"Alice\"}\n",
        "  + AccountOpened v1  {\"owner\": \"Alice\"}\n",
        "read 6 events, would write 5 in 2 commits\n",
    );
    assert_eq!(shown, expected);
    assert!(!place.path("new.annals").exists());

    let mut dry = place.lines("migrate old.annals --upcast rules.json --dry-run --format ndjson");
    let wet = place.lines("migrate old.annals new.annals --upcast rules.json --format ndjson");
    assert_eq!((dry[0]["dry_run"].take(), wet[0]["dry_run"].clone()), (json!(true), json!(false)));
    assert_eq!(dry[0]["changes"], wet[0]["changes"], "a dry run shows what happens then");
    let moved = &wet[0]["changes"][2];
    assert_eq!(moved["becomes"][1], json!({"type": "StreetChanged", "schema_version": 1, "events": 1}));
    assert_eq!(moved["example"]["position"], 2);
}

#[test]
fn reading_commands_tell_old_events_as_they_are_told_now() {
    let place = Place::new();
    let data = |line: &str| -> Vec<(String, u64, Value)> {
        let told = |line: Value| (line["type"].as_str().unwrap().into(), line["position"].as_u64().unwrap(), line);
        place.lines(line).into_iter().map(told).collect()
    };
    let expected = [("AccountOpened", 1), ("StreetChanged", 2), ("CityChanged", 2), ("Deposited", 3), ("Deposited", 6)];
    for line in ["read old.annals --format ndjson", "tail old.annals --format ndjson", "export old.annals"] {
        let events = data(&format!("{line} --upcast rules.json"));
        let told: Vec<(&str, u64)> = events.iter().map(|(name, position, _)| (name.as_str(), *position)).collect();
        assert_eq!(told, expected, "{line}");
        assert_eq!(events[3].2["data"], json!({"cents": 500, "currency": "EUR"}), "{line}");
    }
    let read = data("read old.annals --format ndjson --upcast rules.json");
    assert_eq!((&read[1].2["id"], &read[1].2["ordinal"]), (&read[2].2["id"], &Value::Null));
    assert_eq!(read[2].2["ordinal"], 1, "what was split off shares the id and has an ordinal");

    let counts = "replay old.annals --count-by type --format json --upcast rules.json";
    let counts: Value = serde_json::from_str(&place.ok(counts)).unwrap();
    let expected = json!({"AccountOpened": 1, "CityChanged": 1, "Deposited": 2, "StreetChanged": 1});
    assert_eq!((&counts["events"], &counts["counts"]), (&json!(5), &expected));
}

#[test]
fn an_upcast_export_can_be_imported() {
    let place = Place::new();
    place.ok("export old.annals events.ndjson --upcast rules.json");
    place.run("import imported.annals events.ndjson");
    place.ok("migrate old.annals migrated.annals --upcast rules.json");
    let (imported, migrated) = (place.events("imported.annals"), place.events("migrated.annals"));
    assert_eq!(told(&imported), TOLD);
    let ids = |events: &[RecordedEvent]| events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(&imported), ids(&migrated));
}

#[test]
fn a_target_that_exists_is_left_alone() {
    let place = Place::new();
    place.ok("migrate old.annals new.annals --upcast rules.json");
    let before = place.events("new.annals");
    let complaint = place.fails("migrate old.annals new.annals --upcast rules.json", 1);
    assert!(complaint.contains("new.annals exists already"), "{complaint}");
    assert_eq!(place.events("new.annals"), before);
}

#[test]
fn rules_that_cannot_be_used_are_told() {
    let place = Place::new();
    let complaint = place.fails("read old.annals --upcast missing.json", 1);
    assert!(complaint.contains("cannot read missing.json"), "{complaint}");

    fs::write(place.path("typo.json"), r#"{"rules":[{"type":"Opened","version":1,"dorp":true}]}"#).unwrap();
    let complaint = place.fails("migrate old.annals new.annals --upcast typo.json", 1);
    assert!(complaint.contains("typo.json cannot be used") && complaint.contains("`dorp`"), "{complaint}");

    let circle = r#"{"rules":[{"type":"Opened","version":1,"to":{"type":"Opened","version":1}}]}"#;
    fs::write(place.path("circle.json"), circle).unwrap();
    let complaint = place.fails("export old.annals --upcast circle.json", 1);
    assert!(complaint.contains("a circle"), "{complaint}");
    place.fails("migrate old.annals --upcast rules.json", 2);
}

#[test]
fn a_rule_that_fails_leaves_no_store_behind() {
    let place = Place::new();
    let twice = r#"{"rules":[{"type":"Deposited","version":1,"changes":[{"add":{"field":"amount","value":1}}]}]}"#;
    fs::write(place.path("twice.json"), twice).unwrap();
    for line in ["migrate old.annals new.annals", "migrate old.annals --dry-run", "read old.annals"] {
        let complaint = place.fails(&format!("{line} --upcast twice.json"), 1);
        let parts = ["Deposited", "position 3", "account-a", r#"there is a field "amount" already"#];
        assert!(parts.iter().all(|part| complaint.contains(part)), "{complaint}");
    }
    assert!(!place.path("new.annals").exists());
}
