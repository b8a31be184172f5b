//! `annals migrate`: copies a store through upcasters into a new one.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use annals::{Codec, Migration, MigrationReport, Position, RecordedEvent, Store, TypeChange};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::args::{Format, FormatArg, StoreArg};
use crate::output;
use crate::text::{grouped, printable};
use crate::{progress, upcast};

/// Copy a store through upcasters into a new one, and show what changes
///
/// Streams, times, commits, tags and metadata stay, and so do the ids; events that are split off get ids derived from
/// them, the same each time. Positions and versions are counted anew, without gaps: they change where events are
/// dropped or split, or are missing in the source because streams were truncated or deleted. Snapshots and checkpoints,
/// which refer to them, are not copied. The new store appears when it is whole.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals migrate bank.annals --upcast rules.json --dry-run\n  \
                        annals migrate bank.annals bank-2.annals --upcast rules.json\n\n\
                        A file of rules:\n  \
                        {\"rules\": [\n    \
                        {\"type\": \"Deposited\", \"version\": 1, \"changes\": [\n      \
                        {\"add\": {\"field\": \"currency\", \"value\": \"EUR\"}},\n      \
                        {\"rename\": {\"field\": \"amount\", \"to\": \"cents\"}}]},\n    \
                        {\"type\": \"Opened\", \"version\": 1, \"to\": {\"type\": \"AccountOpened\", \"version\": 1}},\n    \
                        {\"type\": \"Clicked\", \"version\": 1, \"drop\": true},\n    \
                        {\"type\": \"Moved\", \"version\": 1, \"split\": [\n      \
                        {\"type\": \"StreetChanged\", \"version\": 1, \"keep\": [\"street\"]},\n      \
                        {\"type\": \"CityChanged\", \"version\": 1, \"keep\": [\"city\"]}]}]}\n\n\
                        Changes are add, default, rename and remove. A field is a name or a JSON pointer.")]
pub(crate) struct Migrate {
    /// The directory of the store that is copied
    #[command(flatten)]
    source: StoreArg,
    /// The directory of the new store, which must not exist
    #[arg(value_name = "TARGET", required_unless_present = "dry_run")]
    target: Option<PathBuf>,
    /// The JSON file of rules
    #[arg(long, value_name = "FILE")]
    upcast: PathBuf,
    /// Write nothing; only show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: FormatArg,
}

impl Migrate {
    pub(crate) fn run(&self) -> Result<()> {
        let upcasters = upcast::rules_of(&self.upcast)?;
        let source = self.source.open_read_only()?;
        let bar = progress::events("migrating", source.head()?.map_or(0, Position::number));
        let shown = bar.clone();
        let migration =
            Migration::new(upcasters).on_progress(move |position| progress::tick(&shown, position.number()));
        let report = match &self.target {
            Some(target) if !self.dry_run => migrate(&migration, &source, target)?,
            _ => migration.preview(&source)?,
        };
        bar.finish_and_clear();
        self.print(&report)
    }

    fn print(&self, report: &MigrationReport) -> Result<()> {
        let format = self.format.format;
        if format != Format::Human {
            return output::print(format, &self.value(report), String::new);
        }
        let mut out = output::stdout();
        for change in &report.changes {
            write!(out, "{}", human(change))?;
        }
        let verb = if self.dry_run { "would write" } else { "wrote" };
        let (read, written, commits) = (grouped(report.read), grouped(report.written), grouped(report.commits));
        writeln!(out, "read {read} events, {verb} {written} in {commits} commits")?;
        Ok(out.flush()?)
    }

    fn value(&self, report: &MigrationReport) -> Value {
        json!({
            "dry_run": self.dry_run,
            "read": report.read,
            "written": report.written,
            "commits": report.commits,
            "changes": report.changes.iter().map(value_of).collect::<Vec<_>>(),
        })
    }
}

/// Copies into a directory beside the target, which gets the target's name once it is whole.
fn migrate(migration: &Migration, source: &Store, target: &Path) -> Result<MigrationReport> {
    let name = target.display();
    if target.symlink_metadata().is_ok() {
        bail!("{name} exists already: a store is migrated into a new one");
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(".annals-migrate-").tempdir_in(parent);
    let temporary = temporary.with_context(|| format!("cannot create {name}"))?;
    let beside = temporary.path().join("store");
    let (store, report) = migration.run(source, |options| options.open(&beside))?;
    store.close()?;
    fs::rename(&beside, target).with_context(|| format!("cannot create {name}"))?;
    File::open(parent).and_then(|parent| parent.sync_all()).with_context(|| format!("cannot create {name}"))?;
    Ok(report)
}

fn value_of(change: &TypeChange) -> Value {
    let written = |((event_type, version), events): (&(String, u32), &u64)| json!({ "type": event_type, "schema_version": version, "events": events });
    json!({
        "type": change.event_type,
        "schema_version": change.schema_version,
        "events": change.read,
        "dropped": change.dropped,
        "becomes": change.written.iter().map(written).collect::<Vec<_>>(),
        "example": {
            "position": change.example.position.number(),
            "before": event_value(&change.example),
            "after": change.example_written.iter().map(event_value).collect::<Vec<_>>(),
        },
    })
}

fn event_value(event: &RecordedEvent) -> Value {
    json!({ "type": event.event_type, "schema_version": event.schema_version, "data": payload_text(event) })
}

fn human(change: &TypeChange) -> String {
    let named = |event_type: &str, version: u32| format!("{} v{version}", printable(event_type));
    let mut text = format!("{}: {} events", named(&change.event_type, change.schema_version), grouped(change.read));
    // Writing to a string cannot fail.
    for ((event_type, version), events) in &change.written {
        let _ = write!(text, " -> {} {}", grouped(*events), named(event_type, *version));
    }
    if change.dropped > 0 {
        let _ = write!(text, " -> {} dropped", grouped(change.dropped));
    }
    let _ = writeln!(text, "\n  position {}\n  - {}", change.example.position, event_text(&change.example));
    for event in &change.example_written {
        let _ = writeln!(text, "  + {}", event_text(event));
    }
    text
}

fn event_text(event: &RecordedEvent) -> String {
    format!("{} v{}  {}", printable(&event.event_type), event.schema_version, printable(&payload_text(event)))
}

/// JSON as it is, anything else by its length.
fn payload_text(event: &RecordedEvent) -> String {
    match (event.codec, std::str::from_utf8(&event.payload)) {
        (Codec::Json, Ok(text)) => text.to_owned(),
        (codec, _) => format!("({} bytes, {codec})", grouped(event.payload.len() as u64)),
    }
}
