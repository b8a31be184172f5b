//! The filter of a run: split blocks of a Bloom filter (FORMAT, section 8), so that a key that a run does not have costs
//! one cache line.
//!
//! The block of a key grows with the key. A run is built in the order of its keys, so that its blocks come in order too
//! and building holds one at a time.

use crate::format::bytes::{put, u32_at};
use crate::format::run::BLOCK_BYTES;

/// Numbers in a block; each key sets one bit in each.
const WORDS: usize = BLOCK_BYTES / 4;
/// Spreads a key over the words of its block: the constants of Apache Parquet.
const SALTS: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// The block that a key belongs to.
#[inline]
pub(super) fn block_of(key: u64, blocks: u64) -> u64 {
    // Below 2^32 each, so that the product fits.
    ((key >> 32) * blocks) >> 32
}

/// Whether a block may hold a key of its own: never a wrong no, seldom a wrong yes.
#[inline]
pub(super) fn may_hold(block: &[u8; BLOCK_BYTES], key: u64) -> bool {
    // All words are looked at, without a branch for each.
    (0..WORDS).fold(0, |missing, word| missing | (!u32_at(block, word * 4) & bit(key, word))) == 0
}

/// Adds a key to a block.
pub(super) fn insert(block: &mut [u8; BLOCK_BYTES], key: u64) {
    for word in 0..WORDS {
        let value = u32_at(block, word * 4) | bit(key, word);
        put(block, word * 4, &value.to_le_bytes());
    }
}

#[inline]
fn bit(key: u64, word: usize) -> u32 {
    1 << ((key as u32).wrapping_mul(SALTS[word]) >> 27)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::run::filter_blocks_for;
    use xxhash_rust::xxh3::xxh3_64;

    fn keys(from: u32, to: u32) -> impl Iterator<Item = u64> {
        (from..to).map(|number| xxh3_64(&number.to_le_bytes()))
    }

    #[test]
    fn it_never_denies_a_key_and_seldom_confirms_another() {
        let count = 10_000;
        let blocks = u64::from(filter_blocks_for(u64::from(count)));
        let mut filter = vec![[0; BLOCK_BYTES]; blocks as usize];
        keys(0, count).for_each(|key| insert(&mut filter[block_of(key, blocks) as usize], key));
        let holds = |key| may_hold(&filter[block_of(key, blocks) as usize], key);
        assert!(keys(0, count).all(holds));
        let wrong = keys(count, 11 * count).filter(|key| holds(*key)).count();
        assert!(wrong < 1_000, "{wrong} of 100,000 other keys are confirmed");
    }

    #[test]
    fn the_block_of_a_key_grows_with_the_key_and_exists() {
        assert_eq!([block_of(0, 7), block_of(u64::MAX, 7), block_of(u64::MAX, 1)], [0, 6, 0]);
        assert_eq!(block_of(u64::MAX, u64::from(u32::MAX)), u64::from(u32::MAX) - 1);
        let mut keys: Vec<u64> = keys(0, 1_000).collect();
        keys.sort_unstable();
        assert!(keys.is_sorted_by_key(|key| block_of(*key, 13)));
    }
}
