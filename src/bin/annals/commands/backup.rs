//! `annals backup`: copies a store while it is written.

use std::path::PathBuf;

use annals::Position;
use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::args::{FormatArg, StoreArg};
use crate::output;
use crate::text::grouped;

/// Copy a store, also while it is written
///
/// The copy holds all that is known to be synced, whole and verified. It is a store of its own, with an id of its own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals backup bank.annals /backups/bank-2024-01-01.annals")]
pub(crate) struct Backup {
    #[command(flatten)]
    store: StoreArg,
    /// The directory of the copy, which must not exist
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
    #[command(flatten)]
    format: FormatArg,
}

impl Backup {
    pub(crate) fn run(&self) -> Result<()> {
        let report = self.store.open_read_only()?.backup(&self.destination)?;
        let value = json!({
            "store": report.store.to_string(),
            "head": report.head.map(Position::number),
            "events": report.events,
            "bytes": report.bytes,
        });
        output::print(self.format.format, &value, || {
            format!(
                "copied {} events, {} bytes, as store {}",
                grouped(report.events),
                grouped(report.bytes),
                report.store
            )
        })
    }
}
