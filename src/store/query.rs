//! Queries: which events, never how many or which way.
//!
//! One type serves reads, conditions, subscriptions and exports.

use serde::{Deserialize, Serialize};

use crate::error::Violation;
use crate::index::{AnyOf, KeyKind, KeySeed, Plan, PlanItem};
use crate::limits::{QUERY_ITEM_NAMES_MAX, QUERY_ITEMS_MAX, STREAM_NAME_BYTES_MAX, TAG_BYTES_MAX, TYPE_NAME_BYTES_MAX};

use super::event::Event;

/// Which events: all of them, or those that match at least one item.
///
/// An item asks for a stream, a category, types and tags, all of which must hold; any one of the types is enough, and
/// every one of the tags is needed.
///
/// ```
/// use annals::Query;
///
/// let course = Query::tag("course:c1");                               // everything tagged so
/// let withdrawals = Query::types(["Withdrawn"]).and_tag("branch:7");  // one item, both must hold
/// let either = course.or(withdrawals);                                // two items, one must hold
/// ```
///
/// Names are checked when the query is used. With serde, it is told as the list of its items, and as nothing (`null`) if it
/// asks for every event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Query {
    items: Option<Vec<Item>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Item {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

impl Query {
    /// Every event.
    pub fn all() -> Self {
        Self { items: None }
    }

    /// The events of a stream.
    pub fn stream(name: impl Into<String>) -> Self {
        Self::of(Item { stream: Some(name.into()), ..Item::default() })
    }

    /// The events of all streams of a category.
    pub fn category(name: impl Into<String>) -> Self {
        Self::of(Item { category: Some(name.into()), ..Item::default() })
    }

    /// The events of any of these types.
    pub fn types(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::of(Item { types: names.into_iter().map(Into::into).collect(), ..Item::default() })
    }

    /// The events with this tag.
    pub fn tag(tag: impl Into<String>) -> Self {
        Self::tags([tag])
    }

    /// The events with all of these tags.
    pub fn tags(tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::of(Item { tags: tags.into_iter().map(Into::into).collect(), ..Item::default() })
    }

    fn of(item: Item) -> Self {
        Self { items: Some(vec![item]) }
    }

    /// Also asks that the event is of this stream. Holds for the item that was named last.
    #[must_use]
    pub fn and_stream(self, name: impl Into<String>) -> Self {
        self.narrowed(|item| item.stream = Some(name.into()))
    }

    /// Also asks that the event's stream is of this category. Holds for the item that was named last.
    #[must_use]
    pub fn and_category(self, name: impl Into<String>) -> Self {
        self.narrowed(|item| item.category = Some(name.into()))
    }

    /// Also asks that the event is of one of these types. Holds for the item that was named last.
    #[must_use]
    pub fn and_types(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.narrowed(|item| item.types.extend(names.into_iter().map(Into::into)))
    }

    /// Also asks that the event has this tag. Holds for the item that was named last.
    #[must_use]
    pub fn and_tag(self, tag: impl Into<String>) -> Self {
        self.narrowed(|item| item.tags.push(tag.into()))
    }

    /// The events that match this query or the other.
    #[must_use]
    pub fn or(self, other: Query) -> Self {
        let items = self.items.zip(other.items).map(|(mut items, others)| {
            items.extend(others);
            items
        });
        Self { items }
    }

    fn narrowed(mut self, narrow: impl FnOnce(&mut Item)) -> Self {
        let items = self.items.get_or_insert_with(|| vec![Item::default()]);
        // One that was read from elsewhere may have none, and is told to be invalid when it is used.
        items.last_mut().map(narrow);
        self
    }

    /// Whether the query asks for every event.
    pub fn is_all(&self) -> bool {
        self.items.is_none()
    }

    /// Whether an event matches.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.items.as_ref().is_none_or(|items| items.iter().any(|item| item.matches(event)))
    }

    /// The one stream that the query asks for, and nothing else.
    pub(super) fn only_stream(&self) -> Option<&str> {
        match self.items.as_deref()? {
            [Item { stream: Some(stream), category: None, types, tags }] if types.is_empty() && tags.is_empty() => {
                Some(stream)
            }
            _ => None,
        }
    }

    /// What the index has to look for; `None` for everything.
    pub(super) fn plan(&self, seed: KeySeed) -> Option<Plan> {
        let items = self.items.as_ref()?;
        Some(Plan { items: items.iter().map(|item| item.plan(seed)).collect() })
    }

    /// What is wrong with the query; `field` names it.
    pub(super) fn violations(&self, field: &str, violations: &mut Vec<Violation>) {
        let items = self.items.as_deref().unwrap_or_default();
        if self.items.is_some() && items.is_empty() {
            violations.push(Violation::new(
                None,
                format!("{field}.items"),
                "none; a query has at least one".to_owned(),
            ));
        }
        if items.len() > QUERY_ITEMS_MAX {
            let problem = format!("{} items, at most {QUERY_ITEMS_MAX} are allowed", items.len());
            violations.push(Violation::new(None, format!("{field}.items"), problem));
        }
        for (index, item) in items.iter().enumerate() {
            item.violations(&format!("{field}.items[{index}]"), violations);
        }
    }
}

