//! Schemas of events: derived with `schemars`, kept beside the log, compared before a program changes what it writes.
//!
//! Decides nothing about single events. A comparison sees shapes, not meanings: that a field changed its unit is seen by
//! nobody.

mod difference;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::difference::{Difference, bare_differences, differences};
use super::codec::EventCodec;
use crate::error::{Conflict, Error, Invalid, Result, Violation};
use crate::types::Codec;
use crate::{StateBatch, Store};

/// How often a registration is tried again that met another one.
const REGISTER_ATTEMPTS_MAX: u32 = 16;

/// The schemas of the events of an enum: one for each type and schema version.
///
/// ```
/// use annals::{EventSchemas, EventTypes, Store};
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// enum AccountEvent {
///     Opened { owner: String },
///     Closed,
/// }
///
/// let store = Store::in_memory()?;
/// let schemas = EventTypes::<AccountEvent>::new().check()?.schemas();
/// schemas.register(&store, "account")?;
///
/// mod next {
///     # use schemars::JsonSchema;
///     # use serde::{Deserialize, Serialize};
///     #[derive(Serialize, Deserialize, JsonSchema)]
///     pub(super) enum AccountEvent {
///         Opened { owner: String, currency: String },
///         Closed,
///     }
/// }
/// let changed = EventTypes::<next::AccountEvent>::new().check()?.schemas();
/// let registered = EventSchemas::registered(&store, "account")?.expect("it was registered");
/// let changes = changed.compare(&registered);
/// assert_eq!(
///     changes[0].to_string(),
///     r#"Opened v1: there is a new field "currency", which must be there; recorded events cannot be read"#
/// );
/// assert!(changed.register(&store, "account").is_err());
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventSchemas {
    codec: String,
    types: BTreeMap<String, BTreeMap<u32, TypeSchema>>,
    /// What upcasters take.
    upcast: BTreeMap<String, BTreeSet<u32>>,
    /// What was registered in a codec of payloads that do not describe themselves, before it was in another one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    once_bare: BTreeMap<String, BTreeSet<u32>>,
}

/// The payload of a type in one schema version, as JSON Schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TypeSchema {
    /// What is written.
    pub written: Value,
    /// What can be read: fields with a default may be absent, for example.
    pub read: Value,
}

/// A difference between two versions of a program in how they write and read events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaChange {
    /// The type.
    pub event_type: String,
    /// Its schema version.
    pub schema_version: u32,
    /// Where in the payload, such as `lines[].count` or `means<Transfer>.iban`; empty for the whole.
    pub path: String,
    /// What kind of change it is.
    pub kind: ChangeKind,
    /// What it breaks.
    pub breaks: Breaks,
    /// What is different.
    pub problem: String,
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// A field is gone, and what stands in it is read over.
    IgnoredField,
    /// A field is gone, and refused where it stands.
    RemovedField,
    /// A field must be there that need not have been.
    RequiredField,
    /// A value is of another type, or of a narrower one.
    ChangedType,
    /// A variant of an enum, or a type or version of events, is gone.
    RemovedVariant,
    /// Fields of a format that does not describe itself are others, or in another order.
    ChangedFields,
}

/// What a change breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Breaks {
    /// Recorded events cannot be read by the changed program. Give the type a new schema version, and an upcaster.
    RecordedEvents,
    /// Recorded events can be read, and something that they hold is read over.
    Nothing,
    /// Programs as they were cannot read what the changed one writes. It matters while both run.
    OlderPrograms,
}

impl fmt::Display for SchemaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.event_type, self.schema_version)?;
        if !self.path.is_empty() {
            write!(f, ", {}", self.path)?;
        }
        write!(f, ": {}", self.problem)?;
        match self.breaks {
            Breaks::RecordedEvents => f.write_str("; recorded events cannot be read"),
            Breaks::Nothing => Ok(()),
            Breaks::OlderPrograms => f.write_str("; older programs cannot read new events"),
        }
    }
}

impl<E: JsonSchema> EventCodec<E> {
    /// The schemas of the events, as they are written and read now.
    pub fn schemas(&self) -> EventSchemas {
        let root = |settings: SchemaSettings| settings.into_generator().into_root_schema_for::<E>().to_value();
        let written = root(SchemaSettings::draft2020_12().for_serialize());
        let read = root(SchemaSettings::draft2020_12().for_deserialize());
        let mut types: BTreeMap<String, BTreeMap<u32, TypeSchema>> = BTreeMap::new();
        for (variant, recorded) in self.recorded() {
            // An alias has no schema of its own.
            if let (Some(written), Some(read)) = (variant_schema(&written, variant), variant_schema(&read, variant)) {
                let versions = types.entry(recorded.event_type.to_owned()).or_default();
                versions.insert(recorded.version, TypeSchema { written, read });
            }
        }
        let mut upcast: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (event_type, version) in self.upcast_sources() {
            upcast.entry(event_type.to_owned()).or_default().insert(version);
        }
        EventSchemas { codec: self.codec().name().to_owned(), types, upcast, once_bare: BTreeMap::new() }
    }
}

