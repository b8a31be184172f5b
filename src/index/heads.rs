//! A bounded memory of the heads of streams that the runs hold, so that an append to a stream that was quiet for a while
//! need not search them.
//!
//! Names are kept and compared: what this says is exact. It forgets in generations: when the young one is full the old
//! one goes, and what is asked for again becomes young.
//!
//! It says what holds for the runs up to `covered`, and nothing to those who see other runs. A spill moves `covered`
//! before its view is published, and brings the heads of its window along: nobody finds a head that is out of date.

use hashbrown::HashTable;

use super::key::Key;
use crate::sync::Mutex;

/// How many heads are put under one hold of the lock.
const CHUNK_HEADS: usize = 256;

/// The version of a stream, and the position of its last event; 0 and 0 if it does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StreamHead {
    pub(crate) version: u64,
    pub(crate) position: u64,
}

#[derive(Debug)]
pub(super) struct HeadCache {
    generations: Mutex<Generations>,
    /// Bytes that a generation may take.
    bytes_max: usize,
}

#[derive(Debug)]
struct Generations {
    /// The last position of the runs that this holds for.
    covered: u64,
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    table: HashTable<Entry>,
    names: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    head: StreamHead,
    name_at: u32,
    name_len: u16,
}

impl HeadCache {
    pub(super) fn new(covered: u64, bytes_max: usize) -> Self {
        let generations = Generations { covered, young: Generation::default(), old: Generation::default() };
        Self { generations: Mutex::new(generations), bytes_max: bytes_max / 2 }
    }

    /// The head of a stream among the runs up to `covered`; `None` if it is not known here.
    pub(super) fn get(&self, stream: &Key<'_>, covered: u64) -> Option<StreamHead> {
        let mut generations = self.generations.lock();
        if generations.covered != covered {
            return None;
        }
        if let Some(head) = generations.young.find(stream.hash, stream.name.as_bytes()) {
            return Some(head);
        }
        let head = generations.old.find(stream.hash, stream.name.as_bytes())?;
        generations.put(stream.hash, stream.name.as_bytes(), head, self.bytes_max);
        Some(head)
    }

    /// Remembers what was found in the runs up to `covered`.
    pub(super) fn remember(&self, stream: &Key<'_>, head: StreamHead, covered: u64) {
        let mut generations = self.generations.lock();
        if generations.covered == covered {
            generations.put(stream.hash, stream.name.as_bytes(), head, self.bytes_max);
        }
    }

    /// Takes over the heads of a window that becomes a run, after which the runs reach to `covered`.
    pub(super) fn take_over<'w>(&self, covered: u64, heads: impl Iterator<Item = (u64, &'w [u8], StreamHead)>) {
        // From here on nobody finds anything, until the view with the new run is published.
        self.generations.lock().covered = covered;
        let mut heads = heads.peekable();
        while heads.peek().is_some() {
            let mut generations = self.generations.lock();
            for (hash, name, head) in heads.by_ref().take(CHUNK_HEADS) {
                generations.put(hash, name, head, self.bytes_max);
            }
        }
    }

    /// Forgets everything: the log begins later than before.
    pub(super) fn clear(&self) {
        let covered = self.generations.lock().covered;
        self.restart(covered);
    }

    /// Forgets everything, and begins anew for the runs up to `covered`.
    pub(super) fn restart(&self, covered: u64) {
        let mut generations = self.generations.lock();
        generations.covered = covered;
        generations.young = Generation::default();
        generations.old = Generation::default();
    }
}

impl Generations {
    fn put(&mut self, hash: u64, name: &[u8], head: StreamHead, bytes_max: usize) {
        if self.young.bytes() >= bytes_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.put(hash, name, head);
    }
}

impl Generation {
    fn find(&self, hash: u64, name: &[u8]) -> Option<StreamHead> {
        self.table.find(hash, |entry| entry.is(hash, name, &self.names)).map(|entry| entry.head)
    }

