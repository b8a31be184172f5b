//! Contracts of events: samples and what they were written as, in files of a repository.
//!
//! A file is written once, when it is asked for, and never changed from here: it stands for events that stores hold.

#![allow(clippy::disallowed_methods, reason = "golden files of a repository are no files of a store")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::recorded;
use crate::error::Result;
use crate::types::Codec;
use crate::{EventCodec, ExpectedVersion, Query, RecordedEvent, Store};

/// A sample as it stands in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    #[serde(rename = "type")]
    event_type: String,
    schema_version: u32,
    codec: String,
    /// What is written: JSON as it is, the bytes of any other codec in hex.
    payload: Value,
    /// The events that it is read as, as JSON.
    reads_as: Vec<Value>,
}

/// Holds the events of a program against the golden files of a directory: each sample is written as its file says, and
/// each file, those of earlier schema versions too, is read as it says.
///
/// There is one file for each sample, named by its type, schema version and number, such as `Opened-v1-1.json`.
/// [`write_contract`] makes those that are missing; nothing is written here. When an upcaster changes what an old file
/// is read as, its `reads_as` is edited by hand, its `payload` never.
///
/// ```
/// use annals::{EventTypes, testing};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent {
///     Opened { owner: String },
/// }
///
/// # let directory = tempfile::tempdir().expect("a temporary directory");
/// let samples = [AccountEvent::Opened { owner: "Alice".into() }];
/// let events = EventTypes::new().samples(samples).check()?;
/// testing::write_contract(&events, directory.path());   // once, by hand
/// testing::assert_contract(&events, directory.path());  // in every run of the tests
/// # Ok::<(), annals::Error>(())
/// ```
///
/// # Panics
/// If the contract is broken, with each file, what it expects and what is actual; or a file cannot be read.
pub fn assert_contract<E: Serialize + DeserializeOwned>(events: &EventCodec<E>, directory: impl AsRef<Path>) {
    let directory = directory.as_ref();
    let mut problems = String::new();
    let mut own = BTreeSet::new();
    for (name, golden) in goldens(events) {
        let path = directory.join(&name);
        match fs::read_to_string(&path) {
            Ok(expected) if expected == golden => {}
            Ok(expected) => add(&mut problems, &path, &expected, &golden),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                add(&mut problems, &path, "(the file is missing: testing::write_contract makes it)\n", &golden);
            }
            Err(error) => panic!("cannot read {}: {error}", path.display()),
        }
        own.insert(name);
    }
    for path in files_of(directory).into_iter().filter(|path| !own.contains(&name_of(path))) {
        check_old(events, &path, &mut problems);
    }
    assert!(problems.is_empty(), "the contract of {} is broken:\n\n{problems}", std::any::type_name::<E>());
}

/// Writes the golden files of samples that have none, and returns their paths. Files that are there stay as they are.
///
/// # Panics
/// If a file cannot be written.
pub fn write_contract<E: Serialize + DeserializeOwned>(
    events: &EventCodec<E>,
    directory: impl AsRef<Path>,
) -> Vec<PathBuf> {
    let directory = directory.as_ref();
    fs::create_dir_all(directory).unwrap_or_else(|error| panic!("cannot create {}: {error}", directory.display()));
    let mut written = Vec::new();
    for (name, golden) in goldens(events) {
        let path = directory.join(name);
        if !path.exists() {
            fs::write(&path, golden).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
            written.push(path);
        }
    }
    written
}

fn add(problems: &mut String, path: &Path, expected: &str, actual: &str) {
    // Writing to a string cannot fail.
    let _ =
        writeln!(problems, "file     {}\nexpected {}\nactual   {}\n", path.display(), expected.trim(), actual.trim());
}

