//! A file of lines: opened, or spooled where it cannot be read twice; unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use indicatif::ProgressBar;

use crate::lines::Lines;

const BUFFER_BYTES: usize = 256 * 1024;
/// The first bytes of packed files. No line of text begins so.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A file that can be read from its beginning more than once.
#[derive(Debug)]
pub(crate) struct Input {
    name: String,
    file: File,
    bytes: u64,
}

impl Input {
    /// Opens a file; `-` is standard input. What is no regular file is copied to a temporary one first.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Self::spool("standard input", io::stdin().lock());
        }
        let name = path.display().to_string();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.with_context(|| format!("cannot open {name}"))?;
        if metadata.is_file() {
            return Ok(Self { name, file, bytes: metadata.len() });
        }
        Self::spool(&name, file)
    }

    fn spool(name: &str, mut from: impl Read) -> Result<Self> {
        let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
        let bytes = io::copy(&mut from, &mut file).with_context(|| format!("cannot read {name}"))?;
        Ok(Self { name: name.to_owned(), file, bytes })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file as it is, packed or not.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The lines from the first on. The bar shows how much of the file was read.
    pub(crate) fn lines<'a>(&'a self, bar: &'a ProgressBar) -> Result<Lines<'a>> {
        let reader = self.unpacked(bar).with_context(|| format!("cannot read {}", self.name))?;
        Ok(Lines::new(&self.name, reader))
    }

    fn unpacked<'a>(&'a self, bar: &'a ProgressBar) -> Result<Box<dyn BufRead + 'a>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut magic = Vec::new();
        file.take(ZSTD_MAGIC.len() as u64).read_to_end(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, bar.wrap_read(file));
        if magic.starts_with(&GZIP_MAGIC) {
            return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(reader))));
        }
        if magic == ZSTD_MAGIC {
            return unpacked_zstd(reader);
        }
        Ok(Box::new(reader))
    }
}

#[cfg(feature = "zstd")]
fn unpacked_zstd<'a>(reader: impl BufRead + 'a) -> Result<Box<dyn BufRead + 'a>> {
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(reader)?)))
}

#[cfg(not(feature = "zstd"))]
fn unpacked_zstd<'a>(_reader: impl BufRead + 'a) -> Result<Box<dyn BufRead + 'a>> {
    anyhow::bail!("it is packed with zstd, and this program was built without the feature `zstd`")
}
