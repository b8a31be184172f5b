//! Filters: what a row must be like, as a caller says it, and as a query evaluates it.
//!
//! A filter names fields and JSON paths by text. It is resolved against a table before the first row is looked at; every
//! unknown name and every comparison that could never hold is found then, all at once.

use super::value::{FieldKind, FieldValue};
use crate::error::Violation;
use crate::limits::FILTER_CONDITIONS_MAX;

/// A field that the table declares, to be compared or sorted by.
///
/// ```
/// use annals::field;
///
/// let rich = field("balance").gt(1_000).and(field("owner").prefix("A"));
/// ```
pub fn field(name: impl Into<String>) -> FieldRef {
    FieldRef(Place::Field(name.into()))
}

/// A place in the JSON that a row is serialised to: names and list indexes (from 0) separated by dots, or a JSON pointer
/// (RFC 6901) that begins with `/`, for names with dots in them.
///
/// A path that could lead nowhere in any row, such as `lines[0].sku`, is refused by the query that it is used in.
///
/// A path needs no declaration and no index, and costs the serialisation of every row that is looked at. Where it leads
/// nowhere, or to an object, there is null. Types are not known beforehand: a comparison with a value of another kind
/// does not hold.
///
/// ```
/// use annals::path;
///
/// let local = path("address.city").eq("Utrecht").or(path("lines.0.sku").is_in(["A-1", "A-2"]));
/// ```
pub fn path(path: impl Into<String>) -> FieldRef {
    FieldRef(Place::Path(path.into()))
}

/// A declared field or a JSON path of a row: see [`field`] and [`path`].
#[derive(Debug, Clone)]
pub struct FieldRef(Place);

#[derive(Debug, Clone)]
enum Place {
    Field(String),
    Path(String),
}

/// What a row must be like. Made by comparing a [`field`] or a [`path`], and combined with [`and`](Filter::and) and
/// [`or`](Filter::or).
#[derive(Debug, Clone)]
#[must_use = "a filter selects nothing before it is given to a query"]
pub struct Filter(Node);

#[derive(Debug, Clone)]
enum Node {
    Condition(Place, Test),
    All(Vec<Node>),
    Any(Vec<Node>),
}

/// What a value must be like. Order comparisons hold only between values of the same kind, and never for null.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Eq(FieldValue),
    Ne(FieldValue),
    Lt(FieldValue),
    Le(FieldValue),
    Gt(FieldValue),
    Ge(FieldValue),
    In(Vec<FieldValue>),
    Contains(FieldValue),
    Prefix(String),
}

impl From<&str> for FieldRef {
    fn from(name: &str) -> Self {
        field(name)
    }
}

impl FieldRef {
    /// Equal to the value.
    pub fn eq(self, value: impl Into<FieldValue>) -> Filter {
        self.test(Test::Eq(value.into()))
    }

    /// Not equal to the value; null is not equal to any other value.
    pub fn ne(self, value: impl Into<FieldValue>) -> Filter {
        self.test(Test::Ne(value.into()))
    }

    /// Less than the value. Null is never less.
    pub fn lt(self, value: impl Into<FieldValue>) -> Filter {
        self.test(Test::Lt(value.into()))
    }

    /// Less than the value or equal to it. Null is neither.
    pub fn le(self, value: impl Into<FieldValue>) -> Filter {
        self.test(Test::Le(value.into()))
    }

    /// Greater than the value. Null is never greater.
    pub fn gt(self, value: impl Into<FieldValue>) -> Filter {
        self.test(Test::Gt(value.into()))
    }

    /// Greater than the value or equal to it. Null is neither.
    pub fn ge(self, value: impl Into<FieldValue>) -> Filter {
        self.test(Test::Ge(value.into()))
    }

    /// Equal to one of the values; of none, no row.
    pub fn is_in(self, values: impl IntoIterator<Item = impl Into<FieldValue>>) -> Filter {
        self.test(Test::In(values.into_iter().map(Into::into).collect()))
    }

    /// A text with this text somewhere in it, or a list with this item.
    pub fn contains(self, value: impl Into<FieldValue>) -> Filter {
        self.test(Test::Contains(value.into()))
    }

    /// A text that begins with this text.
    pub fn prefix(self, text: impl Into<String>) -> Filter {
        self.test(Test::Prefix(text.into()))
    }

