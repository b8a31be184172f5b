//! Events as a file of rules tells them: the option `--upcast` of the commands that read.

use std::fs;
use std::path::PathBuf;

use annals::{Event, UpcastRules, Upcasters};
use anyhow::{Context, Result};
use clap::Args;

/// How old events are told.
#[derive(Debug, Args)]
#[command(next_help_heading = "Old events")]
pub(crate) struct UpcastArg {
    /// Upcast events by the rules of this JSON file; types are asked for as they were recorded
    #[arg(long, value_name = "FILE")]
    upcast: Option<PathBuf>,
}

impl UpcastArg {
    pub(crate) fn load(&self) -> Result<Upcasting> {
        let rules = self.upcast.as_ref().map(|file| rules_of(file));
        Ok(Upcasting { upcasters: rules.transpose()? })
    }
}

/// The upcasters of a file of rules.
pub(crate) fn rules_of(file: &std::path::Path) -> Result<Upcasters> {
    let name = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let upcasters = UpcastRules::from_json(&text).and_then(Upcasters::new);
    upcasters.with_context(|| format!("{name} cannot be used"))
}

/// Hands events on as they are told now.
#[derive(Debug)]
pub(crate) struct Upcasting {
    upcasters: Option<Upcasters>,
}

impl Upcasting {
    /// Calls with each event that one became, and its ordinal.
    pub(crate) fn each(&self, event: &Event<'_>, mut then: impl FnMut(&Event<'_>, u32) -> Result<()>) -> Result<()> {
        let takes = |upcasters: &&Upcasters| upcasters.takes(event.event_type(), event.schema_version());
        let Some(upcasters) = self.upcasters.as_ref().filter(takes) else { return then(event, 0) };
        let events = upcasters.upcast(event)?;
        events.iter().zip(0..).try_for_each(|(event, ordinal)| then(&event.as_event(), ordinal))
    }
}
