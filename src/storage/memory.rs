//! A disk in memory, which behaves like the real one: for tests, and for stores that need not last.
//!
//! A file is a buffer that can be mapped. A map shows what is written later, as the page cache does: when a file
//! outgrows its buffer and gets a larger one, writes go to the older buffers that are still mapped as well.
//!
//! Bytes that a map has lent out must not change under the borrower. So every map tells its file which bytes are frozen,
//! and writing other bytes there is a panic: on a real disk it would be undefined behaviour.

#![allow(unsafe_code, reason = "buffers that are mapped and written at once")]

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::buffer::Buffer;
use super::{Access, Disk, File, Lock, Region};

/// A directory in memory. Clones are the same directory, so that a store can be opened on it again.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tree: Mutex<Tree>,
    space: Arc<Space>,
}

/// The names. Paths have no empty parts; `""` is the directory of the disk itself, which exists once it was created.
#[derive(Debug, Default)]
struct Tree {
    dirs: BTreeSet<String>,
    files: HashMap<String, Arc<Node>>,
    locked: BTreeSet<String>,
}

/// How many bytes all files may have together, those without a name that are still open included.
#[derive(Debug)]
struct Space {
    used: AtomicU64,
    budget: AtomicU64,
}

/// A file itself, which can have a name or not.
#[derive(Debug)]
struct Node {
    space: Arc<Space>,
    contents: Mutex<Contents>,
}

#[derive(Debug)]
struct Contents {
    len: u64,
    /// Holds at least `len` bytes, and zeros behind them.
    buffer: Arc<Buffer>,
    /// The maps that may be alive.
    views: Vec<Weak<View>>,
}

/// A map of a file: keeps a buffer alive, and knows which of its bytes were lent out.
#[derive(Debug)]
pub(super) struct View {
    node: Arc<Node>,
    buffer: Arc<Buffer>,
    /// Changed only under the lock of the node's contents.
    frozen: AtomicU64,
}

/// An open file.
#[derive(Debug)]
struct MemoryFile {
    node: Arc<Node>,
    access: Access,
}

/// Gives a lock back when it is dropped.
#[derive(Debug)]
struct Holder {
    shared: Arc<Shared>,
    path: String,
}

impl MemoryDisk {
    /// An empty disk without a limit.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An empty disk on which all files together may have so many bytes.
    #[cfg(test)]
    pub(crate) fn with_budget(bytes: u64) -> Self {
        let disk = Self::new();
        disk.set_budget(bytes);
        disk
    }

    /// Changes the limit. What is there stays, even if it is more.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set_budget(&self, bytes: u64) {
        self.shared.space.budget.store(bytes, Ordering::Relaxed);
    }

    /// How many bytes all files have together.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn used(&self) -> u64 {
        self.shared.space.used.load(Ordering::Relaxed)
    }

    /// Its directories, each behind the one that it is in.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn dirs(&self) -> Vec<String> {
        self.tree().dirs.iter().cloned().collect()
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.shared.tree.lock()
    }

    fn create_node(&self, tree: &mut Tree, path: String) -> io::Result<Arc<Node>> {
        tree.check_place_for(&path)?;
        let node = Arc::new(Node::new(Arc::clone(&self.shared.space))?);
        tree.files.insert(path, Arc::clone(&node));
        Ok(node)
    }
}

impl Disk for MemoryDisk {
    fn locate(&self, path: &str) -> PathBuf {
        PathBuf::from("memory:").join(plain(path))
    }

