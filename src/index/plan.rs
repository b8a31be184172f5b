//! A plan: which keys an event must carry. Items joined by OR, each a list of alternatives joined by AND.

use super::fault::Result;
use super::key::{Key, KeyKind};
use super::postings::{Cursor, Postings};

/// What is looked for: the events that match any of the items. No item matches nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) items: Vec<PlanItem>,
}

/// Matches an event that carries a key of each of these. One without any matches nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlanItem {
    pub(crate) all_of: Vec<AnyOf>,
}

/// Keys joined by OR.
#[derive(Debug, Clone, Default)]
pub(crate) struct AnyOf {
    pub(crate) keys: Vec<PlanKey>,
}

/// A key that owns its name, so that a search can outlive the query it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanKey {
    pub(super) kind: KeyKind,
    pub(super) hash: u64,
    pub(super) name: Box<str>,
}

impl From<Key<'_>> for PlanKey {
    fn from(key: Key<'_>) -> Self {
        Self { kind: key.kind, hash: key.hash, name: key.name.into() }
    }
}

impl PlanKey {
    pub(super) fn key(&self) -> Key<'_> {
        Key { kind: self.kind, hash: self.hash, name: &self.name }
    }
}

impl Plan {
    /// The events that carry this key.
    #[cfg(test)]
    pub(crate) fn of(key: Key<'_>) -> Self {
        Plan { items: vec![PlanItem { all_of: vec![AnyOf { keys: vec![key.into()] }] }] }
    }

    /// Whether the plan asks for one key alone, so that a search passes nothing but matches.
    pub(super) fn is_one_key(&self) -> bool {
        let [item] = self.items.as_slice() else { return false };
        let [any_of] = item.all_of.as_slice() else { return false };
        any_of.keys.len() == 1
    }

    /// A cursor over the matches, from the lists that `lookup` has for each key; `None` if nothing can match. An item
    /// ends at the first of its parts for which there is no list.
    pub(super) fn cursor<P: Postings>(
        &self,
        mut lookup: impl FnMut(&Key<'_>) -> Result<Option<P>>,
    ) -> Result<Option<Cursor<P>>> {
        let mut items = Vec::with_capacity(self.items.len());
        for item in &self.items {
            items.extend(item.cursor(&mut lookup)?);
        }
        Ok(Cursor::union(items))
    }
}

impl PlanItem {
    fn cursor<P: Postings>(&self, lookup: &mut impl FnMut(&Key<'_>) -> Result<Option<P>>) -> Result<Option<Cursor<P>>> {
        let mut parts = Vec::with_capacity(self.all_of.len());
        for any_of in &self.all_of {
            let Some(part) = any_of.cursor(lookup)? else { return Ok(None) };
            parts.push(part);
        }
        Ok(Cursor::intersection(parts))
    }
}

impl AnyOf {
    fn cursor<P: Postings>(&self, lookup: &mut impl FnMut(&Key<'_>) -> Result<Option<P>>) -> Result<Option<Cursor<P>>> {
        let mut lists = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            lists.extend(lookup(&key.key())?.map(Cursor::list));
        }
        Ok(Cursor::union(lists))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::key::KeySeed;
    use crate::index::postings::Direction;
    use crate::types::StoreId;

    fn any(names: &[&str]) -> AnyOf {
        let seed = KeySeed::of(StoreId::from_bytes([1; 16]));
        AnyOf { keys: names.iter().map(|name| seed.key(KeyKind::Tag, name).into()).collect() }
    }

    fn first_match(items: Vec<PlanItem>) -> Option<u32> {
        let lookup = |key: &Key<'_>| {
            Ok(match key.name {
                "a" => Some(&[1, 5, 9][..]),
                "b" => Some(&[2, 5][..]),
                _ => None,
            })
        };
        let cursor = Plan { items }.cursor(lookup).unwrap();
        cursor.and_then(|mut cursor| cursor.seek(0, Direction::Forward).unwrap())
    }

    #[test]
    fn items_are_joined_by_or_and_their_parts_by_and() {
        let item = |parts: &[&[&str]]| PlanItem { all_of: parts.iter().map(|names| any(names)).collect() };
        assert_eq!(first_match(vec![item(&[&["a"], &["b"]])]), Some(5));
        assert_eq!(first_match(vec![item(&[&["a"], &["none"]]), item(&[&["b"]])]), Some(2));
        assert_eq!(first_match(vec![item(&[&["none", "b"]])]), Some(2));
        assert_eq!(first_match(vec![item(&[&["none"]]), item(&[]), item(&[&[]])]), None);
        assert_eq!(first_match(vec![]), None);
    }
}
