//! Reads a line of the canonical format, and finds everything that is wrong with it.

use std::fmt;

use annals::limits::{
    COMMIT_BYTES_MAX, METADATA_BYTES_MAX, STREAM_NAME_BYTES_MAX, TAG_BYTES_MAX, TAGS_PER_EVENT_MAX, TYPE_NAME_BYTES_MAX,
};
use annals::{Codec, EventId, NewEvent, Position, StreamVersion, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::text::printable;
use crate::time;

/// An event to import, and what the line says of where it was.
#[derive(Debug)]
pub(crate) struct Line {
    /// From 1, empty lines included.
    pub(crate) number: u64,
    pub(crate) stream: String,
    pub(crate) event: NewEvent,
    /// The id of the event, if the line has one.
    pub(crate) id: Option<EventId>,
    pub(crate) position: Option<Position>,
    pub(crate) version: Option<StreamVersion>,
    pub(crate) commit: Option<Position>,
    pub(crate) commit_time: Option<Timestamp>,
    /// Bytes of the event in the log, by the format of records.
    pub(crate) record_bytes: usize,
    /// Fields that are not part of the format.
    pub(crate) unknown: Vec<String>,
}

/// Something that is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The field; `None` if it is the line as a whole.
    pub(crate) field: Option<&'static str>,
    pub(crate) problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(field) => write!(f, "{field}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

/// The fields of the format; a field is found by its index.
const FIELDS: [&str; 15] = [
    "position",
    "commit",
    "commit_time",
    "stream",
    "version",
    "id",
    "type",
    "schema_version",
    "time",
    "tags",
    "codec",
    "data",
    "data_base64",
    "metadata",
    "metadata_base64",
];

/// Bytes of a record besides its names, metadata and payload, and of its directory entry.
const RECORD_BYTES: usize = 48 + 8;

impl Line {
    /// Reads a line.
    pub(crate) fn parse(number: u64, text: &[u8]) -> Result<Self, Vec<Problem>> {
        let fields = Fields::parse(text).map_err(|error| vec![Problem { field: None, problem: error }])?;
        let mut reader = Reader { fields: &fields, problems: Vec::new() };
        let line = reader.line(number);
        match (line, reader.problems) {
            (Some(mut line), problems) if problems.is_empty() => {
                line.unknown = fields.unknown;
                Ok(line)
            }
            (_, problems) => Err(problems),
        }
    }
}

/// The values of a line, as text.
struct Fields<'a> {
    values: [Option<&'a RawValue>; FIELDS.len()],
    unknown: Vec<String>,
}

impl<'a> Fields<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let fields = deserializer.deserialize_map(FieldsVisitor);
        let fields = fields.and_then(|fields| deserializer.end().map(|()| fields));
        // The text that is parsed is one line: its number is not the one that counts.
        fields.map_err(|error| {
            format!("not a JSON object of the format: {error}").replace(" at line 1 column", " at column")
        })
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields { values: [None; FIELDS.len()], unknown: Vec::new() };
        while let Some(name) = map.next_key::<FieldName>()? {
            let value = map.next_value::<&'de RawValue>()?;
            match name {
                FieldName::Known(index) if fields.values[index].is_some() => {
                    return Err(A::Error::custom(format!("{} stands twice", FIELDS[index])));
                }
                FieldName::Known(index) => fields.values[index] = Some(value),
                FieldName::Unknown(name) => fields.unknown.push(name),
            }
        }
        Ok(fields)
    }
}

enum FieldName {
    Known(usize),
    Unknown(String),
}

impl<'de> serde::Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(FieldNameVisitor)
    }
}

struct FieldNameVisitor;

impl Visitor<'_> for FieldNameVisitor {
    type Value = FieldName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<FieldName, E> {
        let index = FIELDS.iter().position(|known| *known == name);
        Ok(index.map_or_else(|| FieldName::Unknown(name.to_owned()), FieldName::Known))
    }
}

