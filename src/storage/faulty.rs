//! A disk that fails on purpose and can lose power: for tests only, those of the crate and, with the feature `testing`,
//! those of applications.
//!
//! It wraps another disk, counts the calls, and lets a test fail, panic or hold any one of them. Beside the disk itself,
//! which is what a killed process leaves behind, it keeps what a loss of power would leave behind: of every file the
//! content at its last sync, of every directory the names at its last sync, and a list of what came since. A sync that
//! fails leaves its writes where they are in the disk itself and forgets them for good here, as page caches do.
//!
//! What a disk in memory holds when it begins is durable; of another one only what is in `""` and `"log"`.

#![cfg_attr(not(test), allow(dead_code, reason = "the tests of the crate ask for more than those of applications"))]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::dice::Dice;
use super::{Access, Disk, File, Lock, MemoryDisk, Region, read_exact_at};

/// The disk's unit of writing: whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What is asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    CreateDir,
    List,
    Open,
    Create,
    Rename,
    Remove,
    SyncDir,
    Read,
    Write,
    Sync,
    Allocate,
    Map,
    Len,
    Lock,
}

impl Call {
    /// Whether the call changes something, or makes a change durable.
    pub(crate) fn mutates(self) -> bool {
        !matches!(self, Call::List | Call::Open | Call::Read | Call::Map | Call::Len | Call::Lock)
    }
}

/// A call that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// The call, or any that mutates.
    pub(crate) call: Option<Call>,
    /// A part of the path; `""` for every file.
    pub(crate) path: &'static str,
    /// What the path begins with.
    pub(crate) dir: &'static str,
    /// What it ends with.
    pub(crate) ending: &'static str,
    /// So many such calls go well before.
    pub(crate) after: u64,
    /// Whether all later ones go wrong as well.
    pub(crate) forever: bool,
    /// How it goes wrong; `None` for a panic.
    pub(crate) kind: Option<io::ErrorKind>,
    /// How much of what should have been written is, if it is a write.
    pub(crate) written: Written,
}

/// What a write that fails has written all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Nothing,
    /// The first half.
    Half,
    Everything,
}

impl Written {
    fn of(self, bytes: &[u8]) -> &[u8] {
        match self {
            Written::Nothing => &[],
            Written::Half => &bytes[..bytes.len() / 2],
            Written::Everything => bytes,
        }
    }
}

impl Fault {
    /// The next such call fails, and no other.
    pub(crate) fn next(call: Call) -> Self {
        let (kind, written) = (Some(io::ErrorKind::Other), Written::Nothing);
        Self { call: Some(call), path: "", dir: "", ending: "", after: 0, forever: false, kind, written }
    }

    /// Any mutating call fails after so many have gone well, and all that follow.
    pub(crate) fn all_after(after: u64) -> Self {
        Self { call: None, after, forever: true, ..Self::next(Call::Write) }
    }

