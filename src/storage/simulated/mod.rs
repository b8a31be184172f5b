//! A file system that crashes on purpose, and does it again for the same seed. For the tests of the crate only.
//!
//! It keeps two views. What programs see, the page cache, is a [`MemoryDisk`], whose maps are stable buffers that later
//! writes change as well. What lies on the disk is kept beside it: of each file the durable bytes and the writes that
//! are pending ([`image`]), and the names apart from the files ([`names`]). A loss of power
//! throws the first away, and makes it anew from the second and from what chance spares of the pending changes. Maps and
//! files from before keep the old buffers, and take no more calls.
//!
//! Nothing here is random but by the seed: the same calls in the same order meet the same faults.
//! What is not simulated: disks that lie about a flush, and bits that rot.

mod image;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::memory::plain;
use super::{Access, Call, Dice, Disk, Fault, File, Lock, MemoryDisk, Region};
use image::{Change, Fate};
use names::{Names, Node};

/// So many contents of files are remembered, to show up in space that is given anew.
const STALE_FILES: usize = 4;

/// Which promises the file system keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// Those of POSIX and no more: a name is durable after the sync of its directory, extended space shows anything
    /// before a sync, and what was not synced arrives in any order.
    Strict,
    /// As ext4 does with its defaults: one journal of all names, which every sync commits; extended space reads as zeros;
    /// a rename over an existing name brings the bytes of the file along.
    Ext4,
}

/// A directory on a simulated disk. Clones are the same directory, as the same process has it.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    user: User,
}

/// Who has the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// The process that is killed.
    Killed,
    /// One beside it, whose files stay open until the power is lost.
    Beside,
}

#[derive(Debug)]
struct State {
    file_system: FileSystem,
    dice: Dice,
    cache: MemoryDisk,
    budget: u64,
    names: Names,
    stale: Vec<Vec<u8>>,
    faults: Vec<Fault>,
    calls: BTreeMap<Call, u64>,
    /// After so many more calls that change something the power is lost.
    power_left: Option<u64>,
    is_on: bool,
    /// The cache writes a page back at one of so many calls that change something.
    writes_back_in: Option<u64>,
    /// Counts the crashes: an open file belongs to the life that it was opened in.
    life: u64,
    /// Counts the losses of power among them.
    outages: u64,
    fingerprint: u64,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Well,
    Fails(io::ErrorKind),
    /// The last call before the power is lost: it may come true, and nobody is told.
    LosesPower,
}

impl Verdict {
    fn told(self) -> io::Result<()> {
        match self {
            Verdict::Well => Ok(()),
            Verdict::Fails(kind) => Err(io::Error::new(kind, "a fault that the test asked for")),
            Verdict::LosesPower => Err(power_is_off()),
        }
    }
}

impl SimulatedDisk {
    /// An empty disk.
    pub(crate) fn new(file_system: FileSystem, seed: u64) -> Self {
        let state = State {
            file_system,
            dice: Dice::new(seed),
            cache: MemoryDisk::new(),
            budget: u64::MAX,
            names: Names::default(),
            stale: Vec::new(),
            faults: Vec::new(),
            calls: BTreeMap::new(),
            power_left: None,
            is_on: true,
            writes_back_in: None,
            life: 0,
            outages: 0,
            fingerprint: seed,
        };
        Self { state: Arc::new(Mutex::new(state)), user: User::Killed }
    }

    /// The same directory as another process has it, which goes on when this one is killed.
    pub(crate) fn beside(&self) -> Self {
        Self { state: Arc::clone(&self.state), user: User::Beside }
    }

    pub(crate) fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Bounds the bytes that all files may have together.
    pub(crate) fn set_budget(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.budget = bytes;
        state.cache.set_budget(bytes);
    }

    /// Bytes that all files have together.
    pub(crate) fn used(&self) -> u64 {
        self.state.lock().cache.used()
    }

    /// The power is lost in the middle of the call that comes after so many others that change something. From then on
    /// every call fails, until `cut_power`.
    pub(crate) fn lose_power_after(&self, calls: u64) {
        self.state.lock().power_left = Some(calls);
    }

    /// The cache writes a page back, of some file, at about one of so many calls that change something.
    pub(crate) fn write_back_in(&self, calls: u64) {
        self.state.lock().writes_back_in = Some(calls);
    }

    /// How many calls changed something, or made a change durable.
    pub(crate) fn mutations(&self) -> u64 {
        self.state.lock().calls.iter().filter(|(call, _)| call.mutates()).map(|(_, count)| count).sum()
    }