    fn test(self, test: Test) -> Filter {
        Filter(Node::Condition(self.0, test))
    }
}

impl Filter {
    /// Both filters hold.
    pub fn and(self, other: Filter) -> Self {
        let mut all = match self.0 {
            Node::All(all) => all,
            node => vec![node],
        };
        match other.0 {
            Node::All(others) => all.extend(others),
            node => all.push(node),
        }
        Self(Node::All(all))
    }

    /// At least one of the filters holds.
    pub fn or(self, other: Filter) -> Self {
        let mut any = match self.0 {
            Node::Any(any) => any,
            node => vec![node],
        };
        match other.0 {
            Node::Any(others) => any.extend(others),
            node => any.push(node),
        }
        Self(Node::Any(any))
    }

    /// Every row.
    pub(super) fn everything() -> Self {
        Self(Node::All(Vec::new()))
    }
}

/// A field of a table, as far as a filter has to know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared<'t> {
    pub(super) name: &'t str,
    pub(super) kind: FieldKind,
    pub(super) optional: bool,
}

/// A filter whose names are resolved.
#[derive(Debug)]
pub(super) enum Resolved {
    /// The field with this index.
    Field(usize, Test),
    /// The place that a JSON pointer leads to.
    Path(String, Test),
    All(Vec<Resolved>),
    Any(Vec<Resolved>),
}

/// A sort key whose name is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResolvedPlace {
    Field(usize),
    Path(String),
}

/// Resolves names, and remembers everything that is wrong with them.
#[derive(Debug)]
pub(super) struct Resolver<'t> {
    fields: Vec<Declared<'t>>,
    conditions: usize,
    pub(super) violations: Vec<Violation>,
}

impl<'t> Resolver<'t> {
    pub(super) fn new(fields: impl Iterator<Item = Declared<'t>>) -> Self {
        Self { fields: fields.collect(), conditions: 0, violations: Vec::new() }
    }

    pub(super) fn filter(&mut self, filter: &Filter) -> Resolved {
        let resolved = self.node(&filter.0);
        if self.conditions > FILTER_CONDITIONS_MAX {
            let problem = format!("{} conditions, at most {FILTER_CONDITIONS_MAX} are allowed", self.conditions);
            self.refuse("filter", problem);
        }
        resolved
    }

    fn node(&mut self, node: &Node) -> Resolved {
        match node {
            Node::Condition(place, test) => self.condition(place, test),
            Node::All(nodes) => Resolved::All(nodes.iter().map(|node| self.node(node)).collect()),
            Node::Any(nodes) => Resolved::Any(nodes.iter().map(|node| self.node(node)).collect()),
        }
    }

    fn condition(&mut self, place: &Place, test: &Test) -> Resolved {
        self.conditions += if let Test::In(values) = test { values.len().max(1) } else { 1 };
        match self.place("filter", place) {
            Some(ResolvedPlace::Field(index)) => {
                self.check(self.fields[index], test);
                Resolved::Field(index, test.clone())
            }
            Some(ResolvedPlace::Path(pointer)) => Resolved::Path(pointer, test.clone()),
            // Never evaluated: the query is refused.
            None => Resolved::All(Vec::new()),
        }
    }

    pub(super) fn sort(&mut self, FieldRef(place): &FieldRef) -> Option<ResolvedPlace> {
        let place = self.place("sort", place)?;
        if let ResolvedPlace::Field(index) = place
            && self.fields[index].kind == FieldKind::List
        {
            let problem = format!("field {:?} is a list, which rows are not sorted by", self.fields[index].name);
            self.refuse("sort", problem);
        }
        Some(place)
    }

    fn place(&mut self, what: &str, place: &Place) -> Option<ResolvedPlace> {
        match place {
            Place::Field(name) => {
                let found = self.fields.iter().position(|field| field.name == name);
                if found.is_none() {
                    self.refuse(what, format!("there is no field {name:?}; known are {}", self.known()));
                }
                found.map(ResolvedPlace::Field)
            }
            Place::Path(path) => match path_problem(path) {
                Some(problem) => {
                    self.refuse(what, problem);
                    None
                }
                None => Some(ResolvedPlace::Path(pointer_of(path))),
            },
        }
    }

