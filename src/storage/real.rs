//! The disk of the operating system: one directory, through `std::fs` and a few calls that it does not offer.

#![allow(clippy::disallowed_methods, reason = "this is the module that files belong to")]

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::MmapOptions;

use super::{Access, Disk, File, Lock, Owner, Region};

/// Zeros are written in pieces of this size where the system cannot reserve space.
const ZEROS_BYTES: usize = 256 * 1024;

/// A directory of the file system.
#[derive(Debug, Clone)]
pub(crate) struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The directory at this path, which need not exist yet.
    pub(crate) fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // Absolute, so that the store stays where it is when the process changes its working directory. Only an empty
        // path has no absolute form: opening it fails later, with its name.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        // Without a slash at the end: what stands beside the directory would stand in it.
        Self { root: absolute.components().collect() }
    }
}

impl Disk for RealDisk {
    fn locate(&self, path: &str) -> PathBuf {
        let mut place = self.root.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            debug_assert!(is_plain_name(name), "{path:?} leaves the directory of the store");
            place.push(name);
        }
        place
    }

    fn exists(&self) -> bool {
        self.root.is_dir()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        create_dir_durably(&self.locate(dir), &mut sync_dir)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.locate(dir)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // The store gives only plain names: one that is not Unicode is not its own.
            if let Ok(name) = entry.file_name().into_string()
                && !entry.file_type()?.is_dir()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        Ok(Arc::new(RealFile { file: options.open(self.locate(path))? }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(RealFile { file: options.open(self.locate(path))? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.locate(from), self.locate(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.locate(path))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        fs::remove_dir(self.locate(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_dir(&self.locate(dir))
    }

    fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        let path = self.locate(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        lock_at(&path, || options.open(&path))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        free_bytes(&self.root)
    }
}

/// An open file of the file system.
#[derive(Debug)]
struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match read_once(&self.file, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match write_once(&self.file, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        sync_once(&self.file)
    }

    fn skip_hole(&self, offset: u64) -> io::Result<u64> {
        next_data(&self.file, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match reserve(&self.file, len) {
            Ok(true) => Ok(()),
            Ok(false) => self.append_zeros(len),
            Err(error) => Err(error),
        }
        .map_err(as_storage_full)
    }

    fn map(&self, len: u64) -> io::Result<Region> {
        // A page behind the end of the file would raise a signal when it is touched.
        if len > self.len()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a map longer than the file"));
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        MmapOptions::new().len(len).map_raw_read_only(&self.file).map(Region::of_map)
    }
}

impl RealFile {
    fn append_zeros(&self, len: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut end = self.len()?;
        while end < len {
            let count = (len - end).min(ZEROS_BYTES as u64);
            self.write_at(&zeros[..count as usize], end)?;
            end += count;
        }
        Ok(())
    }
}

/// Whether a part of a path is a name, and not a way out of the directory.
fn is_plain_name(name: &str) -> bool {
    name != "." && name != ".." && !name.contains(['\\', ':', '\0'])
}

/// Syncs the names in a directory.
type SyncDir<'a> = dyn FnMut(&Path) -> io::Result<()> + 'a;

/// Creates a directory and what is missing above it, and makes the names durable.
///
/// Parents come first, and their names are durable before anything is created in them. So only the deepest directory that
/// exists can have been left unsynced by an earlier crash, and its name is synced before anything else.
fn create_dir_durably(dir: &Path, sync: &mut SyncDir<'_>) -> io::Result<()> {
    if dir.is_dir() {
        return sync_existing_name(dir, sync);
    }
    if let Some(parent) = dir.parent() {
        create_dir_durably(parent, sync)?;
    }
    match fs::create_dir(dir) {
        // Somebody else may have made it meanwhile.
        Err(error) if !dir.is_dir() => Err(error),
        _ => sync_parent(dir, sync),
    }
}

fn sync_parent(dir: &Path, sync: &mut SyncDir<'_>) -> io::Result<()> {
    dir.parent().map_or(Ok(()), sync)
}

/// A directory that belongs to somebody else may be closed to us; whoever made it, it was not we who crashed there. One
/// that the system makes up to mount others in may be on no disk, and cannot be synced.
fn sync_existing_name(dir: &Path, sync: &mut SyncDir<'_>) -> io::Result<()> {
    match sync_parent(dir, sync) {
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => Ok(()),
        result => result,
    }
}

/// Whether the system had too few files, maps or memory left for a call, which says nothing of what is on the disk.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_known = {
        use rustix::io::Errno;
        let known = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
        error.raw_os_error().is_some_and(|raw| known.iter().any(|known| known.raw_os_error() == raw))
    };
    #[cfg(not(unix))]
    let is_known = false;
    is_known || error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Locks the file that has a name. One that has lost it would exclude nobody: it goes when its directory is renamed to be
/// removed, which may be since it was opened.
fn lock_at(path: &Path, open: impl Fn() -> io::Result<fs::File>) -> io::Result<Option<Lock>> {
    loop {
        let file = open()?;
        match file.try_lock() {
            Ok(()) if !is_at(&file, path)? => {}
            Ok(()) => return Ok(Some(LockedFile::lock(file))),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether this is the file that has the name.
#[cfg(unix)]
fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match fs::metadata(path) {
        Ok(named) => Ok(identity(named) == identity(file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Windows renames no directory in which a file is open.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
fn is_at(_: &fs::File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// What an unprivileged program may still take.
#[cfg(unix)]
fn free_bytes(dir: &Path) -> io::Result<Option<u64>> {
    let volume = rustix::fs::statvfs(dir)?;
    Ok(Some(volume.f_bavail.saturating_mul(volume.f_frsize)))
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
fn free_bytes(_: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}

/// One call and no other: `std` would try again after an interruption, and a sync is never tried again.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn sync_once(file: &fs::File) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(file)?)
}

/// On Apple's systems this flushes the cache of the disk as well, which a plain fsync does not.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn sync_once(file: &fs::File) -> io::Result<()> {
    file.sync_data()
}

/// Reserves space and extends the file; `false` if the file system cannot.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn reserve(file: &fs::File, len: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};

    if len == 0 {
        return Ok(true);
    }
    // Without KEEP_SIZE: a sync that need not change the length of the file is cheaper.
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, len)) {
        Ok(()) => Ok(true),
        // ZFS says that the argument is invalid.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
fn reserve(_: &fs::File, _: u64) -> io::Result<bool> {
    Ok(false)
}

/// A quota and a limit on the size of files are full disks to the caller.
fn as_storage_full(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => io::Error::new(io::ErrorKind::StorageFull, error),
        _ => error,
    }
}

#[cfg(unix)]
fn read_once(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_once(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// The system call itself: the one of the C library is a point where a thread can be cancelled, which nobody does here, and
/// that makes a write of a small commit a tenth dearer.
#[cfg(unix)]
fn write_once(file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::pwrite(file, bytes, offset)?)
}

#[cfg(windows)]
fn write_once(file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

/// Where the file system says that data begin again, `offset` where it cannot say.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn next_data(file: &fs::File, offset: u64) -> io::Result<u64> {
    // The cursor that this moves is used by nobody: all reads and writes name their offset.
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(found) => Ok(found),
        Err(rustix::io::Errno::NXIO) => Ok(file.metadata()?.len().max(offset)),
        Err(_) => Ok(offset),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn next_data(_file: &fs::File, offset: u64) -> io::Result<u64> {
    Ok(offset)
}

/// A file that is locked until this is dropped.
///
/// Closing it would not be enough: a process that is being started by another thread shares the open file, and with it
/// the lock, until it becomes another program. For the same reason a process that was forked must only close it: what it
/// unlocks is unlocked for the process that goes on writing.
#[derive(Debug)]
struct LockedFile {
    file: fs::File,
    owner: Owner,
}

impl LockedFile {
    /// The lock on a file that this process has locked.
    fn lock(file: fs::File) -> Lock {
        let owner = Owner::this_process();
        Lock::held_by(Self { file, owner }).owned_by(owner)
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            // What cannot be unlocked is unlocked when it is closed.
            let _ = self.file.unlock();
        }
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    /// A test that closed a store and started a program to open it found it locked now and then: another test was
    /// starting a program at that moment, which had a copy of every open file for a while.
    #[test]
    fn a_lock_that_is_dropped_is_free_although_another_process_shares_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path());
        let file = fs::File::create(dir.path().join("lock")).unwrap();
        let shared = file.try_clone().unwrap();
        file.try_lock().unwrap();
        let lock = LockedFile::lock(file);
        assert!(disk.lock("lock").unwrap().is_none());
        drop(lock);
        assert!(disk.lock("lock").unwrap().is_some());
        drop(shared);
    }

    /// Found by review. Who had opened the lock file when another process removed the store locked a file that was on its
    /// way out, and made a store in the place of the other beside whoever came next.
    #[test]
    #[cfg(unix)]
    fn a_lock_file_that_went_with_its_directory_is_not_the_one_to_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (store, path) = (dir.path().join("store"), dir.path().join("store/lock"));
        fs::create_dir(&store).unwrap();
        let opened = std::cell::Cell::new(Some(fs::File::create(&path).unwrap()));
        fs::rename(&store, dir.path().join("removed")).unwrap();
        fs::create_dir(&store).unwrap();
        let lock = lock_at(&path, || opened.take().map_or_else(|| fs::File::create(&path), Ok)).unwrap();
        assert!(RealDisk::new(&store).lock("lock").unwrap().is_none());
        drop(lock);
        assert!(RealDisk::new(&store).lock("lock").unwrap().is_some());
    }

    #[test]
    fn paths_are_joined_name_by_name_below_an_absolute_root() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path());
        assert_eq!(disk.locate("log/1.segment"), dir.path().join("log").join("1.segment"));
        assert_eq!(disk.locate("/log//1"), dir.path().join("log").join("1"));
        assert_eq!(disk.locate(""), dir.path());
        assert!(RealDisk::new("relative").locate("").is_absolute());
        assert!(!RealDisk::new("").exists());
    }

    #[test]
    #[should_panic(expected = "leaves the directory")]
    #[cfg(debug_assertions)]
    fn a_path_never_leaves_the_directory() {
        RealDisk::new("store").locate("log/../../passwords");
    }

    /// What a sync makes durable does not show without a loss of power; that it was asked for shows where Linux refuses
    /// it: of a device that keeps nothing, and of a directory that is on no disk.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_sync_reaches_the_system() {
        let device = RealDisk::new("/dev").open("null", Access::Read).unwrap();
        assert_eq!(device.sync().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let no_disk = RealDisk::new("/proc");
        assert_eq!(no_disk.sync_dir("").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // What is there already is nobody's concern here.
        no_disk.create_dir("sys").unwrap();
    }

    /// A name that a crash had left without its sync stayed without one, and all that was made below it later was
    /// acknowledged and could be lost.
    #[test]
    fn a_directory_is_made_only_where_all_names_are_durable() {
        let root = tempfile::tempdir().unwrap();
        let (above, root) = (root.path().parent().unwrap(), root.path());
        let (outer, inner) = (&*root.join("outer"), &*root.join("outer/inner"));
        // The directories that are synced, and which of the two are there then.
        let syncs = || {
            let mut syncs = Vec::new();
            let mut sync = |dir: &Path| {
                syncs.push((dir.to_owned(), outer.exists(), inner.exists()));
                Ok(())
            };
            create_dir_durably(inner, &mut sync).unwrap();
            syncs
        };
        let expected =
            [(above.to_owned(), false, false), (root.to_owned(), true, false), (outer.to_owned(), true, true)];
        assert_eq!(syncs(), expected);
        assert_eq!(syncs(), expected[2..]);
        fs::remove_dir(inner).unwrap();
        assert_eq!(syncs(), expected[1..]);
        for refused in [outer, inner] {
            let mut sync = |dir: &Path| if dir == refused { Err(io::ErrorKind::Other.into()) } else { Ok(()) };
            create_dir_durably(&inner.join("below/it"), &mut sync).unwrap_err();
        }
        assert!(!inner.join("below/it").exists());
    }

    #[test]
    fn zeros_are_written_where_space_cannot_be_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create_new(dir.path().join("file")).unwrap();
        let file = RealFile { file };
        file.write_at(b"abc", 0).unwrap();
        file.append_zeros(3).unwrap();
        assert_eq!(file.len().unwrap(), 3);
        file.append_zeros(ZEROS_BYTES as u64 + 5).unwrap();
        assert_eq!(file.len().unwrap(), ZEROS_BYTES as u64 + 5);
        let bytes = fs::read(dir.path().join("file")).unwrap();
        assert_eq!(&bytes[..3], b"abc");
        assert!(bytes[3..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn quotas_and_limits_are_full_disks() {
        for kind in [io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge, io::ErrorKind::StorageFull] {
            assert_eq!(as_storage_full(kind.into()).kind(), io::ErrorKind::StorageFull);
        }
        assert_eq!(as_storage_full(io::ErrorKind::NotFound.into()).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(unix)]
    fn names_that_are_not_unicode_are_not_listed() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        // Some file systems refuse such a name: then there is nothing to skip.
        let _ = fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xFF")), b"");
        fs::write(dir.path().join("file"), b"").unwrap();
        assert_eq!(RealDisk::new(dir.path()).list("").unwrap(), ["file"]);
    }
}
