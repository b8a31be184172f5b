//! `annals read`: shows events.

use anyhow::Result;
use clap::Args;

use crate::args::{FormatArg, Selection, StoreArg};
use crate::output::{self, EventPrinter};
use crate::upcast::UpcastArg;

/// Show events
///
/// Runs beside a writer, and shows what is known to be synced.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals read bank.annals --stream account-alice\n  \
                        annals read bank.annals --type Withdrawn --tag branch:7 --reverse --limit 10\n  \
                        annals read bank.annals --after 1000 --format ndjson\n  \
                        annals read bank.annals --stream account-alice --upcast rules.json\n  \
                        annals read bank.annals --since 2024-01-01 --until 2024-02-01T12:00:00Z")]
pub(crate) struct Read {
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    upcast: UpcastArg,
}

impl Read {
    pub(crate) fn run(&self) -> Result<()> {
        let upcasting = self.upcast.load()?;
        let store = self.store.open_read_only()?;
        let mut read = self.selection.read(&store);
        let mut printer = EventPrinter::new(self.format.format, output::stdout());
        while let Some(event) = read.next()? {
            upcasting.each(&event, |event, ordinal| printer.print(event, ordinal))?;
        }
        printer.finish()
    }
}
