//! A record: one event on disk (FORMAT, section 4).
//!
//! A decoded record borrows everything it tells. Decoding checks lengths and UTF-8 even though a checksum passed:
//! bytes from disk are the world.

use super::bytes::{array_at, i64_at, put, u16_at, u32_at, u64_at};
use crate::limits::{STREAM_NAME_BYTES_MAX, TAG_BYTES_MAX, TAGS_PER_EVENT_MAX, TYPE_NAME_BYTES_MAX};
use crate::types::Codec;

/// Bytes before the tag lengths.
pub(crate) const RECORD_HEAD_BYTES: usize = 48;
/// The metadata length of an event that has none.
const NO_METADATA: u32 = u32::MAX;

/// What goes into a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordFields<'a> {
    pub(crate) id: [u8; 16],
    pub(crate) time: i64,
    pub(crate) version: u64,
    pub(crate) schema_version: u32,
    pub(crate) codec: Codec,
    pub(crate) stream: &'a str,
    pub(crate) event_type: &'a str,
    /// Strictly ascending.
    pub(crate) tags: &'a [String],
    pub(crate) metadata: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
}

impl RecordFields<'_> {
    pub(crate) fn encoded_len(&self) -> usize {
        RECORD_HEAD_BYTES
            + self.stream.len()
            + self.event_type.len()
            + self.tags.iter().map(|tag| 2 + tag.len()).sum::<usize>()
            + self.metadata.map_or(0, <[u8]>::len)
            + self.payload.len()
    }

    /// Appends the record to `out`. The caller has checked every limit.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut head = [0; RECORD_HEAD_BYTES];
        put(&mut head, 0, &self.id);
        put(&mut head, 16, &self.time.to_le_bytes());
        put(&mut head, 24, &self.version.to_le_bytes());
        let metadata_len = self.metadata.map_or(NO_METADATA, |metadata| metadata.len() as u32);
        put(&mut head, 32, &metadata_len.to_le_bytes());
        put(&mut head, 36, &self.schema_version.to_le_bytes());
        put(&mut head, 40, &(self.stream.len() as u16).to_le_bytes());
        put(&mut head, 42, &(self.event_type.len() as u16).to_le_bytes());
        put(&mut head, 44, &(self.tags.len() as u16).to_le_bytes());
        head[46] = codec_number(self.codec);
        out.extend_from_slice(&head);
        for tag in self.tags {
            out.extend_from_slice(&(tag.len() as u16).to_le_bytes());
        }
        out.extend_from_slice(self.stream.as_bytes());
        out.extend_from_slice(self.event_type.as_bytes());
        for tag in self.tags {
            out.extend_from_slice(tag.as_bytes());
        }
        out.extend_from_slice(self.metadata.unwrap_or_default());
        out.extend_from_slice(self.payload);
    }
}

