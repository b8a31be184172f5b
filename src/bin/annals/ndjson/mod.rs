//! The canonical NDJSON of events: one JSON object a line, the same for import and export.
//!
//! `{"position":n,"commit":n,"commit_time":t,"stream":s,"version":n,"id":uuid,"type":s,"schema_version":n,"time":t,
//! "tags":[s],"codec":s,"data":json,"metadata":{…}}`, times by RFC 3339. Only `stream`, `type` and `data` are needed on
//! import. `commit` is the position of the commit's first event.
//!
//! A JSON payload that stands on one line is `data`, byte for byte, and comes back byte for byte. Any other payload is
//! `data_base64`, and metadata over several lines are `metadata_base64`.

mod line;
mod writer;

pub(crate) use line::{Line, Problem};
pub(crate) use writer::EventWriter;

#[cfg(test)]
mod tests {
    use annals::{Codec, EventId, Position, RecordedEvent, StreamVersion, Timestamp};

    use super::*;

    fn event(codec: Codec, payload: &[u8], metadata: Option<&[u8]>) -> RecordedEvent {
        RecordedEvent {
            position: Position::new(7).unwrap(),
            commit: Position::new(6).unwrap(),
            commit_time: Timestamp::from_nanos(1_500_000_000),
            stream: "account-\"alice\"\u{1}".into(),
            version: StreamVersion::new(3).unwrap(),
            id: EventId::parse("018f4e2a-7c1b-7d2e-9f3a-0123456789ab").unwrap(),
            event_type: "Opened".into(),
            schema_version: 2,
            time: Timestamp::from_nanos(-1),
            tags: vec!["a:1".into(), "b".into()],
            metadata: metadata.map(<[u8]>::to_vec),
            codec,
            payload: payload.to_vec(),
        }
    }

    fn written(event: &RecordedEvent) -> String {
        let mut line = Vec::new();
        EventWriter::new().write(&event.as_event(), 0, &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn an_event_is_written_in_the_order_of_the_format() {
        let event = event(Codec::Json, br#"{"cents": 1.0}"#, Some(b"{}"));
        let expected = concat!(
            r#"{"position":7,"commit":6,"commit_time":"1970-01-01T00:00:01.5Z","#,
            r#""stream":"account-\"alice\"\u0001","version":3,"id":"018f4e2a-7c1b-7d2e-9f3a-0123456789ab","#,
            r#""type":"Opened","schema_version":2,"time":"1969-12-31T23:59:59.999999999Z","tags":["a:1","b"],"#,
            r#""codec":"json","data":{"cents": 1.0},"metadata":{}}"#,
        );
        assert_eq!(written(&event), expected);
    }

    #[test]
    fn what_was_written_is_read_back_whole() {
        let payloads: [(Codec, &[u8]); 11] = [
            (Codec::Json, br#"{"a":  1, "b":[1e999,"\ud800"],"a":2}"#),
            (Codec::Json, b"null"),
            (Codec::Json, b"\"text\""),
            (Codec::Json, b"{\n}"),
            (Codec::Json, b" {}"),
            (Codec::Json, b"{}\t"),
            (Codec::Json, b"not json"),
            (Codec::Json, b"\"\xff\""),
            (Codec::Json, b""),
            (Codec::Raw, b"{}"),
            (Codec::Postcard, b"\0\x01\xff"),
        ];
        for (codec, payload) in payloads {
            for metadata in [None, Some(&b"{}"[..]), Some(b"{\"a\": 1 }"), Some(b" {}"), Some(b"{\n}")] {
                let event = event(codec, payload, metadata);
                let line = Line::parse(1, written(&event).as_bytes()).unwrap();
                let expected = annals::NewEvent::from_bytes("Opened", codec, payload)
                    .id(event.id)
                    .time(event.time)
                    .schema_version(2)
                    .tags(["a:1", "b"]);
                let expected = match metadata {
                    Some(metadata) => expected.metadata_json(metadata),
                    None => expected,
                };
                assert_eq!(line.event, expected);
                assert_eq!((line.stream.as_str(), line.id), (event.stream.as_str(), Some(event.id)));
                assert_eq!(line.position, Some(event.position));
                assert_eq!(line.version, Some(event.version));
                assert_eq!(line.commit, Some(event.commit));
                assert_eq!(line.commit_time, Some(event.commit_time));
                assert!(line.unknown.is_empty());
            }
        }
    }

    #[test]
    fn a_payload_stands_as_it_is_only_where_it_comes_back() {
        let in_base64 = |codec, payload| written(&event(codec, payload, None)).contains("data_base64");
        assert!(!in_base64(Codec::Json, br#"{"a":1}"#));
        assert!(in_base64(Codec::Json, b"{\"a\":\n1}"));
        assert!(in_base64(Codec::Json, b"{}{}"));
        assert!(in_base64(Codec::Raw, b"{}"));
    }
}
