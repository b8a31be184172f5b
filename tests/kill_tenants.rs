//! Tenants whose program dies while one of them is deleted: the tenant is as it was, or gone with all its files.
//!
//! The test runs its own binary as a child, which deletes a tenant. The child ends by itself at its first step, or is
//! killed from outside as soon as a part of what it deletes is gone.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use annals::{Error, ExpectedVersion, NewEvent, Query, Tenants};

/// Where the tenants are, in the environment of the child.
const PATH: &str = "ANNALS_KILL_TENANTS_PATH";
const HOUR: Duration = Duration::from_secs(3_600);
const EVENTS: u64 = 5;
/// Files beside the store of the tenant, so that there is enough to be killed amid.
const OTHER_FILES: usize = 2_000;

/// The child: does nothing when the tests are run.
#[test]
fn child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    Tenants::open(path).unwrap().delete("acme", HOUR).unwrap();
}

fn delete(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env(PATH, path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Tenants of which one has many files.
fn tenants(path: &Path) {
    let tenants = Tenants::open(path).unwrap();
    for name in ["acme", "globex"] {
        let store = tenants.store(name).unwrap();
        let events = (0..EVENTS).map(|_| NewEvent::raw("Happened", "x"));
        store.append("a", ExpectedVersion::Any, events).unwrap();
        store.state().unwrap().put("key", "value").unwrap();
    }
    drop(tenants);
    for number in 0..OTHER_FILES {
        std::fs::write(path.join("acme").join(format!("notes of somebody else {number}")), "x").unwrap();
    }
}

/// The names in the directory, and how many files the one has that is being removed.
fn seen(path: &Path) -> (Vec<String>, Option<usize>) {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let removed = names.iter().find(|name| name.contains(".removed-"));
    let files = removed.and_then(|name| Some(std::fs::read_dir(path.join(name)).ok()?.count()));
    (names, files)
}

/// Kills the child as soon as the directory is as wanted, or lets it end before that.
fn kill_when(child: &mut Child, is_wanted: impl Fn() -> bool) {
    while !is_wanted() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    // It may have ended in between.
    let _ = child.kill();
    child.wait().unwrap();
}

/// What the next program finds; whether the tenant is still there.
fn open_again(path: &Path) -> bool {
    let tenants = Tenants::open(path).unwrap();
    let globex = tenants.existing_store("globex").unwrap();
    assert_eq!(globex.read(Query::all()).count().unwrap(), EVENTS, "another tenant notices nothing");
    let is_there = match tenants.existing_store("acme") {
        Ok(acme) => {
            assert_eq!(acme.read(Query::all()).count().unwrap(), EVENTS);
            assert_eq!(acme.state().unwrap().get("key").unwrap().unwrap(), b"value");
            acme.append("a", ExpectedVersion::Any, [NewEvent::raw("Happened", "x")]).unwrap();
            true
        }
        Err(Error::NotFound { .. }) => false,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(tenants.names().unwrap(), if is_there { vec!["acme", "globex"] } else { vec!["globex"] });
    let (names, _) = seen(path);
    assert!(names.iter().all(|name| !name.contains(".removed-")), "nothing is left of it: {names:?}");
    is_there
}

/// A tenant, whose deletion is killed when so many of its files are gone; whether it was killed amid them.
fn is_killed_amid(least_gone: usize) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tenants");
    tenants(&path);
    let before = std::fs::read_dir(path.join("acme")).unwrap().count();
    let mut child = delete(&path);
    kill_when(&mut child, || seen(&path).1.is_some_and(|files| files + least_gone <= before));
    let is_amid = seen(&path).1.is_some();
    assert!(!open_again(&path), "its name was gone when the first of its files went");
    let again = Tenants::open(&path).unwrap();
    assert_eq!(again.store("acme").unwrap().head().unwrap(), None, "a new one of its name is new");
    is_amid
}

#[test]
fn a_tenant_whose_deletion_is_killed_amid_its_files_is_gone() {
    // A child may be done before it is killed; so many are not.
    let amid = [0, 1, 10, 100, 500].into_iter().cycle().take(50).filter(|gone| is_killed_amid(*gone));
    assert_eq!(amid.take(4).count(), 4, "children are killed amid a deletion");
}

#[test]
fn a_tenant_whose_deletion_is_killed_before_it_begins_is_as_it_was_or_gone() {
    for _ in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tenants");
        tenants(&path);
        kill_when(&mut delete(&path), || true);
        // Where the child was is not known: `open_again` holds that it is one or the other.
        let _ = open_again(&path);
    }
}