/// Turns fields into an event, and collects what is wrong with them.
struct Reader<'a> {
    fields: &'a Fields<'a>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// The event; `None` only if there are problems.
    fn line(&mut self, number: u64) -> Option<Line> {
        let stream = self.name("stream", STREAM_NAME_BYTES_MAX);
        let event_type = self.name("type", TYPE_NAME_BYTES_MAX);
        let payload = self.payload();
        let (tags, metadata) = (self.tags(), self.metadata());
        let (id, time) = (self.id(), self.time("time"));
        let schema_version = self.optional::<u32>("schema_version", "a number from 0 to 4294967295");
        let position = self.counted("position").and_then(Position::new);
        let version = self.counted("version").and_then(StreamVersion::new);
        let commit = self.counted("commit").and_then(Position::new);
        let commit_time = self.time("commit_time");

        let (stream, event_type, (codec, payload)) = (stream?, event_type?, payload?);
        let names = stream.len() + event_type.len() + tags.iter().map(|tag| tag.len() + 2).sum::<usize>();
        let record_bytes = RECORD_BYTES + names + metadata.as_ref().map_or(0, Vec::len) + payload.len();
        let mut event = NewEvent::from_bytes(event_type, codec, payload).tags(tags);
        if let Some(schema_version) = schema_version {
            event = event.schema_version(schema_version);
        }
        if let Some(id) = id {
            event = event.id(id);
        }
        if let Some(time) = time {
            event = event.time(time);
        }
        if let Some(metadata) = metadata {
            event = event.metadata_json(metadata);
        }
        let unknown = Vec::new();
        Some(Line { number, stream, event, id, position, version, commit, commit_time, record_bytes, unknown })
    }

    fn problem(&mut self, field: &'static str, problem: impl Into<String>) {
        self.problems.push(Problem { field: Some(field), problem: problem.into() });
    }

    /// The text of a field, `null` included.
    fn raw(&self, field: &'static str) -> Option<&'a str> {
        let index = FIELDS.iter().position(|known| *known == field)?;
        self.fields.values[index].map(RawValue::get)
    }

    /// The value of a field; `None` if it is absent or `null`, or wrong, which is noted.
    fn optional<T: DeserializeOwned>(&mut self, field: &'static str, what: &str) -> Option<T> {
        let text = self.raw(field).filter(|text| *text != "null")?;
        let value = serde_json::from_str(text);
        if value.is_err() {
            self.problem(field, format!("{} is not {what}", shortened(text)));
        }
        value.ok()
    }

    fn name(&mut self, field: &'static str, bytes_max: usize) -> Option<String> {
        if self.raw(field).is_none() {
            self.problem(field, "is missing");
        }
        let name: String = match self.raw(field) {
            Some("null") => {
                self.problem(field, "null is not a text");
                return None;
            }
            _ => self.optional(field, "a text")?,
        };
        if let Some(problem) = name_problem(&name, bytes_max) {
            self.problem(field, problem);
        }
        Some(name)
    }

    fn id(&mut self) -> Option<EventId> {
        let text: String = self.optional("id", "a text")?;
        let id = EventId::parse(&text);
        if id.is_none() {
            self.problem("id", format!("{} is not a UUID", shortened(&text)));
        }
        id
    }

    fn time(&mut self, field: &'static str) -> Option<Timestamp> {
        let text: String = self.optional(field, "a text")?;
        time::parse(&text).map_err(|problem| self.problem(field, problem)).ok()
    }

    /// A number that counts from 1.
    fn counted(&mut self, field: &'static str) -> Option<u64> {
        let number: u64 = self.optional(field, "a number from 1")?;
        if number == 0 {
            self.problem(field, "0 is not a number from 1");
        }
        Some(number)
    }

    fn tags(&mut self) -> Vec<String> {
        let mut tags: Vec<String> = self.optional("tags", "an array of texts").unwrap_or_default();
        for tag in &tags {
            if let Some(problem) = name_problem(tag, TAG_BYTES_MAX) {
                self.problem("tags", format!("{} {problem}", shortened(tag)));
            }
        }
        tags.sort_unstable();
        tags.dedup();
        if tags.len() > TAGS_PER_EVENT_MAX {
            self.problem("tags", format!("has {} tags, at most {TAGS_PER_EVENT_MAX} are allowed", tags.len()));
        }
        tags
    }

    fn payload(&mut self) -> Option<(Codec, Vec<u8>)> {
        let codec = self.codec();
        let (field, codec, payload) = match (self.raw("data"), self.raw("data_base64")) {
            (Some(_), Some(_)) => {
                self.problem("data", "stands beside data_base64; one of them is enough");
                return None;
            }
            (None, None) => {
                self.problem("data", "is missing");
                return None;
            }
            (Some(text), None) => ("data", codec.unwrap_or(Codec::Json), text.as_bytes().to_vec()),
            (None, Some(_)) => ("data_base64", codec.unwrap_or(Codec::Raw), self.base64("data_base64")?),
        };
        if field == "data" && codec != Codec::Json {
            self.problem("codec", format!("{codec} payloads stand in data_base64"));
        }
        if payload.len() > COMMIT_BYTES_MAX {
            self.problem(field, format!("has {} bytes, a commit has at most {COMMIT_BYTES_MAX}", payload.len()));
        }
        Some((codec, payload))
    }

    fn codec(&mut self) -> Option<Codec> {
        let name: String = self.optional("codec", "a text")?;
        let codec = Codec::from_name(&name);
        if codec.is_none() {
            self.problem("codec", format!("{} is not a codec", shortened(&name)));
        }
        codec
    }

    fn base64(&mut self, field: &'static str) -> Option<Vec<u8>> {
        let text: String = match self.raw(field) {
            Some("null") => {
                self.problem(field, "null is not a text");
                return None;
            }
            _ => self.optional(field, "a text")?,
        };
        BASE64.decode(text).map_err(|error| self.problem(field, format!("is not base64: {error}"))).ok()
    }

    fn metadata(&mut self) -> Option<Vec<u8>> {
        let (field, metadata) = match (self.raw("metadata"), self.raw("metadata_base64")) {
            (Some(_), Some(_)) => {
                self.problem("metadata", "stands beside metadata_base64; one of them is enough");
                return None;
            }
            (None | Some("null"), None) => return None,
            (Some(text), None) => ("metadata", text.as_bytes().to_vec()),
            (None, Some(_)) => ("metadata_base64", self.base64("metadata_base64")?),
        };
        if metadata.len() > METADATA_BYTES_MAX {
            let problem = format!("has {} bytes, at most {METADATA_BYTES_MAX} are allowed", metadata.len());
            self.problem(field, problem);
        } else if !is_object(&metadata) {
            self.problem(field, "is not a JSON object");
        }
        Some(metadata)
    }
}

