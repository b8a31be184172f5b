//! Writes events as lines of the canonical format, without the end of the line.

use std::io::{self, Write};

use annals::{Codec, Event, Position};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;

use crate::time;

/// Writes events one by one.
#[derive(Debug, Default)]
pub(crate) struct EventWriter {
    /// The commit of the last event, and its time as text: events of one commit share it.
    commit: Option<(Position, String)>,
}

impl EventWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Writes an event, and its ordinal if it is not the first of what a recorded one was upcast into.
    pub(crate) fn write(&mut self, event: &Event<'_>, ordinal: u32, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{{\"position\":{},\"commit\":{},", event.position(), event.commit())?;
        write!(out, "\"commit_time\":\"{}\",\"stream\":", self.commit_time(event))?;
        serde_json::to_writer(&mut *out, event.stream())?;
        write!(out, ",\"version\":{},\"id\":\"{}\",\"type\":", event.version(), event.id())?;
        serde_json::to_writer(&mut *out, event.event_type())?;
        write!(out, ",\"schema_version\":{},", event.schema_version())?;
        write!(out, "\"time\":\"{}\",\"tags\":[", time::to_text(event.time()))?;
        for (index, tag) in event.tags().enumerate() {
            if index > 0 {
                out.write_all(b",")?;
            }
            serde_json::to_writer(&mut *out, tag)?;
        }
        write!(out, "],\"codec\":\"{}\"", event.codec())?;
        write_bytes("data", event.payload(), event.codec() == Codec::Json, out)?;
        if let Some(metadata) = event.metadata() {
            write_bytes("metadata", metadata, true, out)?;
        }
        if ordinal > 0 {
            write!(out, ",\"ordinal\":{ordinal}")?;
        }
        out.write_all(b"}")
    }

    fn commit_time(&mut self, event: &Event<'_>) -> &str {
        let commit = event.commit();
        if self.commit.as_ref().is_none_or(|(last, _)| *last != commit) {
            self.commit = Some((commit, time::to_text(event.commit_time())));
        }
        self.commit.as_ref().map_or("", |(_, text)| text)
    }
}

/// Bytes as they are if they are a JSON text that a reader of the line gets back as it is; in base64 otherwise.
fn write_bytes(field: &str, bytes: &[u8], may_be_json: bool, out: &mut impl Write) -> io::Result<()> {
    if may_be_json && comes_back(bytes) {
        write!(out, ",\"{field}\":")?;
        out.write_all(bytes)
    } else {
        write!(out, ",\"{field}_base64\":\"{}\"", BASE64.encode(bytes))
    }
}

fn comes_back(bytes: &[u8]) -> bool {
    let ends_the_line = |byte: &u8| matches!(byte, b'\n' | b'\r');
    // A raw value leaves out the white space around it.
    let whole = |raw: &RawValue| raw.get().len() == bytes.len();
    !bytes.iter().any(ends_the_line) && serde_json::from_slice::<&RawValue>(bytes).is_ok_and(whole)
}
