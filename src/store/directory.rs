//! A directory whose sub-directories are stores: their names, and removing one so that a crash leaves all or nothing.
//!
//! It opens no store and keeps nothing but its path. A store that is removed first loses its name, in one atomic step;
//! its files follow. What a crash leaves of them carries a name that no store can have and goes away when the directory
//! is next opened.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::open::{LOCK_PATH, is_store};
use crate::error::{Error, Invalid, Result};
use crate::limits::STORE_NAME_BYTES_MAX;
use crate::randomness::{Randomness, SystemRandomness};
use crate::storage::{Disk, RealDisk};

/// Stands in the names of stores that are being removed. No name of a store contains a dot.
const REMOVED: &str = ".removed-";

/// Names that Windows gives to devices, in every directory.
const DEVICES: &[&str] = &["aux", "con", "nul", "prn"];
/// These are devices with a digit behind them.
const NUMBERED_DEVICES: &[&str] = &["com", "lpt"];

/// A directory of stores with names.
///
/// A name has 1 to [`STORE_NAME_BYTES_MAX`] bytes of `a` to `z`, `0` to `9`, `-` and `_`, and begins with a letter or a
/// digit. So it is one name, and the same directory, on every operating system, whether the file system tells case apart
/// or not. The names of devices on Windows (`con`, `com1` and the like) are refused.
///
/// ```
/// use annals::{Store, StoreDirectory};
///
/// # let directory = tempfile::tempdir().expect("a temporary directory");
/// # let path = directory.path().join("stores");
/// let stores = StoreDirectory::open(path)?;
/// Store::open(stores.path_of("acme")?)?;
/// assert_eq!(stores.names()?, ["acme"]);
/// stores.remove("acme")?;
/// assert!(stores.names()?.is_empty());
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StoreDirectory {
    disk: RealDisk,
}

impl StoreDirectory {
    /// Opens the directory, creating it if there is none, and finishes removals that a crash interrupted.
    ///
    /// # Errors
    /// [`Error::Io`] if the operating system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let disk = RealDisk::new(path);
        disk.create_dir("").map_err(|error| Error::io("create", disk.locate(""), error))?;
        let directory = Self { disk };
        for name in directory.directories()?.iter().filter(|name| is_removed(name)) {
            directory.remove_files(name)?;
        }
        Ok(directory)
    }

    /// Where the directory is.
    pub fn path(&self) -> PathBuf {
        self.disk.locate("")
    }

    /// Where the store of this name is, or would be.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is not allowed.
    pub fn path_of(&self, name: &str) -> Result<PathBuf> {
        match name_problem(name) {
            Some(problem) => Err(Invalid::of("name", problem).into()),
            None => Ok(self.disk.locate(name)),
        }
    }

    /// The names of the stores that are there, ascending.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for name in self.directories()? {
            if name_problem(&name).is_none() && is_store(&self.disk.below(&name))? {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes a store with all its files. When this returns, it is gone for good, also after a loss of power.
    ///
    /// Who has it open for reading goes on reading what is mapped, where the operating system allows that; Windows
    /// refuses to remove what is open. Close it first.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such store; [`Error::Locked`] if it is open for writing; [`Error::Invalid`] if
    /// the name is not allowed; [`Error::Io`] if the operating system refuses, in which case the store is either
    /// untouched or no longer listed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path_of(name)?;
        let disk = self.disk.below(name);
        if !is_store(&disk)? {
            return Err(Error::NotFound { path });
        }
        let lock = match disk.lock(LOCK_PATH) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(Error::Locked { path }),
            // Somebody else has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::NotFound { path }),
            Err(error) => return Err(Error::io("lock", disk.locate(LOCK_PATH), error)),
        };
        // Windows renames no directory in which a file is open.
        let lock = (!cfg!(windows)).then_some(lock);
        let removed = format!("{name}{REMOVED}{:016x}", random_number());
        let renamed = disk.place_at(&self.disk.below(&removed)).and_then(|()| self.disk.sync_dir(""));
        renamed.map_err(|error| Error::io("remove", path, error))?;
        drop(lock);
        self.remove_files(&removed)
    }

    fn directories(&self) -> Result<Vec<String>> {
        self.disk.directories().map_err(|error| Error::io("list", self.path(), error))
    }

    fn remove_files(&self, name: &str) -> Result<()> {
        self.disk.remove_all(name).map_err(|error| Error::io("remove", self.disk.locate(name), error))
    }
}

/// Whether a removal has given a directory this name. Others that look like it are not touched.
fn is_removed(directory: &str) -> bool {
    directory.split_once(REMOVED).is_some_and(|(name, number)| {
        let is_number = number.len() == 16 && number.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
        is_number && name_problem(name).is_none()
    })
}

