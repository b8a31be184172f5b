//! Putting a whole directory in its place: made beside it under another name, complete when it gets its own.

#![allow(clippy::disallowed_methods, reason = "this is part of the module that files belong to")]

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Disk, RealDisk};

impl RealDisk {
    /// Whether nothing is at the path of the directory, or an empty directory.
    pub(crate) fn is_vacant(&self) -> io::Result<bool> {
        // A link to an empty directory is something, in whose place no directory can be put.
        if self.locate("").is_symlink() {
            return Ok(false);
        }
        match fs::read_dir(self.locate("")) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok(true),
                io::ErrorKind::NotADirectory => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// The directory below this one that has this name, as a disk.
    pub(crate) fn below(&self, name: &str) -> RealDisk {
        RealDisk::new(self.locate(name))
    }

    /// The names of the directories in the directory, in no order.
    pub(crate) fn directories(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.locate(""))? {
            let entry = entry?;
            // A link to a directory on another disk counts as well.
            if entry.path().is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes a directory below this one with everything in it; of a link, the link. Durable when it returns. It is no
    /// error if somebody else removes it as well.
    pub(crate) fn remove_all(&self, name: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.locate(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_dir(""),
        }
    }

    /// The directory beside this one whose name has `suffix` behind it.
    pub(crate) fn sibling(&self, suffix: &str) -> RealDisk {
        let mut path = self.locate("").into_os_string();
        path.push(suffix);
        RealDisk::new(PathBuf::from(path))
    }

    /// The directory that this one is in.
    pub(crate) fn above(&self) -> RealDisk {
        let path = self.locate("");
        RealDisk::new(path.parent().unwrap_or(&path))
    }

    /// Renames the directory to `target`, where nothing is or an empty directory. Atomic; durable once the directory
    /// [above](Self::above) `target` is synced.
    pub(crate) fn place_at(&self, target: &RealDisk) -> io::Result<()> {
        // Only some systems rename over an empty directory.
        match target.remove_dir("") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(self.locate(""), target.locate(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_a_vacant_place_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let target = RealDisk::new(root.path().join("target"));
        let made = target.sibling(".tmp");
        assert_eq!(made.locate(""), root.path().join("target.tmp"));
        made.create_dir("log").unwrap();
        assert!(target.is_vacant().unwrap() && !made.is_vacant().unwrap());
        target.create_dir("").unwrap();
        assert!(target.is_vacant().unwrap());
        made.place_at(&target).unwrap();
        assert!(!target.is_vacant().unwrap() && made.is_vacant().unwrap());
        made.create_dir("").unwrap();
        made.place_at(&target).unwrap_err();
        assert!(target.locate("log").is_dir());
        let file = RealDisk::new(root.path().join("file"));
        RealDisk::new(root.path()).create("file").unwrap();
        assert!(!file.is_vacant().unwrap());
    }
}