    fn put(&mut self, hash: u64, name: &[u8], head: StreamHead) {
        if let Some(entry) = self.table.find_mut(hash, |entry| entry.is(hash, name, &self.names)) {
            entry.head = head;
            return;
        }
        let name_at = u32::try_from(self.names.len()).expect("a generation is limited");
        let name_len = u16::try_from(name.len()).expect("names are short");
        self.names.extend_from_slice(name);
        self.table.insert_unique(hash, Entry { hash, head, name_at, name_len }, |entry| entry.hash);
    }

    fn bytes(&self) -> usize {
        // A table has room for an eighth more than it holds, and a byte of its own for each place.
        self.table.len() * (size_of::<Entry>() + 1) * 8 / 7 + self.names.len()
    }
}

impl Entry {
    fn is(&self, hash: u64, name: &[u8], names: &[u8]) -> bool {
        let at = self.name_at as usize;
        self.hash == hash && &names[at..at + usize::from(self.name_len)] == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::key::KeyKind;

    fn key(name: &str, hash: u64) -> Key<'_> {
        Key { kind: KeyKind::Stream, hash, name }
    }

    fn head(version: u64) -> StreamHead {
        StreamHead { version, position: version * 10 }
    }

    #[test]
    fn streams_whose_hashes_collide_have_heads_of_their_own() {
        let cache = HeadCache::new(100, 1_000_000);
        cache.remember(&key("a", 7), head(1), 100);
        cache.remember(&key("b", 7), head(2), 100);
        assert_eq!(cache.get(&key("a", 7), 100), Some(head(1)));
        assert_eq!(cache.get(&key("b", 7), 100), Some(head(2)));
        assert_eq!(cache.get(&key("c", 7), 100), None);
    }

    #[test]
    fn what_was_found_in_older_runs_is_not_remembered() {
        let cache = HeadCache::new(100, 1_000_000);
        cache.take_over(200, [(7, &b"a"[..], head(5))].into_iter());
        cache.remember(&key("a", 7), head(4), 100);
        assert_eq!(cache.get(&key("a", 7), 100), None, "who sees the older runs is told nothing");
        assert_eq!(cache.get(&key("a", 7), 200), Some(head(5)));
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_asked_for() {
        let cache = HeadCache::new(1, 20_000);
        let names: Vec<String> = (0..1_000).map(|number| format!("stream-{number}")).collect();
        for (hash, name) in (0..).zip(&names) {
            cache.remember(&key(name, hash), head(hash + 1), 1);
            assert_eq!(cache.get(&key("stream-0", 0), 1), Some(head(1)), "asked for again and again");
            let generations = cache.generations.lock();
            assert!(generations.young.bytes() + generations.old.bytes() <= 20_100);
        }
        assert_eq!(cache.get(&key("stream-1", 1), 1), None, "forgotten");
        for (hash, name) in (0..).zip(&names).skip(850) {
            assert_eq!(cache.get(&key(name, hash), 1), Some(head(hash + 1)), "one generation is never forgotten");
        }
    }

    #[test]
    fn seven_heads_take_eight_places_and_their_names() {
        let mut generation = Generation::default();
        assert_eq!(generation.bytes(), 0);
        (1..=7).for_each(|version| generation.put(version, format!("stream-{version}").as_bytes(), head(version)));
        assert_eq!(generation.bytes(), 8 * (size_of::<Entry>() + 1) + 7 * 8);
        generation.put(7, b"stream-7", head(8));
        assert_eq!(generation.bytes(), 8 * (size_of::<Entry>() + 1) + 7 * 8, "one that is known takes no more");
        assert_eq!(generation.find(7, b"stream-7"), Some(head(8)));
    }

    #[test]
    fn what_was_forgotten_with_its_segments_is_gone() {
        let cache = HeadCache::new(1, 20_000);
        cache.remember(&key("a", 1), head(1), 1);
        cache.clear();
        assert_eq!(cache.get(&key("a", 1), 1), None);
    }
}
