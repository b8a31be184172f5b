//! What a table looks like to whoever saves it: numbered rows, and which of them changed.
//!
//! A row keeps its number as long as it exists, so that a saved row is replaced by writing its number again. Numbers of
//! removed rows are used again while the table is in memory.

use super::{Slot, Table};

/// A change of a table since it was last marked as saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaved<'t, K, Row> {
    /// A row that is new or changed.
    Put {
        /// The number of the row, from 0.
        number: u64,
        /// Its key.
        key: &'t K,
        /// The row.
        row: &'t Row,
    },
    /// Nothing has this number any more.
    Delete {
        /// The number of the row that was removed.
        number: u64,
    },
}

impl<K: Ord + Clone, Row> Table<K, Row> {
    /// The changes since the table was last marked as saved, each number once. They stay until
    /// [`mark_saved`](Table::mark_saved).
    ///
    /// With this and [`restore`](Table::restore), a table can be kept in any storage; a projection does it by itself.
    pub fn unsaved(&self) -> impl Iterator<Item = Unsaved<'_, K, Row>> {
        let deleted = self.changes.removed.iter().map(|number| Unsaved::Delete { number: *number });
        let put = self.changes.keys.values().filter_map(|key| {
            let (key, slot) = self.rows.get_key_value(key)?;
            Some(Unsaved::Put { number: slot.number, key, row: &slot.row })
        });
        deleted.chain(put)
    }

    /// Says that everything [`unsaved`](Table::unsaved) is saved now.
    pub fn mark_saved(&mut self) {
        for key in std::mem::take(&mut self.changes.keys).into_values() {
            if let Some(slot) = self.rows.get_mut(&key) {
                slot.changed = false;
                slot.saved = true;
            }
        }
        let removed = std::mem::take(&mut self.changes.removed);
        self.changes.free.extend(removed);
    }

    /// Says that nothing of the table is saved anywhere: every row is unsaved, and no number has to be deleted.
    pub fn mark_unsaved(&mut self) {
        let removed = std::mem::take(&mut self.changes.removed);
        self.changes.free.extend(removed);
        for (key, slot) in &mut self.rows {
            slot.saved = false;
            if !std::mem::replace(&mut slot.changed, true) {
                self.changes.keys.insert(slot.number, key.clone());
            }
        }
    }

    /// Puts a row back that was saved under a number, into a table that nothing else was inserted into yet. `false`, and
    /// nothing is done, if the key has a row already, or the number is `u64::MAX`, which no row has.
    pub fn restore(&mut self, number: u64, key: K, row: Row) -> bool {
        let Some(next) = number.checked_add(1).filter(|_| !self.rows.contains_key(&key)) else { return false };
        self.changes.next = self.changes.next.max(next);
        if self.rows.is_empty() {
            // They are of rows that were there before, and may be among those that are put back.
            self.changes.free.clear();
        }
        self.changes.removed.remove(&number);
        for field in &mut self.fields {
            if let Some(index) = &mut field.index {
                index.insert((field.value)(&row), key.clone());
            }
        }
        self.rows.insert(key, Slot { row, number, changed: false, saved: true });
        true
    }
}