/// A file of an earlier schema version, or of a type that is no more, is read as it says.
fn check_old<E: Serialize + DeserializeOwned>(events: &EventCodec<E>, path: &Path, problems: &mut String) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let golden: Golden = match serde_json::from_str(&text) {
        Ok(golden) => golden,
        Err(error) => return add(problems, path, "a golden file", &error.to_string()),
    };
    let event = match golden.event() {
        Ok(event) => event,
        Err(problem) => return add(problems, path, "a golden file", &problem),
    };
    match reads_as(events, &event) {
        Ok(actual) if actual == golden.reads_as => {}
        Ok(actual) => add(problems, path, &pretty(&golden.reads_as), &pretty(&actual)),
        Err(error) => add(problems, path, &pretty(&golden.reads_as), &error.to_string()),
    }
}

/// The name and the text of the file of each sample.
fn goldens<E: Serialize + DeserializeOwned>(events: &EventCodec<E>) -> Vec<(String, String)> {
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    let golden = |sample| {
        let event = as_recorded(events, sample).expect("a sample was proved to come back");
        let stem = format!("{}-v{}", file_name(&event.event_type), event.schema_version);
        let number = numbers.entry(stem.clone()).or_default();
        *number += 1;
        let golden = Golden::of(&event, reads_as(events, &event).expect("a sample was proved to come back"));
        (format!("{stem}-{number}.json"), format!("{}\n", pretty(&golden)))
    };
    events.samples().iter().map(golden).collect()
}

/// A sample as a store records it.
fn as_recorded<E: Serialize>(events: &EventCodec<E>, sample: &E) -> Result<RecordedEvent> {
    let store = Store::in_memory()?;
    store.append("samples", ExpectedVersion::Any, [events.encode(sample)?])?;
    store.read(Query::all()).owned().next().expect("it was appended")
}

fn reads_as<E: Serialize + DeserializeOwned>(events: &EventCodec<E>, event: &RecordedEvent) -> Result<Vec<Value>> {
    let decoded = events.decode(&event.as_event())?;
    // What JSON cannot tell is compared by its payload alone.
    Ok(decoded.map(|event| serde_json::to_value(&event).unwrap_or_default()).collect())
}

impl Golden {
    fn of(event: &RecordedEvent, reads_as: Vec<Value>) -> Self {
        let payload = match event.codec {
            Codec::Json => serde_json::from_slice(&event.payload).unwrap_or_default(),
            _ => Value::String(to_hex(&event.payload)),
        };
        Self {
            event_type: event.event_type.clone(),
            schema_version: event.schema_version,
            codec: event.codec.name().to_owned(),
            payload,
            reads_as,
        }
    }

    /// The event that the file stands for.
    fn event(&self) -> Result<RecordedEvent, String> {
        let codec = Codec::from_name(&self.codec).ok_or_else(|| format!("the codec {:?} is not known", self.codec))?;
        let payload = match (codec, self.payload.as_str()) {
            (Codec::Json, _) => self.payload.to_string().into_bytes(),
            (_, Some(hex)) => from_hex(hex).ok_or_else(|| format!("{hex:?} is no text of bytes in hex"))?,
            (_, None) => return Err("the payload is no text of bytes in hex".into()),
        };
        let event = recorded(&self.event_type).build();
        Ok(RecordedEvent { schema_version: self.schema_version, codec, payload, ..event })
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.len().is_multiple_of(2).then(|| text.as_bytes().chunks(2).map(byte).collect())?
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("({error})"))
}

