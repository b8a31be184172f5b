//! What can go wrong in the index: a file of its own is damaged, or something below it failed.
//!
//! A damaged index file is never fatal and never a wrong answer: the caller hands the fault to `Index::repair`, which
//! rebuilds the file from the log, and asks again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;

/// The result of what can fail in the index.
pub(crate) type Result<T, E = IndexError> = std::result::Result<T, E>;

/// Why the index has no answer. All are boxed, so that the answers on the hot paths stay small.
#[derive(Debug, Clone)]
pub(crate) enum IndexError {
    /// A file of the index is damaged; `Index::repair` rebuilds it.
    Damaged(Box<IndexFault>),
    /// A page of the index cannot be read. Whoever can have the file rebuilt does so, as of a damaged one; to everybody
    /// else it is an error of the operating system.
    Unreadable(Box<Unreadable>),
    /// The log or the operating system failed.
    Failed(Box<Error>),
}

/// Where an index file is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexFault {
    pub(crate) file: IndexFile,
    pub(crate) path: PathBuf,
    /// Where in the file, in bytes.
    pub(crate) offset: u64,
    pub(crate) reason: &'static str,
    /// The page seed of the file, which tells whether it was replaced since.
    pub(super) seed: u32,
}

/// A page that the operating system refused to read.
#[derive(Debug, Clone)]
pub(crate) struct Unreadable {
    pub(super) fault: IndexFault,
    pub(super) source: Arc<io::Error>,
}

/// A file of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum IndexFile {
    /// The run for these positions, both included.
    Run { first: u64, last: u64 },
    /// The positions file of this segment.
    Positions { segment: u64 },
}

impl IndexFile {
    /// Its path in the store's directory.
    pub(super) fn path(self) -> String {
        match self {
            IndexFile::Run { first, last } => format!("{DIRECTORY}/{first:020}-{last:020}.run"),
            IndexFile::Positions { segment } => format!("{DIRECTORY}/{segment:010}.positions"),
        }
    }

    /// The file of this name in the index directory; `None` if it is none of the index.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let file = if let Some(range) = name.strip_suffix(".run") {
            let (first, last) = range.split_once('-')?;
            IndexFile::Run { first: first.parse().ok()?, last: last.parse().ok()? }
        } else {
            IndexFile::Positions { segment: name.strip_suffix(".positions")?.parse().ok()? }
        };
        // Only the one way to write a name is a name of ours.
        (file.path().strip_prefix(DIRECTORY)?.strip_prefix('/')? == name).then_some(file)
    }
}

/// The directory of the index in the store's.
pub(crate) const DIRECTORY: &str = "index";
/// How the name of a file ends that is being made.
pub(super) const TEMPORARY: &str = ".tmp";

impl IndexError {
    /// The file that `Index::repair` rebuilds, if that helps.
    pub(crate) fn fault(&self) -> Option<&IndexFault> {
        match self {
            IndexError::Damaged(fault) => Some(fault),
            IndexError::Unreadable(unreadable) => Some(&unreadable.fault),
            IndexError::Failed(_) => None,
        }
    }
}

impl From<Error> for IndexError {
    fn from(error: Error) -> Self {
        IndexError::Failed(Box::new(error))
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Damaged(fault) => Error::corrupt(fault.path, fault.offset, fault.reason),
            IndexError::Unreadable(unreadable) => {
                let Unreadable { fault, source } = *unreadable;
                Error::Io { operation: "read", path: fault.path, source }
            }
            IndexError::Failed(error) => *error,
        }
    }
}

/// What the operating system said when an index file was made.
pub(super) fn refused(operation: &'static str, path: &Path, source: io::Error) -> IndexError {
    let error = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::Full { path: path.into(), source: source.into() }
        }
        _ => Error::io(operation, path, source),
    };
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_that_the_index_gives_are_its_own() {
        for file in [IndexFile::Run { first: 1, last: u64::MAX }, IndexFile::Positions { segment: 12_345_678_901 }] {
            let path = file.path();
            assert_eq!(IndexFile::parse(path.strip_prefix("index/").unwrap()), Some(file));
        }
        for name in ["1-2.run", "0000000001.positions.tmp", "+000000001.positions", "notes", ".run", "-.run"] {
            assert_eq!(IndexFile::parse(name), None, "{name}");
        }
    }
}
