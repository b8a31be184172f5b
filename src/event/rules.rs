//! Upcasters written down as JSON: for tools that read a store without the program that knows its types.
//!
//! Only says what the rules mean; what they are put together to is checked like any other upcasters.

use serde::Deserialize;
use serde_json::Value;

use super::upcaster::{Upcast, UpcastError, Upcaster};
use crate::error::{Invalid, Result, Violation};
use crate::limits::UPCASTERS_MAX;

/// Upcasters from the text of a JSON file of rules.
///
/// ```
/// use annals::{UpcastRules, Upcasters};
///
/// let rules = UpcastRules::from_json(r#"{
///     "rules": [
///         { "type": "Deposited", "version": 1, "changes": [{ "add": { "field": "currency", "value": "EUR" } }] },
///         { "type": "Opened", "version": 1, "to": { "type": "AccountOpened", "version": 1 } },
///         { "type": "Clicked", "version": 1, "drop": true },
///         { "type": "Moved", "version": 1, "split": [
///             { "type": "StreetChanged", "version": 1, "keep": ["street"] },
///             { "type": "CityChanged", "version": 1, "keep": ["city"],
///               "changes": [{ "rename": { "field": "city", "to": "name" } }] }
///         ] }
///     ]
/// }"#)?;
/// let upcasters = Upcasters::new(rules)?;
/// assert!(upcasters.takes("Deposited", 1));
/// # Ok::<(), annals::Error>(())
/// ```
///
/// Each rule takes the events of a `type` in a schema `version`. Without more it gives them the next version. `to` names
/// another type or version; `drop` makes them no events; `split` makes one event for each part, which keeps the fields in
/// `keep`, or all of them. `changes` are made in their order, those of a rule before it is split:
///
/// - `add` sets a field that must not be there; `default` sets one only if it is not there;
/// - `rename` moves a field `to` another name that must not be there; `remove` takes one away. Without the field, both
///   do nothing.
///
/// A field is a name, or a JSON pointer such as `/address/street`, all of whose parents must be there.
#[derive(Debug, Clone)]
#[must_use = "rules are given to Upcasters::new"]
pub struct UpcastRules {
    upcasters: Vec<Upcaster>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "type")]
    event_type: String,
    version: u32,
    to: Option<Target>,
    #[serde(default)]
    changes: Vec<Change>,
    split: Option<Vec<Part>>,
    #[serde(default)]
    drop: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    #[serde(rename = "type")]
    event_type: String,
    version: u32,
}

/// One of the events that an event is split into.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(rename = "type")]
    event_type: String,
    version: u32,
    keep: Option<Vec<String>>,
    #[serde(default)]
    changes: Vec<Change>,
}

/// Something that is done to a payload.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Change {
    Add { field: String, value: Value },
    Default { field: String, value: Value },
    Rename { field: String, to: String },
    Remove { field: String },
}

impl UpcastRules {
    /// Reads rules.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the text is not JSON of this form, or a rule contradicts itself;
    /// it says where.
    pub fn from_json(text: &str) -> Result<Self> {
        let file: File = serde_json::from_str(text).map_err(|error| invalid("rules", error.to_string()))?;
        if file.rules.len() > UPCASTERS_MAX {
            let problem = format!("{} rules, at most {UPCASTERS_MAX} are allowed", file.rules.len());
            return Err(invalid("rules", problem));
        }
        let mut violations = Vec::new();
        for (index, rule) in file.rules.iter().enumerate() {
            if let Some(problem) = rule.contradiction() {
                violations.push(Violation::new(None, format!("rules[{index}]"), problem));
            }
        }
        if !violations.is_empty() {
            return Err(Invalid { violations }.into());
        }
        Ok(Self { upcasters: file.rules.into_iter().map(Rule::into_upcaster).collect() })
    }
}

fn invalid(field: &str, problem: impl Into<String>) -> crate::Error {
    Invalid::of(field, problem).into()
}

