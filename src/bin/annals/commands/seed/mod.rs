//! `annals seed`: appends events that look like real ones, the same for the same arguments.

mod generator;

use annals::limits::{EVENTS_PER_COMMIT_MAX, TAGS_PER_EVENT_MAX};
use annals::{Commit, Durability, ExpectedVersion, Options, Position};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use self::generator::Generator;
use crate::args::{FormatArg, StoreArg};
use crate::clock::CommitClock;
use crate::output;
use crate::progress;
use crate::text::grouped;

/// Append made-up events, the same for the same arguments
///
/// For tests and measurements. Two new stores that are seeded with the same arguments export the same bytes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals seed test.annals\n  \
                        annals seed test.annals --events 1000000 --streams 100000 --distribution zipf --seed 42\n  \
                        annals seed test.annals --payload-bytes 200 --tags-per-event 2")]
pub(crate) struct Seed {
    #[command(flatten)]
    store: StoreArg,
    /// Events to append
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    events: u64,
    /// Streams to choose from
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// Categories that the streams are in
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    categories: u32,
    /// Event types to choose from
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    types: u32,
    /// Tags to choose from
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    tags: u32,
    /// Tags that are drawn for each event; one that is drawn twice counts once
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(..=TAGS_PER_EVENT_MAX as i64))]
    tags_per_event: u32,
    /// Bytes of each payload, a JSON object; 40 at least
    #[arg(long, value_name = "BYTES", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(40..=1024 * 1024))]
    payload_bytes: u32,
    /// How streams, types and tags are chosen
    #[arg(long, value_enum, default_value_t = Distribution::Zipf)]
    distribution: Distribution,
    /// Another number gives other events
    #[arg(long = "seed", value_name = "NUMBER", default_value_t = 1)]
    number: u64,
    /// Events in one commit
    #[arg(long, value_name = "EVENTS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=EVENTS_PER_COMMIT_MAX as i64))]
    batch: u32,
    #[command(flatten)]
    format: FormatArg,
}

/// How often each of many is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Distribution {
    /// All equally often
    Uniform,
    /// The second half as often as the first, the third a third as often, and so on
    Zipf,
}

impl Seed {
    pub(crate) fn run(&self) -> Result<()> {
        let clock = CommitClock::new();
        let store = Options::new().durability(Durability::Os).clock(clock.clone()).open(&self.store.path)?;
        let mut generator = Generator::new(self);
        let bar = progress::events("seeding", self.events);
        let mut done = 0;
        while done < self.events {
            let commit = self.next_commit(&mut generator, self.events - done);
            done += commit.len() as u64;
            clock.set(Some(generator.time()));
            store.send(commit).map_err(annals::Error::from)?;
            bar.set_position(done);
        }
        bar.finish_and_clear();
        let head = store.head()?;
        store.close()?;
        let value = json!({ "events": done, "head": head.map(Position::number) });
        output::print(self.format.format, &value, || format!("appended {} events", grouped(done)))
    }

    /// The next events, as many as go into one commit.
    fn next_commit(&self, generator: &mut Generator, left: u64) -> Commit {
        /// A commit should stay far below the limit of its size.
        const COMMIT_BYTES_MAX: u32 = 8 * 1024 * 1024;
        /// More than an event has besides its payload and its tags, and than a tag has.
        const EVENT_BYTES: u32 = 256;
        const TAG_BYTES: u32 = 24;
        let bytes = self.payload_bytes.saturating_add(EVENT_BYTES + self.tags_per_event.saturating_mul(TAG_BYTES));
        let batch = self.batch.min(COMMIT_BYTES_MAX / bytes).max(1);
        let mut commit = Commit::new();
        for _ in 0..left.min(u64::from(batch)) {
            let (stream, event) = generator.next();
            commit = commit.append(stream, ExpectedVersion::Any, [event]);
        }
        commit
    }
}
