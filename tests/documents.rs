//! What the documents name is there: files by their path, tests by their name.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where sources and tests are.
const PLACES: [&str; 5] = ["src", "tests", "examples", "benches", "docs"];
/// A name of so many words is the name of a test.
const TEST_WORDS_MIN: usize = 5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    collect(&root().join("docs"), "md", &mut paths);
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn collect(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// What stands between backquotes in running text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// The names of all functions of tests.
fn functions() -> BTreeSet<String> {
    let mut sources = Vec::new();
    for place in ["src", "tests"] {
        collect(&root().join(place), "rs", &mut sources);
    }
    let mut names = BTreeSet::new();
    for source in sources {
        let text = std::fs::read_to_string(source).unwrap();
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
        names.extend(lines.filter_map(|line| Some(line.split_once('(')?.0.to_owned())));
    }
    names
}

#[test]
fn every_path_in_the_documents_leads_to_a_file() {
    let mut found = 0;
    for (document, text) in documents() {
        for name in quoted(&text).filter(|name| PLACES.iter().any(|place| name.starts_with(&format!("{place}/")))) {
            let path = root().join(name);
            let is_there = path.exists() || path.with_extension("rs").exists() || name.contains(['*', '<', ' ']);
            assert!(is_there, "{} names {name}", document.display());
            found += 1;
        }
    }
    assert!(found > 80, "{found}");
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let functions = functions();
    let is_name = |name: &str| {
        name.split('_').count() >= TEST_WORDS_MIN
            && name.chars().all(|letter| letter == '_' || letter.is_ascii_lowercase() || letter.is_ascii_digit())
    };
    let mut found = 0;
    for (document, text) in documents() {
        for name in quoted(&text).filter(|name| is_name(name)) {
            assert!(functions.contains(name), "{} names the test {name}", document.display());
            found += 1;
        }
    }
    assert!(found > 0, "{found}");
}
