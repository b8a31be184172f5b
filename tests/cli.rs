//! The command line program, run as a process: what it prints, what it writes, and the code it exits with.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use annals::{
    Codec, Commit, Durability, EventId, ExpectedVersion, ManualClock, NewEvent, Options, Query, Store, Timestamp,
};
use serde_json::{Value, json};
use tempfile::TempDir;

// --- Running the program ---------------------------------------------------------------------------------------------

/// A directory of its own for each test.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
        command.current_dir(self.directory.path()).args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Ran {
        Ran { line: line.to_owned(), output: self.command(line).output().unwrap() }
    }

    fn run_with_input(&self, line: &str, input: &[u8]) -> Ran {
        let mut child =
            self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Ran { line: line.to_owned(), output: child.wait_with_output().unwrap() }
    }

    /// Starts the program with a pipe at its output.
    fn spawn(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command whose output nobody reads: the pipe is closed before it starts.
    fn run_unread(&self, line: &str) -> Ran {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = self.command(line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        Ran { line: line.to_owned(), output }
    }

    /// What a command prints that succeeds and has nothing to complain of.
    fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --format json"))).unwrap()
    }
}

struct Ran {
    line: String,
    output: Output,
}

impl Ran {
    fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    fn ok(self) -> String {
        assert_eq!(self.output.status.code(), Some(0), "{}: {}", self.line, self.stderr());
        assert_eq!(self.stderr(), "", "{}", self.line);
        self.stdout()
    }

    /// What a command complains of that exits with this code.
    fn fails_with(self, code: i32) -> String {
        assert_eq!(self.output.status.code(), Some(code), "{}: {}{}", self.line, self.stdout(), self.stderr());
        assert_ne!(self.stderr(), "", "{}", self.line);
        self.stderr()
    }
}

