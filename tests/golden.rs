//! Stores of every format version, kept as files: they open and read the same for ever.
//!
//! The files below `tests/golden` are never made again. A new format version gets a directory of its own, written once
//! with `ANNALS_GOLDEN=v1.1 cargo test --test golden write_a_golden_store`. The hex dump of docs/FORMAT.md, section 11,
//! is the beginning of the first segment of version 1.0, and is held against it here.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod torture;

use std::path::{Path, PathBuf};
use std::time::Duration;

use annals::{
    Codec, Durability, Error, ExpectedVersion, ManualClock, NewEvent, NewSnapshot, Options, Query, RecordedEvent,
    Result, SeededRandomness, SnapshotQuery, StateBatch, Store, Timestamp,
};

use torture::{Answers, Files, directory, files, frames, lines_of, put_files};

/// Names the directory that a golden store is written to, which must not exist.
const WRITE: &str = "ANNALS_GOLDEN";
/// 2026-01-02 03:04:05 UTC.
const BEGUN: Timestamp = Timestamp::from_millis(1_767_323_045_000);

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

/// The files of a golden store, and what is to be read from it.
fn kept(version: &str) -> (Files, String) {
    let events = std::fs::read_to_string(golden(version).join("events.txt")).unwrap();
    (files(&golden(version).join("store")), events)
}

/// A place with a copy of the golden store of version 1.0.
fn copied() -> (tempfile::TempDir, Files) {
    let (files, _) = kept("v1.0");
    let directory = directory();
    put_files(directory.path(), &files);
    (directory, files)
}

#[test]
fn the_store_of_version_1_0_reads_as_it_was_written() {
    let (directory, _) = copied();
    let (_, expected) = kept("v1.0");
    for pass in ["read-only", "for writing", "for writing, again"] {
        let store = match pass {
            "read-only" => Store::open_read_only(directory.path()).unwrap(),
            _ => Store::open_existing(directory.path()).unwrap(),
        };
        assert_eq!(lines_of(&store), expected, "{pass}");
        assert_eq!(store.id().to_string(), "72d7c2dd-3080-4fbf-87aa-f282e42c555f", "{pass}");
        assert_eq!(store.open_report().cut_bytes, 0, "{pass}");
        check_lookups(&store);
        check_state(&store);
    }
}

