//! `annals completions`: completions for a shell.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::output;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals completions bash > ~/.local/share/bash-completion/completions/annals\n  \
                        annals completions fish > ~/.config/fish/completions/annals.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<()> {
        use std::io::Write;
        // Made in memory first: the generator panics where it cannot write, as to a closed pipe.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "annals", &mut script);
        let mut out = output::stdout();
        out.write_all(&script)?;
        Ok(out.flush()?)
    }
}