fn is_object(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok_and(|raw| raw.get().starts_with('{'))
}

fn name_problem(name: &str, bytes_max: usize) -> Option<String> {
    match name.len() {
        0 => Some("is empty".into()),
        bytes if bytes > bytes_max => Some(format!("has {bytes} bytes, at most {bytes_max} are allowed")),
        _ => None,
    }
}

/// A value to show in a message, which should stay short.
fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    printable(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        Line::parse(1, text.as_bytes()).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_stream_a_type_and_data_are_enough() {
        let line = Line::parse(4, br#" {"stream":"a-1", "type":"T", "data": null } "#).unwrap();
        assert_eq!(line.event, NewEvent::from_bytes("T", Codec::Json, "null"));
        assert_eq!((line.number, line.stream.as_str(), line.id), (4, "a-1", None));
        assert_eq!((line.position, line.version, line.commit, line.commit_time), (None, None, None, None));
    }

    #[test]
    fn optional_fields_may_be_null() {
        let text = r#"{"stream":"a","type":"T","data":1,"id":null,"time":null,"tags":null,"metadata":null,
            "schema_version":null,"codec":null,"position":null,"version":null,"commit":null,"commit_time":null}"#;
        let line = Line::parse(1, text.replace('\n', "").as_bytes()).unwrap();
        assert_eq!(line.event, NewEvent::from_bytes("T", Codec::Json, "1"));
    }

    #[test]
    fn every_problem_is_named_with_its_field() {
        let text = r#"{"stream":"","type":7,"id":"x","time":"noon","tags":["",1],"schema_version":-1,"version":0}"#;
        let found = problems(text);
        for field in ["stream", "type", "data", "id", "time", "tags", "schema_version", "version"] {
            let named = found.iter().filter(|problem| problem.starts_with(&format!("{field}: "))).count();
            assert_eq!(named, 1, "{field} in {found:?}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "1", "{", "{}{}", r#"{"stream":"a","stream":"b"}"#, "{\"stream\":\"\u{1}\"}x"] {
            assert_eq!(problems(text).len(), 1, "{text}");
        }
        assert!(problems("{}{}")[0].contains("at column 3"), "{:?}", problems("{}{}"));
    }

    #[test]
    fn data_and_codec_must_go_together() {
        let text = |rest: &str| format!(r#"{{"stream":"a","type":"T",{rest}}}"#);
        assert!(problems(&text(r#""data":1,"data_base64":"""#))[0].starts_with("data: "));
        assert!(problems(&text(r#""data":1,"codec":"raw""#))[0].starts_with("codec: "));
        assert!(problems(&text(r#""data":1,"codec":"xml""#))[0].starts_with("codec: "));
        assert!(problems(&text(r#""data_base64":"?""#))[0].starts_with("data_base64: "));
        assert!(problems(&text(r#""data_base64":null"#))[0].starts_with("data_base64: "));
        assert!(problems(&text(r#""data":1,"metadata":[]"#))[0].starts_with("metadata: "));
        assert!(problems(&text(r#""data":1,"metadata_base64":"W10=""#))[0].starts_with("metadata_base64: "));
        let line = Line::parse(1, text(r#""data_base64":"AP8=""#).as_bytes()).unwrap();
        assert_eq!(line.event, NewEvent::raw("T", [0, 255]));
    }

    #[test]
    fn names_may_be_as_long_as_the_store_allows() {
        let text = |stream: usize, event_type: usize, tag: usize| {
            let (stream, event_type, tag) = ("s".repeat(stream), "t".repeat(event_type), "g".repeat(tag));
            format!(r#"{{"stream":"{stream}","type":"{event_type}","data":1,"tags":["{tag}"]}}"#)
        };
        assert!(Line::parse(1, text(512, 256, 256).as_bytes()).is_ok());
        assert_eq!(problems(&text(513, 257, 257)).len(), 3);
    }

    #[test]
    fn unknown_fields_are_told_apart() {
        let line = Line::parse(1, br#"{"stream":"a","type":"T","data":1,"steam":"b"}"#).unwrap();
        assert_eq!(line.unknown, ["steam"]);
    }
}
