//! `annals export`: writes events as NDJSON, so that they can be imported into an equal store.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use annals::{Position, RecordedEvent};
use anyhow::{Context, Result};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::NamedTempFile;

use crate::args::{Selection, StoreArg};
use crate::ndjson::EventWriter;
use crate::upcast::UpcastArg;
use crate::{output, progress};

const BUFFER_BYTES: usize = 256 * 1024;
/// So many links may lead to each other, as for the kernel of Linux.
const LINKS_MAX: usize = 40;

/// Write events as NDJSON
///
/// One JSON object a line. All events, or those that are asked for. A JSON payload that stands on one line is copied
/// byte for byte, any other is written in base64. Repeating an export gives the same bytes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals export bank.annals > events.ndjson\n  \
                        annals export bank.annals events.ndjson.gz\n  \
                        annals export bank.annals --category account --since 2024-01-01")]
pub(crate) struct Export {
    #[command(flatten)]
    store: StoreArg,
    /// The file, packed if it ends in .gz or .zst; standard output if it is left out or "-"
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    upcast: UpcastArg,
}

impl Export {
    pub(crate) fn run(&self) -> Result<()> {
        if self.file == Path::new("-") {
            let mut out = output::stdout();
            self.write(&mut out)?;
            out.flush()?;
            return Ok(());
        }
        match std::fs::metadata(&self.file) {
            // A pipe or a device stays what it is.
            Ok(known) if !known.is_file() => self.write_into(&self.file),
            // Where a link leads is what is meant, and not the link.
            _ => self.replace(&self.file.canonicalize().unwrap_or_else(|_| end_of_links(&self.file))),
        }
    }

    fn write_into(&self, file: &Path) -> Result<()> {
        let open = File::options().write(true).open(file);
        let open = open.with_context(|| format!("cannot open {}", self.file.display()))?;
        self.write_packed(&open).with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// Makes a file, which appears when it is whole.
    fn replace(&self, file: &Path) -> Result<()> {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let temporary = NamedTempFile::new_in(directory.unwrap_or(Path::new(".")));
        let name = self.file.display();
        let temporary = temporary.with_context(|| format!("cannot create {name}"))?;
        self.write_packed(temporary.as_file()).with_context(|| format!("cannot write {name}"))?;
        temporary.as_file().sync_all().with_context(|| format!("cannot write {name}"))?;
        temporary.persist(file).with_context(|| format!("cannot create {name}"))?;
        Ok(())
    }

    fn write_packed(&self, file: &File) -> Result<()> {
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let extension = self.file.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("gz") => {
                let mut packed = GzEncoder::new(&mut file, Compression::default());
                self.write(&mut packed)?;
                packed.finish()?;
            }
            Some("zst") => pack_zstd(&mut file, |mut out| self.write(&mut out))?,
            _ => self.write(&mut file)?,
        }
        Ok(file.flush()?)
    }

    fn write(&self, out: &mut impl Write) -> Result<()> {
        let upcasting = self.upcast.load()?;
        let store = self.store.open_read_only()?;
        let mut read = self.selection.read(&store);
        let bar = progress::events("exporting", read.head().map_or(0, Position::number));
        let mut writer = EventWriter::new();
        while let Some(event) = read.next()? {
            upcasting.each(&event, |event, ordinal| {
                // Events that are to be imported need ids of their own.
                if ordinal == 0 {
                    writer.write(event, 0, out)?;
                } else {
                    let event = RecordedEvent { id: event.id().derived(ordinal), ..event.to_recorded() };
                    writer.write(&event.as_event(), 0, out)?;
                }
                Ok(out.write_all(b"\n")?)
            })?;
            progress::tick(&bar, event.position().number());
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// The file that a link leads to and that is not there yet.
fn end_of_links(file: &Path) -> PathBuf {
    let mut end = file.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = std::fs::read_link(&end) else { break };
        end = end.parent().unwrap_or(Path::new("")).join(next);
    }
    end
}

#[cfg(feature = "zstd")]
fn pack_zstd(file: impl Write, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut packed = zstd::Encoder::new(file, 0)?;
    write(&mut packed)?;
    packed.finish()?;
    Ok(())
}

#[cfg(not(feature = "zstd"))]
fn pack_zstd(_file: impl Write, _write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    anyhow::bail!("this program was built without the feature `zstd`")
}
