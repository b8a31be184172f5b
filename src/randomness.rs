//! Chance: the only place that draws random bytes, for the ids of events and stores and for the salts of segments.

#![allow(clippy::disallowed_methods, reason = "this is the module that chance belongs to")]

use std::cell::RefCell;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use crate::types::{EventId, Timestamp};

/// So many bytes are made at once.
const BLOCK_BYTES: usize = 1024;

/// A source of random bytes.
pub trait Randomness: Debug + Send + Sync + 'static {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// The randomness of the operating system: each thread draws a seed of 256 bits from it once, and expands that with
/// ChaCha20, the cipher that the system itself uses. An event id costs no system call, and no thread waits for another.
///
/// A process that forks must not go on with the same value in both halves: each would hand out the same bytes. A store
/// cannot be used by both halves either, because they share its lock.
///
/// # Panics
///
/// [`fill`](Randomness::fill) panics if the operating system has no randomness to give. That does not happen on a system
/// that has started up; ids that repeat would be worse.
#[derive(Default)]
#[non_exhaustive]
pub struct SystemRandomness;

thread_local! {
    /// Made when the thread first asks for bytes.
    static BLOCK: RefCell<Option<Block>> = const { RefCell::new(None) };
}

/// Random bytes that were made; those from `used` on were not handed out.
struct Block {
    generator: ChaCha20Rng,
    bytes: [u8; BLOCK_BYTES],
    used: usize,
}

impl SystemRandomness {
    /// A source that draws its seed when it is first asked.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Debug for SystemRandomness {
    /// Without the bytes: they are the ids of the future.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemRandomness").finish_non_exhaustive()
    }
}

impl Randomness for SystemRandomness {
    fn fill(&self, buffer: &mut [u8]) {
        let take = |block: &RefCell<Option<Block>>| block.borrow_mut().get_or_insert_with(Block::seeded).take(buffer);
        // A thread that is ending may have no block any more.
        if BLOCK.try_with(take).is_err() {
            Block::seeded().take(buffer);
        }
    }
}

impl Block {
    fn seeded() -> Self {
        let mut seed = [0; 32];
        if let Err(error) = getrandom::fill(&mut seed) {
            panic!("the operating system gives no random bytes: {error}");
        }
        Self { generator: ChaCha20Rng::from_seed(seed), bytes: [0; BLOCK_BYTES], used: BLOCK_BYTES }
    }

    fn take(&mut self, buffer: &mut [u8]) {
        if buffer.len() > BLOCK_BYTES {
            return self.generator.fill_bytes(buffer);
        }
        if BLOCK_BYTES - self.used < buffer.len() {
            self.generator.fill_bytes(&mut self.bytes);
            self.used = 0;
        }
        let end = self.used + buffer.len();
        buffer.copy_from_slice(&self.bytes[self.used..end]);
        self.used = end;
    }
}

/// Bytes that look random and are the same for the same seed and the same calls: for tests that replay a run, never for
/// a store that is kept, whose ids would repeat.
#[derive(Debug)]
pub struct SeededRandomness {
    seed: u64,
    drawn: AtomicU64,
}

impl SeededRandomness {
    /// The source of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: AtomicU64::new(0) }
    }
}

impl Randomness for SeededRandomness {
    fn fill(&self, buffer: &mut [u8]) {
        let words = buffer.len().div_ceil(8) as u64;
        let first = self.drawn.fetch_add(words, Ordering::Relaxed);
        for (number, chunk) in (first..).zip(buffer.chunks_mut(8)) {
            let word = mixed(self.seed, number).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// One number of the `SplitMix64` sequence (Steele, Lea, Flood 2014). The seed is mixed first, so that neighbouring seeds
/// do not give the same sequence, shifted.
fn mixed(seed: u64, number: u64) -> u64 {
    finalize(finalize(seed).wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn finalize(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A new id for an event: a UUID of version 7, which begins with the time, so that ids of one time sort together.
pub(crate) fn event_id(randomness: &dyn Randomness, now: Timestamp) -> EventId {
    let mut random = [0; 10];
    randomness.fill(&mut random);
    // A time before 1970 has no place in such an id.
    let millis = u64::try_from(now.nanos() / 1_000_000).unwrap_or(0);
    EventId::from(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn bytes(randomness: &dyn Randomness, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        randomness.fill(&mut buffer);
        buffer
    }

    fn check_no_repetition(randomness: &dyn Randomness) {
        let drawn: HashSet<_> = (0..2_000).map(|_| bytes(randomness, 10)).collect();
        assert_eq!(drawn.len(), 2_000);
    }

    #[test]
    fn nothing_is_handed_out_twice() {
        check_no_repetition(&SystemRandomness::new());
        check_no_repetition(&SeededRandomness::new(1));
    }

    #[test]
    fn threads_share_nothing_that_was_drawn() {
        let draw = || (0..1_000).map(|_| bytes(&SystemRandomness::new(), 10)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let drawn: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(drawn.len(), 4_000);
    }

    #[test]
    fn any_length_can_be_drawn() {
        for len in [0, 1, 7, 8, 9, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES] {
            for randomness in [&SystemRandomness::new() as &dyn Randomness, &SeededRandomness::new(7)] {
                let drawn = bytes(randomness, len);
                assert!(len < 16 || drawn.iter().any(|byte| *byte != 0), "length {len}");
                assert!(len < 16 || drawn[len - 16..].iter().any(|byte| *byte != 0), "length {len}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_bytes_again_and_another_seed_others() {
        let run = |seed| {
            let randomness = SeededRandomness::new(seed);
            [bytes(&randomness, 10), bytes(&randomness, 3), bytes(&randomness, 100)].concat()
        };
        assert_eq!(run(42), run(42));
        assert_ne!(run(42), run(43));
    }

    #[test]
    fn bits_are_set_half_of_the_time() {
        let drawn = bytes(&SeededRandomness::new(0), 80_000);
        let set: u32 = drawn.iter().map(|byte| byte.count_ones()).sum();
        assert!((315_000..325_000).contains(&set), "{set} of 640,000 bits");
    }

    #[test]
    fn an_event_id_is_a_version_7_uuid_with_the_time() {
        let randomness = SeededRandomness::new(3);
        let now = Timestamp::from_millis(1_700_000_000_123);
        let id = event_id(&randomness, now).to_bytes();
        assert_eq!(&id[..6], &1_700_000_000_123_u64.to_be_bytes()[2..]);
        assert_eq!((id[6] >> 4, id[8] >> 6), (7, 0b10));
        assert_ne!(event_id(&randomness, now).to_bytes(), id);
        assert_eq!(event_id(&randomness, Timestamp::from_millis(-1)).to_bytes()[..6], [0; 6]);
    }

    #[test]
    fn debug_output_shows_no_random_bytes() {
        assert_eq!(format!("{:?}", SystemRandomness::new()), "SystemRandomness { .. }");
    }
}
