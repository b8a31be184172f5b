//! A disk that writes down every call that changes something, with its bytes, and can play them again. For the tests of
//! the crate only.
//!
//! It stands before another disk, the real one above all: what an engine has asked of the operating system is then
//! played on a simulated disk, up to any call, and what a crash there would leave is put into a real directory, which the
//! real disk opens with real memory maps.
//!
//! A call stands in the record after it has succeeded, and no other call comes in between: the order of the record is that
//! of the disk. Calls that failed, and calls that only read, are not in it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Disk, File, FileSystem, Lock, Region, SimulatedDisk, read_exact_at};

/// A directory on another disk, with the record of its changes. Clones share the record.
#[derive(Debug, Clone)]
pub(crate) struct RecordingDisk {
    inner: Arc<dyn Disk>,
    record: Arc<Mutex<Record>>,
}

/// The calls that changed something, in their order.
#[derive(Debug, Default)]
struct Record {
    steps: Vec<Step>,
    /// So many handles of files were given.
    files: usize,
}

/// A call. Files are named by the handle that they were given.
#[derive(Debug)]
enum Step {
    CreateDir { dir: String },
    RemoveDir { dir: String },
    SyncDir { dir: String },
    Rename { from: String, to: String },
    Remove { path: String },
    Create { path: String, file: usize },
    Open { path: String, file: usize },
    Write { file: usize, offset: u64, bytes: Vec<u8> },
    Allocate { file: usize, len: u64 },
    Sync { file: usize },
}

impl RecordingDisk {
    pub(crate) fn new(inner: impl Disk + 'static) -> Self {
        Self { inner: Arc::new(inner), record: Arc::default() }
    }

    /// How many calls are in the record.
    pub(crate) fn calls(&self) -> usize {
        self.record.lock().steps.len()
    }

    /// What a loss of power leaves that comes in the middle of a call, behind so many others.
    pub(crate) fn image_at(&self, calls: usize, file_system: FileSystem, seed: u64) -> SimulatedDisk {
        let record = self.record.lock();
        let disk = SimulatedDisk::new(file_system, seed);
        let mut player = Player { disk: &disk, files: Vec::new() };
        record.steps[..calls].iter().for_each(|step| player.play(step).expect("what has succeeded before"));
        disk.lose_power_after(0);
        if let Some(interrupted) = record.steps.get(calls) {
            // What loses its power tells no result.
            let _ = player.play(interrupted);
        }
        disk.stop();
        disk.cut_power();
        disk
    }

    /// What a kill leaves behind so many calls.
    pub(crate) fn copy_at(&self, calls: usize, target: &dyn Disk) {
        let record = self.record.lock();
        let mut player = Player { disk: target, files: Vec::new() };
        record.steps[..calls].iter().for_each(|step| player.play(step).expect("what has succeeded before"));
    }

    /// Makes a call, and notes it if it succeeds.
    fn note<T>(&self, call: impl FnOnce() -> io::Result<T>, step: impl FnOnce() -> Step) -> io::Result<T> {
        let mut record = self.record.lock();
        let result = call()?;
        record.steps.push(step());
        Ok(result)
    }

    /// Makes a call that opens a file, and notes it with the handle that the file is given.
    fn note_file(
        &self,
        call: impl FnOnce() -> io::Result<Arc<dyn File>>,
        step: impl FnOnce(usize) -> Step,
    ) -> io::Result<Arc<dyn File>> {
        let mut record = self.record.lock();
        let inner = call()?;
        let file = record.files;
        record.files += 1;
        record.steps.push(step(file));
        Ok(Arc::new(RecordedFile { disk: self.clone(), file, inner }))
    }
}

/// Makes the calls of a record on another disk.
struct Player<'a> {
    disk: &'a dyn Disk,
    /// By handle; the handles of a record are given in the order of their calls.
    files: Vec<Arc<dyn File>>,
}

impl Player<'_> {
    fn play(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::CreateDir { dir } => self.disk.create_dir(dir),
            Step::RemoveDir { dir } => self.disk.remove_dir(dir),
            Step::SyncDir { dir } => self.disk.sync_dir(dir),
            Step::Rename { from, to } => self.disk.rename(from, to),
            Step::Remove { path } => self.disk.remove(path),
            Step::Create { path, file } => {
                let created = self.disk.create(path)?;
                self.give(*file, created);
                Ok(())
            }
            Step::Open { path, file } => {
                let opened = self.disk.open(path, Access::ReadWrite)?;
                self.give(*file, opened);
                Ok(())
            }
            Step::Write { file, offset, bytes } => self.files[*file].write_at(bytes, *offset),
            Step::Allocate { file, len } => self.files[*file].allocate(*len),
            Step::Sync { file } => self.files[*file].sync(),
        }
    }

    fn give(&mut self, handle: usize, file: Arc<dyn File>) {
        assert_eq!(handle, self.files.len(), "handles are played in their order");
        self.files.push(file);
    }
}

