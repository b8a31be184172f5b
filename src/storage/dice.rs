//! Choices that a seed repeats, for the disks that fail and crash.

#![cfg_attr(not(test), allow(dead_code, reason = "the tests of the crate ask for more than those of applications"))]

use crate::randomness::{Randomness, SeededRandomness};

/// A source of choices. The same seed and the same questions give the same answers.
#[derive(Debug)]
pub(crate) struct Dice {
    randomness: SeededRandomness,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { randomness: SeededRandomness::new(seed) }
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.randomness.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }

    /// With luck 0 nothing happens, with luck 4 everything.
    pub(crate) fn happens(&mut self, luck: u64) -> bool {
        self.below(4) < luck
    }

    /// Whether it is the one case in so many.
    pub(crate) fn one_in(&mut self, cases: u64) -> bool {
        self.below(cases) == 0
    }

    /// One of the choices, of which there is at least one.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Fills the beginning of the buffer, up to `most` bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8], most: usize) {
        let count = bytes.len().min(most);
        self.randomness.fill(&mut bytes[..count]);
    }
}