impl Item {
    fn matches(&self, event: &Event<'_>) -> bool {
        self.stream.as_deref().is_none_or(|stream| stream == event.stream)
            && self.category.as_deref().is_none_or(|category| category == event.category())
            && (self.types.is_empty() || self.types.iter().any(|name| name == event.event_type))
            && self.tags.iter().all(|tag| event.has_tag(tag))
    }

    fn plan(&self, seed: KeySeed) -> PlanItem {
        let one = |kind, name: &str| AnyOf { keys: vec![seed.key(kind, name).into()] };
        let mut all_of = Vec::new();
        all_of.extend(self.stream.as_deref().map(|name| one(KeyKind::Stream, name)));
        all_of.extend(self.category.as_deref().map(|name| one(KeyKind::Category, name)));
        if !self.types.is_empty() {
            let keys = self.types.iter().map(|name| seed.key(KeyKind::Type, name).into()).collect();
            all_of.push(AnyOf { keys });
        }
        all_of.extend(self.tags.iter().map(|name| one(KeyKind::Tag, name)));
        PlanItem { all_of }
    }

    fn violations(&self, field: &str, violations: &mut Vec<Violation>) {
        let mut add = |field: String, problem: String| violations.push(Violation::new(None, field, problem));
        if *self == Item::default() {
            add(field.to_owned(), "an item must ask for something; Query::all() asks for everything".into());
        }
        for (what, names) in [("types", &self.types), ("tags", &self.tags)] {
            if names.len() > QUERY_ITEM_NAMES_MAX {
                add(
                    format!("{field}.{what}"),
                    format!("{} names, at most {QUERY_ITEM_NAMES_MAX} are allowed", names.len()),
                );
            }
        }
        let mut check = |what: String, name: &str, max: usize| {
            if let Some(problem) = name_problem(name, max) {
                add(format!("{field}.{what}"), problem);
            }
        };
        if let Some(stream) = &self.stream {
            check("stream".into(), stream, STREAM_NAME_BYTES_MAX);
        }
        for (index, name) in self.types.iter().enumerate() {
            check(format!("types[{index}]"), name, TYPE_NAME_BYTES_MAX);
        }
        for (index, name) in self.tags.iter().enumerate() {
            check(format!("tags[{index}]"), name, TAG_BYTES_MAX);
        }
        if let Some(category) = &self.category {
            check("category".into(), category, STREAM_NAME_BYTES_MAX);
            if category.contains('-') {
                let problem = format!("{category:?} contains a '-', which ends a category");
                add(format!("{field}.category"), problem);
            }
        }
    }
}

/// What is wrong with a name, if anything.
pub(super) fn name_problem(name: &str, bytes_max: usize) -> Option<String> {
    match name.len() {
        0 => Some("is empty".into()),
        bytes if bytes > bytes_max => Some(format!("has {bytes} bytes, at most {bytes_max} are allowed")),
        _ => None,
    }
}
