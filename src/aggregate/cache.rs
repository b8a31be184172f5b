//! The bounded cache of loaded states: the least recently used goes first.
//!
//! A state in it may be behind its stream: whoever takes one brings it up to date before using it, so nothing here has
//! to be told of an append. The lock is held for a look at the table, never while states are read, folded or cloned.
//!
//! A state is brought up to date in place where nobody else uses it: whoever does that takes it out and puts it back.
//! Somebody who finds it gone meanwhile has to load from the store, so a state over which that happens is cloned
//! instead for a while.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use parking_lot::Mutex;

use super::folded::Folded;

/// How often a state is cloned, and not taken out, after somebody missed it.
const CLONES_AFTER_MISS: u32 = 64;

/// A bounded cache of states by stream.
pub(super) struct Cache<S> {
    capacity: NonZeroUsize,
    clone: fn(&S) -> S,
    table: Mutex<Table<S>>,
}

struct Table<S> {
    slots: HashMap<Arc<str>, Slot<S>>,
    /// The streams by the time of their last use.
    uses: BTreeMap<u64, Arc<str>>,
    clock: u64,
}

struct Slot<S> {
    /// `None` while somebody has taken it out.
    folded: Option<Arc<Folded<S>>>,
    used: u64,
    clones_left: u32,
}

impl<S: Clone> Cache<S> {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        let table = Table { slots: HashMap::new(), uses: BTreeMap::new(), clock: 0 };
        Self { capacity, clone: S::clone, table: Mutex::new(table) }
    }
}

impl<S> Cache<S> {
    /// The state of a stream, which may be behind.
    pub(super) fn find(&self, stream: &str) -> Option<Arc<Folded<S>>> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let slot = table.slots.get_mut(stream)?;
        table.clock += 1;
        if let Some(name) = table.uses.remove(&slot.used) {
            table.uses.insert(table.clock, name);
        }
        slot.used = table.clock;
        if slot.folded.is_none() {
            slot.clones_left = CLONES_AFTER_MISS;
        }
        slot.folded.clone()
    }

    /// Makes a state that was found the caller's own, to bring it up to date and [`put`](Self::put) it back.
    pub(super) fn claim(&self, stream: &str, found: Arc<Folded<S>>) -> Folded<S> {
        self.take_out(stream, &found);
        self.own(found)
    }

    /// The state as one of the caller's own: cloned if others use it.
    pub(super) fn own(&self, found: Arc<Folded<S>>) -> Folded<S> {
        Arc::try_unwrap(found).unwrap_or_else(|shared| shared.cloned(self.clone))
    }

    fn take_out(&self, stream: &str, found: &Arc<Folded<S>>) {
        let mut table = self.table.lock();
        let Some(slot) = table.slots.get_mut(stream) else { return };
        if slot.folded.as_ref().is_some_and(|folded| Arc::ptr_eq(folded, found)) {
            match slot.clones_left.checked_sub(1) {
                Some(left) => slot.clones_left = left,
                None => slot.folded = None,
            }
        }
    }

    /// Puts a state in, unless one is there that is further.
    pub(super) fn put(&self, stream: &str, folded: &Arc<Folded<S>>) {
        let folded = Arc::clone(folded);
        // What goes is dropped after the lock was: it may be large, and its destructor is not ours.
        let _gone = self.table.lock().put(self.capacity, stream, folded);
    }

    /// Forgets a stream.
    pub(super) fn remove(&self, stream: &str) {
        let _gone = self.table.lock().remove(stream);
    }
}

impl<S> Table<S> {
    /// Returns what has to go for it, or is not wanted.
    fn put(&mut self, capacity: NonZeroUsize, stream: &str, folded: Arc<Folded<S>>) -> Option<Arc<Folded<S>>> {
        if let Some(slot) = self.slots.get_mut(stream) {
            let is_further = slot.folded.as_ref().is_none_or(|current| current.version() < folded.version());
            return if is_further { slot.folded.replace(folded) } else { Some(folded) };
        }
        let oldest = (self.slots.len() >= capacity.get()).then(|| self.uses.first_key_value());
        let oldest = oldest.flatten().map(|(_, name)| Arc::clone(name));
        let gone = oldest.and_then(|name| self.remove(&name));
        let name: Arc<str> = stream.into();
        self.clock += 1;
        self.uses.insert(self.clock, Arc::clone(&name));
        self.slots.insert(name, Slot { folded: Some(folded), used: self.clock, clones_left: 0 });
        gone
    }

    fn remove(&mut self, stream: &str) -> Option<Arc<Folded<S>>> {
        let slot = self.slots.remove(stream)?;
        self.uses.remove(&slot.used);
        slot.folded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::folded::Last;
    use crate::types::{Position, StreamVersion, Timestamp};

    fn cache(capacity: usize) -> Cache<String> {
        Cache::new(NonZeroUsize::new(capacity).unwrap())
    }

    fn folded(number: u64) -> Arc<Folded<String>> {
        let last = Last {
            version: StreamVersion::new(number).unwrap(),
            position: Position::new(number).unwrap(),
            commit_time: Timestamp::default(),
        };
        let mut folded = Folded::new(number.to_string());
        folded.last = Some(last);
        Arc::new(folded)
    }

    fn state(cache: &Cache<String>, stream: &str) -> Option<String> {
        cache.find(stream).map(|folded| folded.state.clone())
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = cache(2);
        cache.put("a", &folded(1));
        cache.put("b", &folded(2));
        assert_eq!(state(&cache, "a").as_deref(), Some("1"));
        cache.put("c", &folded(3));
        assert_eq!((state(&cache, "a"), state(&cache, "b"), state(&cache, "c")).1, None);
        assert!(state(&cache, "a").is_some() && state(&cache, "c").is_some());
        cache.remove("a");
        cache.put("d", &folded(4));
        assert!(state(&cache, "c").is_some() && state(&cache, "d").is_some());
        let table = cache.table.lock();
        assert_eq!((table.slots.len(), table.uses.len()), (2, 2));
    }

    #[test]
    fn a_state_that_is_behind_never_replaces_one_that_is_further() {
        let cache = cache(1);
        cache.put("a", &folded(2));
        cache.put("a", &folded(1));
        assert_eq!(state(&cache, "a").as_deref(), Some("2"));
        cache.put("a", &folded(3));
        assert_eq!(state(&cache, "a").as_deref(), Some("3"));
    }

    #[test]
    fn what_nobody_else_uses_is_taken_out_and_not_cloned() {
        let cache = cache(1);
        cache.put("a", &folded(1));
        let found = cache.find("a").unwrap();
        let place = std::ptr::from_ref(found.state.as_bytes());
        let own = cache.claim("a", found);
        assert_eq!(std::ptr::from_ref(own.state.as_bytes()), place);
        assert_eq!(state(&cache, "a"), None);
        cache.put("a", &Arc::new(own));
        assert_eq!(state(&cache, "a").as_deref(), Some("1"));
    }

    #[test]
    fn what_somebody_missed_is_cloned_for_a_while() {
        let cache = cache(1);
        cache.put("a", &folded(1));
        let own = cache.claim("a", cache.find("a").unwrap());
        assert!(cache.find("a").is_none(), "a miss");
        cache.put("a", &Arc::new(own));
        for _ in 0..CLONES_AFTER_MISS {
            cache.claim("a", cache.find("a").unwrap());
            assert!(cache.find("a").is_some());
        }
        cache.claim("a", cache.find("a").unwrap());
        assert!(cache.find("a").is_none());
    }
}
