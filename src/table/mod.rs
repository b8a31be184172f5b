//! Tables in memory: rows by key, secondary indexes over fields of the rows, and queries over both.
//!
//! A table knows what changed in it since it was last marked as saved, so that whoever keeps it writes only that. It
//! knows no storage and no events. Its indexes are always those of its rows: rows are changed only through the table.

mod filter;
mod index;
mod plan;
mod query;
mod unsaved;
mod value;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::sync::Arc;

use serde::Serialize;
use smallvec::SmallVec;

use filter::Declared;
use index::Index;

pub use filter::{FieldRef, Filter, field, path};
pub use query::{Access, Explain, TableQuery};
pub use unsaved::Unsaved;
pub use value::{FieldKind, FieldType, FieldValue};

/// Rows by key, in the order of their keys, with indexes over the fields that are declared.
///
/// ```
/// use annals::{Table, field};
/// use serde::Serialize;
///
/// #[derive(Clone, Serialize)]
/// struct Account { owner: String, balance: i64 }
///
/// let mut accounts = Table::new()
///     .index("balance", |account: &Account| account.balance)
///     .field("owner", |account: &Account| account.owner.clone());
/// for (id, owner, balance) in [("a1", "Alice", 50), ("a2", "Bob", 2_000), ("a3", "Carol", 3_000)] {
///     accounts.insert(id, Account { owner: owner.into(), balance });
/// }
/// accounts.update(&"a2", |account| account.balance += 2_000);
///
/// let rich = accounts.query().filter(field("balance").gt(1_000)).sort_desc("balance").limit(10).fetch()?;
/// assert_eq!(rich.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["a2", "a3"]);
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Clone)]
pub struct Table<K, Row> {
    rows: BTreeMap<K, Slot<Row>>,
    fields: Vec<Field<K, Row>>,
    /// How many of the fields have an index.
    indexed: usize,
    changes: Changes<K>,
}

/// A row, and the number under which it is saved.
#[derive(Debug, Clone)]
struct Slot<Row> {
    row: Row,
    number: u64,
    /// Whether it changed since it was saved last; its key is listed among the changes then.
    changed: bool,
    /// Whether something was ever saved under its number.
    saved: bool,
}

#[derive(Clone)]
struct Field<K, Row> {
    name: String,
    kind: FieldKind,
    optional: bool,
    value: Accessor<Row>,
    index: Option<Index<K>>,
}

type Accessor<Row> = Arc<dyn Fn(&Row) -> FieldValue + Send + Sync>;

/// What happened since the table was saved last.
#[derive(Debug, Clone)]
struct Changes<K> {
    /// The keys of changed rows, by the numbers of the rows.
    keys: BTreeMap<u64, K>,
    /// Numbers that are saved and have no row any more.
    removed: BTreeSet<u64>,
    /// Numbers below `next` that nothing is saved under, of rows that are gone.
    free: Vec<u64>,
    next: u64,
}

/// The values of the indexed fields of a row, in the order of the fields.
type IndexedValues = SmallVec<[FieldValue; 2]>;

impl<K, Row> Default for Table<K, Row> {
    fn default() -> Self {
        let changes = Changes { keys: BTreeMap::new(), removed: BTreeSet::new(), free: Vec::new(), next: 0 };
        Self { rows: BTreeMap::new(), fields: Vec::new(), indexed: 0, changes }
    }
}

impl<K: Ord + Clone, Row> Table<K, Row> {
    /// An empty table without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a field that queries can filter and sort by, with an index over it that they use.
    ///
    /// An index makes changing the field slower, by about the time of two changes of a map.
    ///
    /// # Panics
    /// If a field of this name is declared already.
    #[must_use]
    pub fn index<V: FieldType>(
        mut self,
        name: impl Into<String>,
        value: impl Fn(&Row) -> V + Send + Sync + 'static,
    ) -> Self {
        let mut index = Index::new();
        for (key, slot) in &self.rows {
            index.insert(value(&slot.row).into(), key.clone());
        }
        self.indexed += 1;
        self.declare(name.into(), value, Some(index))
    }

    /// Declares a field that queries can filter and sort by, and look at every row for.
    ///
    /// # Panics
    /// If a field of this name is declared already.
    #[must_use]
    pub fn field<V: FieldType>(
        self,
        name: impl Into<String>,
        value: impl Fn(&Row) -> V + Send + Sync + 'static,
    ) -> Self {
        self.declare(name.into(), value, None)
    }

    fn declare<V: FieldType>(
        mut self,
        name: String,
        value: impl Fn(&Row) -> V + Send + Sync + 'static,
        index: Option<Index<K>>,
    ) -> Self {
        assert!(self.fields.iter().all(|field| field.name != name), "the field {name:?} is declared twice");
        let value: Accessor<Row> = Arc::new(move |row| value(row).into());
        self.fields.push(Field { name, kind: V::KIND, optional: V::OPTIONAL, value, index });
        self
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row with this key.
    pub fn get(&self, key: &K) -> Option<&Row> {
        self.rows.get(key).map(|slot| &slot.row)
    }

    /// Whether there is a row with this key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    /// All rows, in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &Row)> {
        self.rows.iter().map(|(key, slot)| (key, &slot.row))
    }

    /// The rows whose keys lie in a range, in the order of their keys.
    ///
    /// # Panics
    /// If the range ends before it begins, like that of a [`BTreeMap`].
    pub fn range(&self, keys: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &Row)> {
        self.rows.range(keys).map(|(key, slot)| (key, &slot.row))
    }

