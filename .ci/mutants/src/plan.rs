//! Which mutants there are: the list that `cargo mutants` makes, one entry each.
//!
//! Never decides what a mutant is. What cannot be chosen at run time is told, not passed over.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// What kind of change a mutant is; the names are those of cargo-mutants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
pub(crate) enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

/// A place in a file, lines and columns from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(crate) struct Spot {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(crate) struct Span {
    pub(crate) start: Spot,
    pub(crate) end: Spot,
}

/// One change of the sources.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Mutant {
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) genre: Genre,
    pub(crate) span: Span,
    pub(crate) replacement: String,
}

/// Asks cargo-mutants for the mutants of these files, which are globs.
pub(crate) fn list(root: &Path, files: &[String]) -> Result<Vec<Mutant>, Failure> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["mutants", "--list", "--json", "--colors=never"]);
    for file in files {
        command.args(["--file", file]);
    }
    let output = command.output().map_err(|error| format!("cargo mutants: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo mutants --list: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The numbers of the mutants of each file.
pub(crate) fn by_file(mutants: &[Mutant]) -> BTreeMap<&str, Vec<usize>> {
    let mut files: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        files.entry(&mutant.file).or_default().push(number);
    }
    files
}