impl IntoIterator for UpcastRules {
    type Item = Upcaster;
    type IntoIter = std::vec::IntoIter<Upcaster>;

    fn into_iter(self) -> Self::IntoIter {
        self.upcasters.into_iter()
    }
}

impl Rule {
    fn contradiction(&self) -> Option<&'static str> {
        let changes = !self.changes.is_empty();
        match (self.drop, self.to.is_some(), &self.split) {
            (true, true, _) | (true, _, Some(_)) => Some("drops the event, and says what becomes of it"),
            (true, ..) if changes => Some("drops the event, and changes it"),
            (_, true, Some(_)) => Some("splits the event, and has another target"),
            (_, _, Some(parts)) if parts.is_empty() => Some("splits the event into nothing: say drop"),
            _ => None,
        }
    }

    fn into_upcaster(self) -> Upcaster {
        let Self { event_type, version, to, changes, split, drop } = self;
        if drop {
            return Upcaster::drop(event_type, version);
        }
        if let Some(parts) = split {
            return split_into(event_type, version, changes, parts);
        }
        let upcaster = if changes.is_empty() {
            Upcaster::rename(event_type, version)
        } else {
            Upcaster::one(event_type, version, move |payload| changed(payload, &changes))
        };
        match to {
            Some(target) => upcaster.to(target.event_type, target.version),
            None => upcaster,
        }
    }
}

fn split_into(event_type: String, version: u32, changes: Vec<Change>, parts: Vec<Part>) -> Upcaster {
    let mut targets: Vec<(String, u32)> = parts.iter().map(|part| (part.event_type.clone(), part.version)).collect();
    targets.sort_unstable();
    targets.dedup();
    let upcaster = Upcaster::json(event_type, version, move |payload| {
        let payload = changed(payload, &changes)?;
        parts.iter().map(|part| part.of(&payload)).collect()
    });
    targets.into_iter().fold(upcaster, |upcaster, (event_type, version)| upcaster.to(event_type, version))
}

impl Part {
    fn of(&self, payload: &Value) -> Result<Upcast, UpcastError> {
        let mut part = payload.clone();
        if let Some(keep) = &self.keep {
            let fields = part.as_object_mut().ok_or("the payload is no object, whose fields could be kept")?;
            fields.retain(|name, _| keep.contains(name));
        }
        Ok(Upcast::of(&self.event_type, changed(part, &self.changes)?))
    }
}

fn changed(mut payload: Value, changes: &[Change]) -> Result<Value, UpcastError> {
    for change in changes {
        change.make(&mut payload)?;
    }
    Ok(payload)
}

impl Change {
    fn make(&self, payload: &mut Value) -> Result<(), UpcastError> {
        match self {
            Change::Add { field, value } => add(payload, field, value.clone())?,
            Change::Default { field, value } => {
                let (object, name) = place(payload, field)?;
                object.entry(name).or_insert_with(|| value.clone());
            }
            Change::Remove { field } => {
                let (object, name) = place(payload, field)?;
                object.remove(&name);
            }
            Change::Rename { field, to } => {
                let (object, name) = place(payload, field)?;
                if let Some(value) = object.remove(&name) {
                    add(payload, to, value)?;
                }
            }
        }
        Ok(())
    }
}

fn add(payload: &mut Value, field: &str, value: Value) -> Result<(), UpcastError> {
    let (object, name) = place(payload, field)?;
    if object.contains_key(&name) {
        return Err(format!("there is a field {field:?} already").into());
    }
    object.insert(name, value);
    Ok(())
}

