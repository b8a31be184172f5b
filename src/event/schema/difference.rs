//! What a value of one JSON Schema may be that another schema does not take.
//!
//! Understands the schemas that serde types derive: objects, arrays, tuples, numbers, strings, and enums in each of
//! their forms. A keyword that it does not know is passed over.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::ChangeKind;

/// One thing that the second schema does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) path: String,
    pub(super) kind: ChangeKind,
    pub(super) problem: String,
}

/// References are followed so many times before they are given up as circular.
const REFERENCES_MAX: usize = 64;

/// What values of `from` the schema `to` does not take.
pub(super) fn differences(from: &Value, to: &Value) -> Vec<Difference> {
    find(from, to, Encoding::SelfDescribing)
}

/// What makes other bytes of `to` than of `from`, or other values of the same bytes, in a format that does not describe
/// itself.
pub(super) fn bare_differences(from: &Value, to: &Value) -> Vec<Difference> {
    find(from, to, Encoding::Bare)
}

fn find(from: &Value, to: &Value, encoding: Encoding) -> Vec<Difference> {
    let mut finder = Finder { from, to, encoding, seen: HashSet::new(), found: Vec::new() };
    finder.compare("", from, to);
    finder.found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// Fields and variants have names.
    SelfDescribing,
    /// Fields and variants have places.
    Bare,
}

#[derive(Clone)]
struct Finder<'a> {
    from: &'a Value,
    to: &'a Value,
    encoding: Encoding,
    /// Pairs of schemas that were compared: types may hold themselves.
    seen: HashSet<(*const Value, *const Value)>,
    found: Vec<Difference>,
}

impl<'a> Finder<'a> {
    fn add(&mut self, path: &str, kind: ChangeKind, problem: impl Into<String>) {
        self.found.push(Difference { path: path.to_owned(), kind, problem: problem.into() });
    }

    fn compare(&mut self, path: &str, from: &'a Value, to: &'a Value) {
        if !self.seen.insert((from, to)) {
            return;
        }
        let (before, after) = (alternatives(self.from, from), alternatives(self.to, to));
        let Some(after) = after else { return };
        let Some(before) = before else {
            return self.add(path, ChangeKind::ChangedType, format!("anything became {}", names(&after)));
        };
        if self.encoding == Encoding::Bare {
            self.compare_places(path, &before, &after);
        }
        for alternative in &before {
            let same: Vec<_> = after.iter().filter(|other| other.label.takes(&alternative.label)).collect();
            match (same.as_slice(), &alternative.label) {
                ([], Label::Variant(name)) => {
                    self.add(path, ChangeKind::RemovedVariant, format!("there is no variant {name:?}"));
                }
                ([], Label::Type(name)) => {
                    let problem = format!("{name} became {}", names(&after));
                    self.add(path, ChangeKind::ChangedType, problem);
                }
                ([same], _) => self.compare_alternatives(path, alternative, same),
                (several, _) => self.compare_with_closest(path, alternative, several),
            }
        }
    }

