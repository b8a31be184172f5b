//! Text line by line, each with its number, and a digest of what was read.

use std::io::{BufRead, Read};

use annals::limits::COMMIT_BYTES_MAX;
use anyhow::{Context, Result, bail};
use xxhash_rust::xxh3::Xxh3;

/// The longest line: an event of the greatest size in base64, with room for its names.
const LINE_BYTES_MAX: usize = 2 * COMMIT_BYTES_MAX;

/// The lines of a file, one at a time.
pub(crate) struct Lines<'a> {
    name: &'a str,
    reader: Box<dyn BufRead + 'a>,
    number: u64,
    text: Vec<u8>,
    /// The digest of what was read.
    read: Box<Xxh3>,
}

impl<'a> Lines<'a> {
    /// The lines of what is read, and what it is called in errors.
    pub(crate) fn new(name: &'a str, reader: Box<dyn BufRead + 'a>) -> Self {
        Self { name, reader, number: 0, text: Vec::new(), read: Box::new(Xxh3::new()) }
    }

    /// The digest of what was read so far.
    pub(crate) fn digest(&self) -> [u8; 16] {
        self.read.digest128().to_be_bytes()
    }

    /// The next line with its end, and its number from 1.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        self.text.clear();
        self.number += 1;
        let (name, number) = (self.name, self.number);
        let mut rest = (&mut self.reader).take(LINE_BYTES_MAX as u64);
        let read = rest.read_until(b'\n', &mut self.text);
        let bytes = read.with_context(|| format!("cannot read line {number} of {name}"))?;
        if bytes == LINE_BYTES_MAX && !self.text.ends_with(b"\n") {
            bail!("line {number} of {name} has more than {LINE_BYTES_MAX} bytes, which is no event");
        }
        self.read.update(&self.text);
        Ok((bytes > 0).then_some((number, &self.text)))
    }
}