    /// Sets the row with this key, and returns the one that it replaces.
    pub fn insert(&mut self, key: K, row: Row) -> Option<Row> {
        if let Some(mut present) = self.get_mut(&key) {
            return Some(std::mem::replace(&mut *present, row));
        }
        let (number, saved) = self.changes.allocate();
        for field in &mut self.fields {
            if let Some(index) = &mut field.index {
                index.insert((field.value)(&row), key.clone());
            }
        }
        self.changes.keys.insert(number, key.clone());
        self.rows.insert(key, Slot { row, number, changed: true, saved });
        None
    }

    /// Removes the row with this key, and returns it.
    pub fn remove(&mut self, key: &K) -> Option<Row> {
        let slot = self.rows.remove(key)?;
        for field in &mut self.fields {
            if let Some(index) = &mut field.index {
                index.remove((field.value)(&slot.row), key.clone());
            }
        }
        self.changes.release(slot.number, slot.saved);
        Some(slot.row)
    }

    /// Removes all rows. The fields stay declared.
    pub fn clear(&mut self) {
        for slot in std::mem::take(&mut self.rows).into_values() {
            self.changes.release(slot.number, slot.saved);
        }
        for index in self.fields.iter_mut().filter_map(|field| field.index.as_mut()) {
            index.clear();
        }
    }

    /// The row with this key, to be changed in place.
    pub fn get_mut<'t>(&'t mut self, key: &'t K) -> Option<RowMut<'t, K, Row>> {
        let slot = self.rows.get_mut(key)?;
        Some(RowMut {
            key,
            slot,
            fields: &mut self.fields,
            indexed: self.indexed,
            changes: &mut self.changes,
            before: None,
        })
    }

    /// Changes the row with this key, and returns what the change returns; `None` if there is no such row.
    pub fn update<T>(&mut self, key: &K, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        self.get_mut(key).map(|mut row| change(&mut row))
    }

    /// Changes the row with this key, which is `new` before if there is none.
    pub fn upsert<T>(&mut self, key: K, new: impl FnOnce() -> Row, change: impl FnOnce(&mut Row) -> T) -> T {
        if let Some(mut row) = self.get_mut(&key) {
            return change(&mut row);
        }
        let mut row = new();
        let changed = change(&mut row);
        self.insert(key, row);
        changed
    }

    /// Begins a query over the rows.
    pub fn query(&self) -> TableQuery<'_, K, Row>
    where
        Row: Serialize,
    {
        TableQuery::new(self)
    }

    fn declared(&self) -> impl Iterator<Item = Declared<'_>> {
        self.fields.iter().map(|field| Declared { name: &field.name, kind: field.kind, optional: field.optional })
    }
}

impl<K> Changes<K> {
    /// A number for a new row, and whether something is saved under it.
    fn allocate(&mut self) -> (u64, bool) {
        if let Some(number) = self.removed.pop_first() {
            return (number, true);
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        (number, false)
    }

    fn release(&mut self, number: u64, saved: bool) {
        if saved {
            self.removed.insert(number);
        } else {
            self.free.push(number);
        }
        self.keys.remove(&number);
    }
}

/// A row that is changed in place. When it goes out of scope, the indexes follow.
pub struct RowMut<'t, K: Ord + Clone, Row> {
    key: &'t K,
    slot: &'t mut Slot<Row>,
    fields: &'t mut [Field<K, Row>],
    indexed: usize,
    changes: &'t mut Changes<K>,
    /// The values of the indexed fields before the first change; `None` if there was none yet.
    before: Option<IndexedValues>,
}

impl<K: Ord + Clone, Row> Deref for RowMut<'_, K, Row> {
    type Target = Row;

    fn deref(&self) -> &Row {
        &self.slot.row
    }
}

impl<K: Ord + Clone, Row> DerefMut for RowMut<'_, K, Row> {
    fn deref_mut(&mut self) -> &mut Row {
        if self.before.is_none() {
            self.before = Some(self.indexed_values());
            if !self.slot.changed {
                self.slot.changed = true;
                self.changes.keys.insert(self.slot.number, self.key.clone());
            }
        }
        &mut self.slot.row
    }
}

impl<K: Ord + Clone, Row> RowMut<'_, K, Row> {
    fn indexed_values(&self) -> IndexedValues {
        if self.indexed == 0 {
            return IndexedValues::new();
        }
        let indexed = self.fields.iter().filter(|field| field.index.is_some());
        indexed.map(|field| (field.value)(&self.slot.row)).collect()
    }
}

impl<K: Ord + Clone, Row> Drop for RowMut<'_, K, Row> {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else { return };
        let mut before = before.into_iter();
        for field in &mut *self.fields {
            let Some(index) = &mut field.index else { continue };
            let (Some(before), after) = (before.next(), (field.value)(&self.slot.row)) else { return };
            if before != after {
                index.remove(before, self.key.clone());
                index.insert(after, self.key.clone());
            }
        }
    }
}

impl<K: fmt::Debug, Row: fmt::Debug> fmt::Debug for Table<K, Row> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows.iter().map(|(key, slot)| (key, &slot.row))).finish()
    }
}

/// Tables are equal if their rows are, whatever their fields and indexes.
impl<K: PartialEq, Row: PartialEq> PartialEq for Table<K, Row> {
    fn eq(&self, other: &Self) -> bool {
        self.rows.len() == other.rows.len()
            && self.rows.iter().zip(&other.rows).all(|((a, x), (b, y))| a == b && x.row == y.row)
    }
}

impl<K: fmt::Debug + Ord + Clone, Row: fmt::Debug> fmt::Debug for RowMut<'_, K, Row> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.row.fmt(f)
    }
}