    /// Variants without a tag can only be told by their shapes: the one that is most like is the same.
    fn compare_with_closest(&mut self, path: &str, from: &Alternative<'a>, several: &[&Alternative<'a>]) {
        let tried = several.iter().map(|to| {
            let mut finder = self.clone();
            finder.compare_alternatives(path, from, to);
            finder
        });
        *self = tried.min_by_key(|finder| finder.found.len()).expect("there are several");
    }

    /// Variants are told by their places, and types by nothing.
    fn compare_places(&mut self, path: &str, before: &[Alternative<'a>], after: &[Alternative<'a>]) {
        for added in after.iter().filter(|added| !before.iter().any(|old| old.label == added.label)) {
            if let Label::Type(name) = added.label {
                self.add(path, ChangeKind::ChangedType, format!("{} became {name} too", names(before)));
            }
        }
        for (place, old) in before.iter().enumerate() {
            let now = after.iter().position(|new| new.label == old.label);
            if let (Label::Variant(name), Some(now)) = (&old.label, now.filter(|now| *now != place)) {
                let problem = format!("the variant {name:?} stands at place {now}, and stood at {place}");
                self.add(path, ChangeKind::ChangedFields, problem);
            }
        }
    }

    fn compare_alternatives(&mut self, path: &str, from: &Alternative<'a>, to: &Alternative<'a>) {
        if let (Label::Variant(name), Some(before), Some(after)) = (&from.label, from.inside, to.inside) {
            return self.compare(&format!("{path}<{name}>"), before, after);
        }
        let (Value::Object(before), Value::Object(after)) = (from.schema, to.schema) else { return };
        self.compare_objects(path, before, after);
        self.compare_arrays(path, before, after);
        if let (Label::Type("integer" | "number"), Label::Type("integer" | "number")) = (&from.label, &to.label) {
            self.compare_numbers(path, before, after);
        }
        if matches!((&from.label, &to.label), (Label::Type("string"), Label::Type("string"))) {
            self.compare_strings(path, before, after);
        }
    }

    fn compare_objects(&mut self, path: &str, from: &'a Map<String, Value>, to: &'a Map<String, Value>) {
        let (before, after) = (properties(from), properties(to));
        if self.encoding == Encoding::Bare {
            return self.compare_fields(path, from, to);
        }
        for name in required(to).filter(|name| !required(from).any(|before| before == *name)) {
            let problem = match before.is_some_and(|fields| fields.contains_key(name)) {
                true => format!("the field {name:?} must be there now"),
                false => format!("there is a new field {name:?}, which must be there"),
            };
            self.add(path, ChangeKind::RequiredField, problem);
        }
        let others = to.get("additionalProperties");
        for (name, field) in before.into_iter().flatten() {
            let path = join(path, name);
            match (after.and_then(|fields| fields.get(name)), others) {
                (Some(same), _) => self.compare(&path, field, same),
                (None, Some(Value::Bool(false))) => {
                    self.add(&path, ChangeKind::RemovedField, "the field is gone, and refused");
                }
                (None, Some(values @ Value::Object(_))) => self.compare(&path, field, values),
                (None, _) => self.add(&path, ChangeKind::IgnoredField, "the field is gone, and read over"),
            }
        }
        if let (Some(values @ Value::Object(_)), Some(others @ Value::Object(_))) =
            (from.get("additionalProperties"), others)
        {
            self.compare(&join(path, "*"), values, others);
        }
    }

    /// Fields are told by their places alone. All that are written always are listed in their order.
    fn compare_fields(&mut self, path: &str, from: &'a Map<String, Value>, to: &'a Map<String, Value>) {
        let (before, after) = (properties(from), properties(to));
        for (name, field) in before.into_iter().flatten() {
            match after.and_then(|fields| fields.get(name)) {
                Some(same) => self.compare(&join(path, name), field, same),
                None => self.add(&join(path, name), ChangeKind::ChangedFields, "the field is gone"),
            }
        }
        for name in after.into_iter().flatten().map(|(name, _)| name) {
            if !before.is_some_and(|fields| fields.contains_key(name)) {
                self.add(&join(path, name), ChangeKind::ChangedFields, "the field is new");
            }
        }
        let kept = |name: &&str| before.is_some_and(|fields| fields.contains_key(*name));
        let still = |name: &&str| after.is_some_and(|fields| fields.contains_key(*name));
        if !required(from).filter(still).eq(required(to).filter(kept)) {
            self.add(path, ChangeKind::ChangedFields, "the fields stand in another order");
        }
        if let (Some(values @ Value::Object(_)), Some(others @ Value::Object(_))) =
            (from.get("additionalProperties"), to.get("additionalProperties"))
        {
            self.compare(&join(path, "*"), values, others);
        }
    }

    fn compare_arrays(&mut self, path: &str, from: &'a Map<String, Value>, to: &'a Map<String, Value>) {
        let tuple = |schema: &'a Map<String, Value>| schema.get("prefixItems").and_then(Value::as_array);
        if tuple(from).is_none() && tuple(to).is_none() {
            self.compare_lengths(path, from, to);
        }
        match (tuple(from), tuple(to)) {
            (Some(before), Some(after)) => {
                if before.len() != after.len() {
                    let problem = format!("{} elements became {}", before.len(), after.len());
                    self.add(path, ChangeKind::ChangedType, problem);
                }
                for (index, (before, after)) in before.iter().zip(after).enumerate() {
                    self.compare(&format!("{path}[{index}]"), before, after);
                }
            }
            (None, Some(_)) if from.contains_key("items") => {
                self.add(path, ChangeKind::ChangedType, "a list became a tuple");
            }
            (Some(before), None) => {
                if let Some(items) = to.get("items") {
                    for before in before {
                        self.compare(&format!("{path}[]"), before, items);
                    }
                }
            }
            _ => {
                if let (Some(before), Some(after)) = (from.get("items"), to.get("items")) {
                    self.compare(&format!("{path}[]"), before, after);
                }
            }
        }
    }

    /// Arrays of a fixed length are lists with as many elements at least as at most.
    fn compare_lengths(&mut self, path: &str, from: &Map<String, Value>, to: &Map<String, Value>) {
        let lengths = |schema: &Map<String, Value>| {
            let length = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
            (length("minItems").unwrap_or(0), length("maxItems").unwrap_or(u64::MAX))
        };
        let (before, after) = (lengths(from), lengths(to));
        if before.0 < after.0 || before.1 > after.1 || (before != after && self.encoding == Encoding::Bare) {
            let text = |(least, most): (u64, u64)| match most {
                u64::MAX => format!("{least} or more"),
                most if most == least => most.to_string(),
                most => format!("{least} to {most}"),
            };
            let problem = format!("{} elements became {}", text(before), text(after));
            self.add(path, ChangeKind::ChangedType, problem);
        }
    }

    fn compare_numbers(&mut self, path: &str, from: &Map<String, Value>, to: &Map<String, Value>) {
        let ((from_low, from_high), (to_low, to_high)) = (range(from), range(to));
        let differs = (from_low, from_high) != (to_low, to_high);
        if from_low < to_low || from_high > to_high || (differs && self.encoding == Encoding::Bare) {
            let problem = format!("numbers from {from_low:e} to {from_high:e} became {to_low:e} to {to_high:e}");
            self.add(path, ChangeKind::ChangedType, problem);
        }
    }

    fn compare_strings(&mut self, path: &str, from: &Map<String, Value>, to: &Map<String, Value>) {
        for keyword in ["format", "pattern", "minLength", "maxLength"] {
            if let Some(rule) = to.get(keyword).filter(|rule| from.get(keyword) != Some(rule)) {
                self.add(path, ChangeKind::ChangedType, format!("texts must be of {keyword} {rule} now"));
            }
        }
    }
}