/// The index and the files beside the log are found to be what they are now as well.
#[test]
fn the_store_of_version_1_0_verifies_clean_and_nothing_is_indexed_again() {
    let (directory, _) = copied();
    let report = annals::verify(directory.path(), &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let rebuilt = Options::new().on_rebuild(|progress| panic!("{} of {}", progress.done, progress.total));
    rebuilt.open_read_only(directory.path()).unwrap();
}

#[test]
fn the_store_of_version_1_0_takes_appends() {
    let (directory, _) = copied();
    let (_, expected) = kept("v1.0");
    let store = Store::open_existing(directory.path()).unwrap();
    for number in 0..50 {
        store.append("later-1", ExpectedVersion::Any, [NewEvent::raw("Later", vec![number; 200])]).unwrap();
    }
    store.close().unwrap();
    let store = Store::open_read_only(directory.path()).unwrap();
    assert!(lines_of(&store).starts_with(&expected));
    assert_eq!(store.read(Query::stream("later-1")).count().unwrap(), 50);
    assert!(annals::verify(directory.path(), &mut |_| {}).unwrap().problems.is_empty());
}

fn check_lookups(store: &Store) {
    let events: Vec<RecordedEvent> = store.read(Query::all()).owned().collect::<Result<_>>().unwrap();
    let answers = Answers::of(store, &events).unwrap();
    answers.assert_prefix_of(&answers, "against themselves");
    let find = |query: Query| -> Vec<u64> {
        store.read(query).owned().map(|event| event.unwrap().position.number()).collect()
    };
    assert_eq!(find(Query::stream("account-alice")), [1, 2, 5, 8]);
    assert_eq!(find(Query::tag("transfer:42")), [5, 6]);
    assert_eq!(find(Query::types(["Geöffnet"])), [3]);
    assert_eq!(find(Query::category("order")), (9..=16).collect::<Vec<_>>());
}

fn check_state(store: &Store) {
    let state = store.state().unwrap();
    assert_eq!(state.get("checkpoint").unwrap().as_deref(), Some(&b"8"[..]));
    assert_eq!(state.get("deleted").unwrap(), None);
    assert_eq!(state.get("lease").unwrap().as_deref(), Some(&b"worker-1"[..]));
    let snapshot = store.load_snapshot("account-alice", SnapshotQuery::new().schema(3)).unwrap().snapshot.unwrap();
    assert_eq!((snapshot.version.number(), snapshot.state), (4, b"{\"cents\":3500}".to_vec()));
}

/// Writes a golden store. Does nothing when the tests are run.
#[test]
fn write_a_golden_store() {
    let Ok(version) = std::env::var(WRITE) else { return };
    let path = golden(&version);
    std::fs::create_dir(&path).expect("a golden store is written once");
    let clock = ManualClock::new(BEGUN);
    let options = Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(4096)
        .index_tail_bytes_max(2048)
        .clock(clock.clone())
        .randomness(SeededRandomness::new(1))
        .without_background_work();
    let store = options.open(path.join("store")).unwrap();
    write_events(&store, &clock);
    write_state(&store);
    std::fs::write(path.join("events.txt"), lines_of(&store)).unwrap();
    store.close().unwrap();
    let segment = std::fs::read(path.join("store/log/0000000001.segment")).unwrap();
    println!("{}", annotated(&segment));
}

fn write_events(store: &Store, clock: &ManualClock) {
    let alice = "account-alice";
    let opened = NewEvent::from_bytes("Opened", Codec::Json, r#"{"owner":"Alice"}"#).tag("branch:7");
    store.append(alice, ExpectedVersion::NoStream, [opened]).unwrap();
    store.maintain().unwrap();
    clock.advance(Duration::from_millis(1_500));
    let deposited = NewEvent::from_bytes("Deposited", Codec::Postcard, [0xF4, 0x03]).schema_version(2);
    store.append(alice, ExpectedVersion::StreamExists, [deposited.metadata_json(r#"{"user":"mallory"}"#)]).unwrap();
    let unicode = NewEvent::from_bytes("Geöffnet", Codec::Bincode, [1, 0, 0, 0]).tag("größe:süß").tag("a");
    store.append("konto-Jürgen", ExpectedVersion::Any, [unicode.time(Timestamp::from_nanos(-1))]).unwrap();
    let empty = NewEvent::raw("Empty", []).metadata_json("{}").time(Timestamp::MAX);
    store.commit().append("plain", ExpectedVersion::Any, [empty]).durability(Durability::Os).send().unwrap();
    let transfer = |kind: &'static str| NewEvent::raw(kind, "1500").tag("transfer:42");
    store
        .commit()
        .append(alice, ExpectedVersion::Any, [transfer("Withdrawn")])
        .append("account-bob", ExpectedVersion::NoStream, [transfer("Deposited"), NewEvent::raw("Noted", "bob")])
        .append(alice, ExpectedVersion::Any, [NewEvent::raw("Noted", "alice")])
        .send()
        .unwrap();
    // The clock goes back; the time of commits does not.
    clock.set(Timestamp::from_millis(1));
    for number in 0..8 {
        let placed = NewEvent::raw("Placed", vec![number; 1000]).tag(format!("customer:{}", number % 3));
        store.append(format!("order-{}", number % 2), ExpectedVersion::Any, [placed]).unwrap();
        store.maintain().unwrap();
    }
}

fn write_state(store: &Store) {
    let state = store.state().unwrap();
    state.put("checkpoint", "1").unwrap();
    state
        .write(
            StateBatch::new().put("checkpoint", "8").put("deleted", "x").expect("lease", None).put("lease", "worker-1"),
        )
        .unwrap();
    state.delete("deleted").unwrap();
    let version = store.version("account-alice").unwrap().unwrap();
    let snapshot = NewSnapshot::from_bytes("account-alice", version, Codec::Json, r#"{"cents":3500}"#).schema(3);
    assert!(store.save_snapshot(&snapshot).unwrap());
}

/// Refused in both ways, for this reason, and left as it is.
#[track_caller]
fn assert_refused(change: impl Fn(&mut Files) -> PathBuf, reason: &str) {
    let (directory, mut files) = copied();
    let file = change(&mut files);
    put_files(directory.path(), &files);
    let is_right = |error: Error| match error {
        Error::Incompatible { file: named, reason: told } => {
            assert_eq!((named, told.contains(reason)), (directory.path().join(&file), true), "{told}");
        }
        other => panic!("{other}"),
    };
    is_right(Store::open(directory.path()).unwrap_err());
    is_right(Store::open_existing(directory.path()).unwrap_err());
    is_right(Store::open_read_only(directory.path()).unwrap_err());
    assert!(torture::files(directory.path()) == files, "a store that is refused stays as it is");
}

fn segment(number: u64) -> PathBuf {
    PathBuf::from(format!("log/{number:010}.segment"))
}

fn last_segment(files: &Files) -> PathBuf {
    files.keys().rfind(|path| path.starts_with("log")).unwrap().clone()
}

/// Changes a byte of the header of a segment, as if a newer program had written it.
fn set_header(bytes: &mut [u8], offset: usize, value: u8) {
    bytes[offset] = value;
    let checksum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
}

/// FORMAT, section 3.
fn place_of(segment: &[u8], offset: u64) -> u64 {
    let (number, salt) = (u64_at(segment, 40), u64_at(segment, 48));
    salt ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset.wrapping_mul(0xC2B2_AE3D_27D4_EB4F)
}

fn sum(place: u64, data: &[u8]) -> u32 {
    ((xxhash_rust::xxh3::xxh3_64(data) ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

/// Gives the frame at an offset the checksum of its header again.
fn seal_frame(bytes: &mut [u8], offset: usize) {
    let checksum = sum(place_of(bytes, offset as u64), &bytes[offset + 4..offset + 48]);
    bytes[offset..offset + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn a_newer_major_version_is_refused_untouched() {
    for is_last in [false, true] {
        let change = |files: &mut Files| {
            let path = if is_last { last_segment(files) } else { segment(1) };
            set_header(files.get_mut(&path).unwrap(), 8, 2);
            path
        };
        assert_refused(change, "format version 2");
    }
}

#[test]
fn an_unknown_incompatible_feature_is_refused_untouched() {
    let change = |files: &mut Files| {
        set_header(files.get_mut(&segment(2)).unwrap(), 15, 0x80);
        segment(2)
    };
    assert_refused(change, "0x80000000");
}

#[test]
fn an_unknown_kind_of_frame_at_the_end_is_refused_untouched() {
    for (at, value, reason) in [(44, 9, "kind"), (45, 1, "flags"), (46, 1, "flags")] {
        let change = |files: &mut Files| {
            let path = last_segment(files);
            let bytes = files.get_mut(&path).unwrap();
            let last = frames(bytes).pop().unwrap();
            bytes[last.offset + at] = value;
            seal_frame(bytes, last.offset);
            path
        };
        assert_refused(change, reason);
    }
}

#[test]
fn a_newer_minor_version_and_compatible_features_are_read() {
    for offset in [10, 16] {
        let (directory, mut files) = copied();
        set_header(files.get_mut(&segment(1)).unwrap(), offset, 1);
        put_files(directory.path(), &files);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(lines_of(&store), kept("v1.0").1);
    }
}

#[test]
fn a_feature_that_writers_must_know_lets_the_store_be_read_only() {
    let (directory, mut files) = copied();
    set_header(files.get_mut(&segment(1)).unwrap(), 20, 1);
    put_files(directory.path(), &files);
    assert!(matches!(Store::open(directory.path()), Err(Error::Incompatible { .. })));
    assert!(torture::files(directory.path()) == files);
    assert_eq!(lines_of(&Store::open_read_only(directory.path()).unwrap()), kept("v1.0").1);
}

/// What is reserved in a synced head says something to a newer program. Who read over it would take a log for torn that
/// is known to be synced, and cut it.
#[test]
fn a_newer_synced_head_is_refused_untouched() {
    for (offset, value) in [(52, 2), (53, 1), (59, 0x80)] {
        let change = |files: &mut Files| {
            let path = PathBuf::from("synced-head");
            set_header(files.get_mut(&path).unwrap(), offset, value);
            path
        };
        assert_refused(change, "newer program");
    }
}

/// The files below a directory of a store.
fn below<'f>(files: &'f Files, directory: &str) -> Vec<(&'f PathBuf, &'f Vec<u8>)> {
    files.iter().filter(|(path, _)| path.starts_with(directory)).collect()
}

/// The state of a newer program keeps nobody from the events, and is left as it is.
#[test]
fn a_newer_state_is_refused_alone_and_untouched() {
    let state = Path::new("state");
    for (path, offset, value) in [(state.join(segment(1)), 8, 2), (state.join("synced-head"), 53, 1)] {
        let (directory, mut files) = copied();
        set_header(files.get_mut(&path).unwrap(), offset, value);
        put_files(directory.path(), &files);
        for store in [Store::open_read_only(directory.path()), Store::open(directory.path())].map(Result::unwrap) {
            assert_eq!(lines_of(&store), kept("v1.0").1);
            let refused = store.state();
            assert!(matches!(refused, Err(Error::Incompatible { file, .. }) if file == directory.path().join(&path)));
            assert!(store.load_snapshot("account-alice", SnapshotQuery::new().schema(3)).unwrap().snapshot.is_none());
            store.close().unwrap();
        }
        assert!(below(&torture::files(directory.path()), "state") == below(&files, "state"), "{path:?} stays");
    }
}

/// The index of a newer program is of no use: it is made again, by a writer for good and by a reader for itself.
#[test]
fn a_newer_index_is_built_again() {
    for kind in ["run", "positions"] {
        let (directory, mut files) = copied();
        let mut changed = 0;
        for (_, bytes) in files.iter_mut().filter(|(path, _)| path.extension().is_some_and(|ending| ending == kind)) {
            bytes[8] = 2;
            let checksum = crc32fast::hash(&bytes[..4092]);
            bytes[4092..4096].copy_from_slice(&checksum.to_le_bytes());
            changed += 1;
        }
        assert!(changed > 0, "{kind}");
        put_files(directory.path(), &files);
        let check = |store: Store| {
            assert_eq!(lines_of(&store), kept("v1.0").1);
            check_lookups(&store);
            store.close().unwrap();
        };
        check(Store::open_read_only(directory.path()).unwrap());
        assert!(torture::files(directory.path()) == files, "a reader writes nothing");
        check(Store::open(directory.path()).unwrap());
        assert!(below(&torture::files(directory.path()), "index").iter().all(|(_, bytes)| bytes[8] == 1), "{kind}");
        assert!(annals::verify(directory.path(), &mut |_| {}).unwrap().problems.is_empty(), "{kind}");
    }
}

/// The bytes of the hex dump in docs/FORMAT.md.
fn shown() -> Vec<u8> {
    let format = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md")).unwrap();
    let section = format.split("\n## ").find(|section| section.starts_with("11 ")).unwrap();
    let dump = section.split("```").nth(1).unwrap();
    let mut bytes = Vec::new();
    for line in dump.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_hexdigit())) {
        let (offset, rest) = line.split_once("  ").unwrap();
        assert_eq!(usize::from_str_radix(offset, 16).unwrap(), bytes.len(), "{line}");
        let hex = rest.split("  ").next().unwrap();
        bytes.extend(hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_hex_dump_of_the_format_is_the_first_segment_of_the_golden_store() {
    let (files, _) = kept("v1.0");
    let segment = &files[&segment(1)];
    let shown = shown();
    assert_eq!(shown, segment[..frames(segment)[2].end]);
    let format = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md")).unwrap();
    assert!(format.contains(&annotated(segment)), "the dump should be\n{}", annotated(segment));
}

/// By the formulas of the document alone, and then by the store.
#[test]
fn the_hex_dump_of_the_format_decodes_as_the_format_says() {
    let bytes = shown();
    assert_eq!(u32_at(&bytes, 60), crc32fast::hash(&bytes[..60]), "section 2");
    let mut previous = 0;
    for frame in frames(&bytes) {
        let (place, header) = (place_of(&bytes, frame.offset as u64), &bytes[frame.offset..frame.offset + 48]);
        assert_eq!(u32_at(header, 0), sum(place, &header[4..]), "section 3: the header of {frame:?}");
        assert_eq!(u32_at(header, 12), previous, "section 3: the chain at {frame:?}");
        previous = u32_at(header, 0);
        let body = &bytes[frame.offset + 48..frame.offset + 48 + u32_at(header, 4) as usize];
        let covered = if frame.kind == 2 { &body[..8 * frame.count as usize] } else { body };
        assert_eq!(u32_at(header, 8), sum(!place, covered), "section 3: the body of {frame:?}");
        if frame.kind == 2 {
            let record = &body[8..u32_at(body, 0) as usize];
            let place = place.wrapping_add(0x9E37_79B9_7F4A_7C15);
            assert_eq!(u32_at(body, 4), sum(place, record), "section 4: the record");
        }
    }
    let directory = directory();
    let mut segment_file = bytes.clone();
    segment_file.resize(4096, 0);
    put_files(directory.path(), &Files::from([(segment(1), segment_file)]));
    let (_, expected) = kept("v1.0");
    let store = Store::open_read_only(directory.path()).unwrap();
    assert_eq!(lines_of(&store).lines().next(), expected.lines().next());
    assert_eq!(store.head().unwrap().map(annals::Position::number), Some(1));
}

/// The beginning of a segment, as docs/FORMAT.md shows it.
fn annotated(segment: &[u8]) -> String {
    let frames = frames(segment);
    let commit = frames[1];
    let mut fields = vec![
        (8, "segment header: magic"),
        (4, "major version 1, minor version 0"),
        (12, "feature bits: incompatible, compatible, for writers"),
        (16, "store id"),
        (8, "segment number 1"),
        (8, "salt"),
        (4, "made as 1 * 4096 bytes"),
        (4, "crc of the 60 bytes before"),
    ];
    fields.extend(header_fields("start frame: header checksum", "no frame before", "next position 1", "no commit yet"));
    fields.extend([(4, "no events"), (4, "kind 1: start"), (8, "segment before: none"), (8, "its length")]);
    fields.extend([(8, "first segment kept: 1"), (8, "bytes cut"), (8, "log address of this segment")]);
    fields.extend([(8, "salt of the segment before"), (8, "offset of its last frame"), (8, "reserved")]);
    fields.extend(header_fields(
        "commit: header checksum",
        "that of the start frame",
        "first position 1",
        "commit time",
    ));
    fields.extend([(4, "1 event"), (4, "kind 2: commit"), (4, "directory: end of the record"), (4, "record checksum")]);
    fields.extend([(16, "record: event id"), (8, "event time"), (8, "version 1"), (4, "no metadata")]);
    fields.extend([(4, "schema version 1"), (2, "stream name: 13 bytes"), (2, "type name: 6 bytes"), (2, "1 tag")]);
    fields.extend([(2, "codec 1: JSON; flags"), (2, "tag: 8 bytes"), (13, "\"account-alice\""), (6, "\"Opened\"")]);
    fields.extend([(8, "\"branch:7\""), (17, "payload")]);
    let known: usize = fields.iter().map(|(length, _)| length).sum();
    fields.push((commit.end - known, "padding"));
    fields.extend(header_fields(
        "mark: header checksum",
        "that of the commit",
        "next position 2",
        "that of the commit",
    ));
    fields.extend([(4, "no events"), (4, "kind 3: mark")]);
    let mut text = String::new();
    let mut offset = 0;
    for (length, meaning) in fields {
        for (row, bytes) in segment[offset..offset + length].chunks(16).enumerate() {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            let meaning = if row == 0 { meaning } else { "" };
            let line = format!("{:04X}  {:47}  {meaning}", offset + row * 16, hex.join(" "));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        offset += length;
    }
    assert_eq!(offset, frames[2].end);
    text
}

/// The fields that every frame header has, up to the number of events.
fn header_fields<'t>(checksum: &'t str, before: &'t str, position: &'t str, time: &'t str) -> [(usize, &'t str); 7] {
    [
        (4, checksum),
        (4, "body length"),
        (4, "body checksum"),
        (4, before),
        (8, position),
        (8, time),
        (8, "durable address"),
    ]
}
