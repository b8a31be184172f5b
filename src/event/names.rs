//! A small table from names to values that is built once and looked into for every event.
//!
//! It hashes nothing: names are grouped by their length, and most groups hold one or two.

/// Values by name. Each name is there once.
#[derive(Debug, Clone)]
pub(super) struct NameTable<T> {
    /// Ascending by length of the name.
    entries: Vec<(Box<str>, T)>,
    /// Where the names of each length begin in `entries`; one more than there are lengths.
    starts: Vec<usize>,
}

impl<T> NameTable<T> {
    pub(super) fn new(entries: impl IntoIterator<Item = (String, T)>) -> Self {
        let mut entries: Vec<(Box<str>, T)> =
            entries.into_iter().map(|(name, value)| (name.into_boxed_str(), value)).collect();
        entries.sort_by_key(|(name, _)| name.len());
        let lengths = entries.last().map_or(0, |(name, _)| name.len() + 1);
        let starts = (0..=lengths).map(|length| entries.partition_point(|(name, _)| name.len() < length)).collect();
        Self { entries, starts }
    }

    /// All names, ascending by their length.
    #[cfg(feature = "schema")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|(name, value)| (&**name, value))
    }

    #[inline]
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        let start = *self.starts.get(name.len())?;
        let end = *self.starts.get(name.len() + 1)?;
        self.entries[start..end].iter().find(|(own, _)| **own == *name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        let names = ["", "a", "b", "ab", "Deposited", "Withdrawn", "Opened"];
        let table = NameTable::new(names.iter().enumerate().map(|(index, name)| ((*name).to_owned(), index)));
        for (index, name) in names.iter().enumerate() {
            assert_eq!(table.find(name), Some(&index), "{name:?}");
        }
        for name in ["c", "ba", "abc", "Withdraws", "Withdrawn ", "a name that is longer than any other"] {
            assert_eq!(table.find(name), None, "{name:?}");
        }
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        let table = NameTable::<u8>::new([]);
        assert_eq!((table.find(""), table.find("a")), (None, None));
    }
}
