//! `annals import`: appends the events of a file of NDJSON, each once, also after a kill at any point.
//!
//! The file is read twice. The first time every line is checked and nothing written, so that a bad line at its end does
//! not leave half a file in the store; this also gives the digest that names the file. The second time the lines are
//! written, commit by commit, behind those that an earlier import of the same file has written.

mod batches;
mod resume;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use annals::limits::EVENTS_PER_COMMIT_MAX;
use annals::{Durability, Options, Position, Query, Store, Timestamp};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use self::batches::{BadLine, Batch, Batches, Fault, mismatched};
use self::resume::Begin;
use crate::args::{Format, FormatArg, StoreArg};
use crate::clock::CommitClock;
use crate::input::Input;
use crate::output;
use crate::progress;
use crate::text::{grouped, printable};

/// So many bad lines are reported before a check gives up.
const BAD_LINES_MAX: usize = 10;
/// So many unknown fields are named.
const UNKNOWN_FIELDS_MAX: usize = 10;

/// Append the events of a file
///
/// The file holds one JSON object a line, with at least `stream`, `type` and `data`; `id`, `time`, `tags`, `metadata`,
/// `schema_version` and `codec` are kept where given. It may be packed with gzip or zstd. `-` is standard input.
///
/// With --format ndjson a line is printed for each commit, once it is written. If nobody reads them any more, the import
/// goes on to its end.
///
/// An import that was interrupted is run again with the same file: it continues where it ended. What `annals export`
/// wrote gives an equal store when it is imported into an empty one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals import bank.annals events.ndjson.gz\n  \
                        zcat events-*.gz | annals import bank.annals -\n  \
                        annals import bank.annals events.ndjson --dry-run\n  \
                        annals export old.annals | annals import new.annals -")]
pub(crate) struct Import {
    #[command(flatten)]
    store: StoreArg,
    /// The file, or "-"
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Events in one commit, of lines that do not say theirs
    #[arg(long, value_name = "LINES", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=EVENTS_PER_COMMIT_MAX as i64))]
    batch: u32,
    /// Check the file and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: FormatArg,
}

impl Import {
    pub(crate) fn run(&self) -> Result<()> {
        let input = Input::open(&self.file)?;
        if self.dry_run {
            let checked = self.check(&input)?;
            let value = json!({ "file": input.name(), "lines": checked.lines });
            return output::print(self.format.format, &value, || format!("{} good lines", grouped(checked.lines)));
        }
        // Opened before the file is checked: a store that is in use is told at once.
        let clock = CommitClock::new();
        let options = Options::new().durability(Durability::Os).clock(clock.clone());
        let store = options.open(&self.store.path)?;
        let checked = self.check(&input)?;
        let mut importer = Importer::new(&store, clock, self.format.format)?;
        importer.import(&input, &checked, self.batch as usize)?;
        store.sync()?;
        let report = importer.report(&input, &checked)?;
        store.close()?;
        output::print(self.format.format, &report, || human(&report))
    }

    /// Reads the file to its end and checks every line.
    fn check(&self, input: &Input) -> Result<Checked> {
        let bar = progress::bytes("checking", input.bytes());
        let mut batches = Batches::new(input.lines(&bar)?, self.batch as usize, None);
        let mut bad = Vec::new();
        let (mut lines, mut unknown) = (0, BTreeSet::new());
        loop {
            match batches.next() {
                Ok(None) => break,
                Ok(Some(batch)) => {
                    lines += batch.lines().len() as u64;
                    note_unknown(&batch, &mut unknown);
                }
                Err(Fault::Bad(line)) => bad.push(line),
                Err(Fault::Failed(error)) => return Err(error),
            }
            if bad.len() == BAD_LINES_MAX {
                break;
            }
        }
        bar.finish_and_clear();
        if !bad.is_empty() {
            bail!("nothing was imported from {}\n{}", input.name(), listed(&bad));
        }
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.into_iter().collect();
            warn(&format!("fields that are not part of the format are left out: {}", names.join(", ")));
        }
        Ok(Checked { lines, digest: batches.digest() })
    }
}

/// What is known of a file all of whose lines are good.
struct Checked {
    lines: u64,
    digest: [u8; 16],
}

