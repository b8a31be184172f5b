//! The `annals` program: event stores from a shell.
//!
//! It stands on the public API of the library alone. Data go to standard output, everything else to standard error.
//! Commands that read open a store read-only: they never create one, never change one, and run beside a live writer.

#![allow(clippy::disallowed_methods, reason = "this is not the library: it may use files and time directly")]

mod args;
mod clock;
mod commands;
mod exit;
mod input;
mod lines;
mod ndjson;
mod output;
mod progress;
mod text;
mod time;
mod upcast;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;

/// Event stores from a shell: import, export, read, replay, check.
#[derive(Debug, Parser)]
#[command(
    name = "annals",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage, 3 corruption found.\n\n\
                  Examples:\n  \
                  annals import bank.annals events.ndjson.gz\n  \
                  annals read bank.annals --stream account-alice\n  \
                  annals replay bank.annals --count-by type\n  \
                  annals export bank.annals > events.ndjson"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
