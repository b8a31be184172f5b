//! Cuts the lines of a file into commits, the same way each time.
//!
//! Lines that name one commit are one commit. Of the others, so many as were asked for are one, or fewer where they
//! would become too large.

use std::collections::{HashMap, HashSet};
use std::fmt;

use annals::limits::{COMMIT_BYTES_MAX, EVENTS_PER_COMMIT_MAX};
use annals::{Appended, Commit, EventId, ExpectedVersion, NewEvent, Position, StreamVersion, Timestamp};
use uuid::Uuid;

use crate::lines::Lines;
use crate::ndjson::{Line, Problem};

/// Lines that name no commit are cut where they would take more bytes: a commit should stay far below its limit.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the header of a frame, and what its length is a multiple of.
const FRAME_HEADER_BYTES: usize = 48;
const FRAME_ALIGNMENT_BYTES: usize = 8;

/// Why there is no next batch.
#[derive(Debug)]
pub(super) enum Fault {
    Bad(BadLine),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Fault::Failed(error)
    }
}

/// A line and everything that is wrong with it.
#[derive(Debug)]
pub(super) struct BadLine {
    number: u64,
    problems: Vec<Problem>,
}

impl BadLine {
    pub(super) fn new(number: u64, field: &'static str, problem: String) -> Self {
        Self { number, problems: vec![Problem { field: Some(field), problem }] }
    }
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}line {}, {problem}", if index == 0 { "" } else { "\n" }, self.number)?;
        }
        Ok(())
    }
}

/// Reads batches, and looks one line ahead.
pub(super) struct Batches<'a> {
    lines: Lines<'a>,
    batch_lines_max: usize,
    /// What the ids are made of of lines that have none; `None` while the file is only checked.
    namespace: Option<Uuid>,
    ahead: Option<Line>,
}

impl<'a> Batches<'a> {
    pub(super) fn new(lines: Lines<'a>, batch_lines_max: usize, namespace: Option<Uuid>) -> Self {
        Self { lines, batch_lines_max, namespace, ahead: None }
    }

    /// The digest of what was read so far.
    pub(super) fn digest(&self) -> [u8; 16] {
        self.lines.digest()
    }

    /// The next line that is no batch yet.
    pub(super) fn peek(&mut self) -> Result<Option<&Line>, Fault> {
        if self.ahead.is_none() {
            self.ahead = self.read()?;
        }
        Ok(self.ahead.as_ref())
    }

    /// Leaves out the line that [`Batches::peek`] showed.
    pub(super) fn skip(&mut self) {
        self.ahead = None;
    }

    /// The next batch. After a bad line, whose batch is lost, it goes on with the next line.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, Fault> {
        let mut batch = Batch::default();
        let lines_max = self.batch_lines_max;
        while self.peek()?.is_some_and(|line| batch.takes(line, lines_max)) {
            if let Some(line) = self.ahead.take() {
                batch.add(line).map_err(Fault::Bad)?;
            }
        }
        Ok((!batch.lines.is_empty()).then_some(batch))
    }

    fn read(&mut self) -> Result<Option<Line>, Fault> {
        while let Some((number, text)) = self.lines.next()? {
            if text.trim_ascii().is_empty() {
                continue;
            }
            let parsed = Line::parse(number, text);
            let mut line = parsed.map_err(|problems| Fault::Bad(BadLine { number, problems }))?;
            if let (None, Some(namespace)) = (line.id, &self.namespace) {
                let id = EventId::from(Uuid::new_v5(namespace, number.to_string().as_bytes()));
                line.id = Some(id);
                line.event = line.event.id(id);
            }
            return Ok(Some(line));
        }
        Ok(None)
    }
}

/// Lines that are written in one commit.
#[derive(Debug, Default)]
pub(super) struct Batch {
    lines: Vec<Line>,
    records_bytes: usize,
    ids: HashSet<EventId>,
}