    fn check(&mut self, field: Declared<'_>, test: &Test) {
        if let Some(problem) = test.problem(field) {
            let problem = format!("{problem}; known are {}", self.known());
            self.refuse("filter", problem);
        }
    }

    fn known(&self) -> String {
        let describe = |field: &Declared<'_>| {
            format!("{:?} ({}{})", field.name, if field.optional { "optional " } else { "" }, field.kind)
        };
        match self.fields.is_empty() {
            true => "no fields".into(),
            false => self.fields.iter().map(describe).collect::<Vec<_>>().join(", "),
        }
    }

    pub(super) fn refuse(&mut self, what: &str, problem: String) {
        self.violations.push(Violation::new(None, what, problem));
    }
}

/// Why a path can lead nowhere in any row, if so: it is none, or it is written as in another language of paths.
fn path_problem(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some("a path is empty".into());
    }
    if path.starts_with('/') {
        let is_escape = |rest: &str| rest.starts_with(['0', '1']);
        let is_pointer = path.split('~').skip(1).all(is_escape);
        return (!is_pointer).then(|| {
            format!("the path {path:?} is no JSON pointer: '~' is written \"~0\" there, and '/' within a name \"~1\"")
        });
    }
    let problem = if path.contains(['[', ']']) {
        "has a bracket"
    } else if path.split('.').any(str::is_empty) {
        "has an empty name"
    } else if path.split('.').any(|name| name == "*") || path == "$" || path.starts_with("$.") {
        "has a sign of JSONPath"
    } else {
        return None;
    };
    Some(format!(
        "the path {path:?} {problem}: names and list indexes stand between dots, as in \"lines.0.sku\"; any other name \
         is reached by a JSON pointer, as \"/lines/0/a[b]\" reaches \"a[b]\""
    ))
}

/// The JSON pointer that a path with dots means.
fn pointer_of(path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    path.split('.').flat_map(|name| ["/".to_owned(), name.replace('~', "~0").replace('/', "~1")]).collect()
}

impl Test {
    pub(super) fn holds(&self, value: &FieldValue) -> bool {
        let ordered = |than: &FieldValue| value.kind().is_some() && value.kind() == than.kind();
        match self {
            Test::Eq(other) => value == other,
            Test::Ne(other) => value != other,
            Test::Lt(other) => ordered(other) && value < other,
            Test::Le(other) => ordered(other) && value <= other,
            Test::Gt(other) => ordered(other) && value > other,
            Test::Ge(other) => ordered(other) && value >= other,
            Test::In(others) => others.contains(value),
            Test::Contains(part) => match (value, part) {
                (FieldValue::Text(text), FieldValue::Text(part)) => text.contains(part.as_str()),
                (FieldValue::List(items), part) => items.contains(part),
                _ => false,
            },
            Test::Prefix(prefix) => matches!(value, FieldValue::Text(text) if text.starts_with(prefix.as_str())),
        }
    }

    /// Why the test can never hold for values of the field, if it cannot.
    fn problem(&self, field: Declared<'_>) -> Option<String> {
        let Declared { name, kind, optional } = field;
        let differs = |value: &FieldValue| match value.kind() {
            Some(other) => (other != kind).then(|| format!("field {name:?} is a {kind}, and {value} is a {other}")),
            None => (!optional).then(|| format!("field {name:?} is never null")),
        };
        match self {
            Test::Eq(value) | Test::Ne(value) => differs(value),
            Test::In(values) => values.iter().find_map(differs),
            Test::Lt(value) | Test::Le(value) | Test::Gt(value) | Test::Ge(value) => {
                if value.kind().is_none() {
                    return Some(format!(
                        "field {name:?} is compared with null, which nothing is less or greater than"
                    ));
                }
                differs(value)
            }
            Test::Contains(_) if kind == FieldKind::List => None,
            Test::Contains(_) if kind != FieldKind::Text => {
                Some(format!("field {name:?} is a {kind}, and only a text or a list contains something"))
            }
            Test::Contains(value) if value.kind() != Some(FieldKind::Text) => {
                Some(format!("field {name:?} is a text, which contains texts and not {value}"))
            }
            Test::Prefix(_) if kind != FieldKind::Text => {
                Some(format!("field {name:?} is a {kind}, and only a text has a prefix"))
            }
            Test::Contains(_) | Test::Prefix(_) => None,
        }
    }
}