/// The name of a type as a part of a file name: what could be more than a name there is written as its bytes.
fn file_name(event_type: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    event_type
        .bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The golden files of a directory, in the order of their names.
fn files_of(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::{EventTypes, Upcaster};

    #[derive(Serialize, Deserialize)]
    enum Event {
        Opened {
            owner: String,
        },
        #[serde(rename = "a/b")]
        Slashed,
    }

    fn types() -> EventTypes<Event> {
        let samples = ["Alice", "Bob"].map(|owner| Event::Opened { owner: owner.into() });
        EventTypes::new().samples(samples).samples([Event::Slashed])
    }

    fn broken<E: Serialize + DeserializeOwned>(events: &EventCodec<E>, directory: &Path) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| assert_contract(events, directory))).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    }

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| name_of(path)).collect()
    }

    #[test]
    fn a_contract_holds_after_it_was_written() {
        for codec in [Codec::Json, Codec::Postcard, Codec::Bincode].into_iter().filter(|codec| codec.is_available()) {
            let directory = tempfile::tempdir().unwrap();
            let events = types().encoded_as(codec).check().unwrap();
            let written = write_contract(&events, directory.path());
            assert_eq!(names(&written), ["Opened-v1-1.json", "Opened-v1-2.json", "a%2Fb-v1-1.json"]);
            assert_contract(&events, directory.path());
            assert!(write_contract(&events, directory.path()).is_empty(), "nothing is written twice");
        }
    }

    #[test]
    fn a_file_says_what_is_written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        write_contract(&types().check().unwrap(), directory.path());
        let text = fs::read_to_string(directory.path().join("Opened-v1-1.json")).unwrap();
        let expected = json!({
            "type": "Opened", "schema_version": 1, "codec": "json",
            "payload": {"owner": "Alice"}, "reads_as": [{"Opened": {"owner": "Alice"}}],
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn nothing_is_written_unless_it_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let message = broken(&types().check().unwrap(), directory.path());
        assert!(message.contains("Opened-v1-1.json") && message.contains("testing::write_contract"), "{message}");
        assert!(files_of(directory.path()).is_empty());
    }

    #[test]
    fn a_broken_contract_shows_file_expected_and_actual() {
        #[derive(Serialize, Deserialize)]
        enum Event {
            Opened {
                name: String,
            },
            #[serde(rename = "a/b")]
            Slashed,
        }
        let directory = tempfile::tempdir().unwrap();
        write_contract(&types().check().unwrap(), directory.path());
        let samples = ["Alice", "Bob"].map(|name| Event::Opened { name: name.into() });
        let changed = EventTypes::new().samples(samples).samples([Event::Slashed]).check().unwrap();
        let message = broken(&changed, directory.path());
        for part in ["file     ", "Opened-v1-1.json", "Opened-v1-2.json", r#""owner": "Alice""#, r#""name": "Alice""#] {
            assert!(message.contains(part), "{part} is missing in:\n{message}");
        }
        assert!(!message.contains("a%2Fb"), "what holds is not told:\n{message}");
    }

    #[test]
    fn files_of_earlier_versions_are_read() {
        let directory = tempfile::tempdir().unwrap();
        write_contract(&types().check().unwrap(), directory.path());
        let second = |upcaster: Upcaster| types().schema_version("Opened", 2).upcast(upcaster).check().unwrap();
        let keeps = second(Upcaster::rename("Opened", 1));
        assert_eq!(names(&write_contract(&keeps, directory.path())), ["Opened-v2-1.json", "Opened-v2-2.json"]);
        assert_contract(&keeps, directory.path());

        let changes = second(Upcaster::one("Opened", 1, |_| Ok(json!({"owner": "Carol"}))));
        let message = broken(&changes, directory.path());
        assert!(message.contains("Opened-v1-2.json") && message.contains(r#""owner": "Carol""#), "{message}");
        let fails = second(Upcaster::one("Opened", 1, |_| Err("no owner".into())));
        assert!(broken(&fails, directory.path()).contains("no owner"));
        let forgets = EventTypes::<Event>::new().samples([Event::Slashed]).check().unwrap();
        let message = broken(&forgets, directory.path());
        assert!(message.contains("unknown type \"Opened\" in schema version 2"), "{message}");
    }

    #[test]
    fn what_is_no_golden_file_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let events = types().check().unwrap();
        write_contract(&events, directory.path());
        fs::write(directory.path().join("other.json"), "{}").unwrap();
        let hex = json!({"type": "Opened", "schema_version": 1, "codec": "postcard", "payload": "0g", "reads_as": []});
        fs::write(directory.path().join("hex.json"), hex.to_string()).unwrap();
        fs::write(directory.path().join("README.md"), "no contract").unwrap();
        let message = broken(&events, directory.path());
        assert!(message.contains("missing field `type`") && message.contains(r#""0g" is no text"#), "{message}");
        assert!(!message.contains("README"), "{message}");
    }
}
