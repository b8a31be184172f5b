//! A directory of a disk as a disk of its own: the state store stands in one, beside the log.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Access, Disk, File, Lock};

/// A directory of another disk.
#[derive(Debug, Clone)]
pub(crate) struct SubDisk {
    inner: Arc<dyn Disk>,
    dir: &'static str,
}

impl SubDisk {
    pub(crate) fn new(inner: Arc<dyn Disk>, dir: &'static str) -> Self {
        Self { inner, dir }
    }

    fn path(&self, path: &str) -> String {
        if path.is_empty() { self.dir.to_owned() } else { format!("{}/{path}", self.dir) }
    }
}

impl Disk for SubDisk {
    fn locate(&self, path: &str) -> PathBuf {
        self.inner.locate(&self.path(path))
    }

    /// A directory cannot be asked for through the disk above, only what is in it. Files in it say too little: after a crash
    /// it may hold other directories and none. So it is taken to be there, and whoever opens it looks for a store.
    fn exists(&self) -> bool {
        self.inner.exists()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir(&self.path(dir))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(&self.path(dir))
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.inner.open(&self.path(path), access)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.inner.create(&self.path(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(&self.path(from), &self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(&self.path(path))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.remove_dir(&self.path(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(&self.path(dir))
    }

    fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        self.inner.lock(&self.path(path))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.free_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryDisk;
    use super::*;

    #[test]
    fn what_stands_in_the_directory_stands_below_it_on_the_disk() {
        let disk = Arc::new(MemoryDisk::new());
        let sub = SubDisk::new(Arc::clone(&disk) as Arc<dyn Disk>, "state");
        assert!(!sub.exists(), "nothing is, below a disk that is not");
        sub.create_dir("log").unwrap();
        sub.create("log/file.tmp").unwrap().write_at(b"abc", 0).unwrap();
        sub.rename("log/file.tmp", "log/file").unwrap();
        sub.sync_dir("log").unwrap();
        assert_eq!(disk.list("state/log").unwrap(), ["file"]);
        assert_eq!(disk.list("log").unwrap(), [""; 0]);
        assert_eq!(sub.list("log").unwrap(), ["file"]);
        assert_eq!(sub.open("log/file", Access::Read).unwrap().len().unwrap(), 3);
        assert_eq!(sub.locate("log/file"), disk.locate("state/log/file"));
        sub.remove("log/file").unwrap();
        sub.remove_dir("log").unwrap();
        assert!(sub.list("log").unwrap().is_empty());
    }

    #[test]
    fn its_lock_is_not_that_of_the_disk_above() {
        let disk = Arc::new(MemoryDisk::new());
        let sub = SubDisk::new(Arc::clone(&disk) as Arc<dyn Disk>, "state");
        sub.create_dir("").unwrap();
        let _above = disk.lock("lock").unwrap().unwrap();
        let own = sub.lock("lock").unwrap();
        assert!(own.is_some() && sub.exists());
        assert!(sub.lock("lock").unwrap().is_none());
    }
}
