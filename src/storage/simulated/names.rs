//! The names of a simulated disk: those that programs see, those that are durable, and the changes in between.
//!
//! A rename is one change. Which file system it is decides what makes a change durable: the sync of its own directory
//! and nothing else, or any sync at all, as where a journal is committed as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::memory::parent;
use super::image::{Fate, Image};
use super::{Dice, FileSystem};

/// A file without its name. A file that was removed lives on while it is open.
pub(super) type Node = Arc<Mutex<Image>>;

#[derive(Debug, Default)]
pub(super) struct Names {
    now: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<NameChange>,
    dirs: BTreeSet<String>,
    durable_dirs: BTreeSet<String>,
}

#[derive(Debug)]
enum NameChange {
    Create(String, Node),
    Rename(String, String, Node),
    Remove(String),
}

impl Names {
    /// Directories and files of which everything is durable.
    pub(super) fn durable(dirs: BTreeSet<String>, files: BTreeMap<String, Vec<u8>>) -> Self {
        let node = |bytes| Arc::new(Mutex::new(Image::durable(bytes)));
        let names: BTreeMap<String, Node> = files.into_iter().map(|(path, bytes)| (path, node(bytes))).collect();
        Self { now: names.clone(), durable: names, pending: Vec::new(), durable_dirs: dirs.clone(), dirs }
    }

    pub(super) fn find(&self, path: &str) -> Option<&Node> {
        self.now.get(path)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.now.values()
    }

    pub(super) fn create(&mut self, path: &str) -> Node {
        let node = Node::default();
        self.change(NameChange::Create(path.to_owned(), Arc::clone(&node)));
        node
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(node) = self.now.get(from) {
            let change = NameChange::Rename(from.to_owned(), to.to_owned(), Arc::clone(node));
            self.change(change);
        }
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.change(NameChange::Remove(path.to_owned()));
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    /// A directory and those above it. They are durable when the call that made them has returned well.
    pub(super) fn create_dir(&mut self, dir: &str, is_durable: bool) {
        for (end, _) in dir.match_indices('/').chain([(0, ""), (dir.len(), "")]) {
            self.dirs.insert(dir[..end].to_owned());
            if is_durable {
                self.durable_dirs.insert(dir[..end].to_owned());
            }
        }
    }

    pub(super) fn remove_dir(&mut self, dir: &str) {
        self.dirs.remove(dir);
    }

    /// A directory was synced.
    pub(super) fn sync_dir(&mut self, dir: &str, file_system: FileSystem) {
        if file_system == FileSystem::Ext4 {
            return self.commit_journal();
        }
        let is_here = |path: &String| !path.is_empty() && parent(path) == dir;
        self.durable_dirs.retain(|path| !is_here(path) || self.dirs.contains(path));
        self.durable_dirs.extend(self.dirs.iter().filter(|path| is_here(path)).cloned());
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let is_here = change.dir() == dir;
            if is_here {
                change.apply(durable);
            }
            !is_here
        });
    }

    /// All names are as durable as one.
    pub(super) fn commit_journal(&mut self) {
        self.durable_dirs.clone_from(&self.dirs);
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// The directories and files that a loss of power leaves.
    pub(super) fn after_power_cut(
        &self,
        fate: Fate,
        file_system: FileSystem,
        dice: &mut Dice,
    ) -> (BTreeSet<String>, BTreeMap<String, Node>) {
        // Names are changed in their order wherever they are: a later one rests on what an earlier one has left.
        let fate = match (file_system, fate) {
            (FileSystem::Ext4, Fate::Some | Fate::Shuffled) => Fate::Beginning,
            (FileSystem::Strict, Fate::Shuffled) => Fate::Some,
            (_, fate) => fate,
        };
        let mut names = self.durable.clone();
        for survivor in fate.survivors(self.pending.len(), dice) {
            self.pending[survivor].apply(&mut names);
        }
        let mut dirs = self.durable_dirs.clone();
        for changed in self.dirs.symmetric_difference(&self.durable_dirs) {
            if dice.one_in(2) && !dirs.remove(changed) {
                dirs.insert(changed.clone());
            }
        }
        let stands = |path: &str| {
            let mut above = path;
            while !above.is_empty() && dirs.contains(parent(above)) {
                above = parent(above);
            }
            above.is_empty()
        };
        let dirs: BTreeSet<String> = dirs.iter().filter(|dir| stands(dir)).cloned().collect();
        names.retain(|path, _| dirs.contains(parent(path)));
        (dirs, names)
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            NameChange::Create(path, node) => {
                names.insert(path.clone(), Arc::clone(node));
            }
            NameChange::Rename(from, to, node) => {
                // If another file has this name on the disk, its own creation has not come true.
                if names.get(from).is_some_and(|found| Arc::ptr_eq(found, node)) {
                    names.remove(from);
                }
                names.insert(to.clone(), Arc::clone(node));
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn dir(&self) -> &str {
        let (NameChange::Create(path, _) | NameChange::Rename(path, _, _) | NameChange::Remove(path)) = self;
        parent(path)
    }
}
