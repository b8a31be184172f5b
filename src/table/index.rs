//! A secondary index: the keys of all rows, in the order of the value of one field.
//!
//! Rows with the same value follow each other in the order of their keys, in whichever direction the index is walked.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::value::FieldValue;

#[derive(Debug, Clone)]
pub(super) struct Index<K> {
    entries: BTreeSet<Entry<K>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<K> {
    value: FieldValue,
    edge: Edge<K>,
}

/// A key, or what lies before or behind all keys: with these a range names the values that it begins and ends with and
/// no key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Edge<K> {
    Before,
    Key(K),
    Behind,
}

/// Values that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ValueRange {
    pub(super) low: Bound<FieldValue>,
    pub(super) high: Bound<FieldValue>,
}

impl ValueRange {
    pub(super) const ALL: Self = Self { low: Bound::Unbounded, high: Bound::Unbounded };

    pub(super) fn only(value: FieldValue) -> Self {
        Self { low: Bound::Included(value.clone()), high: Bound::Included(value) }
    }

    /// The values that begin with a text.
    pub(super) fn prefixed(prefix: &str) -> Self {
        let low = Bound::Included(FieldValue::from(prefix));
        let high = match next_text(prefix) {
            Some(next) => Bound::Excluded(FieldValue::Text(next)),
            None => Bound::Unbounded,
        };
        Self { low, high }
    }

    pub(super) fn intersect(&self, other: &Self) -> Self {
        let low = if starts_later(&self.low, &other.low) { &self.low } else { &other.low };
        let high = if ends_earlier(&self.high, &other.high) { &self.high } else { &other.high };
        Self { low: low.clone(), high: high.clone() }
    }

    /// Whether no value can lie in it: the tree refuses to be asked for such a range.
    pub(super) fn is_empty(&self) -> bool {
        match (&self.low, &self.high) {
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
            _ => false,
        }
    }
}

/// The smallest text that is greater than every text with this prefix.
fn next_text(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn starts_later(a: &Bound<FieldValue>, b: &Bound<FieldValue>) -> bool {
    match (a, b) {
        (Bound::Unbounded, _) => false,
        (_, Bound::Unbounded) => true,
        (Bound::Excluded(a), Bound::Included(b)) => a >= b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a > b,
    }
}

fn ends_earlier(a: &Bound<FieldValue>, b: &Bound<FieldValue>) -> bool {
    match (a, b) {
        (Bound::Unbounded, _) => false,
        (_, Bound::Unbounded) => true,
        (Bound::Excluded(a), Bound::Included(b)) => a <= b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a < b,
    }
}

impl<K: Ord + Clone> Index<K> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeSet::new() }
    }

    pub(super) fn insert(&mut self, value: FieldValue, key: K) {
        self.entries.insert(Entry { value, edge: Edge::Key(key) });
    }

    pub(super) fn remove(&mut self, value: FieldValue, key: K) {
        self.entries.remove(&Entry { value, edge: Edge::Key(key) });
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// How many rows have a value in the range, or `most` if there are more.
    pub(super) fn count(&self, range: &ValueRange, most: usize) -> usize {
        self.ascending(range).take(most).count()
    }

    /// The keys whose values lie in the range, in the order of values and then of keys.
    pub(super) fn ascending<'i>(&'i self, range: &ValueRange) -> impl Iterator<Item = &'i K> + use<'i, K> {
        let entries = (!range.is_empty()).then(|| self.entries.range(edges(range)));
        entries.into_iter().flatten().filter_map(Entry::key)
    }

    /// The same from the greatest value to the smallest; keys with the same value still ascend.
    pub(super) fn descending<'i>(&'i self, range: &ValueRange) -> impl Iterator<Item = &'i K> + use<'i, K> {
        let mut rest = range.clone();
        let values = std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let value = &self.entries.range(edges(&rest)).next_back()?.value;
            rest.high = Bound::Excluded(value.clone());
            Some(value)
        });
        values.flat_map(move |value| self.ascending(&ValueRange::only(value.clone())))
    }
}

impl<K> Entry<K> {
    fn key(&self) -> Option<&K> {
        match &self.edge {
            Edge::Key(key) => Some(key),
            Edge::Before | Edge::Behind => None,
        }
    }
}

fn edges<K>(range: &ValueRange) -> (Bound<Entry<K>>, Bound<Entry<K>>) {
    let entry = |value: &FieldValue, edge| Bound::Excluded(Entry { value: value.clone(), edge });
    let low = match &range.low {
        Bound::Included(value) => entry(value, Edge::Before),
        Bound::Excluded(value) => entry(value, Edge::Behind),
        Bound::Unbounded => Bound::Unbounded,
    };
    let high = match &range.high {
        Bound::Included(value) => entry(value, Edge::Behind),
        Bound::Excluded(value) => entry(value, Edge::Before),
        Bound::Unbounded => Bound::Unbounded,
    };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_behind_a_prefix_is_the_smallest_greater_one() {
        assert_eq!(next_text("ab").as_deref(), Some("ac"));
        assert_eq!(next_text("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(next_text("\u{D7FF}").as_deref(), Some("\u{E000}"), "there are no characters between them");
        assert_eq!(next_text("\u{10FFFF}"), None);
        assert_eq!(next_text(""), None);
    }

    #[test]
    fn keys_of_one_value_ascend_in_both_directions() {
        let mut index = Index::new();
        for (value, key) in [(1, 'b'), (2, 'c'), (1, 'a'), (3, 'e'), (2, 'd')] {
            index.insert(value.into(), key);
        }
        let range = ValueRange { low: Bound::Included(1.into()), high: Bound::Excluded(3.into()) };
        assert_eq!(index.ascending(&range).collect::<String>(), "abcd");
        assert_eq!(index.descending(&range).collect::<String>(), "cdab");
        assert_eq!(index.descending(&ValueRange::ALL).collect::<String>(), "ecdab");
        assert_eq!(index.count(&ValueRange::ALL, 4), 4);
    }

    #[test]
    fn a_range_without_values_is_empty_and_not_a_panic() {
        let mut index = Index::new();
        index.insert(1.into(), 'a');
        for (low, high) in [
            (Bound::Included(2.into()), Bound::Included(1.into())),
            (Bound::Excluded(1.into()), Bound::Excluded(1.into())),
            (Bound::Excluded(1.into()), Bound::Included(1.into())),
            (Bound::Included(1.into()), Bound::Excluded(1.into())),
        ] {
            let range = ValueRange { low, high };
            assert!(range.is_empty(), "{range:?}");
            assert_eq!(index.ascending(&range).count() + index.descending(&range).count(), 0);
        }
    }
}
