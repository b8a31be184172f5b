//! What a read model consists of, and how its parts are saved and loaded.
//!
//! A part is a table, of which only changed rows are written, or a value, which is written whole if its bytes changed.
//! Nothing here touches a store: parts become changes by name and number, and come back from them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Invalid, Result};
use crate::limits::{READ_MODEL_PART_NAME_BYTES_MAX, READ_MODEL_VALUE_BYTES_MAX};
use crate::types::Codec;
use crate::{Table, Unsaved};

/// State that a projection keeps: it names its parts, so that only what changed is saved.
///
/// Whatever serde can serialise and deserialise is one already, of one part that is saved whole each time it changed.
/// A model with [`Table`]s names them itself:
///
/// ```
/// use annals::{Parts, ReadModel, Table};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Account { owner: String, balance: i64 }
///
/// struct Accounts { accounts: Table<String, Account>, deposits: u64 }
///
/// impl ReadModel for Accounts {
///     fn parts(&mut self, parts: &mut Parts<'_>) {
///         parts.table("accounts", &mut self.accounts).value("deposits", &mut self.deposits);
///     }
/// }
/// ```
pub trait ReadModel {
    /// Names every part of the model, the same ones each time. A part that is not named is not saved, and is what it is
    /// in the initial state after a restart.
    fn parts(&mut self, parts: &mut Parts<'_>);
}

impl<T: Serialize + DeserializeOwned> ReadModel for T {
    fn parts(&mut self, parts: &mut Parts<'_>) {
        parts.value("state", self);
    }
}

impl<K, Row> ReadModel for Table<K, Row>
where
    K: Ord + Clone + Serialize + DeserializeOwned,
    Row: Serialize + DeserializeOwned,
{
    fn parts(&mut self, parts: &mut Parts<'_>) {
        parts.table("rows", self);
    }
}

/// Is shown the parts of a [`ReadModel`], to save them or to load them.
#[derive(Debug)]
pub struct Parts<'a> {
    task: Task<'a>,
    failure: Option<Error>,
}

#[derive(Debug)]
enum Task<'a> {
    Name(&'a mut Vec<PartName>),
    Collect(&'a mut Changes, &'a ValueHashes),
    MarkSaved,
    MarkUnsaved,
    Load(&'a mut SavedParts),
}

/// The name of a part, and whether it is a table.
pub(super) type PartName = (String, bool);

/// The hash of the bytes of each value as it was saved last.
pub(super) type ValueHashes = BTreeMap<String, u128>;

/// What there is to save.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Rows by part and number, and values by part; `None` for rows that are gone.
    pub(super) changes: Vec<(PartKey, Option<Vec<u8>>)>,
    /// The new hashes of the values among them.
    pub(super) hashes: ValueHashes,
}

/// The place of a value, or of a row by its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartKey {
    pub(super) part: String,
    pub(super) number: Option<u64>,
}

/// What was saved, on its way into a model.
#[derive(Debug, Default)]
pub(super) struct SavedParts {
    pub(super) saved: BTreeMap<PartKey, Vec<u8>>,
    pub(super) hashes: ValueHashes,
}

impl Parts<'_> {
    /// A table, under a name of at most [`READ_MODEL_PART_NAME_BYTES_MAX`] bytes without a `/`.
    pub fn table<K, Row>(&mut self, name: &str, table: &mut Table<K, Row>) -> &mut Self
    where
        K: Ord + Clone + Serialize + DeserializeOwned,
        Row: Serialize + DeserializeOwned,
    {
        if self.failure.is_none() {
            self.failure = self.task.table(name, table).err();
        }
        self
    }

    /// A value, under a name of at most [`READ_MODEL_PART_NAME_BYTES_MAX`] bytes without a `/`.
    pub fn value<T: Serialize + DeserializeOwned>(&mut self, name: &str, value: &mut T) -> &mut Self {
        if self.failure.is_none() {
            self.failure = self.task.value(name, value).err();
        }
        self
    }
}

impl Task<'_> {
    fn table<K, Row>(&mut self, name: &str, table: &mut Table<K, Row>) -> Result<()>
    where
        K: Ord + Clone + Serialize + DeserializeOwned,
        Row: Serialize + DeserializeOwned,
    {
        match self {
            Task::Name(names) => add_name(names, name, true)?,
            Task::Collect(changes, _) => {
                for change in table.unsaved() {
                    changes.add_row(name, &change)?;
                }
            }
            Task::MarkSaved => table.mark_saved(),
            Task::MarkUnsaved => table.mark_unsaved(),
            Task::Load(saved) => saved.load_table(name, table)?,
        }
        Ok(())
    }

    fn value<T: Serialize + DeserializeOwned>(&mut self, name: &str, value: &mut T) -> Result<()> {
        match self {
            Task::Name(names) => add_name(names, name, false)?,
            Task::Collect(changes, known) => changes.add_value(name, value, known)?,
            Task::MarkSaved | Task::MarkUnsaved => {}
            Task::Load(saved) => saved.load_value(name, value)?,
        }
        Ok(())
    }
}