    /// A number that two runs share only if they made the same calls.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.state.lock().fingerprint
    }

    /// Whether calls are taken: the power was not lost, and nobody stopped the disk.
    pub(crate) fn is_on(&self) -> bool {
        self.state.lock().is_on
    }

    /// Every call fails from now on, until `cut_power` or `kill`: what is dropped meanwhile can no longer tidy up.
    pub(crate) fn stop(&self) {
        self.state.lock().is_on = false;
    }

    /// The power is lost, and comes back with what reached the disk. Faults and the budget are taken back.
    pub(crate) fn cut_power(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.keep_stale();
        let (fate, is_shared) = (Fate::choose(&mut state.dice), state.dice.one_in(2));
        let (dirs, files) = state.names.after_power_cut(fate, state.file_system, &mut state.dice);
        state.cache = MemoryDisk::new();
        let mut images = BTreeMap::new();
        for (path, node) in files {
            let fate = if is_shared { fate } else { Fate::choose(&mut state.dice) };
            let image = node.lock().after_power_cut(fate, state.file_system, &state.stale, &mut state.dice);
            images.insert(path, image);
        }
        for dir in &dirs {
            state.cache.create_dir(dir).expect("a directory in memory");
        }
        for (path, image) in &images {
            let file = state.cache.create(path).expect("a file in memory");
            file.write_at(image, 0).expect("a write in memory");
        }
        state.names = Names::durable(dirs, images);
        state.outages += 1;
        state.begin_life();
    }

    /// The process is killed: what it wrote stays, in the cache at least. Faults and the budget are taken back. The lock
    /// must be free by now, as the kernel would have made it.
    pub(crate) fn kill(&self) {
        self.state.lock().begin_life();
    }

    /// Counts a call, and says what becomes of it.
    fn begin(&self, call: Call, path: &str, life: Option<u64>) -> io::Result<(MutexGuard<'_, State>, Verdict)> {
        let mut state = self.state.lock();
        if !state.is_on || life.is_some_and(|life| life != state.life_of(self.user)) {
            return Err(power_is_off());
        }
        *state.calls.entry(call).or_default() += 1;
        state.note(&[call as u8]);
        state.note(path.as_bytes());
        if call.mutates() {
            state.write_back();
        }
        let verdict = state.judge(call, path);
        Ok((state, verdict))
    }

    fn file(&self, state: &State, path: String, inner: Arc<dyn File>, node: Node) -> Arc<dyn File> {
        Arc::new(SimulatedFile { disk: self.clone(), path, life: state.life_of(self.user), inner, node })
    }
}

impl State {
    /// Makes what happens part of the fingerprint.
    fn note(&mut self, bytes: &[u8]) {
        self.fingerprint = xxh3_64_with_seed(bytes, self.fingerprint);
    }

    fn judge(&mut self, call: Call, path: &str) -> Verdict {
        if call.mutates()
            && let Some(left) = &mut self.power_left
        {
            if *left == 0 {
                self.is_on = false;
                return Verdict::LosesPower;
            }
            *left -= 1;
        }
        let Some(index) = self.faults.iter().position(|fault| fault.concerns(call, path)) else { return Verdict::Well };
        let fault = &mut self.faults[index];
        if fault.after > 0 {
            fault.after -= 1;
            return Verdict::Well;
        }
        let verdict = Verdict::Fails(fault.kind.unwrap_or(io::ErrorKind::Other));
        if !fault.forever {
            self.faults.remove(index);
        }
        verdict
    }

    fn write_back(&mut self) {
        let Some(calls) = self.writes_back_in else { return };
        if self.dice.one_in(calls) {
            let dirty: Vec<&Node> = self.names.nodes().filter(|node| !node.lock().is_clean()).collect();
            if !dirty.is_empty() {
                self.dice.pick(&dirty).lock().write_back(&mut self.dice);
            }
        }
    }

    /// Remembers what was written and may be lost.
    fn keep_stale(&mut self) {
        let written = self.names.nodes().filter(|node| !node.lock().is_clean());
        self.stale.extend(written.map(|node| node.lock().newest()));
        self.forget_stale();
    }

    fn forget_stale(&mut self) {
        let surplus = self.stale.len().saturating_sub(STALE_FILES);
        self.stale.drain(..surplus);
    }

    /// What ends with the next crash that the user does not outlive.
    fn life_of(&self, user: User) -> u64 {
        match user {
            User::Killed => self.life,
            User::Beside => self.outages,
        }
    }

