//! Keys: what an event can be found by, its names hashed with a seed of the store's own.
//!
//! A hash is not an identity. Windows compare names as well; runs hold hashes alone, and what they find is a candidate.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::format::bytes::u64_at;
use crate::types::{StoreId, category_of};

/// Spreads the kinds over the seeds.
const KIND_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum KeyKind {
    Stream = 1,
    Category = 2,
    Type = 3,
    Tag = 4,
}

/// A name of some kind, and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) kind: KeyKind,
    pub(crate) hash: u64,
    pub(crate) name: &'a str,
}

/// What the hashes of a store start from: names that collide in one store do not in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeySeed {
    base: u64,
    /// The bits of a hash in use: all of them, but in tests of collisions.
    mask: u64,
}

impl KeySeed {
    pub(crate) fn of(store: StoreId) -> Self {
        Self { base: u64_at(&store.to_bytes(), 0), mask: u64::MAX }
    }

    #[inline]
    pub(crate) fn key(self, kind: KeyKind, name: &str) -> Key<'_> {
        let seed = self.base.wrapping_add((kind as u64).wrapping_mul(KIND_STEP));
        Key { kind, hash: xxh3_64_with_seed(name.as_bytes(), seed) & self.mask, name }
    }

    /// The keys of an event, made outside all locks. Its tags are all different.
    pub(crate) fn event<'a>(
        self,
        stream: &'a str,
        event_type: &'a str,
        tags: impl IntoIterator<Item = &'a str>,
        time: i64,
        version: u64,
    ) -> EventKeys<'a> {
        self.event_of(self.key(KeyKind::Stream, stream), event_type, tags, time, version)
    }

    /// The keys of an event whose stream's key is known.
    #[inline]
    pub(crate) fn event_of<'a>(
        self,
        stream: Key<'a>,
        event_type: &'a str,
        tags: impl IntoIterator<Item = &'a str>,
        time: i64,
        version: u64,
    ) -> EventKeys<'a> {
        let category = self.key(KeyKind::Category, category_of(stream.name));
        let event_type = self.key(KeyKind::Type, event_type);
        let mut keys = EventKeys { stream, category, event_type, tags: SmallVec::new(), time, version };
        // In place and one by one: for the few tags of an event that is faster than collecting them.
        for tag in tags {
            keys.tags.push(self.key(KeyKind::Tag, tag));
        }
        keys
    }

    /// Keeps so few bits of each hash that names collide.
    #[cfg(test)]
    pub(crate) fn colliding(self, mask: u64) -> Self {
        Self { mask, ..self }
    }
}

/// All that an event is found by.
#[derive(Debug, Clone)]
pub(crate) struct EventKeys<'a> {
    pub(crate) stream: Key<'a>,
    pub(crate) category: Key<'a>,
    pub(crate) event_type: Key<'a>,
    pub(crate) tags: SmallVec<[Key<'a>; 4]>,
    /// The event's time.
    pub(crate) time: i64,
    /// The event's version in its stream.
    pub(crate) version: u64,
}

impl<'a> EventKeys<'a> {
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key<'a>> {
        [&self.stream, &self.category, &self.event_type].into_iter().chain(&self.tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_name_is_what_the_format_says() {
        let mut id = [0xAB; 16];
        id[..8].copy_from_slice(&42u64.to_le_bytes());
        let key = KeySeed::of(StoreId::from_bytes(id)).key(KeyKind::Type, "Opened");
        let seed = 42u64.wrapping_add(3u64.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        assert_eq!(key.hash, xxh3_64_with_seed(b"Opened", seed));
    }

    #[test]
    fn an_event_has_a_key_for_each_of_its_names() {
        let seed = KeySeed::of(StoreId::from_bytes([1; 16]));
        let event = seed.event("account-1", "Opened", ["a", "b"], 5, 1);
        let names: Vec<_> = event.keys().map(|key| (key.kind, key.name)).collect();
        let tags = [(KeyKind::Tag, "a"), (KeyKind::Tag, "b")];
        assert_eq!(names[..2], [(KeyKind::Stream, "account-1"), (KeyKind::Category, "account")]);
        assert_eq!(names[2..], [[(KeyKind::Type, "Opened")].as_slice(), &tags].concat());
        assert_ne!(seed.key(KeyKind::Stream, "a").hash, seed.key(KeyKind::Tag, "a").hash);
    }
}
