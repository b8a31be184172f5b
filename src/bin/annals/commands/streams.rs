//! `annals streams`: the streams of a store.

use std::collections::BTreeMap;

use annals::{Event, Position, Query, Timestamp};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::args::{FormatArg, StoreArg};
use crate::output::Align::{Left, Right};
use crate::{output, progress, time};

/// List streams, by name
///
/// Reads all events of the store, or of the category, and holds the names of the streams in memory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals streams bank.annals\n  \
                        annals streams bank.annals --category account --format ndjson")]
pub(crate) struct Streams {
    #[command(flatten)]
    store: StoreArg,
    /// Only the streams of this category
    #[arg(long, value_name = "NAME")]
    category: Option<String>,
    /// At most so many streams
    #[arg(long, value_name = "STREAMS")]
    limit: Option<usize>,
    #[command(flatten)]
    format: FormatArg,
}

/// What is told of a stream.
struct Summary {
    category: String,
    events: u64,
    version: u64,
    last_position: u64,
    /// The times of its first and its last event.
    first_time: Timestamp,
    last_time: Timestamp,
}

impl Streams {
    pub(crate) fn run(&self) -> Result<()> {
        let streams = self.summaries()?;
        let shown = streams.iter().take(self.limit.unwrap_or(usize::MAX));
        let rows: Vec<Value> = shown.map(|(stream, summary)| row(stream, summary)).collect();
        let columns =
            [("stream", Left), ("version", Right), ("last_position", Right), ("first_time", Left), ("last_time", Left)];
        output::print_rows(self.format.format, &rows, &columns)
    }

    fn summaries(&self) -> Result<BTreeMap<String, Summary>> {
        let store = self.store.open_read_only()?;
        let mut read = store.read(self.category.as_ref().map_or_else(Query::all, Query::category));
        let bar = progress::events("reading", read.head().map_or(0, Position::number));
        let mut streams = BTreeMap::new();
        while let Some(event) = read.next()? {
            progress::tick(&bar, event.position().number());
            match streams.get_mut(event.stream()) {
                Some(summary) => update(summary, &event),
                None => {
                    streams.insert(event.stream().to_owned(), summary_of(&event));
                }
            }
        }
        bar.finish_and_clear();
        Ok(streams)
    }
}

fn summary_of(event: &Event<'_>) -> Summary {
    Summary {
        category: event.category().to_owned(),
        events: 1,
        version: event.version().number(),
        last_position: event.position().number(),
        first_time: event.time(),
        last_time: event.time(),
    }
}

fn update(summary: &mut Summary, event: &Event<'_>) {
    summary.events += 1;
    summary.version = event.version().number();
    summary.last_position = event.position().number();
    summary.last_time = event.time();
}

fn row(stream: &str, summary: &Summary) -> Value {
    json!({
        "stream": stream,
        "category": summary.category,
        "events": summary.events,
        "version": summary.version,
        "last_position": summary.last_position,
        "first_time": time::to_text(summary.first_time),
        "last_time": time::to_text(summary.last_time),
    })
}