/// One of the things that a value may be.
#[derive(Debug)]
struct Alternative<'a> {
    label: Label<'a>,
    schema: &'a Value,
    /// What stands inside an externally tagged variant.
    inside: Option<&'a Value>,
}

#[derive(Debug, Clone, PartialEq)]
enum Label<'a> {
    /// A type of JSON.
    Type(&'a str),
    /// A variant of an enum, by its name.
    Variant(String),
}

impl Label<'_> {
    /// Whether what has the other label may be of this one.
    fn takes(&self, other: &Label<'_>) -> bool {
        self == other || (*self == Label::Type("number") && *other == Label::Type("integer"))
    }
}

/// The alternatives of a schema; `None` if it takes anything.
fn alternatives<'a>(root: &'a Value, schema: &'a Value) -> Option<Vec<Alternative<'a>>> {
    let schema = resolved(root, schema)?;
    let object = schema.as_object()?;
    if let Some(list) = object.get("oneOf").or_else(|| object.get("anyOf")).and_then(Value::as_array) {
        let mut all = Vec::new();
        for one in list {
            match variant_of(root, one) {
                Some(variant) => all.push(variant),
                None => all.extend(alternatives(root, one)?),
            }
        }
        return Some(all);
    }
    let constant = object.get("const").into_iter();
    let constants: Vec<&Value> =
        constant.chain(object.get("enum").and_then(Value::as_array).into_iter().flatten()).collect();
    if !constants.is_empty() {
        let variant = |value: &Value| Label::Variant(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let of_value = |value| Alternative { label: variant(value), schema, inside: None };
        return Some(constants.into_iter().map(of_value).collect());
    }
    let of_type = |name: &'a Value| Some(Alternative { label: Label::Type(name.as_str()?), schema, inside: None });
    match object.get("type")? {
        Value::Array(types) => types.iter().map(of_type).collect(),
        one => Some(vec![of_type(one)?]),
    }
}

/// The variant that a member of an enum's schema describes: of an externally tagged one, whose only field is the name, or
/// of a tagged one, one of whose fields has the name as its constant value.
fn variant_of<'a>(root: &'a Value, member: &'a Value) -> Option<Alternative<'a>> {
    let schema = resolved(root, member)?;
    let object = schema.as_object()?;
    let fields = properties(object)?;
    for (name, field) in fields {
        if let Some(tag) = field.get("const").and_then(Value::as_str) {
            return Some(Alternative { label: Label::Variant(format!("{name}={tag}")), schema, inside: None });
        }
    }
    let is_closed = object.get("additionalProperties") == Some(&Value::Bool(false));
    let (only, inside) = fields.iter().next().filter(|_| fields.len() == 1 && is_closed)?;
    let label = Label::Variant(only.clone());
    required(object).any(|name| name == only).then_some(Alternative { label, schema, inside: Some(inside) })
}

fn resolved<'a>(root: &'a Value, mut schema: &'a Value) -> Option<&'a Value> {
    for _ in 0..REFERENCES_MAX {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => schema = root.pointer(reference.strip_prefix('#')?)?,
            None => return Some(schema),
        }
    }
    None
}

fn properties(schema: &Map<String, Value>) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn required(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn names(alternatives: &[Alternative<'_>]) -> String {
    let names: Vec<&str> = alternatives
        .iter()
        .map(|alternative| match &alternative.label {
            Label::Type(name) => *name,
            Label::Variant(name) => name,
        })
        .collect();
    names.join(" or ")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The least and the greatest number that a schema takes.
fn range(schema: &Map<String, Value>) -> (f64, f64) {
    let (low, high) = match schema.get("format").and_then(Value::as_str) {
        Some("int8") => (f64::from(i8::MIN), f64::from(i8::MAX)),
        Some("uint8") => (0.0, f64::from(u8::MAX)),
        Some("int16") => (f64::from(i16::MIN), f64::from(i16::MAX)),
        Some("uint16") => (0.0, f64::from(u16::MAX)),
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        Some("uint32") => (0.0, f64::from(u32::MAX)),
        Some("int64" | "int") => (i64::MIN as f64, i64::MAX as f64),
        Some("uint64" | "uint") => (0.0, u64::MAX as f64),
        Some("int128") => (i128::MIN as f64, i128::MAX as f64),
        Some("uint128") => (0.0, u128::MAX as f64),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    let number = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    (number("minimum").map_or(low, |least| least.max(low)), number("maximum").map_or(high, |most| most.min(high)))
}