/// A record taken apart, borrowing from its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    head: &'a [u8; RECORD_HEAD_BYTES],
    tag_lengths: &'a [u8],
    codec: Codec,
    pub(crate) stream: &'a str,
    pub(crate) event_type: &'a str,
    tag_text: &'a str,
    pub(crate) metadata: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD_BYTES>().ok_or("a record is shorter than its head")?;
        let stream_len = usize::from(u16_at(head, 40));
        let type_len = usize::from(u16_at(head, 42));
        let tag_count = usize::from(u16_at(head, 44));
        if !(1..=STREAM_NAME_BYTES_MAX).contains(&stream_len)
            || !(1..=TYPE_NAME_BYTES_MAX).contains(&type_len)
            || tag_count > TAGS_PER_EVENT_MAX
        {
            return Err("a record has a name or tags beyond the limits");
        }
        if u64_at(head, 24) == 0 {
            return Err("a record has version 0");
        }
        let codec = codec_of(head[46]).ok_or("a record has an unknown codec")?;
        if head[47] != 0 {
            return Err("a record has unknown flags");
        }
        let (tag_lengths, rest) = rest.split_at_checked(2 * tag_count).ok_or("a record is shorter than its tags")?;
        let tags_len: usize = (0..tag_count).map(|index| usize::from(u16_at(tag_lengths, 2 * index))).sum();
        let (text, rest) =
            rest.split_at_checked(stream_len + type_len + tags_len).ok_or("a record is shorter than its names")?;
        // One check for all the names, then that each ends on a character.
        let text = std::str::from_utf8(text).map_err(|_| "a name in a record is not UTF-8")?;
        let (stream, text) = text.split_at_checked(stream_len).ok_or("a name in a record is not UTF-8")?;
        let (event_type, tag_text) = text.split_at_checked(type_len).ok_or("a name in a record is not UTF-8")?;
        let (metadata, payload) = match u32_at(head, 32) {
            NO_METADATA => (None, rest),
            length => {
                let (metadata, payload) =
                    rest.split_at_checked(length as usize).ok_or("a record is shorter than its metadata")?;
                (Some(metadata), payload)
            }
        };
        let record = Self { head, tag_lengths, codec, stream, event_type, tag_text, metadata, payload };
        record.check_tags()?;
        Ok(record)
    }

    fn check_tags(&self) -> Result<(), &'static str> {
        let mut offset = 0;
        let mut before = "";
        for index in 0..self.tag_count() {
            let length = usize::from(u16_at(self.tag_lengths, 2 * index));
            let tag = self.tag_text.get(offset..offset + length).ok_or("a tag in a record is not UTF-8")?;
            if tag.len() > TAG_BYTES_MAX || tag <= before {
                return Err("the tags of a record are empty, too long or not ascending");
            }
            before = tag;
            offset += length;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        array_at(self.head, 0)
    }

    pub(crate) fn time(&self) -> i64 {
        i64_at(self.head, 16)
    }

    pub(crate) fn version(&self) -> u64 {
        u64_at(self.head, 24)
    }

    pub(crate) fn schema_version(&self) -> u32 {
        u32_at(self.head, 36)
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    pub(crate) fn tag_count(&self) -> usize {
        self.tag_lengths.len() / 2
    }

    pub(crate) fn tags(&self) -> Tags<'a> {
        Tags { lengths: self.tag_lengths, text: self.tag_text }
    }
}

/// Whether a verified record is of this stream: what most loads ask of each, without taking the rest apart.
#[inline]
pub(crate) fn is_of_stream(bytes: &[u8], stream: &str) -> bool {
    let Some(head) = bytes.first_chunk::<RECORD_HEAD_BYTES>() else { return false };
    let begin = RECORD_HEAD_BYTES + 2 * usize::from(u16_at(head, 44));
    let end = begin + usize::from(u16_at(head, 40));
    bytes.get(begin..end) == Some(stream.as_bytes())
}

/// The tags of an event, ascending.
#[derive(Debug, Clone)]
pub(crate) struct Tags<'a> {
    lengths: &'a [u8],
    text: &'a str,
}

impl<'a> Iterator for Tags<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (length, lengths) = self.lengths.split_first_chunk::<2>()?;
        // The boundaries were checked when the record was decoded.
        let (tag, text) = self.text.split_at(usize::from(u16::from_le_bytes(*length)));
        self.lengths = lengths;
        self.text = text;
        Some(tag)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.lengths.len() / 2, Some(self.lengths.len() / 2))
    }
}

impl ExactSizeIterator for Tags<'_> {}

pub(super) fn codec_number(codec: Codec) -> u8 {
    match codec {
        Codec::Raw => 0,
        Codec::Json => 1,
        Codec::Postcard => 2,
        Codec::Bincode => 3,
    }
}