impl Batch {
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// When the lines were committed, if the first of them says so.
    pub(super) fn commit_time(&self) -> Option<Timestamp> {
        self.lines.first().and_then(|line| line.commit_time)
    }

    fn takes(&self, line: &Line, lines_max: usize) -> bool {
        let Some(first) = self.lines.first() else { return true };
        let has_room = self.lines.len() < lines_max && self.records_bytes + line.record_bytes <= BATCH_BYTES_MAX;
        first.commit == line.commit && (line.commit.is_some() || has_room)
    }

    fn add(&mut self, line: Line) -> Result<(), BadLine> {
        self.records_bytes += line.record_bytes;
        let bytes = (FRAME_HEADER_BYTES + self.records_bytes).next_multiple_of(FRAME_ALIGNMENT_BYTES);
        let repeated = line.id.filter(|id| !self.ids.insert(*id));
        let bad = |field, problem| Err(BadLine::new(line.number, field, problem));
        if let Some(id) = repeated {
            return bad("id", format!("{id} stands twice in one commit"));
        }
        if self.lines.len() == EVENTS_PER_COMMIT_MAX {
            return bad("commit", format!("has more than {EVENTS_PER_COMMIT_MAX} events"));
        }
        if bytes > COMMIT_BYTES_MAX {
            let field = if self.lines.is_empty() { "data" } else { "commit" };
            return bad(field, format!("makes a commit of more than {COMMIT_BYTES_MAX} bytes"));
        }
        self.lines.push(line);
        Ok(())
    }

    /// The commit of the lines, and what they say of where they were before.
    pub(super) fn into_commit(self) -> (Commit, Vec<Recorded>) {
        let mut commit = Commit::new();
        let mut recorded = Vec::with_capacity(self.lines.len());
        let mut run: Option<(String, Vec<NewEvent>)> = None;
        let mut streams = StreamIndexes::default();
        for line in self.lines {
            recorded.push(Recorded {
                stream_index: streams.index_of(&line.stream),
                position: line.position,
                version: line.version,
                commit: line.commit,
                commit_time: line.commit_time,
            });
            match &mut run {
                Some((stream, events)) if *stream == line.stream => events.push(line.event),
                _ => {
                    if let Some((stream, events)) = run.replace((line.stream, vec![line.event])) {
                        commit = commit.append(stream, ExpectedVersion::Any, events);
                    }
                }
            }
        }
        if let Some((stream, events)) = run {
            commit = commit.append(stream, ExpectedVersion::Any, events);
        }
        (commit, recorded)
    }
}

/// The streams of a commit by the order in which they first occur.
#[derive(Default)]
struct StreamIndexes {
    indexes: HashMap<String, usize>,
}

impl StreamIndexes {
    fn index_of(&mut self, stream: &str) -> usize {
        if let Some(index) = self.indexes.get(stream) {
            return *index;
        }
        let index = self.indexes.len();
        self.indexes.insert(stream.to_owned(), index);
        index
    }
}

/// What a line says of where its event was before.
#[derive(Debug)]
pub(super) struct Recorded {
    stream_index: usize,
    position: Option<Position>,
    version: Option<StreamVersion>,
    commit: Option<Position>,
    commit_time: Option<Timestamp>,
}

/// How many events of a commit are not where they were before.
pub(super) fn mismatched(recorded: &[Recorded], appended: &Appended, commit_time: Timestamp) -> u64 {
    let mut next: Vec<u64> = appended.versions().map(|(_, last)| last.number() + 1).collect();
    for event in recorded {
        next[event.stream_index] -= 1;
    }
    let first = appended.first_position();
    let mut mismatched = 0;
    for (position, event) in (first.number()..).zip(recorded) {
        let version = &mut next[event.stream_index];
        let is_same = event.position.is_none_or(|before| before.number() == position)
            && event.version.is_none_or(|before| before.number() == *version)
            && event.commit.is_none_or(|before| before == first)
            && event.commit_time.is_none_or(|before| before == commit_time);
        mismatched += u64::from(!is_same);
        *version += 1;
    }
    mismatched
}