/// The schema of what stands inside a variant, with the definitions that it refers to.
fn variant_schema(root: &Value, variant: &str) -> Option<Value> {
    let members = root.get("oneOf").and_then(Value::as_array).map_or(std::slice::from_ref(root), Vec::as_slice);
    for member in members {
        let constant = member.get("const").into_iter();
        let mut names = constant.chain(member.get("enum").and_then(Value::as_array).into_iter().flatten());
        if names.any(|name| name == variant) {
            return Some(json!({ "type": "null" }));
        }
        if let Some(body) = member.get("properties").and_then(|fields| fields.get(variant)) {
            return Some(with_definitions(body.clone(), root));
        }
    }
    None
}

fn with_definitions(mut schema: Value, root: &Value) -> Value {
    let mut needed = BTreeSet::new();
    let mut open = references(&schema);
    while let Some(name) = open.pop() {
        if let Some(definition) = root.pointer(&format!("/$defs/{name}"))
            && needed.insert(name)
        {
            open.extend(references(definition));
        }
    }
    let definitions: Map<String, Value> = needed
        .into_iter()
        .filter_map(|name| {
            Some((name.replace("~1", "/").replace("~0", "~"), root.pointer(&format!("/$defs/{name}"))?.clone()))
        })
        .collect();
    if let (Value::Object(schema), false) = (&mut schema, definitions.is_empty()) {
        schema.insert("$defs".into(), Value::Object(definitions));
    }
    schema
}

/// The names of the definitions that a schema refers to, as they stand in a pointer.
fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix("#/$defs/"));
            own.map(str::to_owned).into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(values) => values.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

impl EventSchemas {
    /// The schemas that were registered under a name; `None` if none were.
    ///
    /// # Errors
    /// [`Error::Codec`] if what is stored under the name is none; those of [`State::get`](crate::State::get).
    pub fn registered(store: &Store, name: &str) -> Result<Option<Self>> {
        let stored = store.state()?.get(&key_of(name))?;
        stored.map(|bytes| Self::decode(name, &bytes)).transpose()
    }

    /// Registers the schemas under a name, beside the log, if recorded events can be read with them. Schema versions
    /// that were registered before and are only upcast now are kept. Returns what changed, as durable as the store's
    /// options say.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every change that recorded events cannot be read after, and nothing is written; those of
    /// [`State::write`](crate::State::write).
    pub fn register(&self, store: &Store, name: &str) -> Result<Vec<SchemaChange>> {
        let (state, key) = (store.state()?, key_of(name));
        let mut attempts = 1;
        loop {
            let stored = state.versioned(&key)?;
            let before = stored.as_ref().map(|value| Self::decode(name, &value.bytes)).transpose()?;
            let changes = before.as_ref().map_or_else(Vec::new, |before| self.compare(before));
            refuse_breaks(&changes)?;
            let merged = before.map_or_else(|| self.clone(), |before| self.merged_into(before));
            let bytes = Codec::Json.encode(&merged)?;
            if stored.as_ref().is_some_and(|value| value.bytes == bytes) {
                return Ok(changes);
            }
            let batch =
                StateBatch::new().expect(key.clone(), stored.map(|value| value.version)).put(key.clone(), bytes);
            match state.write(batch) {
                // Somebody else registered in between: what has changed is another question now.
                Err(Error::Conflict(Conflict { .. })) if attempts < REGISTER_ATTEMPTS_MAX => attempts += 1,
                written => return written.map(|_| changes),
            }
        }
    }

    fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        Codec::Json.decode(bytes).map_err(|error| error.of(format!("cannot read the schemas registered as {name:?}")))
    }

    /// The schema of a type in a schema version; `None` if there is none.
    pub fn schema(&self, event_type: &str, version: u32) -> Option<&TypeSchema> {
        self.types.get(event_type)?.get(&version)
    }

    /// The types and schema versions that there are schemas of, ascending.
    pub fn types(&self) -> impl Iterator<Item = (&str, u32)> {
        self.types.iter().flat_map(|(name, versions)| versions.keys().map(|version| (name.as_str(), *version)))
    }

    /// What is different from the schemas of an earlier program, and what that breaks. Empty if nothing is, as far as
    /// schemas can tell.
    pub fn compare(&self, earlier: &EventSchemas) -> Vec<SchemaChange> {
        let mut changes = Vec::new();
        for (event_type, version) in earlier.types() {
            let before = earlier.schema(event_type, version).expect("it was listed");
            let is_upcast = self.upcast.get(event_type).is_some_and(|versions| versions.contains(&version));
            match self.schema(event_type, version) {
                Some(after) => self.compare_type(earlier, (event_type, version), (before, after), &mut changes),
                None if is_upcast => {}
                None => changes.push(SchemaChange {
                    event_type: event_type.to_owned(),
                    schema_version: version,
                    path: String::new(),
                    kind: ChangeKind::RemovedVariant,
                    breaks: Breaks::RecordedEvents,
                    problem: "nothing reads it any more".into(),
                }),
            }
        }
        for (event_type, version) in self.types().filter(|(name, version)| earlier.schema(name, *version).is_none()) {
            changes.push(SchemaChange {
                event_type: event_type.to_owned(),
                schema_version: version,
                path: String::new(),
                kind: ChangeKind::RemovedVariant,
                breaks: Breaks::OlderPrograms,
                problem: "it is new".into(),
            });
        }
        changes
    }

    fn compare_type(
        &self,
        earlier: &EventSchemas,
        (event_type, version): (&str, u32),
        (before, after): (&TypeSchema, &TypeSchema),
        changes: &mut Vec<SchemaChange>,
    ) {
        let mut add = |difference: Difference, breaks| {
            changes.push(SchemaChange {
                event_type: event_type.to_owned(),
                schema_version: version,
                path: difference.path,
                kind: difference.kind,
                breaks,
                problem: difference.problem,
            });
        };
        if earlier.was_bare(event_type, version) || self.is_bare() {
            let found = bare_differences(&before.written, &after.written).into_iter();
            return found.for_each(|found| add(found, Breaks::RecordedEvents));
        }
        // Whatever stands in its place, a variant without fields reads over it.
        let is_unit = after.read == json!({ "type": "null" });
        for difference in differences(&before.written, &after.read) {
            match difference.kind {
                ChangeKind::IgnoredField => add(difference, Breaks::Nothing),
                ChangeKind::ChangedType if is_unit => {
                    let problem = "the payload is read over".to_owned();
                    add(Difference { kind: ChangeKind::IgnoredField, problem, ..difference }, Breaks::Nothing);
                }
                _ => add(difference, Breaks::RecordedEvents),
            }
        }
        let is_unit = before.read == json!({ "type": "null" });
        for difference in differences(&after.written, &before.read) {
            if difference.kind != ChangeKind::IgnoredField && !is_unit {
                add(difference, Breaks::OlderPrograms);
            }
        }
    }

    /// Whether payloads do not describe themselves, so that every field has its place.
    fn is_bare(&self) -> bool {
        [Codec::Postcard, Codec::Bincode].iter().any(|codec| codec.name() == self.codec)
    }

    /// Whether there may be events of a type that are to be read as they stand, field by field.
    fn was_bare(&self, event_type: &str, version: u32) -> bool {
        self.is_bare() || self.once_bare.get(event_type).is_some_and(|versions| versions.contains(&version))
    }

    /// These schemas, and those of versions that only they know who came before.
    fn merged_into(&self, before: EventSchemas) -> Self {
        let mut merged = self.clone();
        let was_bare = before.types().filter(|(event_type, version)| before.was_bare(event_type, *version));
        for (event_type, version) in was_bare {
            merged.once_bare.entry(event_type.to_owned()).or_default().insert(version);
        }
        for (event_type, versions) in before.types {
            let own = merged.types.entry(event_type).or_default();
            for (version, schema) in versions {
                own.entry(version).or_insert(schema);
            }
        }
        merged
    }
}

fn key_of(name: &str) -> String {
    format!("schema-{name}")
}

fn refuse_breaks(changes: &[SchemaChange]) -> Result<()> {
    let breaks = changes.iter().filter(|change| change.breaks == Breaks::RecordedEvents);
    let violations: Vec<Violation> = breaks
        .map(|change| {
            let field = format!("{} v{}", change.event_type, change.schema_version);
            Violation::new(None, field, change.to_string())
        })
        .collect();
    if violations.is_empty() { Ok(()) } else { Err(Invalid { violations }.into()) }
}
