//! `annals tail`: the last events, and those that come.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use annals::{Clock, Event, Position, Signal, Store, SystemClock};
use anyhow::Result;
use clap::Args;

use crate::args::{Format, FormatArg, QueryArgs, StoreArg};
use crate::exit::Usage;
use crate::output::{self, EventPrinter};
use crate::upcast::{UpcastArg, Upcasting};

/// Show the last events, and those that come
///
/// With --follow it waits for events that a writer appends, and ends when it is interrupted. It shows what is known to
/// be synced.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals tail bank.annals\n  \
                        annals tail bank.annals --follow --type Withdrawn\n  \
                        annals tail bank.annals --lines 0 --follow --format ndjson | jq .data")]
pub(crate) struct Tail {
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    format: FormatArg,
    /// Begin with so many of the last events
    #[arg(short = 'n', long, value_name = "EVENTS", default_value_t = 10)]
    lines: u64,
    /// Go on with events as they come
    #[arg(short, long)]
    follow: bool,
    /// How often to look for new events, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    #[command(flatten)]
    query: QueryArgs,
    #[command(flatten)]
    upcast: UpcastArg,
}

/// Prints events as they are told now.
struct Printer<W> {
    upcasting: Upcasting,
    events: EventPrinter<W>,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, event: &Event<'_>) -> Result<()> {
        let events = &mut self.events;
        self.upcasting.each(event, |event, ordinal| events.print(event, ordinal))
    }
}

impl Tail {
    pub(crate) fn run(&self) -> Result<()> {
        let format = self.format.format;
        if self.follow && format == Format::Json {
            return Err(Usage("--format json has an end, and --follow has none: use --format ndjson".into()).into());
        }
        let upcasting = self.upcast.load()?;
        let store = self.store.open_read_only()?;
        let mut printer = Printer { upcasting, events: EventPrinter::new(format, output::stdout()) };
        let mut head = self.print_last(&store, &mut printer)?;
        if !self.follow {
            return printer.events.finish();
        }
        printer.events.flush()?;
        let (never, interval) = (Arc::new(Signal::new()), Duration::from_millis(self.interval));
        loop {
            SystemClock.wait(&never, Some(SystemClock.monotonic() + interval));
            head = self.print_after(&store, head, &mut printer)?;
        }
    }

    /// Prints the last events, and returns the head that they are the last of.
    fn print_last<W: Write>(&self, store: &Store, printer: &mut Printer<W>) -> Result<Option<Position>> {
        let mut read = store.read(self.query.query()).reverse().limit(self.lines);
        let head = read.head();
        let mut first = None;
        while let Some(event) = read.next()? {
            first = Some(event.position());
        }
        if let Some(first) = first {
            let mut read = store.read(self.query.query()).from(first).upto(head);
            while let Some(event) = read.next()? {
                printer.print(&event)?;
            }
        }
        Ok(head)
    }

    /// Prints what came behind a head, and returns the new one.
    fn print_after<W: Write>(
        &self,
        store: &Store,
        head: Option<Position>,
        printer: &mut Printer<W>,
    ) -> Result<Option<Position>> {
        if store.head()? == head {
            return Ok(head);
        }
        let mut read = store.read(self.query.query()).after(head);
        let head = read.head();
        while let Some(event) = read.next()? {
            printer.print(&event)?;
        }
        printer.events.flush()?;
        Ok(head)
    }
}
