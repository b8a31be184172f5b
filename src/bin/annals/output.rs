//! Printing: to standard output, buffered, in the format that was asked for.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use annals::{Codec, Event};
use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::args::Format;
use crate::exit::is_unread;
use crate::ndjson::EventWriter;
use crate::text::{grouped, printable};
use crate::time;

/// Between the columns of a table.
const COLUMN_SPACE: u16 = 2;
const BUFFER_BYTES: usize = 128 * 1024;

/// Standard output, buffered. What is written must be flushed, or errors go unnoticed.
pub(crate) fn stdout() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock())
}

/// Prints one result: for people as it is told by `human`, else the JSON value.
pub(crate) fn print(format: Format, value: &Value, human: impl FnOnce() -> String) -> Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Human => writeln!(out, "{}", human())?,
        Format::Json => writeln!(out, "{value:#}")?,
        Format::Ndjson => writeln!(out, "{value}")?,
    }
    out.flush()?;
    Ok(())
}

/// Prints one result of a command that has more to do or to tell: it goes on where nobody reads any more.
pub(crate) fn print_if_read(format: Format, value: &Value, human: impl FnOnce() -> String) -> Result<()> {
    print(format, value, human).or_else(|error| if is_unread(&error) { Ok(()) } else { Err(error) })
}

/// Prints rows: for people as a table with these columns, else as an array or lines of the JSON values.
pub(crate) fn print_rows(format: Format, rows: &[Value], columns: &[(&str, Align)]) -> Result<()> {
    let mut out = stdout();
    match format {
        Format::Human => writeln!(out, "{}", table(rows, columns))?,
        Format::Json => writeln!(out, "{:#}", Value::from(rows))?,
        Format::Ndjson => rows.iter().try_for_each(|row| writeln!(out, "{row}"))?,
    }
    out.flush()?;
    Ok(())
}

/// The side of a column at which its cells stand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Align {
    Left,
    Right,
}

fn table(rows: &[Value], columns: &[(&str, Align)]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(name, _)| name.replace('_', " ")));
    for row in rows {
        table.add_row(columns.iter().map(|(name, _)| cell(&row[*name])));
    }
    for (column, (_, align)) in table.column_iter_mut().zip(columns) {
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
        column.set_padding((0, COLUMN_SPACE));
    }
    table.trim_fmt()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), grouped),
        other => other.to_string(),
    }
}

/// Prints events one by one.
pub(crate) struct EventPrinter<W> {
    format: Format,
    writer: EventWriter,
    out: W,
    printed: u64,
}

impl<W: Write> EventPrinter<W> {
    pub(crate) fn new(format: Format, out: W) -> Self {
        Self { format, writer: EventWriter::new(), out, printed: 0 }
    }

    /// Prints an event, and its ordinal if it is not the first of what a recorded one was upcast into.
    pub(crate) fn print(&mut self, event: &Event<'_>, ordinal: u32) -> Result<()> {
        match self.format {
            Format::Human => writeln!(self.out, "{}", human(event))?,
            Format::Ndjson => {
                self.writer.write(event, ordinal, &mut self.out)?;
                self.out.write_all(b"\n")?;
            }
            Format::Json => {
                self.out.write_all(if self.printed == 0 { b"[\n" } else { b",\n" })?;
                self.writer.write(event, ordinal, &mut self.out)?;
            }
        }
        self.printed += 1;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }

    /// Ends what was begun. Not calling it leaves an array open.
    pub(crate) fn finish(mut self) -> Result<()> {
        match (self.format, self.printed) {
            (Format::Json, 0) => self.out.write_all(b"[]\n")?,
            (Format::Json, _) => self.out.write_all(b"\n]\n")?,
            _ => {}
        }
        self.flush()
    }
}

/// An event on one line, for people.
fn human(event: &Event<'_>) -> String {
    let mut line = format!(
        "{:>8}  {}  {}@{}  {}",
        event.position(),
        time::to_text(event.time()),
        printable(event.stream()),
        event.version(),
        printable(event.event_type()),
    );
    for tag in event.tags() {
        // Writing to a string cannot fail.
        let _ = write!(line, "  #{}", printable(tag));
    }
    match (event.codec(), std::str::from_utf8(event.payload())) {
        (Codec::Json, Ok(text)) => {
            let _ = write!(line, "  {}", printable(text));
        }
        (codec, _) => {
            let _ = write!(line, "  ({} bytes, {codec})", grouped(event.payload().len() as u64));
        }
    }
    line
}