/// The object that a field belongs to, and the field's name in it.
fn place<'v>(
    payload: &'v mut Value,
    field: &str,
) -> Result<(&'v mut serde_json::Map<String, Value>, String), UpcastError> {
    let (parent, name) = match field.rsplit_once('/') {
        Some((parent, name)) if field.starts_with('/') => (parent, name.replace("~1", "/").replace("~0", "~")),
        _ => ("", field.to_owned()),
    };
    let parent = payload.pointer_mut(parent).and_then(Value::as_object_mut);
    match parent {
        Some(object) => Ok((object, name)),
        None => Err(format!("there is no object that could have the field {field:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Upcasters;
    use crate::types::Codec;
    use crate::{EventId, Position, RecordedEvent, StreamVersion, Timestamp};

    fn event(payload: &str) -> RecordedEvent {
        RecordedEvent {
            position: Position::FIRST,
            commit: Position::FIRST,
            commit_time: Timestamp::default(),
            stream: "s".into(),
            version: StreamVersion::FIRST,
            id: EventId::from_bytes([1; 16]),
            event_type: "T".into(),
            schema_version: 1,
            time: Timestamp::default(),
            tags: vec![],
            metadata: None,
            codec: Codec::Json,
            payload: payload.into(),
        }
    }

    /// What the rules make of a payload: type, version and payload of each event.
    fn upcast(rules: &Value, payload: &str) -> Result<Vec<(String, u32, String)>> {
        let upcasters = Upcasters::new(UpcastRules::from_json(&rules.to_string())?)?;
        let events = upcasters.upcast(&event(payload).as_event())?;
        let told =
            |event: RecordedEvent| (event.event_type, event.schema_version, String::from_utf8(event.payload).unwrap());
        Ok(events.into_iter().map(told).collect())
    }

    fn changed_by(changes: &Value, payload: &str) -> Result<String> {
        let rules = json!({"rules": [{"type": "T", "version": 1, "changes": changes}]});
        let events = upcast(&rules, payload)?;
        assert_eq!((events.len(), events[0].1), (1, 2));
        Ok(events[0].2.clone())
    }

    #[test]
    fn changes_are_made_in_their_order() {
        for (changes, before, after) in [
            (json!([{"add": {"field": "a", "value": [1]}}]), "{}", r#"{"a":[1]}"#),
            (json!([{"default": {"field": "a", "value": 1}}]), "{}", r#"{"a":1}"#),
            (json!([{"default": {"field": "a", "value": 1}}]), r#"{"a":2}"#, r#"{"a":2}"#),
            (json!([{"rename": {"field": "a", "to": "b"}}]), r#"{"a":1}"#, r#"{"b":1}"#),
            (json!([{"rename": {"field": "a", "to": "b"}}]), r#"{"c":1}"#, r#"{"c":1}"#),
            (json!([{"rename": {"field": "a", "to": "a"}}]), r#"{"a":1}"#, r#"{"a":1}"#),
            (json!([{"remove": {"field": "a"}}]), r#"{"a":1,"b":2}"#, r#"{"b":2}"#),
            (json!([{"remove": {"field": "a"}}]), r#"{"b":2}"#, r#"{"b":2}"#),
            (json!([{"remove": {"field": "a"}}, {"add": {"field": "a", "value": 9}}]), r#"{"a":1}"#, r#"{"a":9}"#),
            (
                json!([{"rename": {"field": "/x/a", "to": "/y/b"}}]),
                r#"{"x":{"a":1},"y":{}}"#,
                r#"{"x":{},"y":{"b":1}}"#,
            ),
            (json!([{"add": {"field": "/list/1/b", "value": 1}}]), r#"{"list":[0,{}]}"#, r#"{"list":[0,{"b":1}]}"#),
            (json!([{"add": {"field": "/a~1b~0c", "value": 1}}]), "{}", r#"{"a/b~c":1}"#),
            (json!([{"add": {"field": "a/b", "value": 1}}]), "{}", r#"{"a/b":1}"#),
        ] {
            assert_eq!(changed_by(&changes, before).unwrap(), after, "{changes} of {before}");
        }
    }

    #[test]
    fn a_change_that_cannot_be_made_is_an_error() {
        for (changes, before, reason) in [
            (json!([{"add": {"field": "a", "value": 1}}]), r#"{"a":2}"#, r#"a field "a" already"#),
            (json!([{"rename": {"field": "a", "to": "b"}}]), r#"{"a":1,"b":2}"#, r#"a field "b" already"#),
            (json!([{"add": {"field": "/x/a", "value": 1}}]), "{}", r#"could have the field "/x/a""#),
            (json!([{"add": {"field": "a", "value": 1}}]), "[]", r#"could have the field "a""#),
            (json!([{"remove": {"field": "a"}}]), "{", "EOF"),
        ] {
            let error = changed_by(&changes, before).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("position 1"), "{error}");
        }
    }

    #[test]
    fn an_event_can_be_renamed_dropped_and_split() {
        let told = |event_type: &str, version, payload: &str| (event_type.to_owned(), version, payload.to_owned());
        let renamed = json!({"rules": [{"type": "T", "version": 1, "to": {"type": "U", "version": 5}}]});
        assert_eq!(upcast(&renamed, "not json").unwrap(), [told("U", 5, "not json")], "its payload is not looked at");
        let next = json!({"rules": [{"type": "T", "version": 1}]});
        assert_eq!(upcast(&next, "{}").unwrap(), [told("T", 2, "{}")]);
        let dropped = json!({"rules": [{"type": "T", "version": 1, "drop": true}]});
        assert_eq!(upcast(&dropped, "{}").unwrap(), []);
        let split = json!({"rules": [{"type": "T", "version": 1, "changes": [{"remove": {"field": "z"}}], "split": [
            {"type": "U", "version": 1, "keep": ["a"], "changes": [{"rename": {"field": "a", "to": "b"}}]},
            {"type": "T", "version": 2},
            {"type": "U", "version": 1, "keep": []},
        ]}]});
        let parts = upcast(&split, r#"{"a":1,"c":2,"z":3}"#).unwrap();
        assert_eq!(parts, [told("U", 1, r#"{"b":1}"#), told("T", 2, r#"{"a":1,"c":2}"#), told("U", 1, "{}")]);
        assert!(upcast(&split, "1").unwrap_err().to_string().contains("the field"));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_place() {
        let rule = |rest: &str| format!(r#"{{"rules":[{{"type":"T","version":1{rest}}}]}}"#);
        for (text, reason) in [
            ("[]".to_owned(), "rules: invalid length 0"),
            ("{".to_owned(), "at line 1"),
            (r#"{"rules":[{"type":"T"}]}"#.to_owned(), "missing field `version`"),
            (rule(r#","chagnes":[]"#), "unknown field `chagnes`"),
            (rule(r#","changes":[{"set":{"field":"a"}}]"#), "unknown variant `set`"),
            (rule(r#","changes":[{"remove":{"field":"a","value":1}}]"#), "unknown field `value`"),
            (rule(r#","drop":true,"to":{"type":"U","version":1}"#), "rules[0]: drops the event, and says"),
            (rule(r#","drop":true,"changes":[{"remove":{"field":"a"}}]"#), "rules[0]: drops the event, and changes it"),
            (rule(r#","split":[],"to":{"type":"U","version":1}"#), "rules[0]: splits the event, and has another"),
            (rule(r#","split":[]"#), "rules[0]: splits the event into nothing"),
        ] {
            let error = UpcastRules::from_json(&text).unwrap_err();
            assert!(matches!(error, crate::Error::Invalid(_)), "{error}");
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_number_of_rules_has_a_limit() {
        let rules = |count: usize| {
            let rules: Vec<Value> =
                (0..count).map(|index| json!({"type": format!("t{index}"), "version": 1, "drop": true})).collect();
            UpcastRules::from_json(&json!({ "rules": rules }).to_string())
        };
        assert!(rules(UPCASTERS_MAX).is_ok());
        assert!(rules(UPCASTERS_MAX + 1).unwrap_err().to_string().contains("1025 rules, at most 1024"));
    }
}
