//! How the program ends: the exit code of an error, and what is said about it.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// The command failed.
const FAILURE: u8 = 1;
/// The command cannot be understood; clap exits with the same code.
const USAGE: u8 = 2;
/// The store is corrupt.
const CORRUPTION: u8 = 3;

/// Arguments that do not go together.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\nFor more information, try '--help'.", self.0)
    }
}

impl std::error::Error for Usage {}

/// A store was checked and found to be corrupt.
#[derive(Debug)]
pub(crate) struct Corruption(pub(crate) String);

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Corruption {}

/// Says what went wrong, and returns the exit code for it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever read our output has seen enough: `annals read … | head` is no failure.
    if is_unread(error) {
        return ExitCode::SUCCESS;
    }
    // Nobody is left to tell that standard error is gone.
    let _ = writeln!(io::stderr(), "annals: {}", text_of(error));
    ExitCode::from(code_of(error))
}

/// Whether nobody reads our output any more. That error is told as it is; one that is the cause of another is of something
/// else, which has failed.
pub(crate) fn is_unread(error: &anyhow::Error) -> bool {
    let io_error = error.chain().next().and_then(|error| error.downcast_ref::<io::Error>());
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return USAGE;
        }
        let is_corrupt = matches!(cause.downcast_ref::<annals::Error>(), Some(annals::Error::Corrupt { .. }));
        if is_corrupt || cause.is::<Corruption>() {
            return CORRUPTION;
        }
    }
    FAILURE
}

/// The error and its causes, each once: some name their cause themselves.
fn text_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_that_was_named_is_not_named_again() {
        let cause = io::Error::other("no such thing");
        let error = anyhow::Error::new(cause).context("cannot open x: no such thing").context("import");
        assert_eq!(text_of(&error), "import: cannot open x: no such thing");
    }

    #[test]
    fn a_pipe_that_breaks_elsewhere_is_a_failure() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_unread(&broken().into()));
        assert!(!is_unread(&anyhow::Error::new(broken()).context("cannot write x")));
        let of_the_store = annals::Error::Io { operation: "write", path: "x".into(), source: broken().into() };
        assert!(!is_unread(&of_the_store.into()));
        assert!(!is_unread(&io::Error::other("another").into()));
    }

    #[test]
    fn codes_tell_failures_apart() {
        let corrupt = || annals::Error::Corrupt { file: "log".into(), offset: 8, reason: "checksum".into() };
        assert_eq!(code_of(&anyhow::anyhow!("other")), FAILURE);
        assert_eq!(code_of(&Usage("no".into()).into()), USAGE);
        assert_eq!(code_of(&corrupt().into()), CORRUPTION);
        let wrapped: anyhow::Result<()> = Err(corrupt()).context("while reading");
        assert_eq!(code_of(&wrapped.expect_err("it is an error")), CORRUPTION);
    }
}
