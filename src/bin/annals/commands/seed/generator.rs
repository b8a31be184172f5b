//! Makes events up. All that is random comes from one seed, and nothing from the machine or the time.

use annals::{Codec, EventId, NewEvent, Randomness, SeededRandomness, Timestamp};

use super::{Distribution, Seed};

/// The time of the first event, 2024-01-01 00:00 UTC, and how far they lie apart.
const FIRST_TIME_MS: i64 = 1_704_067_200_000;
const STEP_MS: i64 = 1;

/// Letters of made-up text, six bits of chance each. All stand for themselves in JSON.
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";

/// Makes one event after the other.
pub(super) struct Generator {
    chance: SeededRandomness,
    streams: Choice,
    types: Choice,
    tags: Choice,
    categories: u64,
    tags_per_event: u32,
    payload_bytes: usize,
    made: u64,
}

impl Generator {
    pub(super) fn new(seed: &Seed) -> Self {
        let choice = |count: u32| Choice::new(u64::from(count), seed.distribution);
        Self {
            chance: SeededRandomness::new(seed.number),
            streams: choice(seed.streams),
            types: choice(seed.types),
            tags: choice(seed.tags),
            categories: u64::from(seed.categories),
            tags_per_event: seed.tags_per_event,
            payload_bytes: seed.payload_bytes as usize,
            made: 0,
        }
    }

    /// The time of the last event.
    pub(super) fn time(&self) -> Timestamp {
        Timestamp::from_millis(FIRST_TIME_MS + self.made as i64 * STEP_MS)
    }

    /// The next event, and its stream.
    pub(super) fn next(&mut self) -> (String, NewEvent) {
        self.made += 1;
        let stream = self.streams.draw(&self.chance);
        let stream = format!("category{}-{stream}", stream % self.categories + 1);
        let event_type = format!("Type{}", self.types.draw(&self.chance));
        let tags: Vec<String> =
            (0..self.tags_per_event).map(|_| format!("tag:{}", self.tags.draw(&self.chance))).collect();
        let event =
            NewEvent::from_bytes(event_type, Codec::Json, self.payload()).id(self.id()).time(self.time()).tags(tags);
        (stream, event)
    }

    fn id(&self) -> EventId {
        let mut bytes = [0; 16];
        self.chance.fill(&mut bytes);
        EventId::from(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = format!("{{\"number\":{},\"text\":\"", self.made).into_bytes();
        let end = b"\"}";
        let letters = self.payload_bytes.saturating_sub(payload.len() + end.len());
        let begin = payload.len();
        payload.resize(begin + letters, 0);
        self.chance.fill(&mut payload[begin..]);
        for letter in &mut payload[begin..] {
            *letter = LETTERS[usize::from(*letter) % LETTERS.len()];
        }
        payload.extend_from_slice(end);
        payload
    }
}

/// Draws numbers from 1 to a greatest one.
enum Choice {
    Uniform(u64),
    /// For each number the sum of its weight and those before it.
    Zipf(Vec<f64>),
}

impl Choice {
    fn new(count: u64, distribution: Distribution) -> Self {
        match distribution {
            Distribution::Uniform => Choice::Uniform(count),
            Distribution::Zipf => {
                let mut sum = 0.0;
                let weights = (1..=count).map(|number| {
                    sum += 1.0 / number as f64;
                    sum
                });
                Choice::Zipf(weights.collect())
            }
        }
    }

    fn draw(&self, chance: &SeededRandomness) -> u64 {
        let mut bytes = [0; 8];
        chance.fill(&mut bytes);
        let drawn = u64::from_le_bytes(bytes);
        match self {
            // The upper half of the product is spread evenly enough for numbers far below 2^64.
            Choice::Uniform(count) => ((u128::from(drawn) * u128::from(*count)) >> 64) as u64 + 1,
            Choice::Zipf(sums) => {
                let total = sums.last().copied().unwrap_or(0.0);
                // 53 bits: as many as a float between 0 and 1 can tell.
                let at = (drawn >> 11) as f64 / (1_u64 << 53) as f64 * total;
                let index = sums.partition_point(|sum| *sum <= at).min(sums.len() - 1);
                index as u64 + 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(choice: &Choice, count: usize) -> Vec<u64> {
        let chance = SeededRandomness::new(7);
        let mut counts = vec![0; count];
        for _ in 0..100_000 {
            counts[choice.draw(&chance) as usize - 1] += 1;
        }
        counts
    }

    #[test]
    fn uniform_chooses_all_equally_often() {
        let counts = drawn(&Choice::new(10, Distribution::Uniform), 10);
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_chooses_the_second_half_as_often_as_the_first() {
        let counts = drawn(&Choice::new(1_000, Distribution::Zipf), 1_000);
        let ratio = |number: usize| counts[0] as f64 / counts[number - 1] as f64;
        assert!((1.8..2.2).contains(&ratio(2)), "{}", ratio(2));
        assert!((8.0..12.0).contains(&ratio(10)), "{}", ratio(10));
    }

    #[test]
    fn one_of_one_is_always_chosen() {
        for distribution in [Distribution::Uniform, Distribution::Zipf] {
            assert_eq!(drawn(&Choice::new(1, distribution), 1), [100_000]);
        }
    }
}