fn add_name(names: &mut Vec<PartName>, name: &str, is_table: bool) -> Result<()> {
    let problem = if name.is_empty() {
        "a part has no name".to_owned()
    } else if name.len() > READ_MODEL_PART_NAME_BYTES_MAX {
        format!("{name:?} has {} bytes, at most {READ_MODEL_PART_NAME_BYTES_MAX} are allowed", name.len())
    } else if name.contains('/') {
        format!("{name:?} contains a '/'")
    } else if names.iter().any(|(other, _)| other == name) {
        format!("{name:?} is named twice")
    } else {
        names.push((name.to_owned(), is_table));
        return Ok(());
    };
    Err(Invalid::of("parts", problem).into())
}

impl Changes {
    fn add_row<K: Serialize, Row: Serialize>(&mut self, part: &str, change: &Unsaved<'_, K, Row>) -> Result<()> {
        let (number, bytes) = match change {
            Unsaved::Put { number, key, row } => {
                let bytes = encode(&(key, row), || describe_row(part, *key))?;
                (*number, Some(bytes))
            }
            Unsaved::Delete { number } => (*number, None),
        };
        self.changes.push((PartKey { part: part.to_owned(), number: Some(number) }, bytes));
        Ok(())
    }

    fn add_value<T: Serialize>(&mut self, part: &str, value: &T, known: &ValueHashes) -> Result<()> {
        let bytes = encode(value, || format!("the part {part:?} of the read model"))?;
        let hash = xxh3_128(&bytes);
        if known.get(part) != Some(&hash) {
            self.hashes.insert(part.to_owned(), hash);
            self.changes.push((PartKey { part: part.to_owned(), number: None }, Some(bytes)));
        }
        Ok(())
    }
}

/// A row by its key, as far as it can be told.
fn describe_row<K: Serialize>(part: &str, key: &K) -> String {
    let key = serde_json::to_string(key).unwrap_or_default();
    let shown: String = key.chars().take(100).collect();
    format!("the row with key {shown} of the table {part:?} of the read model")
}

/// Encodes what is saved as one value of the store's state.
fn encode<T: Serialize>(value: &T, what: impl Fn() -> String) -> Result<Vec<u8>> {
    let bytes = Codec::Json.encode(value).map_err(|error| error.of(format!("cannot save {}", what())))?;
    if bytes.len() > READ_MODEL_VALUE_BYTES_MAX {
        let problem =
            format!("{} takes {} bytes, at most {READ_MODEL_VALUE_BYTES_MAX} can be saved", what(), bytes.len());
        return Err(Invalid::of("parts", problem).into());
    }
    Ok(bytes)
}

impl SavedParts {
    fn load_table<K, Row>(&mut self, part: &str, table: &mut Table<K, Row>) -> Result<()>
    where
        K: Ord + Clone + Serialize + DeserializeOwned,
        Row: Serialize + DeserializeOwned,
    {
        table.clear();
        table.mark_saved();
        let first = PartKey { part: part.to_owned(), number: Some(0) };
        let last = PartKey { part: part.to_owned(), number: Some(u64::MAX) };
        for (place, bytes) in self.saved.range(first..=last) {
            let number = place.number.unwrap_or_default();
            let what = || format!("the row {number} of the table {part:?}");
            let (key, row): (K, Row) = decode(bytes, what)?;
            if !table.restore(number, key, row) {
                return Err(Error::Codec {
                    what: format!("cannot load {}", what()),
                    reason: "its key is there twice".into(),
                });
            }
        }
        Ok(())
    }

    fn load_value<T: DeserializeOwned>(&mut self, part: &str, value: &mut T) -> Result<()> {
        let what = || format!("the part {part:?}");
        let Some(bytes) = self.saved.get(&PartKey { part: part.to_owned(), number: None }) else {
            return Err(Error::Codec { what: format!("cannot load {}", what()), reason: "it is not there".into() });
        };
        *value = decode(bytes, what)?;
        self.hashes.insert(part.to_owned(), xxh3_128(bytes));
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Codec { what: format!("cannot load {}", what()), reason: error.to_string() })
}

/// Shows the parts of a model to a task.
fn show(model: &mut impl ReadModel, task: Task<'_>) -> Result<()> {
    let mut parts = Parts { task, failure: None };
    model.parts(&mut parts);
    parts.failure.map_or(Ok(()), Err)
}

/// The parts by name, in the order of their names.
pub(super) fn names(model: &mut impl ReadModel) -> Result<Vec<PartName>> {
    let mut names = Vec::new();
    show(model, Task::Name(&mut names))?;
    names.sort();
    Ok(names)
}

/// What changed since it was marked as saved.
pub(super) fn collect(model: &mut impl ReadModel, known: &ValueHashes) -> Result<Changes> {
    let mut changes = Changes::default();
    show(model, Task::Collect(&mut changes, known))?;
    Ok(changes)
}

pub(super) fn mark_saved(model: &mut impl ReadModel) -> Result<()> {
    show(model, Task::MarkSaved)
}

/// Makes everything count as changed.
pub(super) fn mark_unsaved(model: &mut impl ReadModel) -> Result<()> {
    show(model, Task::MarkUnsaved)
}

/// Replaces the parts of a model by what was saved; returns the hashes of the values.
pub(super) fn load(model: &mut impl ReadModel, mut saved: SavedParts) -> Result<ValueHashes> {
    show(model, Task::Load(&mut saved))?;
    Ok(saved.hashes)
}