pub(super) fn codec_of(number: u8) -> Option<Codec> {
    match number {
        0 => Some(Codec::Raw),
        1 => Some(Codec::Json),
        2 => Some(Codec::Postcard),
        3 => Some(Codec::Bincode),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(tags: &[&str], metadata: Option<&[u8]>, payload: &[u8]) -> Vec<u8> {
        let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
        let fields = RecordFields {
            id: [1; 16],
            time: -5,
            version: 9,
            schema_version: 2,
            codec: Codec::Json,
            stream: "konto-ä",
            event_type: "Eröffnet",
            tags: &tags,
            metadata,
            payload,
        };
        let mut bytes = Vec::new();
        fields.encode(&mut bytes);
        assert_eq!(bytes.len(), fields.encoded_len());
        bytes
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let bytes = encoded(&["a", "ü:1"], Some(b"{}"), b"payload");
        let record = Record::decode(&bytes).unwrap();
        assert_eq!((record.id(), record.time(), record.version()), ([1; 16], -5, 9));
        assert_eq!((record.schema_version(), record.codec()), (2, Codec::Json));
        assert_eq!((record.stream, record.event_type), ("konto-ä", "Eröffnet"));
        assert_eq!(record.tags().collect::<Vec<_>>(), ["a", "ü:1"]);
        assert_eq!((record.metadata, record.payload), (Some(&b"{}"[..]), &b"payload"[..]));
    }

    #[test]
    fn the_stream_of_a_record_is_told_without_decoding_it() {
        for tags in [&[][..], &["a", "b"]] {
            let bytes = encoded(tags, None, b"payload");
            assert!(is_of_stream(&bytes, "konto-ä"));
            assert!(!is_of_stream(&bytes, "konto-"));
            assert!(!is_of_stream(&bytes[..RECORD_HEAD_BYTES], "konto-ä"));
            assert!(!is_of_stream(&bytes[..10], "konto-ä"));
        }
    }

    #[test]
    fn no_metadata_is_not_the_same_as_empty_metadata() {
        assert_eq!(Record::decode(&encoded(&[], None, b"")).unwrap().metadata, None);
        assert_eq!(Record::decode(&encoded(&[], Some(b""), b"")).unwrap().metadata, Some(&b""[..]));
    }

    #[test]
    fn every_shorter_record_without_a_payload_is_refused() {
        let bytes = encoded(&["a", "b"], Some(b"meta"), b"");
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_record_that_breaks_a_rule_is_refused() {
        let good = encoded(&["a", "b"], None, b"");
        let with = |offset: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[offset] = value;
            bytes
        };
        let broken = [
            ("version 0", with(24, 0)),
            ("no stream", with(40, 0)),
            ("no type", with(42, 0)),
            ("unknown codec", with(46, 99)),
            ("unknown flag", with(47, 1)),
            ("tags not ascending", with(good.len() - 1, b'a')),
            ("an empty tag", with(48, 0)),
            ("a name cut inside a character", with(40, 7)),
            ("not UTF-8", with(52, 0xFF)),
        ];
        for (what, bytes) in broken {
            assert!(Record::decode(&bytes).is_err(), "{what}");
        }
    }

    /// A record with names of these lengths, and a tag of one length besides shorter ones.
    fn of_lengths(stream: usize, event_type: usize, tag_count: usize, tag: usize) -> Result<usize, &'static str> {
        let mut tags: Vec<String> = (0..tag_count).map(|number| format!("{number:03}")).collect();
        tags[0] = "0".repeat(tag);
        tags.sort_unstable();
        let (stream, event_type) = ("s".repeat(stream), "t".repeat(event_type));
        let fields = RecordFields {
            id: [1; 16],
            time: 0,
            version: 1,
            schema_version: 1,
            codec: Codec::Raw,
            stream: &stream,
            event_type: &event_type,
            tags: &tags,
            metadata: None,
            payload: b"",
        };
        let mut bytes = Vec::new();
        fields.encode(&mut bytes);
        Record::decode(&bytes).map(|record| record.tags().len())
    }

    #[test]
    fn each_limit_of_a_record_holds_exactly() {
        let (stream, event_type) = (STREAM_NAME_BYTES_MAX, TYPE_NAME_BYTES_MAX);
        let (tags, tag) = (TAGS_PER_EVENT_MAX, TAG_BYTES_MAX);
        assert_eq!(of_lengths(1, 1, 1, 1), Ok(1));
        assert_eq!(of_lengths(stream, event_type, tags, tag), Ok(tags));
        assert!(of_lengths(stream + 1, 1, 1, 1).is_err());
        assert!(of_lengths(1, event_type + 1, 1, 1).is_err());
        assert!(of_lengths(1, 1, tags + 1, 1).is_err());
        assert!(of_lengths(1, 1, 1, tag + 1).is_err());
        assert!(of_lengths(0, 1, 1, 1).is_err());
        assert!(of_lengths(1, 0, 1, 1).is_err());
    }

    #[test]
    fn each_codec_has_a_number_of_its_own() {
        let codecs = [Codec::Raw, Codec::Json, Codec::Postcard, Codec::Bincode];
        assert_eq!(codecs.map(codec_number), [0, 1, 2, 3]);
        assert_eq!(
            [0, 1, 2, 3, 4, 255].map(codec_of),
            [Some(Codec::Raw), Some(Codec::Json), Some(Codec::Postcard), Some(Codec::Bincode), None, None]
        );
    }
}
