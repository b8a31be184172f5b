//! The commands, one a file.

mod backup;
mod completions;
mod export;
mod import;
mod migrate;
mod read;
mod replay;
mod seed;
mod stats;
mod streams;
mod tail;
mod verify;

use anyhow::Result;
use clap::Subcommand;

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Import(import::Import),
    Export(export::Export),
    Stats(stats::Stats),
    Streams(streams::Streams),
    Read(read::Read),
    Replay(replay::Replay),
    Verify(verify::Verify),
    Tail(tail::Tail),
    Seed(seed::Seed),
    Backup(backup::Backup),
    Migrate(migrate::Migrate),
    Completions(completions::Completions),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Import(import) => import.run(),
            Command::Export(export) => export.run(),
            Command::Stats(stats) => stats.run(),
            Command::Streams(streams) => streams.run(),
            Command::Read(read) => read.run(),
            Command::Replay(replay) => replay.run(),
            Command::Verify(verify) => verify.run(),
            Command::Tail(tail) => tail.run(),
            Command::Seed(seed) => seed.run(),
            Command::Backup(backup) => backup.run(),
            Command::Migrate(migrate) => migrate.run(),
            Command::Completions(completions) => completions.run(),
        }
    }
}