    fn exists(&self) -> bool {
        self.tree().dirs.contains("")
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let dir = plain(dir);
        let mut tree = self.tree();
        for (end, _) in dir.match_indices('/').chain([(dir.len(), "")]) {
            if tree.files.contains_key(&dir[..end]) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        tree.dirs.insert(String::new());
        for (end, _) in dir.match_indices('/').chain([(dir.len(), "")]) {
            tree.dirs.insert(dir[..end].to_owned());
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let dir = plain(dir);
        let tree = self.tree();
        if tree.files.contains_key(&dir) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let names = tree.files.keys().filter(|path| parent(path) == dir);
        Ok(names.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let node = self.tree().find(&plain(path))?;
        Ok(Arc::new(MemoryFile { node, access }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let path = plain(path);
        let mut tree = self.tree();
        let node = match tree.files.get(&path) {
            Some(node) => {
                node.empty()?;
                Arc::clone(node)
            }
            None => self.create_node(&mut tree, path)?,
        };
        Ok(Arc::new(MemoryFile { node, access: Access::ReadWrite }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (plain(from), plain(to));
        let mut tree = self.tree();
        let node = tree.find(&from)?;
        tree.check_place_for(&to)?;
        tree.files.remove(&from);
        tree.files.insert(to, node);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = plain(path);
        let mut tree = self.tree();
        tree.find(&path)?;
        tree.files.remove(&path);
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let dir = plain(dir);
        let mut tree = self.tree();
        let inside = |path: &String| !path.is_empty() && *path != dir && parent(path) == dir;
        if tree.files.keys().any(inside) || tree.dirs.iter().any(inside) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        found(tree.dirs.remove(&dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        found(self.tree().dirs.contains(&plain(dir)))
    }

    fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        let path = plain(path);
        let mut tree = self.tree();
        if !tree.files.contains_key(&path) {
            self.create_node(&mut tree, path.clone())?;
        }
        let is_free = tree.locked.insert(path.clone());
        Ok(is_free.then(|| Lock::held_by(Holder { shared: Arc::clone(&self.shared), path })))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let space = &self.shared.space;
        let budget = space.budget.load(Ordering::Relaxed);
        let free = budget.saturating_sub(space.used.load(Ordering::Relaxed));
        Ok((budget != u64::MAX).then_some(free))
    }
}

impl Tree {
    fn find(&self, path: &str) -> io::Result<Arc<Node>> {
        match self.files.get(path) {
            Some(node) => Ok(Arc::clone(node)),
            None if self.dirs.contains(path) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn check_place_for(&self, path: &str) -> io::Result<()> {
        if self.dirs.contains(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        found(self.dirs.contains(parent(path)))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.shared.tree.lock().locked.remove(&self.path);
    }
}

impl Default for Space {
    fn default() -> Self {
        Self { used: AtomicU64::new(0), budget: AtomicU64::new(u64::MAX) }
    }
}

impl Space {
    fn take(&self, bytes: u64) -> io::Result<()> {
        let budget = self.budget.load(Ordering::Relaxed);
        let grown = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= budget);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Node {
    fn new(space: Arc<Space>) -> io::Result<Self> {
        let contents = Contents { len: 0, buffer: Arc::new(Buffer::zeroed(0)?), views: Vec::new() };
        Ok(Self { space, contents: Mutex::new(contents) })
    }

    fn empty(&self) -> io::Result<()> {
        let mut contents = self.contents.lock();
        assert!(contents.live_views().is_empty(), "a file is never emptied while it is mapped");
        contents.buffer = Arc::new(Buffer::zeroed(0)?);
        self.space.give_back(std::mem::take(&mut contents.len));
        Ok(())
    }

    /// Makes the file at least `len` bytes long.
    fn grow(&self, contents: &mut Contents, len: u64) -> io::Result<()> {
        let added = len.saturating_sub(contents.len);
        if added == 0 {
            return Ok(());
        }
        self.space.take(added)?;
        contents.reserve(len).inspect_err(|_| self.space.give_back(added))?;
        contents.len = len;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.space.give_back(self.contents.get_mut().len);
    }
}

impl Contents {
    /// Moves to a larger buffer if `len` bytes do not fit. Maps keep the one that they have.
    fn reserve(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let capacity = self.buffer.capacity();
        if len <= capacity {
            return Ok(());
        }
        let larger = Buffer::zeroed(len.max(capacity.saturating_mul(2)))?;
        // SAFETY: nobody else has the new buffer.
        unsafe { larger.write(0, self.bytes(0, self.len as usize)) };
        self.buffer = Arc::new(larger);
        Ok(())
    }

    fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        // SAFETY: buffers are written only through an exclusive reference to the contents, in `write`.
        unsafe { self.buffer.read(offset, len) }
    }

    /// Writes inside the length of the file, so that all maps show it.
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let views = self.live_views();
        let frozen = views.iter().map(|view| view.frozen.load(Ordering::Relaxed)).max().unwrap_or(0);
        let frozen_count = (frozen as usize).saturating_sub(offset).min(bytes.len());
        let (same, fresh) = bytes.split_at(frozen_count);
        assert!(same == self.bytes(offset, same.len()), "bytes that were published are written again, and differ");
        let offset = offset + same.len();
        // SAFETY: readers of the file and other writers wait for the lock of these contents, and maps have lent out
        // nothing behind their frozen bytes.
        unsafe { self.buffer.write(offset, fresh) };
        for view in views.iter().filter(|view| !Arc::ptr_eq(&view.buffer, &self.buffer)) {
            let seen = view.buffer.capacity().saturating_sub(offset).min(fresh.len());
            if seen > 0 {
                // SAFETY: as above.
                unsafe { view.buffer.write(offset, &fresh[..seen]) };
            }
        }
    }

    fn live_views(&mut self) -> Vec<Arc<View>> {
        self.views.retain(|view| view.strong_count() > 0);
        self.views.iter().filter_map(Weak::upgrade).collect()
    }
}

impl View {
    /// The memory of the map, which lives as long as the view.
    pub(super) fn memory(&self) -> (NonNull<u8>, usize) {
        (self.buffer.start(), self.buffer.capacity())
    }

    /// Says that bytes of the map are looked at now.
    #[cfg(test)]
    pub(super) fn note_lent(&self, offset: usize, len: usize) {
        self.buffer.note_lent(offset, len);
    }

    /// Says that the bytes before `end` were lent out.
    pub(super) fn freeze(&self, end: u64) {
        // The lock keeps a write that has already checked this from going on meanwhile.
        let _contents = self.node.contents.lock();
        self.frozen.fetch_max(end, Ordering::Relaxed);
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.node.contents.lock().len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let contents = self.node.contents.lock();
        let count = contents.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        if count > 0 {
            buffer[..count].copy_from_slice(contents.bytes(offset as usize, count));
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut contents = self.node.contents.lock();
        self.node.grow(&mut contents, end)?;
        contents.write(bytes, offset as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.node.grow(&mut self.node.contents.lock(), len)
    }

    fn map(&self, len: u64) -> io::Result<Region> {
        let mut contents = self.node.contents.lock();
        if len > contents.len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a map longer than the file"));
        }
        let (node, buffer) = (Arc::clone(&self.node), Arc::clone(&contents.buffer));
        let view = Arc::new(View { node, buffer, frozen: AtomicU64::new(0) });
        contents.views.retain(|view| view.strong_count() > 0);
        contents.views.push(Arc::downgrade(&view));
        Ok(Region::of_view(view, len as usize))
    }
}

fn found(is_there: bool) -> io::Result<()> {
    if is_there { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// The path without empty parts.
pub(super) fn plain(path: &str) -> String {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    names.join("/")
}

/// The path of the directory that a path lies in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

#[cfg(test)]
mod tests {
    use super::super::{PublishedFile, ReadMode};
    use super::*;

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_dir("").unwrap();
        disk
    }

    fn is_full<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
    }

    #[test]
    fn clones_are_the_same_disk() {
        let disk = disk();
        let again = disk.clone();
        disk.create("file").unwrap().write_at(b"abc", 0).unwrap();
        assert_eq!(again.open("file", Access::Read).unwrap().len().unwrap(), 3);
        let lock = disk.lock("lock").unwrap();
        assert!(again.lock("lock").unwrap().is_none());
        drop(lock);
        assert!(again.lock("lock").unwrap().is_some());
    }

    #[test]
    fn a_full_disk_refuses_growth_and_keeps_what_is_there() {
        let disk = MemoryDisk::with_budget(10);
        disk.create_dir("").unwrap();
        let file = disk.create("file").unwrap();
        file.write_at(b"12345678", 0).unwrap();
        assert!(is_full(file.write_at(b"abc", 8)));
        assert!(is_full(file.allocate(11)));
        assert_eq!((file.len().unwrap(), disk.used()), (8, 8));
        file.write_at(b"abc", 7).unwrap();
        assert!(is_full(disk.create("other").unwrap().write_at(b"x", 0)));
        disk.set_budget(11);
        file.allocate(11).unwrap();
        assert_eq!(disk.used(), 11);
    }

    #[test]
    fn space_returns_when_a_file_has_neither_name_nor_handle() {
        let disk = MemoryDisk::with_budget(10);
        disk.create_dir("").unwrap();
        let file = disk.create("file").unwrap();
        file.allocate(10).unwrap();
        disk.remove("file").unwrap();
        assert_eq!(disk.used(), 10);
        drop(file);
        assert_eq!(disk.used(), 0);

        disk.create("file").unwrap().allocate(10).unwrap();
        let map = disk.open("file", Access::Read).unwrap().map(10).unwrap();
        disk.create("other").unwrap();
        disk.rename("other", "file").unwrap();
        assert_eq!(disk.used(), 10, "the map keeps the replaced file");
        drop(map);
        assert_eq!(disk.used(), 0);
        disk.create("file").unwrap().allocate(10).unwrap();
        disk.create("file").unwrap();
        assert_eq!(disk.used(), 0);
    }

    fn published(disk: &MemoryDisk) -> Arc<PublishedFile> {
        disk.create("file").unwrap().write_at(b"abcdef", 0).unwrap();
        let file = disk.open("file", Access::Read).unwrap();
        PublishedFile::open_growing(file, ReadMode::Map, 4).unwrap().0
    }

    #[test]
    fn published_bytes_may_be_written_again_as_they_are() {
        let disk = disk();
        let published = published(&disk);
        let file = disk.open("file", Access::ReadWrite).unwrap();
        // Recovery does this: the same bytes at the same place, and what was never published behind them.
        let borrowed = published.slice_to_end(0).unwrap();
        file.write_at(b"abcdXY", 0).unwrap();
        assert_eq!(borrowed, b"abcd");
        let mut bytes = [0; 6];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"abcdXY");
    }

    #[test]
    #[should_panic(expected = "published")]
    fn published_bytes_never_change() {
        let disk = disk();
        let _published = published(&disk);
        let _ = disk.open("file", Access::ReadWrite).unwrap().write_at(b"X", 3);
    }

    #[test]
    #[should_panic(expected = "mapped")]
    fn a_mapped_file_is_never_emptied() {
        let disk = disk();
        let _published = published(&disk);
        let _ = disk.create("file");
    }

    #[test]
    fn published_bytes_may_change_once_nobody_looks() {
        let disk = disk();
        drop(published(&disk));
        disk.open("file", Access::ReadWrite).unwrap().write_at(b"X", 3).unwrap();
        assert_eq!(disk.create("file").unwrap().len().unwrap(), 0);
    }

    #[test]
    fn paths_are_taken_apart_like_those_of_the_real_disk() {
        let disk = disk();
        disk.create_dir("a/").unwrap();
        disk.create("/a//file").unwrap();
        assert_eq!(disk.list("a").unwrap(), ["file"]);
        assert_eq!(disk.locate("a/file"), PathBuf::from("memory:/a/file"));
    }
}