    fn begin_life(&mut self) {
        self.faults.clear();
        self.budget = u64::MAX;
        self.cache.set_budget(u64::MAX);
        self.power_left = None;
        self.is_on = true;
        self.life += 1;
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl Disk for SimulatedDisk {
    fn locate(&self, path: &str) -> PathBuf {
        PathBuf::from("simulated:").join(plain(path))
    }

    fn exists(&self) -> bool {
        self.state.lock().cache.exists()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::CreateDir, dir, None)?;
        if let Verdict::Fails(_) = verdict
            && state.dice.one_in(2)
        {
            return verdict.told();
        }
        state.cache.create_dir(dir)?;
        state.names.create_dir(&plain(dir), verdict == Verdict::Well);
        verdict.told()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let (state, verdict) = self.begin(Call::List, dir, None)?;
        verdict.told()?;
        let mut names = state.cache.list(dir)?;
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let (state, verdict) = self.begin(Call::Open, path, None)?;
        verdict.told()?;
        let inner = state.cache.open(path, access)?;
        let path = plain(path);
        // The file of a lock is known to the cache alone.
        let node = state.names.find(&path).cloned().unwrap_or_default();
        Ok(self.file(&state, path, inner, node))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let (mut state, verdict) = self.begin(Call::Create, path, None)?;
        if let Verdict::Fails(_) = verdict {
            verdict.told()?;
        }
        let inner = state.cache.create(path)?;
        let path = plain(path);
        let node = match state.names.find(&path).cloned() {
            Some(node) => {
                node.lock().push(Change::Empty);
                node
            }
            None => state.names.create(&path),
        };
        verdict.told()?;
        Ok(self.file(&state, path, inner, node))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::Rename, from, None)?;
        if let Verdict::Fails(_) = verdict {
            return verdict.told();
        }
        state.cache.rename(from, to)?;
        let (from, to) = (plain(from), plain(to));
        let replaces = state.names.find(&to).is_some();
        if replaces
            && state.file_system == FileSystem::Ext4
            && let Some(node) = state.names.find(&from)
        {
            node.lock().sync();
        }
        state.names.rename(&from, &to);
        verdict.told()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::Remove, path, None)?;
        if let Verdict::Fails(_) = verdict {
            return verdict.told();
        }
        state.cache.remove(path)?;
        let path = plain(path);
        let newest = state.names.find(&path).map(|node| node.lock().newest());
        state.stale.extend(newest);
        state.forget_stale();
        state.names.remove(&path);
        verdict.told()
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::Remove, dir, None)?;
        if let Verdict::Fails(_) = verdict {
            return verdict.told();
        }
        state.cache.remove_dir(dir)?;
        state.names.remove_dir(&plain(dir));
        verdict.told()
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::SyncDir, dir, None)?;
        // Where it fails, names stay as they are: not durable, and not lost to a later sync either.
        verdict.told()?;
        state.cache.sync_dir(dir)?;
        let file_system = state.file_system;
        state.names.sync_dir(&plain(dir), file_system);
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        let state = self.state.lock();
        if !state.is_on {
            return Err(power_is_off());
        }
        state.cache.lock(path)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.state.lock().cache.free_bytes()
    }
}

/// An open file of a simulated disk.
#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    path: String,
    life: u64,
    inner: Arc<dyn File>,
    node: Node,
}

impl SimulatedFile {
    fn begin(&self, call: Call) -> io::Result<(MutexGuard<'_, State>, Verdict)> {
        self.disk.begin(call, &self.path, Some(self.life))
    }
}

impl File for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (_state, verdict) = self.begin(Call::Read)?;
        verdict.told()?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::Write)?;
        state.note(bytes);
        let written = match verdict {
            Verdict::Fails(_) => &bytes[..state.dice.below(bytes.len() as u64 + 1) as usize],
            Verdict::Well | Verdict::LosesPower => bytes,
        };
        self.inner.write_at(written, offset)?;
        if !written.is_empty() {
            self.node.lock().push(Change::Write { offset: offset as usize, bytes: written.to_vec() });
        }
        verdict.told()
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::Sync)?;
        let state = &mut *state;
        let mut image = self.node.lock();
        match verdict {
            Verdict::Well => image.sync(),
            Verdict::Fails(_) => image.lose_pending(state.file_system, &state.stale, &mut state.dice),
            Verdict::LosesPower => {}
        }
        if verdict == Verdict::Well && state.file_system == FileSystem::Ext4 {
            state.names.commit_journal();
        }
        verdict.told()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let (mut state, verdict) = self.begin(Call::Allocate)?;
        if let Verdict::Fails(_) = verdict
            && state.dice.one_in(2)
        {
            return verdict.told();
        }
        self.inner.allocate(len)?;
        self.node.lock().push(Change::Extend { len: len as usize });
        verdict.told()
    }

    fn map(&self, len: u64) -> io::Result<Region> {
        let (_state, verdict) = self.begin(Call::Map)?;
        verdict.told()?;
        self.inner.map(len)
    }
}

#[cfg(test)]
mod tests;