/// A number that tells two removals of one name apart.
fn random_number() -> u64 {
    let mut bytes = [0; 8];
    SystemRandomness::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Why a store cannot have this name, if so.
fn name_problem(name: &str) -> Option<String> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.is_empty() {
        return Some(format!("is empty, from 1 to {STORE_NAME_BYTES_MAX} bytes are allowed"));
    }
    if name.len() > STORE_NAME_BYTES_MAX {
        return Some(format!("has {} bytes, at most {STORE_NAME_BYTES_MAX} are allowed", name.len()));
    }
    if !name.bytes().all(|byte| is_word(byte) || b"-_".contains(&byte)) {
        return Some(format!("{name:?} has other characters than a to z, 0 to 9, - and _"));
    }
    if !name.bytes().next().is_some_and(is_word) {
        return Some(format!("{name:?} does not begin with a letter or a digit"));
    }
    is_device(name).then(|| format!("{name:?} is the name of a device on Windows"))
}

fn is_device(name: &str) -> bool {
    let is_numbered = |device: &&str| {
        let number = name.strip_prefix(*device);
        number.is_some_and(|number| number.len() == 1 && number.as_bytes()[0].is_ascii_digit())
    };
    DEVICES.contains(&name) || NUMBERED_DEVICES.iter().any(is_numbered)
}

#[cfg(test)]
#[cfg(not(miri))]
#[allow(clippy::disallowed_methods, reason = "tests look at the files themselves")]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn names_are_the_same_on_every_system() {
        for name in ["a", "7", "acme", "acme-eu_2", "com10", "con-1", "lpt", "nullable"] {
            assert_eq!(name_problem(name), None, "{name:?}");
        }
        for name in [
            "", "Acme", "acme.", "acme.tmp", ".", "..", "../x", "a/b", "a\\b", "c:", "a b", "a\0", "-a", "_a", "é",
            "con", "nul", "aux", "prn", "com0", "com1", "lpt9", "a\n", "a*", "~", "$a",
        ] {
            assert!(name_problem(name).is_some(), "{name:?}");
        }
    }

    #[test]
    fn a_name_has_64_bytes_at_most() {
        assert_eq!(name_problem(&"a".repeat(STORE_NAME_BYTES_MAX)), None);
        let problem = name_problem(&"a".repeat(STORE_NAME_BYTES_MAX + 1)).unwrap();
        assert_eq!(problem, "has 65 bytes, at most 64 are allowed");
    }

    /// A directory of somebody else, with a file where a store has its log, kept all stores from being listed.
    #[test]
    fn only_stores_are_listed() {
        let root = tempfile::tempdir().unwrap();
        let stores = StoreDirectory::open(root.path().join("stores")).unwrap();
        assert_eq!(stores.names().unwrap(), [""; 0]);
        for name in ["b", "a"] {
            Store::open(stores.path_of(name).unwrap()).unwrap();
        }
        std::fs::create_dir(stores.path().join("empty")).unwrap();
        std::fs::write(stores.path().join("file"), "").unwrap();
        std::fs::create_dir(stores.path().join("foreign")).unwrap();
        std::fs::write(stores.path().join("foreign/log"), "").unwrap();
        Store::open(stores.path().join("Upper")).unwrap();
        assert_eq!(stores.names().unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_store_that_is_open_for_writing_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let stores = StoreDirectory::open(root.path()).unwrap();
        let store = Store::open(stores.path_of("acme").unwrap()).unwrap();
        assert!(matches!(stores.remove("acme"), Err(Error::Locked { .. })));
        drop(store);
        stores.remove("acme").unwrap();
        assert!(matches!(stores.remove("acme"), Err(Error::NotFound { .. })));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    /// What a crash between the two steps of a removal leaves.
    #[test]
    fn a_removal_that_was_interrupted_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let stores = StoreDirectory::open(root.path()).unwrap();
        Store::open(stores.path_of("acme").unwrap()).unwrap();
        Store::open(stores.path_of("other").unwrap()).unwrap();
        std::fs::rename(root.path().join("acme"), root.path().join("acme.removed-00000000000000ff")).unwrap();
        assert_eq!(stores.names().unwrap(), ["other"]);
        StoreDirectory::open(root.path()).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        assert_eq!(stores.names().unwrap(), ["other"]);
    }

    #[test]
    fn directories_of_others_are_not_taken_for_removals() {
        let root = tempfile::tempdir().unwrap();
        for name in ["photos.removed-2024", "My Files.removed-00000000000000ff", "a.removed-00000000000000fg"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        StoreDirectory::open(root.path()).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 3);
    }
}