    pub(crate) fn of(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    pub(crate) fn in_dir(self, dir: &'static str) -> Self {
        Self { dir, ..self }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn ending(self, ending: &'static str) -> Self {
        Self { ending, ..self }
    }

    pub(crate) fn kind(self, kind: io::ErrorKind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    pub(super) fn concerns(&self, call: Call, path: &str) -> bool {
        self.call.map_or_else(|| call.mutates(), |own| own == call)
            && path.contains(self.path)
            && path.starts_with(self.dir)
            && path.ends_with(self.ending)
    }
}

/// A disk that does what a test asks for. Clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct FaultyDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Disk>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    calls: BTreeMap<Call, u64>,
    faults: Vec<Fault>,
    /// How many calls have gone wrong.
    failed: u64,
    /// The calls that block now, and how many do.
    gate: Option<(Call, &'static str)>,
    held: usize,
    dirs: BTreeSet<String>,
    /// The names now, those that are durable, and what happened in between.
    names: BTreeMap<String, Arc<Node>>,
    durable_names: BTreeMap<String, Arc<Node>>,
    pending_names: Vec<NameChange>,
}

/// A call that goes wrong.
struct Refused {
    kind: io::ErrorKind,
    written: Written,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        io::Error::new(refused.kind, "a fault that the test asked for")
    }
}

#[derive(Debug)]
enum NameChange {
    Create(String, Arc<Node>),
    Rename(String, String, Arc<Node>),
    Remove(String),
}

/// What is durable of a file, and what came since.
#[derive(Debug, Default)]
struct Node {
    images: Mutex<Images>,
    /// What it is called since it was renamed.
    renamed: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Images {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Extend(u64),
}

impl FaultyDisk {
    /// What is in the directory of the inner disk itself, and in its log, is durable.
    pub(crate) fn new(inner: impl Disk + 'static) -> Self {
        let dirs = ["", "log"].map(str::to_owned);
        let dirs = dirs.into_iter().filter(|dir| !inner.list(dir).unwrap_or_default().is_empty()).collect();
        Self::on_durable(inner, dirs)
    }

    /// Everything that is on the disk is durable.
    pub(crate) fn on_memory(inner: MemoryDisk) -> Self {
        let dirs = inner.dirs();
        Self::on_durable(inner, dirs)
    }

    fn on_durable(inner: impl Disk + 'static, dirs: Vec<String>) -> Self {
        let mut state = State::default();
        for dir in dirs {
            let names = inner.list(&dir).unwrap_or_default();
            for name in names {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let durable = contents(&inner, &path);
                let images = Mutex::new(Images { durable, pending: Vec::new() });
                state.names.insert(path, Arc::new(Node { images, renamed: Mutex::default() }));
            }
            state.dirs.insert(dir);
        }
        state.durable_names = state.names.clone();
        let shared = Shared { inner: Arc::new(inner), state: Mutex::new(state), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.shared.state.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many calls changed something.
    pub(crate) fn mutations(&self) -> u64 {
        self.shared.state.lock().calls.iter().filter(|(call, _)| call.mutates()).map(|(_, count)| count).sum()
    }

    pub(crate) fn inject(&self, fault: Fault) {
        self.shared.state.lock().faults.push(fault);
    }

    /// Takes back all faults.
    pub(crate) fn heal(&self) {
        self.shared.state.lock().faults.clear();
    }

    /// Whether a fault is still to come.
    pub(crate) fn expects_fault(&self) -> bool {
        !self.shared.state.lock().faults.is_empty()
    }

    /// How many calls have gone wrong.
    pub(crate) fn failed_calls(&self) -> u64 {
        self.shared.state.lock().failed
    }

    /// From now on such calls block, on files whose path contains `path`, and no others.
    pub(crate) fn hold(&self, call: Call, path: &'static str) {
        self.shared.state.lock().gate = Some((call, path));
        self.shared.changed.notify_all();
    }

    /// Waits until a call blocks.
    pub(crate) fn wait_held(&self) {
        let mut state = self.shared.state.lock();
        while state.held == 0 {
            self.shared.changed.wait(&mut state);
        }
    }

    /// Lets those that block go on.
    pub(crate) fn release(&self) {
        self.shared.state.lock().gate = None;
        self.shared.changed.notify_all();
    }

    /// What a loss of power leaves behind: what is durable, and of the rest what the seed chooses.
    pub(crate) fn power_cut(&self, seed: u64) -> MemoryDisk {
        let state = self.shared.state.lock();
        let mut dice = Dice::new(seed);
        let luck = dice.below(5);
        let mut names = state.durable_names.clone();
        for change in &state.pending_names {
            if dice.happens(luck) {
                change.apply(&mut names);
            }
        }
        let disk = MemoryDisk::new();
        disk.create_dir("").expect("a directory in memory");
        for dir in &state.dirs {
            disk.create_dir(dir).expect("a directory in memory");
        }
        for (path, node) in names {
            let file = disk.create(&path).expect("a file in memory");
            file.write_at(&node.images.lock().after_power_cut(&mut dice, luck), 0).expect("a write in memory");
        }
        disk
    }

    /// Counts a call, and lets it fail or wait. What the call does happens before the guard is dropped, so that a loss of
    /// power comes before it or after it.
    fn begin(&self, call: Call, path: &str) -> Result<MutexGuard<'_, State>, Refused> {
        let mut state = self.shared.state.lock();
        *state.calls.entry(call).or_default() += 1;
        while state.gate.is_some_and(|(held, part)| held == call && path.contains(part)) {
            state.held += 1;
            self.shared.changed.notify_all();
            self.shared.changed.wait(&mut state);
            state.held -= 1;
        }
        let Some(index) = state.faults.iter().position(|fault| fault.concerns(call, path)) else { return Ok(state) };
        let fault = &mut state.faults[index];
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(state);
        }
        let Fault { kind, written, .. } = *fault;
        if !fault.forever {
            state.faults.remove(index);
        }
        state.failed += 1;
        let Some(kind) = kind else {
            drop(state);
            panic!("a fault that the test asked for");
        };
        Err(Refused { kind, written })
    }

    fn file(&self, path: &str, inner: Arc<dyn File>, node: Arc<Node>) -> Arc<dyn File> {
        Arc::new(FaultyFile { disk: self.clone(), path: path.to_owned(), inner, node })
    }
}

fn contents(disk: &dyn Disk, path: &str) -> Vec<u8> {
    let file = disk.open(path, Access::Read).expect("a file that was listed");
    let mut bytes = vec![0; file.len().expect("the length of a file") as usize];
    read_exact_at(&*file, &mut bytes, 0).expect("the bytes of a file");
    bytes
}

impl Disk for FaultyDisk {
    fn locate(&self, path: &str) -> PathBuf {
        self.shared.inner.locate(path)
    }

    fn exists(&self) -> bool {
        self.shared.inner.exists()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.begin(Call::CreateDir, dir)?;
        state.dirs.insert(dir.to_owned());
        self.shared.inner.create_dir(dir)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let _state = self.begin(Call::List, dir)?;
        self.shared.inner.list(dir)
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let state = self.begin(Call::Open, path)?;
        let inner = self.shared.inner.open(path, access)?;
        let node = state.names.get(path).cloned().unwrap_or_default();
        drop(state);
        Ok(self.file(path, inner, node))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.begin(Call::Create, path)?;
        let inner = self.shared.inner.create(path)?;
        let node = Arc::new(Node::default());
        state.names.insert(path.to_owned(), Arc::clone(&node));
        state.pending_names.push(NameChange::Create(path.to_owned(), Arc::clone(&node)));
        drop(state);
        Ok(self.file(path, inner, node))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin(Call::Rename, from)?;
        self.shared.inner.rename(from, to)?;
        let node = state.names.get(from).cloned().unwrap_or_default();
        *node.renamed.lock() = Some(to.to_owned());
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), node);
        change.apply(&mut state.names);
        state.pending_names.push(change);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.begin(Call::Remove, path)?;
        self.shared.inner.remove(path)?;
        state.names.remove(path);
        state.pending_names.push(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let _state = self.begin(Call::Remove, dir)?;
        self.shared.inner.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.begin(Call::SyncDir, dir)?;
        self.shared.inner.sync_dir(dir)?;
        let State { durable_names, pending_names, .. } = &mut *state;
        pending_names.retain(|change| {
            let is_here = change.dir() == dir;
            if is_here {
                change.apply(durable_names);
            }
            !is_here
        });
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        let _state = self.begin(Call::Lock, path)?;
        self.shared.inner.lock(path)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.shared.inner.free_bytes()
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Arc<Node>>) {
        match self {
            NameChange::Create(path, node) => {
                names.insert(path.clone(), Arc::clone(node));
            }
            NameChange::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), Arc::clone(node));
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn dir(&self) -> &str {
        let (NameChange::Create(path, _) | NameChange::Rename(path, _, _) | NameChange::Remove(path)) = self;
        path.rsplit_once('/').map_or("", |(dir, _)| dir)
    }
}

/// An open file of a faulty disk.
#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    /// What it was called when it was opened.
    path: String,
    inner: Arc<dyn File>,
    node: Arc<Node>,
}

impl File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        drop(self.begin(Call::Len)?);
        self.inner.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        drop(self.begin(Call::Read)?);
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.begin(Call::Write) {
            Ok(_state) => self.write_through(bytes, offset),
            Err(refused) => {
                self.write_through(refused.written.of(bytes), offset)?;
                Err(refused.into())
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let allowed = self.begin(Call::Sync);
        let mut images = self.node.images.lock();
        let pending = std::mem::take(&mut images.pending);
        let _state = allowed?;
        self.inner.sync()?;
        for change in &pending {
            change.apply(&mut images.durable);
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let _state = self.begin(Call::Allocate)?;
        let mut images = self.node.images.lock();
        self.inner.allocate(len)?;
        images.pending.push(Change::Extend(len));
        Ok(())
    }

    fn map(&self, len: u64) -> io::Result<Region> {
        drop(self.begin(Call::Map)?);
        self.inner.map(len)
    }
}

impl FaultyFile {
    fn begin(&self, call: Call) -> Result<MutexGuard<'_, State>, Refused> {
        let renamed = self.node.renamed.lock().clone();
        self.disk.begin(call, renamed.as_deref().unwrap_or(&self.path))
    }

    fn write_through(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut images = self.node.images.lock();
        self.inner.write_at(bytes, offset)?;
        images.pending.push(Change::Write(offset, bytes.to_vec()));
        Ok(())
    }
}

impl Images {
    fn after_power_cut(&self, dice: &mut Dice, luck: u64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.pending {
            match change {
                Change::Extend(len) if dice.happens(luck) => {
                    let old = bytes.len();
                    change.apply(&mut bytes);
                    // That extended space reads as zeros is not promised before the sync.
                    if dice.below(4) == 0 {
                        let rubbish = (*len as usize).max(old) - old;
                        dice.fill(&mut bytes[old..], rubbish);
                    }
                }
                Change::Extend(_) => {}
                Change::Write(offset, written) => write_torn(&mut bytes, *offset, written, dice, luck),
            }
        }
        bytes
    }
}

/// Writes some sectors and leaves others out.
fn write_torn(bytes: &mut Vec<u8>, offset: u64, written: &[u8], dice: &mut Dice, luck: u64) {
    let (mut from, end) = (offset as usize, offset as usize + written.len());
    while from < end {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if dice.happens(luck) {
            let piece = &written[from - offset as usize..to - offset as usize];
            Change::Write(from as u64, piece.to_vec()).apply(bytes);
        }
        from = to;
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Extend(len) => bytes.resize(bytes.len().max(*len as usize), 0),
            Change::Write(offset, written) => {
                let offset = *offset as usize;
                let end = offset + written.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset..end].copy_from_slice(written);
            }
        }
    }
}