fn lines_of(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn positions(text: &str) -> Vec<u64> {
    lines_of(text).iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

/// A store with events of every kind: each codec, payloads that are no JSON on one line, metadata, tags, several
/// streams in one commit, times before 1970 and to the nanosecond.
fn write_odd_events(path: &Path) {
    let clock = ManualClock::new(Timestamp::from_nanos(-1_000_000_007));
    let store = Options::new().clock(clock.clone()).open(path).unwrap();
    let id = |number: u8| EventId::from_bytes([number; 16]);
    let payloads: [(Codec, &[u8]); 8] = [
        (Codec::Json, br#"{"a":  1.0, "b":[1e400,"\ud800"],"a":2}"#),
        (Codec::Json, b"null"),
        (Codec::Json, b"{\n  \"pretty\": true\n}"),
        (Codec::Json, b" {} "),
        (Codec::Json, b"not json \xff"),
        (Codec::Raw, b"{}"),
        (Codec::Postcard, b"\0\x01\xff"),
        (Codec::Bincode, b""),
    ];
    for (number, (codec, payload)) in (1..).zip(payloads) {
        let time = Timestamp::from_nanos(i64::from(number) * 1_234_567_891 - 5_000_000_000);
        let event = NewEvent::from_bytes(format!("Type {number}"), codec, payload).id(id(number)).time(time);
        let event = match number {
            1 => event.metadata_json("{}"),
            2 => event.metadata_json("{ \"who\" : \"Zoë\"}").tags(["b:2", "a:1", "日本"]),
            3 => event.metadata_json("{\n}").schema_version(7),
            _ => event,
        };
        store.append(format!("odd-\"{number}\"\u{1}\n"), ExpectedVersion::NoStream, [event]).unwrap();
        clock.advance(std::time::Duration::from_nanos(999_999_999));
    }
    let event = |number: u8| NewEvent::raw("Moved", [number]).id(id(number));
    let commit = Commit::new()
        .append("a-1", ExpectedVersion::Any, [event(21), event(22)])
        .append("b-1", ExpectedVersion::Any, [event(23)])
        .append("a-1", ExpectedVersion::Any, [event(24)]);
    store.send(commit).unwrap();
    store.append("a", ExpectedVersion::Any, (31..=40).map(event)).unwrap();
    store.close().unwrap();
}

/// Lines of events without anything that can be left out but their times.
fn plain_lines(count: usize) -> String {
    let line = |number: usize| {
        let stream = number % 17;
        format!(
            "{{\"stream\":\"s-{stream}\",\"type\":\"T{}\",\"time\":\"2024-01-01T00:00:00.{number:06}Z\",\
             \"data\":{{\"number\":{number}}}}}\n",
            number % 3
        )
    };
    (1..=count).map(line).collect()
}

// --- Each command in each format -------------------------------------------------------------------------------------

#[test]
fn every_command_prints_in_each_format() {
    let place = Place::new();
    place.ok("seed store --events 500 --streams 20");
    let lines = plain_lines(3);
    let printing = [
        "stats store",
        "streams store --limit 3",
        "read store --limit 3",
        "replay store",
        "replay store --count-by type",
        "replay store --count-by stream",
        "replay store --count-by category",
        "replay store --count-by tag",
        "verify store",
        "tail store",
        "backup store copy-FORMAT",
        "seed seeded-FORMAT --events 10",
        "import imported-FORMAT events.ndjson",
        "import imported-FORMAT events.ndjson --dry-run",
    ];
    place.file("events.ndjson", lines);
    for line in printing {
        let run = |format: &str| place.ok(&format!("{line} --format {format}").replace("FORMAT", format));
        let human = run("human");
        assert!(!human.trim().is_empty() && !human.contains('\u{1b}'), "{line}: {human}");
        assert!(human.lines().all(|line| line == line.trim_end()), "{line}: {human}");
        let json: Value = serde_json::from_str(&run("json")).unwrap();
        assert!(json.is_object() || json.is_array(), "{line}: {json}");
        let ndjson = lines_of(&run("ndjson"));
        assert!(!ndjson.is_empty() && ndjson.iter().all(Value::is_object), "{line}");
        if let Value::Array(rows) = json {
            assert_eq!(rows, ndjson, "{line}");
        }
    }
}

#[test]
fn stats_hold_the_numbers_of_the_store() {
    let place = Place::new();
    place.file("events.ndjson", plain_lines(100));
    place.ok("import store events.ndjson --batch 10");
    let stats = place.json("stats store");
    for (field, number) in
        [("events", 100), ("streams", 17), ("categories", 1), ("types", 3), ("head", 100), ("synced_head", 100)]
    {
        assert_eq!(stats[field], number, "{field} in {stats}");
    }
    let bytes = |field: &str| stats[field].as_u64().unwrap();
    assert_eq!(bytes("segments"), 1);
    assert!(bytes("bytes") > 0 && bytes("bytes") <= bytes("bytes_allocated"), "{stats}");
}

#[test]
fn streams_are_listed_by_name() {
    let place = Place::new();
    place.file(
        "events.ndjson",
        r#"{"stream":"b-1","type":"T","time":"2024-01-01T00:00:00Z","data":1}
           {"stream":"a","type":"T","time":"2024-01-02T00:00:00Z","data":2}
           {"stream":"b-1","type":"U","time":"2024-01-03T00:00:00Z","data":3}"#,
    );
    place.ok("import store events.ndjson");
    let expected = json!([
        {"stream": "a", "category": "a", "events": 1, "version": 1, "last_position": 2,
         "first_time": "2024-01-02T00:00:00Z", "last_time": "2024-01-02T00:00:00Z"},
        {"stream": "b-1", "category": "b", "events": 2, "version": 2, "last_position": 3,
         "first_time": "2024-01-01T00:00:00Z", "last_time": "2024-01-03T00:00:00Z"},
    ]);
    assert_eq!(place.json("streams store"), expected);
    assert_eq!(place.json("streams store --category b")[0], expected[1]);
    assert_eq!(place.json("streams store --limit 1"), json!([expected[0]]));
}

#[test]
fn read_and_replay_take_the_same_filters() {
    let place = Place::new();
    let event = |stream: &str, event_type: &str, day: u8, tags: &str| {
        format!(
            "{{\"stream\":\"{stream}\",\"type\":\"{event_type}\",\"data\":{day},\"tags\":{tags},\
             \"time\":\"2024-01-{day:02}T00:00:00Z\"}}\n"
        )
    };
    let lines = [
        event("a-1", "Opened", 1, r#"["x","y"]"#),
        event("a-2", "Opened", 2, r#"["x"]"#),
        event("b-1", "Closed", 3, r#"["y"]"#),
        event("a-1", "Moved", 4, "[]"),
        event("a-1", "Closed", 5, r#"["x"]"#),
    ];
    place.file("events.ndjson", lines.concat());
    place.ok("import store events.ndjson");
    let cases: [(&str, &[u64]); 20] = [
        ("", &[1, 2, 3, 4, 5]),
        ("--stream a-1", &[1, 4, 5]),
        ("--category a", &[1, 2, 4, 5]),
        ("--type Opened", &[1, 2]),
        ("--type Opened --type Moved", &[1, 2, 4]),
        ("--tag x", &[1, 2, 5]),
        ("--tag x --tag y", &[1]),
        ("--category a --type Closed --tag x", &[5]),
        ("--from 2", &[2, 3, 4, 5]),
        ("--after 2", &[3, 4, 5]),
        ("--after 0", &[1, 2, 3, 4, 5]),
        ("--from 9", &[]),
        ("--limit 2", &[1, 2]),
        ("--limit 0", &[]),
        ("--reverse --limit 2", &[5, 4]),
        ("--reverse --after 3", &[2, 1]),
        ("--reverse --after 0", &[]),
        ("--since 2024-01-02 --until 2024-01-04", &[2, 3]),
        ("--since 2024-01-05T01:00:00+01:00", &[5]),
        ("--stream absent", &[]),
    ];
    for (filters, expected) in cases {
        let read = place.ok(&format!("read store {filters} --format ndjson"));
        assert_eq!(positions(&read), expected, "{filters}");
        assert_eq!(positions(&place.ok(&format!("export store {filters}"))), expected, "{filters}");
        assert_eq!(place.json(&format!("replay store {filters}"))["events"], expected.len(), "{filters}");
    }
    let counts = place.json("replay store --count-by tag --category a");
    assert_eq!(counts, json!({"events": 4, "count_by": "tag", "counts": {"x": 3, "y": 1}}));
    let human = place.ok("replay store --count-by type");
    assert_eq!(human, "events  type\n     2  Closed\n     2  Opened\n     1  Moved\n");
}

#[test]
fn people_read_one_line_for_each_event() {
    let place = Place::new();
    write_odd_events(&place.path("store"));
    let text = place.ok("read store");
    assert_eq!(text.lines().count(), 22);
    assert!(!text.contains('\u{1}'), "control characters are escaped");
    assert!(text.lines().nth(1).unwrap().contains("  Type 2  #a:1  #b:2  #日本  null"), "{text}");
    assert!(text.contains("(2 bytes, raw)"), "{text}");
}

#[test]
fn help_shows_examples_and_completions_are_made() {
    let place = Place::new();
    let commands =
        ["import", "export", "stats", "streams", "read", "replay", "verify", "tail", "seed", "backup", "completions"];
    for command in commands {
        let help = place.ok(&format!("{command} --help"));
        assert!(help.contains(&format!("Examples:\n  annals {command} ")), "{command}: {help}");
    }
    assert!(place.ok("--help").contains("Exit codes"));
    for shell in ["bash", "fish", "zsh"] {
        assert!(place.ok(&format!("completions {shell}")).contains("replay"), "{shell}");
    }
}

// --- Exit codes ------------------------------------------------------------------------------------------------------

#[test]
fn wrong_usage_exits_with_2() {
    let place = Place::new();
    for line in [
        "",
        "unknown",
        "import store",
        "read store --from 0",
        "read store --from 1 --after 1",
        "read store --since soon",
        "read store --format xml",
        "import store file --batch 0",
        "import store file --batch 65537",
        "tail store --follow --format json",
    ] {
        place.run(line).fails_with(2);
    }
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 0, "nothing was created");
}

#[test]
fn reading_commands_never_create_a_store() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    for command in ["stats", "streams", "read", "replay", "verify", "tail", "export", "tail --follow"] {
        for store in ["absent", "empty"] {
            let complaint = place.run(&format!("{command} {store}")).fails_with(1);
            assert!(complaint.contains("there is no store at"), "{complaint}");
        }
    }
    place.run("backup absent copy").fails_with(1);
    place.run("export absent events.ndjson").fails_with(1);
    place.run("import absent no-such-file").fails_with(1);
    place.run("import absent events.ndjson --dry-run").fails_with(1);
    let names: Vec<_> = fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["empty"]);
    assert_eq!(fs::read_dir(place.path("empty")).unwrap().count(), 0);
}

#[test]
fn verify_exits_with_3_and_names_file_and_offset() {
    let place = Place::new();
    place.ok("seed store --events 100 --batch 10");
    place.ok("verify store");
    let segment = place.path("store/log/0000000001.segment");
    let mut bytes = fs::read(&segment).unwrap();
    // Within the second commit: the first is at offset 176.
    bytes[176 + 2 * 4096] ^= 0x10;
    fs::write(&segment, &bytes).unwrap();

    let ran = place.run("verify store");
    let report = ran.stdout();
    let complaint = ran.fails_with(3);
    for text in [&report, &complaint] {
        assert!(text.contains("0000000001.segment is corrupt at offset "), "{text}");
    }
    let report: Value = serde_json::from_str(&place.run("verify store --format json").stdout()).unwrap();
    assert_eq!(report["ok"], false);
    let problem = &report["problems"][0];
    assert!(problem["file"].as_str().unwrap().ends_with("0000000001.segment"), "{problem}");
    assert!((176..=176 + 2 * 4096).contains(&problem["offset"].as_u64().unwrap()), "{problem}");
    assert!(fs::read(&segment).unwrap() == bytes, "nothing was changed");
    // Who reads it comes to the same end.
    assert!(place.run("export store").fails_with(3).contains("0000000001.segment"));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::new();
    place.ok("seed store --events 5000");
    for line in ["export store", "read store", "read store --format json", "tail store --follow -n 5000"] {
        let mut child = place.spawn(line);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        out.read_line(&mut first).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{line}");
    }
}

#[test]
fn what_a_command_writes_is_whole_also_when_nobody_reads_what_it_prints() {
    let place = Place::new();
    place.file("events.ndjson", plain_lines(100));
    place.file("rules.json", r#"{"rules": [{"type": "T1", "version": 1, "drop": true}]}"#);
    for format in ["human", "json", "ndjson"] {
        for (line, store, events) in [
            ("import imported-FORMAT events.ndjson --batch 1", "imported-FORMAT", 100),
            ("seed seeded-FORMAT --events 100 --batch 1", "seeded-FORMAT", 100),
            ("backup imported-FORMAT copy-FORMAT", "copy-FORMAT", 100),
            ("migrate imported-FORMAT new-FORMAT --upcast rules.json", "new-FORMAT", 66),
        ] {
            let of_format = |text: &str| text.replace("FORMAT", format);
            place.run_unread(&format!("{} --format {format}", of_format(line))).ok();
            assert_eq!(place.json(&format!("stats {}", of_format(store)))["events"], events, "{line} {format}");
        }
    }
    place.run_unread("export seeded-json seeded.ndjson").ok();
    assert_eq!(fs::read_to_string(place.path("seeded.ndjson")).unwrap(), place.ok("export seeded-json"));
}

#[test]
fn an_import_whose_progress_is_read_no_further_goes_on_to_its_end() {
    let place = Place::new();
    place.file("events.ndjson", plain_lines(KILLED_EVENTS));
    let mut child = place.spawn("import store events.ndjson --batch 1 --format ndjson");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    drop(out);
    assert_eq!(lines_of(&first)[0]["imported"], 1);
    Ran { line: "import".into(), output: child.wait_with_output().unwrap() }.ok();
    assert_eq!(place.json("stats store")["events"], KILLED_EVENTS);
}

#[test]
fn corruption_is_told_also_when_nobody_reads_the_report() {
    let place = Place::new();
    place.ok("seed store --events 100");
    let segment = place.path("store/log/0000000001.segment");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096] ^= 0x10;
    fs::write(&segment, &bytes).unwrap();
    for format in ["human", "json", "ndjson"] {
        let complaint = place.run_unread(&format!("verify store --format {format}")).fails_with(3);
        assert!(complaint.contains("0000000001.segment is corrupt at offset "), "{complaint}");
    }
}

// --- Import and export -----------------------------------------------------------------------------------------------

#[test]
fn export_and_import_give_an_equal_store() {
    let place = Place::new();
    write_odd_events(&place.path("store"));
    let exported = place.ok("export store");
    assert_eq!(place.ok("export store"), exported, "repeating an export gives the same bytes");
    place.file("events.ndjson", &exported);
    let report = place.json("import copy events.ndjson");
    assert_eq!((&report["imported"], &report["mismatched"], &report["commits"]), (&json!(22), &json!(0), &json!(10)));
    assert_eq!(place.ok("export copy"), exported);
    place.ok("verify copy");

    let owned = |name: &str| {
        let store = Store::open_read_only(place.path(name)).unwrap();
        store.read(Query::all()).owned().map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(owned("copy"), owned("store"));
}

#[test]
fn packed_files_and_standard_input_give_the_same_store() {
    let place = Place::new();
    write_odd_events(&place.path("store"));
    let exported = place.ok("export store");
    let mut names = vec!["events.ndjson", "events.ndjson.gz"];
    if cfg!(feature = "zstd") {
        names.push("events.ndjson.zst");
    }
    for name in names {
        place.ok(&format!("export store {name}"));
        let bytes = fs::read(place.path(name)).unwrap();
        assert_eq!(bytes == exported.as_bytes(), name.ends_with("ndjson"), "{name}");
        let directory = name.replace('.', "-");
        place.ok(&format!("import from-{directory} {name}"));
        place.run_with_input(&format!("import piped-{directory} -"), &bytes).ok();
        for copy in ["from", "piped"] {
            assert_eq!(place.ok(&format!("export {copy}-{directory}")), exported, "{name}");
        }
        // However it is packed, it is the same file.
        let again = place.run_with_input(&format!("import from-{directory} - --format json"), exported.as_bytes());
        assert_eq!(serde_json::from_str::<Value>(&again.ok()).unwrap()["imported"], 0, "{name}");
    }
}

/// It put a file in the place of the pipe, and whoever read from that was given nothing.
#[cfg(unix)]
#[test]
fn an_export_goes_into_the_pipe_that_was_named() {
    use std::os::unix::fs::FileTypeExt;

    let place = Place::new();
    // More than a pipe holds.
    place.ok("seed store --events 1000");
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    assert_eq!(place.ok("export store pipe"), "");
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo(), "it is a pipe still");
    let exported = reader.join().unwrap();
    assert!(exported.len() > 100_000, "{} bytes", exported.len());
    assert!(exported == place.ok("export store").as_bytes());
}

/// It put a file in the place of the link, and what the link led to stayed as it was, or away.
#[cfg(unix)]
#[test]
fn an_export_replaces_what_a_link_leads_to_and_leaves_the_link() {
    let place = Place::new();
    place.ok("seed store --events 10");
    fs::create_dir(place.path("elsewhere")).unwrap();
    let target = place.file("elsewhere/events.ndjson", "old");
    std::os::unix::fs::symlink("other-link", place.path("link")).unwrap();
    std::os::unix::fs::symlink("elsewhere/events.ndjson", place.path("other-link")).unwrap();
    for is_there in [true, false] {
        assert_eq!(target.exists(), is_there);
        assert_eq!(place.ok("export store link"), "");
        assert_eq!(fs::read_link(place.path("link")).unwrap(), Path::new("other-link"));
        assert_eq!(fs::read_link(place.path("other-link")).unwrap(), Path::new("elsewhere/events.ndjson"));
        assert_eq!(fs::read_to_string(&target).unwrap(), place.ok("export store"));
        let left: Vec<_> = fs::read_dir(place.path("elsewhere")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn stream_type_and_data_are_enough_and_the_rest_is_kept() {
    let place = Place::new();
    place.file(
        "events.ndjson",
        concat!(
            "{\"stream\":\"a-1\",\"type\":\"T\",\"data\":{\"b\" : 1.0,  \"a\":1e3}}\n",
            "\n",
            "{\"data\":[ ],\"type\":\"U\",\"stream\":\"a-1\",\"id\":\"018f4e2a-7c1b-7d2e-9f3a-0123456789ab\",",
            "\"time\":\"2011-10-01T00:38:44.546+02:00\",\"tags\":[\"y\",\"x\",\"y\"],\"metadata\":{ \"who\":1},",
            "\"schema_version\":3}",
        ),
    );
    place.ok("import store events.ndjson");
    let exported = place.ok("export store");
    let events = lines_of(&exported);
    assert!(exported.contains("\"data\":{\"b\" : 1.0,  \"a\":1e3}}\n"), "{exported}");
    assert_eq!(events[0]["time"], events[0]["commit_time"], "without a time it is that of the commit");
    assert_eq!(events[0]["schema_version"], 1);
    assert_eq!(events[0]["id"].as_str().unwrap().as_bytes()[14], b'5', "a UUID of version 5");
    let expected = concat!(
        "\"version\":2,\"id\":\"018f4e2a-7c1b-7d2e-9f3a-0123456789ab\",\"type\":\"U\",\"schema_version\":3,",
        "\"time\":\"2011-09-30T22:38:44.546Z\",\"tags\":[\"x\",\"y\"],\"codec\":\"json\",\"data\":[ ],",
        "\"metadata\":{ \"who\":1}}\n",
    );
    assert!(exported.ends_with(expected), "{exported}");
}

#[test]
fn lines_of_no_commit_are_grouped_in_batches() {
    let place = Place::new();
    place.file("events.ndjson", plain_lines(10));
    let report = place.json("import store events.ndjson --batch 4");
    assert_eq!((&report["imported"], &report["commits"], &report["head"]), (&json!(10), &json!(3), &json!(10)));
    let commits: Vec<Value> = lines_of(&place.ok("export store")).iter().map(|event| event["commit"].clone()).collect();
    assert_eq!(commits, [1, 1, 1, 1, 5, 5, 5, 5, 9, 9]);
}

#[test]
fn events_that_cannot_be_where_they_were_are_counted() {
    let place = Place::new();
    write_odd_events(&place.path("store"));
    place.ok("export store events.ndjson");
    place.file("other.ndjson", r#"{"stream":"a-1","type":"T","data":1,"commit_time":"1960-01-01T00:00:00Z"}"#);
    place.ok("import copy other.ndjson");
    let report = place.json("import copy events.ndjson");
    assert_eq!((&report["imported"], &report["mismatched"]), (&json!(22), &json!(22)));
    let human = place.ok("verify copy");
    assert!(human.contains("23 events"), "{human}");

    // Commits stay together, wherever they are.
    let events = lines_of(&place.ok("export copy --after 9"));
    let commits: Vec<u64> = events[..5].iter().map(|event| event["commit"].as_u64().unwrap()).collect();
    assert_eq!(commits, [10, 10, 10, 10, 14]);

    // A selection has gaps.
    place.ok("export store selected.ndjson --category a");
    let report = place.json("import selected selected.ndjson");
    assert_eq!((&report["imported"], &report["mismatched"]), (&json!(13), &json!(13)));
}

#[test]
fn commit_times_that_cannot_be_kept_are_counted() {
    let place = Place::new();
    let line = |day: u8| {
        format!("{{\"stream\":\"a\",\"type\":\"T\",\"data\":1,\"commit_time\":\"2024-01-0{day}T00:00:00Z\"}}\n")
    };
    place.file("events.ndjson", [line(1), line(3), line(2), line(3)].concat());
    assert_eq!(place.json("import store events.ndjson --batch 1")["mismatched"], 1);
    let times: Vec<Value> =
        lines_of(&place.ok("export store")).iter().map(|event| event["commit_time"].clone()).collect();
    assert_eq!(times, ["2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z", "2024-01-03T00:00:00Z", "2024-01-03T00:00:00Z"]);
}

#[test]
fn a_bad_line_is_named_and_nothing_of_its_batch_is_written() {
    let place = Place::new();
    let good = plain_lines(10);
    let cases = [
        (r#"{"type":"T","data":1}"#, "line 7, stream: is missing"),
        (r#"{"stream":"a","data":1}"#, "line 7, type: is missing"),
        (r#"{"stream":"a","type":"T"}"#, "line 7, data: is missing"),
        (r#"{"stream":"","type":"T","data":1}"#, "line 7, stream: is empty"),
        (r#"{"stream":"a","type":3,"data":1}"#, "line 7, type: 3 is not a text"),
        (r#"{"stream":"a","type":"T","data":1,"time":"noon"}"#, "line 7, time: \"noon\" is not a time"),
        (r#"{"stream":"a","type":"T","data":1,"id":"7"}"#, "line 7, id: 7 is not a UUID"),
        (r#"{"stream":"a","type":"T","data":1,"tags":"x"}"#, "line 7, tags: \"x\" is not an array of texts"),
        (r#"{"stream":"a","type":"T","data":1,"metadata":1}"#, "line 7, metadata: is not a JSON object"),
        (r#"{"stream":"a","type":"T","data":{"a":}}"#, "line 7, not a JSON object of the format: "),
        ("stream,type,data", "line 7, not a JSON object of the format: "),
    ];
    for (number, (bad, complaint)) in cases.into_iter().enumerate() {
        let mut lines: Vec<&str> = good.lines().collect();
        lines[6] = bad;
        let (store, file) = (format!("store-{number}"), format!("events-{number}.ndjson"));
        place.file(&file, lines.join("\n"));
        for option in ["--dry-run", "--batch 3"] {
            let said = place.run(&format!("import {store} {file} {option}")).fails_with(1);
            assert!(said.contains(complaint), "{bad}: {said}");
        }
        assert_eq!(place.json(&format!("stats {store}"))["events"], 0, "{bad}");

        // With the line put right, every event is written once.
        lines[6] = good.lines().nth(6).unwrap();
        place.file(&file, lines.join("\n"));
        place.ok(&format!("import {store} {file} --batch 3"));
        assert_eq!(place.json(&format!("stats {store}"))["events"], 10);
    }
}

#[test]
fn every_problem_of_a_file_is_named_at_once() {
    let place = Place::new();
    place.file("events.ndjson", "{\"stream\":\"\",\"type\":7}\n{}\n\n[]\n");
    let said = place.run("import store events.ndjson").fails_with(1);
    for complaint in [
        "line 1, stream: is empty",
        "line 1, type: 7 is not a text",
        "line 1, data: is missing",
        "line 2, stream: is missing",
        "line 2, type: is missing",
        "line 2, data: is missing",
        "line 4, not a JSON object",
    ] {
        assert!(said.contains(complaint), "{complaint} in {said}");
    }
}

#[test]
fn a_commit_that_no_store_could_hold_is_a_bad_line() {
    let place = Place::new();
    let id = "018f4e2a-7c1b-7d2e-9f3a-0123456789ab";
    let line = format!("{{\"stream\":\"a\",\"type\":\"T\",\"data\":1,\"id\":\"{id}\"}}\n");
    place.file("ids.ndjson", line.repeat(2));
    let said = place.run("import store ids.ndjson").fails_with(1);
    assert!(said.contains(&format!("line 2, id: {id} stands twice in one commit")), "{said}");

    let text = "x".repeat(9 * 1024 * 1024);
    let line = format!("{{\"stream\":\"a\",\"type\":\"T\",\"data\":\"{text}\",\"commit\":1}}\n");
    place.file("large.ndjson", line.repeat(2));
    let said = place.run("import store large.ndjson").fails_with(1);
    assert!(said.contains("line 2, commit: makes a commit of more than"), "{said}");
    // Without a commit of their own they become two.
    place.file("large.ndjson", line.replace(",\"commit\":1", "").repeat(2));
    assert_eq!(place.json("import store large.ndjson")["commits"], 2);
}

#[test]
fn fields_that_are_not_part_of_the_format_are_told() {
    let place = Place::new();
    place.file("events.ndjson", r#"{"stream":"a","type":"T","data":1,"steam":"b"}"#);
    let ran = place.run("import store events.ndjson");
    assert_eq!(ran.output.status.code(), Some(0));
    assert!(ran.stderr().contains("left out: steam"), "{}", ran.stderr());
}

// --- Resuming --------------------------------------------------------------------------------------------------------

/// Starts an import and kills it once it has told of so many commits; `None` kills it at once. It cannot get far beyond
/// them: what it tells of more than a pipe holds, nobody reads.
fn kill_import(place: &Place, line: &str, commits: Option<usize>) -> usize {
    let mut child = place.spawn(&format!("{line} --format ndjson"));
    let told = BufReader::new(child.stdout.take().unwrap()).lines().take(commits.unwrap_or(0));
    let told: Vec<Value> = told.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    told.len()
}

/// Kills imports of a file at several points. What each has told of is not imported again, and in the end the store is
/// that of an import that was not interrupted.
fn check_kill_and_resume(place: &Place, file: &str, events: u64, without: &[&str]) {
    place.ok(&format!("import whole {file} --batch 1"));
    let expected = place.ok("export whole");
    let mut told = 0;
    for commits in [None, Some(1), Some(200), None, Some(700), Some(1)] {
        told += kill_import(place, &format!("import killed {file} --batch 1"), commits);
    }
    let report = place.json(&format!("import killed {file} --batch 1"));
    let before = report["imported_before"].as_u64().unwrap();
    assert!(before >= told as u64 && before < events, "told of {told}, found {before} of {events}");
    assert_eq!(report["imported"], events - before);
    let strip = |text: &str| {
        let mut events = lines_of(text);
        for event in &mut events {
            event.as_object_mut().unwrap().retain(|field, _| !without.contains(&field.as_str()));
        }
        events
    };
    assert!(strip(&place.ok("export killed")) == strip(&expected), "the stores differ");
    assert_eq!(place.json(&format!("import killed {file} --batch 1"))["imported"], 0);
    place.ok("verify killed");
}

/// A killed import gets at most about 1,300 commits beyond those that were read of: so many lines a pipe holds. These
/// are more events than the killed imports of a test can write.
const KILLED_EVENTS: usize = 10_000;

#[test]
fn a_killed_import_continues_where_it_ended() {
    let place = Place::new();
    place.file("events.ndjson", plain_lines(KILLED_EVENTS));
    // The time of a commit is that of the import.
    check_kill_and_resume(&place, "events.ndjson", KILLED_EVENTS as u64, &["commit_time"]);
}

#[test]
fn a_killed_import_of_an_export_gives_the_same_store() {
    let place = Place::new();
    place.ok(&format!("seed store --events {KILLED_EVENTS} --batch 1 --payload-bytes 40"));
    place.ok("export store events.ndjson.gz");
    check_kill_and_resume(&place, "events.ndjson.gz", KILLED_EVENTS as u64, &[]);
    assert!(place.ok("export killed") == place.ok("export store"));
}

#[test]
fn an_import_is_resumed_behind_the_events_of_others() {
    let place = Place::new();
    let append = |number: u8| {
        let store = Store::open(place.path("store")).unwrap();
        store.append("s-1", ExpectedVersion::Any, [NewEvent::raw("Foreign", [number])]).unwrap();
        store.close().unwrap();
    };
    place.file("events.ndjson", plain_lines(KILLED_EVENTS));
    append(1);
    for (number, commits) in [(2, 10), (3, 300), (4, 20)] {
        kill_import(&place, "import store events.ndjson --batch 2", Some(commits));
        append(number);
    }
    let report = place.json("import store events.ndjson --batch 2");
    let before = report["imported_before"].as_u64().unwrap();
    assert!((2 * 330..KILLED_EVENTS as u64).contains(&before), "{report}");
    append(5);
    let again = place.json("import store events.ndjson --batch 2");
    assert_eq!((&again["imported"], &again["imported_before"]), (&json!(0), &json!(KILLED_EVENTS)));
    let human = place.ok("import store events.ndjson");
    assert_eq!(human, "all 10,000 events had been imported before, nothing to do\n");

    let events = lines_of(&place.ok("export store"));
    let (foreign, own): (Vec<&Value>, Vec<&Value>) = events.iter().partition(|event| event["type"] == "Foreign");
    assert_eq!(foreign.len(), 5);
    let numbers: Vec<u64> = own.iter().map(|event| event["data"]["number"].as_u64().unwrap()).collect();
    assert!(numbers == (1..=KILLED_EVENTS as u64).collect::<Vec<_>>(), "each line once, in order");
}

#[test]
fn another_file_is_not_the_same_import() {
    let place = Place::new();
    place.file("events.ndjson", plain_lines(5));
    place.file("more.ndjson", plain_lines(6));
    place.ok("import store events.ndjson");
    assert_eq!(place.json("import store more.ndjson")["imported"], 6);
    assert_eq!(place.json("stats store")["events"], 11);
    let ids: std::collections::BTreeSet<String> =
        lines_of(&place.ok("export store")).iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 11);
}

#[test]
fn an_empty_file_imports_nothing() {
    let place = Place::new();
    place.file("events.ndjson", "\n \n");
    assert_eq!(place.ok("import store events.ndjson"), "the file has no events\n");
    assert_eq!(place.ok("export store"), "");
    assert_eq!(place.json("read store"), json!([]));
    assert_eq!(place.json("stats store")["head"], Value::Null);
}

// --- Beside a writer -------------------------------------------------------------------------------------------------

#[test]
fn reading_commands_run_beside_a_live_writer() {
    let place = Place::new();
    let store = Store::open(place.path("store")).unwrap();
    let event = || NewEvent::raw("Ticked", "now");
    store.append("clock-1", ExpectedVersion::NoStream, [event()]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.append("clock-1", ExpectedVersion::Any, [event()]).unwrap();
            }
        });
        for line in [
            "stats store",
            "streams store",
            "read store --limit 5",
            "replay store --count-by stream",
            "verify store",
            "tail store",
            "export store",
            "backup store copy",
        ] {
            assert_ne!(place.ok(line), "", "{line}");
        }
        let said =
            place.run_with_input("import store -", b"{\"stream\":\"a\",\"type\":\"T\",\"data\":1}").fails_with(1);
        assert!(said.contains("is open for writing elsewhere"), "{said}");
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    store.close().unwrap();
}

#[test]
fn a_backup_is_a_store_with_the_same_events() {
    let place = Place::new();
    write_odd_events(&place.path("store"));
    let report = place.json("backup store copy");
    assert_eq!((&report["events"], &report["head"]), (&json!(22), &json!(22)));
    assert_eq!(place.ok("export copy"), place.ok("export store"));
    assert_eq!(place.json("stats copy")["store"], report["store"]);
    assert_ne!(place.json("stats store")["store"], report["store"], "a history of its own");
    place.ok("verify copy");
    place.run("backup store copy").fails_with(1);
}

#[test]
fn tail_shows_the_last_events() {
    let place = Place::new();
    place.ok("seed store --events 30 --types 2 --distribution uniform");
    assert_eq!(positions(&place.ok("tail store --format ndjson")), (21..=30).collect::<Vec<_>>());
    assert_eq!(positions(&place.ok("tail store -n 2 --format ndjson")), [29, 30]);
    assert_eq!(positions(&place.ok("tail store -n 0 --format ndjson")), [0; 0]);
    let all = place.ok("read store --type Type1 --format ndjson");
    let last: Vec<u64> = positions(&all).into_iter().rev().take(3).rev().collect();
    assert_eq!(positions(&place.ok("tail store -n 3 --type Type1 --format ndjson")), last);
}

#[test]
fn tail_follows_a_writer() {
    let place = Place::new();
    let store = Store::open(place.path("store")).unwrap();
    let append = |event_type: &'static str| {
        store.append("a", ExpectedVersion::Any, [NewEvent::raw(event_type, "")]).unwrap();
    };
    append("Wanted");
    let mut child = place.spawn("tail store --follow --interval 1 --type Wanted --format ndjson");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        positions(&line)
    };
    assert_eq!(next(), [1]);
    append("Wanted");
    assert_eq!(next(), [2]);
    append("Other");
    append("Wanted");
    append("Wanted");
    assert_eq!((next(), next()), (vec![4], vec![5]));
    interrupt(&mut child);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "it ends quietly");
    store.close().unwrap();
}

#[test]
fn tail_ends_when_nobody_reads_any_more() {
    let place = Place::new();
    let store = Store::open(place.path("store")).unwrap();
    let append = || drop(store.append("a", ExpectedVersion::Any, [NewEvent::raw("T", "")]).unwrap());
    append();
    let mut child = place.spawn("tail store --follow --interval 1");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    drop(out);
    append();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    store.close().unwrap();
}

/// What Ctrl-C does, where there are signals. Not by the same one: what a shell starts in the background ignores that, and
/// so do its children.
fn interrupt(child: &mut Child) {
    if cfg!(unix) {
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    } else {
        child.kill().unwrap();
    }
    child.wait().unwrap();
}

// --- Seeding ---------------------------------------------------------------------------------------------------------

#[test]
fn the_same_seed_gives_the_same_events() {
    let place = Place::new();
    let options = "--events 300 --streams 30 --types 5 --tags 7 --tags-per-event 2 --payload-bytes 64 --batch 70";
    place.ok(&format!("seed first {options} --seed 7"));
    place.ok(&format!("seed second {options} --seed 7"));
    place.ok(&format!("seed other {options} --seed 8"));
    place.ok(&format!("seed uniform {options} --seed 7 --distribution uniform"));
    let exported = place.ok("export first");
    assert!(place.ok("export second") == exported, "the same bytes");
    assert!(place.ok("export other") != exported, "another seed");
    assert!(place.ok("export uniform") != exported, "another distribution");

    let stats = place.json("stats first");
    let within = |field: &str, most: u64| (1..=most).contains(&stats[field].as_u64().unwrap());
    assert!(
        stats["events"] == 300 && within("streams", 30) && within("types", 5) && within("categories", 4),
        "{stats}"
    );
    for event in lines_of(&exported) {
        assert_eq!(event["data"].to_string().len(), 64, "{event}");
        assert!((1..=2).contains(&event["tags"].as_array().unwrap().len()), "{event}");
    }
    let commits: std::collections::BTreeSet<u64> =
        lines_of(&exported).iter().map(|event| event["commit"].as_u64().unwrap()).collect();
    assert_eq!(commits, [1, 71, 141, 211, 281].into());
}

/// The size of a commit was reckoned without its tags, and the commit was refused for its size.
#[test]
fn events_with_many_tags_are_seeded_in_commits_that_hold_them() {
    let place = Place::new();
    let many_tags = "--tags-per-event 64 --tags 1000000 --distribution uniform";
    place.ok(&format!("seed store --events 25000 --batch 25000 {many_tags}"));
    assert_eq!(place.json("stats store")["events"], 25_000);
}

#[test]
fn events_are_as_durable_as_they_are_told() {
    let place = Place::new();
    let options = Options::new().durability(Durability::Os).without_background_work();
    let store = options.open(place.path("store")).unwrap();
    store.append("a", ExpectedVersion::Any, [NewEvent::raw("T", "")]).unwrap();
    assert_eq!(place.json("stats store")["events"], 0, "a reader is shown what is synced");
    store.sync().unwrap();
    assert_eq!(place.json("stats store")["events"], 1);
    store.close().unwrap();
}

// --- Real events -----------------------------------------------------------------------------------------------------

/// What is published about the loan applications of the BPI Challenge 2012.
const PUBLISHED: [(&str, u64); 17] = [
    ("A_SUBMITTED", 13_087),
    ("A_PARTLYSUBMITTED", 13_087),
    ("A_PREACCEPTED", 7_367),
    ("A_ACCEPTED", 5_113),
    ("A_FINALIZED", 5_015),
    ("A_DECLINED", 7_635),
    ("A_CANCELLED", 2_807),
    ("A_APPROVED", 2_246),
    ("A_REGISTERED", 2_246),
    ("A_ACTIVATED", 2_246),
    ("O_SELECTED", 7_030),
    ("O_CREATED", 7_030),
    ("O_SENT", 7_030),
    ("O_CANCELLED", 3_655),
    ("O_SENT_BACK", 3_454),
    ("O_ACCEPTED", 2_243),
    ("O_DECLINED", 802),
];

#[test]
fn real_events_are_counted_as_published() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/loan-applications.ndjson.gz");
    if !file.exists() {
        println!("the real events are not here, nothing is tested");
        return;
    }
    let place = Place::new();
    let mut import = place.command("import store --format json");
    let output = import.arg(&file).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["imported"], &report["lines"]), (&json!(262_200), &json!(262_200)));

    let verified = place.json("verify store");
    assert_eq!((&verified["ok"], &verified["events"]), (&json!(true), &json!(262_200)));
    let stats = place.json("stats store");
    assert_eq!((&stats["streams"], &stats["types"], &stats["head"]), (&json!(13_087), &json!(24), &json!(262_200)));

    let counts = place.json("replay store --count-by type");
    let counts: BTreeMap<String, u64> = serde_json::from_value(counts["counts"].clone()).unwrap();
    for (name, count) in PUBLISHED {
        assert_eq!(counts[name], count, "{name}");
    }
    let work: Vec<u64> = counts.iter().filter(|(name, _)| name.starts_with("W_")).map(|(_, count)| *count).collect();
    assert_eq!((work.len(), work.iter().sum::<u64>()), (7, 170_107));
    assert_eq!(counts.len(), PUBLISHED.len() + 7);

    place.ok("export store events.ndjson.gz");
    assert!(fs::metadata(place.path("events.ndjson.gz")).unwrap().len() > 1_000_000);
    assert_eq!(positions(&place.ok("read store --stream loan-173688 --format ndjson")).len(), 26);
}
