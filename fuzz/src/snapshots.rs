//! Values in the place of snapshots: what is used of them, by the format, and what is passed over.

use annals::{Result, SnapshotQuery, Store, StreamVersion, fuzzing};
use arbitrary::Arbitrary;
use xxhash_rust::xxh3::xxh3_128;

use crate::allocation::within;
use crate::damage::Damage;
use crate::damaged::FACTOR;
use crate::reader;
use crate::sample::{self, options};

/// What the fuzzer makes up.
#[derive(Debug, Arbitrary)]
pub enum Case {
    Values { values: Vec<Value>, upto: Option<u8> },
    Files(Damage),
}

/// A value, built as the format says, and then changed.
#[derive(Debug, Arbitrary)]
pub struct Value {
    stream: u8,
    /// The event that it says it ends with.
    event: u8,
    schema: u8,
    codec: u8,
    packing: Packing,
    state: Vec<u8>,
    changes: Vec<(u8, u8)>,
    cut: Option<u8>,
}

#[derive(Debug, Arbitrary)]
enum Packing {
    Plain,
    Zstd,
    /// The state is taken as what zstd made, and said to have so many bytes.
    Made { state_bytes: u32 },
}

const HEAD_BYTES: usize = 56;
const STATE_BYTES_MAX: u64 = 64 << 20;
/// Fewer than a lookup looks at, together with those of the sample.
const VALUES_MAX: usize = 8;
const SCHEMA: u64 = 7;
/// What putting values and looking them up takes besides them: a segment of the state may be full, and the next one is
/// made of 64 KiB. The reader that unpacks beside the engine has a buffer of 128 KiB.
const STORE_BYTES: usize = 256 << 10;
/// A state is unpacked by the engine, and once more beside it, into a buffer that grows twice as large each time.
const UNPACKED_FACTOR: usize = 4;

/// Puts values where the snapshots of streams are kept, and looks the snapshots up.
pub fn check_values(values: &[Value], upto: Option<u8>) {
    let sample = sample::get();
    let values = &values[..values.len().min(VALUES_MAX)];
    let upto = upto.and_then(|upto| StreamVersion::new(upto.into()));
    let result = fuzzing::with_store(&sample.files, options(6), |store| {
        let checksums = reader::read(&sample.files).checksums;
        let values: Vec<(String, Vec<u8>)> =
            values.iter().map(|value| (value.stream(), value.build(store, &checksums))).collect();
        let bytes = values.iter().map(|(_, value)| value.len()).sum::<usize>();
        let unpacked = values.iter().map(|(_, value)| worth_of(value)).max().unwrap_or(0);
        within(STORE_BYTES + FACTOR * bytes + UNPACKED_FACTOR * unpacked, || {
            let state = store.state()?;
            for (stream, value) in &values {
                state.put(format!("snapshot-{:032x}", xxh3_128(stream.as_bytes())), value.as_slice())?;
            }
            (0..6).try_for_each(|number| check_stream(store, &format!("account-{number}"), &values, &checksums, upto))
        })
    });
    result.expect("the log is whole, and the state as well");
}

/// Bytes that a value may be unpacked to: those that it says, if so many can be packed so. A block of four bytes can
/// stand for 128 KiB.
fn worth_of(value: &[u8]) -> usize {
    let Some(said) = value.get(48..52).filter(|_| value[31] == 1) else { return value.len() };
    let said = u32::from_le_bytes(said.try_into().expect("4 bytes")) as usize;
    said.min(value.len() * (32 << 10)).min(STATE_BYTES_MAX as usize)
}

fn check_stream(
    store: &Store,
    stream: &str,
    values: &[(String, Vec<u8>)],
    checksums: &[u32],
    upto: Option<StreamVersion>,
) -> Result<()> {
    let wanted = SnapshotQuery::new().schema(SCHEMA).upto(upto);
    let found = store.load_snapshot(stream, wanted)?.snapshot.map(|found| (found.version.number(), found.state));
    let is_wanted = |version: u64| upto.is_none_or(|upto| version <= upto.number());
    let put = values.iter().rev().filter(|(of, _)| of == stream).map(|(_, value)| value);
    let newest = put.filter_map(|value| usable(value, store, stream, checksums)).find(|(version, _)| is_wanted(*version));
    let saved = sample::get().snapshots.iter().rev().filter(|(of, _)| of == stream).map(|(_, version)| *version);
    let expected = newest.or_else(|| {
        let version = saved.map(StreamVersion::number).find(|version| is_wanted(*version))?;
        Some((version, sample::state_of(stream, StreamVersion::new(version)?)))
    });
    assert_eq!(found, expected, "the snapshot of {stream:?}");
    Ok(())
}

impl Value {
    fn stream(&self) -> String {
        format!("account-{}", self.stream % 6)
    }

    fn build(&self, store: &Store, checksums: &[u32]) -> Vec<u8> {
        let event = &sample::get().events[usize::from(self.event) % checksums.len()];
        let (packing, packed, state_bytes) = match self.packing {
            Packing::Plain => (0, self.state.clone(), self.state.len() as u32),
            Packing::Zstd => {
                let packed = zstd::bulk::compress(&self.state, 1).expect("it can be packed");
                (1, packed, self.state.len() as u32)
            }
            Packing::Made { state_bytes } => (1, self.state.clone(), state_bytes),
        };
        let mut value = store.id().to_bytes().to_vec();
        value.extend(event.position.number().to_le_bytes());
        value.extend(checksums[event.position.number() as usize - 1].to_le_bytes());
        value.extend([1, 0, self.codec % 5, packing]);
        value.extend(event.version.number().to_le_bytes());
        value.extend((SCHEMA + u64::from(self.schema / 128)).to_le_bytes());
        value.extend(state_bytes.to_le_bytes());
        value.extend((self.stream().len() as u16).to_le_bytes());
        value.extend([0; 2]);
        value.extend(self.stream().as_bytes());
        value.extend(packed);
        for (at, byte) in &self.changes {
            let at = usize::from(*at) % value.len();
            value[at] = *byte;
        }
        value.truncate(self.cut.map_or(value.len(), usize::from));
        value
    }
}

/// The version and the state of a value that the format says is a snapshot of this stream.
fn usable(value: &[u8], store: &Store, stream: &str, checksums: &[u32]) -> Option<(u64, Vec<u8>)> {
    let head = value.get(..HEAD_BYTES)?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let half = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    let checksum = checksums.get(usize::try_from(number(16).checked_sub(1)?).ok()?)?;
    let packed = value[HEAD_BYTES..].strip_prefix(stream.as_bytes())?;
    let is_of_log = head[..16] == store.id().to_bytes() && *checksum == half(24);
    let is_known = head[28..30] == [1, 0] && head[30] <= 3 && head[54..] == [0, 0];
    let is_wanted = number(32) > 0 && number(40) == SCHEMA && half(52) as usize == stream.len();
    let state = match head[31] {
        0 => packed.to_vec(),
        1 => unpacked(packed, half(48).into())?,
        _ => return None,
    };
    (is_of_log && is_known && is_wanted && state.len() == half(48) as usize).then(|| (number(32), state))
}

fn unpacked(packed: &[u8], state_bytes: u64) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut state = Vec::new();
    let mut unpacker = zstd::Decoder::new(packed).ok()?.take(state_bytes.min(STATE_BYTES_MAX) + 1);
    unpacker.read_to_end(&mut state).ok()?;
    Some(state)
}
