//! Finds where an earlier import of the same file ended, so that none of its lines is lost or repeated.
//!
//! Before the first event of a file is written, the head of the store is noted beside the log, under the digest of the
//! file. An import that comes later looks at the events behind that head: those with the ids of the file's lines, in
//! their order, were written by one before it. Others may have appended in between; their events have other ids.
//!
//! A note is durable before any event that it is for, and names a head that is synced. So after a crash at any point
//! either no event of the file was written, or the note finds them. A backup has no notes: in a restored store, a file
//! is imported as if for the first time.

use annals::{Durability, Position, Query, StateBatch, Store};
use anyhow::{Context, Result};

use super::batches::{Batches, Fault};

/// Whether a file was imported before.
pub(super) enum Begin {
    /// It was not.
    First,
    /// An import of it was begun when this was the head.
    Again(Option<Position>),
}

/// Begins an import: notes the head of the store for the file, if none was noted before.
pub(super) fn begin(store: &Store, digest: [u8; 16]) -> Result<Begin> {
    let state = store.state().context("cannot open the state of the store")?;
    let key = key_of(digest);
    if let Some(note) = state.get(&key).context("cannot read how far an earlier import came")? {
        return Ok(Begin::Again(usable(&note, store.head()?)));
    }
    store.sync()?;
    let head = store.head()?.map_or(0, Position::number);
    let note = StateBatch::new().put(key, head.to_string()).durability(Durability::Synced);
    state.write(note).context("cannot note that the import begins")?;
    Ok(Begin::First)
}

fn key_of(digest: [u8; 16]) -> String {
    format!("import-{:032x}", u128::from_be_bytes(digest))
}

/// The head of a note. One that is not understood, or lies behind the head of the store, is of another history: then
/// all events are looked at, which finds as much and only takes longer.
fn usable(note: &[u8], head: Option<Position>) -> Option<Position> {
    let noted = std::str::from_utf8(note).ok()?.parse().ok().and_then(Position::new);
    noted.filter(|noted| Some(*noted) <= head)
}

/// Leaves out the lines whose events are in the store behind `after`, and returns how many.
pub(super) fn skip_imported(store: &Store, after: Option<Position>, batches: &mut Batches<'_>) -> Result<u64, Fault> {
    let mut read = store.read(Query::all()).after(after);
    let mut skipped = 0;
    let mut expected = batches.peek()?.and_then(|line| line.id);
    while expected.is_some() {
        let Some(event) = read.next().map_err(anyhow::Error::from)? else { break };
        if expected == Some(event.id()) {
            batches.skip();
            skipped += 1;
            expected = batches.peek()?.and_then(|line| line.id);
        }
    }
    Ok(skipped)
}
