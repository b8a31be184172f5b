//! Arguments that several commands share.

use std::path::PathBuf;

use annals::{Position, Query, Read, Store, Timestamp};
use clap::{Args, ValueEnum};

use crate::time;

/// The store of a command.
#[derive(Debug, Args)]
pub(crate) struct StoreArg {
    /// The directory of the store
    #[arg(value_name = "STORE")]
    pub(crate) path: PathBuf,
}

impl StoreArg {
    /// Opens the store for reading: beside a writer, and never creating one.
    pub(crate) fn open_read_only(&self) -> annals::Result<Store> {
        Store::open_read_only(&self.path)
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Human,
    /// One JSON value
    Json,
    /// One JSON value a line
    Ndjson,
}

/// The format of a command that prints.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FormatArg {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// Which events: all that match everything that is given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which events")]
pub(crate) struct QueryArgs {
    /// Events of this stream
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Events of the streams of this category
    #[arg(long, value_name = "NAME")]
    category: Option<String>,
    /// Events of this type; of any of them, if given several times
    #[arg(long = "type", value_name = "NAME")]
    types: Vec<String>,
    /// Events with this tag; with all of them, if given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

impl QueryArgs {
    pub(crate) fn query(&self) -> Query {
        let mut query = Query::all();
        if let Some(stream) = &self.stream {
            query = query.and_stream(stream);
        }
        if let Some(category) = &self.category {
            query = query.and_category(category);
        }
        if !self.types.is_empty() {
            query = query.and_types(&self.types);
        }
        self.tags.iter().fold(query, Query::and_tag)
    }
}

/// Which part of the log, and which way.
#[derive(Debug, Args)]
#[command(next_help_heading = "Range")]
pub(crate) struct RangeArgs {
    /// Begin at this position
    #[arg(long, value_name = "POSITION", value_parser = position)]
    from: Option<Position>,
    /// Begin behind this position; 0 is before the first event
    #[arg(long, value_name = "POSITION", conflicts_with = "from")]
    after: Option<u64>,
    /// At most so many events
    #[arg(long, value_name = "EVENTS")]
    limit: Option<u64>,
    /// From the last event to the first
    #[arg(long)]
    reverse: bool,
    /// Events that happened at this time or later (RFC 3339, or a date)
    #[arg(long, value_name = "TIME", value_parser = time::parse_loosely)]
    since: Option<Timestamp>,
    /// Events that happened before this time (RFC 3339, or a date)
    #[arg(long, value_name = "TIME", value_parser = time::parse_loosely)]
    until: Option<Timestamp>,
}

/// A query and a range.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    query: QueryArgs,
    #[command(flatten)]
    range: RangeArgs,
}

impl Selection {
    pub(crate) fn read(&self, store: &Store) -> Read {
        let range = &self.range;
        let mut read = store.read(self.query.query());
        if range.reverse {
            read = read.reverse();
        }
        if let Some(from) = range.from {
            read = read.from(from);
        }
        if let Some(limit) = range.limit {
            read = read.limit(limit);
        }
        match range.after.map(Position::new) {
            // Backwards, nothing comes behind the place before the first event.
            Some(None) if range.reverse => read = read.limit(0),
            Some(after) => read = read.after(after),
            None => {}
        }
        if let Some(since) = range.since {
            read = read.since(since);
        }
        if let Some(until) = range.until {
            read = read.until(until);
        }
        read
    }
}

fn position(text: &str) -> Result<Position, String> {
    let number: u64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Position::new(number).ok_or_else(|| "positions count from 1".to_owned())
}