/// Copies the files of some directories of a disk to another one.
pub(crate) fn copy_files(from: &dyn Disk, to: &dyn Disk, dirs: &[&str]) -> io::Result<()> {
    to.create_dir("")?;
    for dir in dirs {
        for name in from.list(dir)? {
            to.create_dir(dir)?;
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let file = from.open(&path, Access::Read)?;
            let mut bytes = vec![0; file.len()? as usize];
            read_exact_at(&*file, &mut bytes, 0)?;
            to.create(&path)?.write_at(&bytes, 0)?;
        }
    }
    Ok(())
}

impl Disk for RecordingDisk {
    fn locate(&self, path: &str) -> PathBuf {
        self.inner.locate(path)
    }

    fn exists(&self) -> bool {
        self.inner.exists()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.note(|| self.inner.create_dir(dir), || Step::CreateDir { dir: dir.to_owned() })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        match access {
            Access::Read => self.inner.open(path, access),
            Access::ReadWrite => {
                self.note_file(|| self.inner.open(path, access), |file| Step::Open { path: path.to_owned(), file })
            }
        }
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.note_file(|| self.inner.create(path), |file| Step::Create { path: path.to_owned(), file })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.note(|| self.inner.rename(from, to), || Step::Rename { from: from.to_owned(), to: to.to_owned() })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.note(|| self.inner.remove(path), || Step::Remove { path: path.to_owned() })
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.note(|| self.inner.remove_dir(dir), || Step::RemoveDir { dir: dir.to_owned() })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.note(|| self.inner.sync_dir(dir), || Step::SyncDir { dir: dir.to_owned() })
    }

    fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        self.inner.lock(path)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.free_bytes()
    }
}

/// An open file whose changes are recorded.
#[derive(Debug)]
struct RecordedFile {
    disk: RecordingDisk,
    file: usize,
    inner: Arc<dyn File>,
}

impl File for RecordedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let step = || Step::Write { file: self.file, offset, bytes: bytes.to_vec() };
        self.disk.note(|| self.inner.write_at(bytes, offset), step)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.note(|| self.inner.sync(), || Step::Sync { file: self.file })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.note(|| self.inner.allocate(len), || Step::Allocate { file: self.file, len })
    }

    fn skip_hole(&self, offset: u64) -> io::Result<u64> {
        self.inner.skip_hole(offset)
    }

    fn map(&self, len: u64) -> io::Result<Region> {
        self.inner.map(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryDisk;
    use super::*;

    #[test]
    fn what_was_recorded_is_played_up_to_any_call() {
        let disk = RecordingDisk::new(MemoryDisk::new());
        disk.create_dir("log").unwrap();
        let file = disk.create("log/file.tmp").unwrap();
        file.allocate(8).unwrap();
        file.write_at(b"abc", 2).unwrap();
        file.sync().unwrap();
        disk.rename("log/file.tmp", "log/file").unwrap();
        disk.sync_dir("log").unwrap();
        disk.rename("log/absent", "log/other").unwrap_err();
        assert_eq!(disk.calls(), 7);
        for (calls, name) in [(2, "file.tmp"), (5, "file.tmp"), (6, "file"), (7, "file")] {
            let copy = MemoryDisk::new();
            disk.copy_at(calls, &copy);
            assert_eq!(copy.list("log").unwrap(), [name]);
            let copied = copy.open(&format!("log/{name}"), Access::Read).unwrap();
            assert_eq!(copied.len().unwrap(), if calls == 2 { 0 } else { 8 });
        }
    }

    #[test]
    fn a_loss_of_power_spares_what_was_synced_before_it() {
        let disk = RecordingDisk::new(MemoryDisk::new());
        disk.create_dir("").unwrap();
        let file = disk.create("file").unwrap();
        file.write_at(b"old", 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        let synced = disk.calls();
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        let left = |calls: usize, seed: u64| {
            let image = disk.image_at(calls, FileSystem::Strict, seed);
            let mut bytes = [0; 3];
            read_exact_at(&*image.open("file", Access::Read).unwrap(), &mut bytes, 0).unwrap();
            bytes
        };
        let found: Vec<_> = (0..50).map(|seed| left(synced, seed)).collect();
        assert!(found.contains(b"old") && found.contains(b"new"), "the write may come true or not");
        assert!((0..50).all(|seed| left(disk.calls(), seed) == *b"new"));
    }
}
