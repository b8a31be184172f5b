//! `annals verify`: reads every byte of a store and checks it.

use annals::{Problem, VerifyReport};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::args::{FormatArg, StoreArg};
use crate::exit::Corruption;
use crate::output;
use crate::progress;
use crate::text::grouped;

/// Read every byte of a store and check it
///
/// Exits with 3 if something is damaged, and says in which file and where. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals verify bank.annals\n  \
                        annals verify bank.annals --format json")]
pub(crate) struct Verify {
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    format: FormatArg,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<()> {
        let bar = progress::bytes("verifying", 0);
        let report = annals::verify(&self.store.path, &mut |progress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        })?;
        bar.finish_and_clear();
        output::print_if_read(self.format.format, &value_of(&report), || human(&report))?;
        match report.problems.split_first() {
            None => Ok(()),
            Some((first, [])) => Err(Corruption(text_of(first)).into()),
            Some((first, rest)) => Err(Corruption(format!("{}; and {} more", text_of(first), rest.len())).into()),
        }
    }
}

fn text_of(problem: &Problem) -> String {
    format!("{} is corrupt at offset {}: {}", problem.file.display(), problem.offset, problem.reason)
}

fn value_of(report: &VerifyReport) -> Value {
    let problem = |problem: &Problem| json!({ "file": problem.file.to_string_lossy(), "offset": problem.offset, "reason": problem.reason });
    json!({
        "ok": report.problems.is_empty(),
        "events": report.events,
        "segments": report.segments,
        "bytes": report.bytes,
        "torn_bytes": report.torn_bytes,
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}

fn human(report: &VerifyReport) -> String {
    let (events, segments, bytes) = (grouped(report.events), grouped(report.segments), grouped(report.bytes));
    let mut lines = vec![format!("read {events} events in {segments} segments, {bytes} bytes")];
    if report.torn_bytes > 0 {
        let torn = grouped(report.torn_bytes);
        lines.push(format!("{torn} bytes of commits that were never confirmed are cut when the store is next opened"));
    }
    if report.problems.is_empty() {
        lines.push("no problem found".to_owned());
    }
    lines.extend(report.problems.iter().map(text_of));
    lines.join("\n")
}
