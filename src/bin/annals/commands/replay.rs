//! `annals replay`: goes through events in order and counts them.

use std::cmp::Reverse;
use std::collections::HashMap;

use annals::{Event, Position};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::args::{Format, FormatArg, Selection, StoreArg};
use crate::output;
use crate::output::Align::{Left, Right};
use crate::progress;
use crate::text::grouped;
use crate::upcast::UpcastArg;

/// Go through events in order, and count them
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals replay bank.annals\n  \
                        annals replay bank.annals --count-by type\n  \
                        annals replay bank.annals --category account --count-by tag --format json")]
pub(crate) struct Replay {
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    upcast: UpcastArg,
    /// Count the events of each type, stream, category or tag
    #[arg(long, value_enum, value_name = "WHAT")]
    count_by: Option<CountBy>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CountBy {
    Type,
    Stream,
    Category,
    Tag,
}

impl CountBy {
    fn name(self) -> &'static str {
        match self {
            CountBy::Type => "type",
            CountBy::Stream => "stream",
            CountBy::Category => "category",
            CountBy::Tag => "tag",
        }
    }
}

/// What was counted.
#[derive(Default)]
struct Counts {
    events: u64,
    payload_bytes: u64,
    /// By name; an event with several tags counts for each of them.
    by_name: HashMap<String, u64>,
}

impl Counts {
    fn add(&mut self, event: &Event<'_>, by: Option<CountBy>) {
        self.events += 1;
        self.payload_bytes += event.payload().len() as u64;
        match by {
            None => {}
            Some(CountBy::Type) => self.count(event.event_type()),
            Some(CountBy::Stream) => self.count(event.stream()),
            Some(CountBy::Category) => self.count(event.category()),
            Some(CountBy::Tag) => event.tags().for_each(|tag| self.count(tag)),
        }
    }

    fn count(&mut self, name: &str) {
        match self.by_name.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.by_name.insert(name.to_owned(), 1);
            }
        }
    }

    /// The greatest first; equal ones by name.
    fn sorted(&self) -> Vec<(&str, u64)> {
        let mut sorted: Vec<_> = self.by_name.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        sorted.sort_unstable_by_key(|(name, count)| (Reverse(*count), *name));
        sorted
    }
}

impl Replay {
    pub(crate) fn run(&self) -> Result<()> {
        let counts = self.count()?;
        match (self.count_by, self.format.format) {
            (None, format) => {
                let value = json!({ "events": counts.events, "payload_bytes": counts.payload_bytes });
                output::print(format, &value, || {
                    let (events, bytes) = (grouped(counts.events), grouped(counts.payload_bytes));
                    format!("{events} events with {bytes} bytes of payload")
                })
            }
            (Some(by), Format::Json) => {
                let sorted: Map<String, Value> =
                    counts.sorted().into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
                let value = json!({ "events": counts.events, "count_by": by.name(), "counts": sorted });
                output::print(Format::Json, &value, String::new)
            }
            (Some(by), format) => {
                let row = |(name, count): (&str, u64)| json!({ by.name(): name, "events": count });
                let rows: Vec<Value> = counts.sorted().into_iter().map(row).collect();
                output::print_rows(format, &rows, &[("events", Right), (by.name(), Left)])
            }
        }
    }

    fn count(&self) -> Result<Counts> {
        let upcasting = self.upcast.load()?;
        let store = self.store.open_read_only()?;
        let mut read = self.selection.read(&store);
        let bar = progress::events("replaying", read.head().map_or(0, Position::number));
        let mut counts = Counts::default();
        while let Some(event) = read.next()? {
            upcasting.each(&event, |event, _| {
                counts.add(event, self.count_by);
                Ok(())
            })?;
            progress::tick(&bar, event.position().number());
        }
        bar.finish_and_clear();
        Ok(counts)
    }
}