fn note_unknown(batch: &Batch, unknown: &mut BTreeSet<String>) {
    for name in batch.lines().iter().flat_map(|line| &line.unknown) {
        if unknown.len() < UNKNOWN_FIELDS_MAX {
            unknown.insert(printable(name));
        }
    }
}

fn listed(bad: &[BadLine]) -> String {
    let lines: Vec<String> = bad.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn warn(text: &str) {
    // A warning that cannot be told is no reason to stop.
    let _ = writeln!(std::io::stderr(), "annals: {text}");
}

/// Writes the lines of a file, and counts.
struct Importer<'s> {
    store: &'s Store,
    clock: CommitClock,
    format: Format,
    /// The commit time that the store has reached: it does not go back.
    commit_time: Timestamp,
    imported: u64,
    skipped: u64,
    commits: u64,
    mismatched: u64,
}

impl<'s> Importer<'s> {
    fn new(store: &'s Store, clock: CommitClock, format: Format) -> Result<Self> {
        let last = store.read(Query::all()).reverse().next()?.map(|event| event.commit_time());
        let commit_time = last.unwrap_or(Timestamp::MIN);
        Ok(Self { store, clock, format, commit_time, imported: 0, skipped: 0, commits: 0, mismatched: 0 })
    }

    fn import(&mut self, input: &Input, checked: &Checked, batch_lines_max: usize) -> Result<()> {
        let bar = progress::bytes("importing", input.bytes());
        let namespace = Uuid::from_bytes(checked.digest);
        let mut batches = Batches::new(input.lines(&bar)?, batch_lines_max, Some(namespace));
        let done = self.import_batches(&mut batches, checked);
        bar.finish_and_clear();
        done.map_err(|fault| match fault {
            Fault::Bad(line) => anyhow!("{} changed while it was imported\n{line}", input.name()),
            Fault::Failed(error) => error,
        })?;
        if batches.digest() != checked.digest {
            bail!("{} changed while it was imported", input.name());
        }
        Ok(())
    }

    fn import_batches(&mut self, batches: &mut Batches<'_>, checked: &Checked) -> Result<(), Fault> {
        if let Begin::Again(after) = resume::begin(self.store, checked.digest)? {
            self.skipped = resume::skip_imported(self.store, after, batches)?;
        }
        while let Some(batch) = batches.next()? {
            self.send(batch)?;
        }
        Ok(())
    }

    fn send(&mut self, batch: Batch) -> Result<()> {
        let commit_time = self.clock.set(batch.commit_time());
        self.commit_time = self.commit_time.max(commit_time);
        let last_line = batch.lines().last().map(|line| line.number);
        let (commit, recorded) = batch.into_commit();
        let appended = self.store.send(commit).map_err(annals::Error::from)?;
        self.imported += recorded.len() as u64;
        self.commits += 1;
        self.mismatched += mismatched(&recorded, &appended, self.commit_time);
        if self.format == Format::Ndjson {
            let line = json!({
                "commit": appended.first_position(),
                "last_position": appended.last_position(),
                "last_line": last_line,
                "imported": self.imported,
            });
            output::print_if_read(self.format, &line, String::new)?;
        }
        Ok(())
    }

    fn report(&self, input: &Input, checked: &Checked) -> Result<Value> {
        Ok(json!({
            "file": input.name(),
            "lines": checked.lines,
            "imported": self.imported,
            "imported_before": self.skipped,
            "commits": self.commits,
            "mismatched": self.mismatched,
            "head": self.store.head()?.map(Position::number),
        }))
    }
}

fn human(report: &Value) -> String {
    let number = |field: &str| report[field].as_u64().unwrap_or(0);
    let shown = |field: &str| grouped(number(field));
    let before = shown("imported_before");
    let mut text = match (number("imported"), number("imported_before")) {
        (0, 0) => "the file has no events".to_owned(),
        (0, _) => format!("all {before} events had been imported before, nothing to do"),
        (_, 0) => format!("imported {} events in {} commits", shown("imported"), shown("commits")),
        _ => format!(
            "imported {} events in {} commits; {before} had been imported before",
            shown("imported"),
            shown("commits")
        ),
    };
    if number("mismatched") > 0 {
        text.push('\n');
        text.push_str(&shown("mismatched"));
        text.push_str(" events have another position, version, commit or commit time than in the file");
    }
    text
}
