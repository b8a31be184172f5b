//! What JSON can tell and read again, and nothing else.
//!
//! JSON has no word for what is no finite number: serde_json writes `null`, which is read as another value or not at all.
//! Nor does it read what it writes at any depth. Both are errors of what is to be written, while it can still be refused.

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// So many arrays and objects inside each other are read.
const DEPTH_MAX: usize = 127;

/// Encodes a value that can be read again.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Checked { inner: value, depth: 0 })
}

/// A value, a serializer or a part of one, inside so many arrays and objects.
struct Checked<T> {
    inner: T,
    depth: usize,
}

impl<T> Checked<T> {
    /// A part of what is inside `levels` more.
    fn enter<P, E: serde::ser::Error>(depth: usize, levels: usize, part: Result<P, E>) -> Result<Checked<P>, E> {
        let depth = depth + levels;
        match depth > DEPTH_MAX {
            true => Err(E::custom(format_args!("more than {DEPTH_MAX} arrays and objects are inside each other"))),
            false => Ok(Checked { inner: part?, depth }),
        }
    }
}

impl<T: Serialize + ?Sized> Serialize for Checked<&T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(Checked { inner: serializer, depth: self.depth })
    }
}

fn finite<E: serde::ser::Error>(value: f64) -> Result<(), E> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(E::custom(format_args!("{value} is no number of JSON"))),
    }
}

/// Methods that hand a plain value on.
macro_rules! plain {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(#[inline]
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        })*
    };
}

impl<S: Serializer> Serializer for Checked<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Checked<S::SerializeSeq>;
    type SerializeTuple = Checked<S::SerializeTuple>;
    type SerializeTupleStruct = Checked<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Checked<S::SerializeTupleVariant>;
    type SerializeMap = Checked<S::SerializeMap>;
    type SerializeStruct = Checked<S::SerializeStruct>;
    type SerializeStructVariant = Checked<S::SerializeStructVariant>;

    plain! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_char: char,
        serialize_str: &str,
        serialize_bytes: &[u8],
        serialize_unit_struct: &'static str,
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        finite(f64::from(value))?;
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        finite(value)?;
        self.inner.serialize_f64(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&Checked { inner: value, depth: self.depth })
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, &Checked { inner: value, depth: self.depth })
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Checked::<S>::enter(self.depth, 1, Ok::<_, S::Error>(value))?;
        self.inner.serialize_newtype_variant(name, index, variant, &value)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Checked::<S>::enter(self.depth, 1, self.inner.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        Checked::<S>::enter(self.depth, 1, self.inner.serialize_tuple(len))
    }

    fn serialize_tuple_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        Checked::<S>::enter(self.depth, 1, self.inner.serialize_tuple_struct(name, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Checked::<S>::enter(self.depth, 2, self.inner.serialize_tuple_variant(name, index, variant, len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Checked::<S>::enter(self.depth, 1, self.inner.serialize_map(len))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        Checked::<S>::enter(self.depth, 1, self.inner.serialize_struct(name, len))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Checked::<S>::enter(self.depth, 2, self.inner.serialize_struct_variant(name, index, variant, len))
    }

    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Compounds whose parts are checked in turn; `key` is what a part has besides its value.
macro_rules! compound {
    ($($trait:ident::$method:ident($($key:ident: $type:ty)?)),* $(,)?) => {
        $(impl<S: $trait> $trait for Checked<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $($key: $type,)? value: &T) -> Result<(), S::Error> {
                self.inner.$method($($key,)? &Checked { inner: value, depth: self.depth })
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        })*
    };
}

compound! {
    SerializeSeq::serialize_element(),
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(key: &'static str),
    SerializeStructVariant::serialize_field(key: &'static str),
}

impl<S: SerializeMap> SerializeMap for Checked<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.inner.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.inner.serialize_value(&Checked { inner: value, depth: self.depth })
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}

/// The first integer in JSON that no 64 bits hold, which a tree of JSON values would round. What is no JSON has none.
pub(crate) fn rounded_integer(json: &[u8]) -> Option<&str> {
    let mut rest = json;
    while let Some(start) = rest.iter().position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9')) {
        rest = &rest[start..];
        let len = if rest[0] == b'"' { string_len(rest) } else { number_len(rest) };
        let (token, behind) = rest.split_at(len);
        if let Ok(number) = std::str::from_utf8(token)
            && !token.iter().any(|byte| matches!(byte, b'"' | b'.' | b'e' | b'E'))
            && number.parse::<i64>().is_err()
            && number.parse::<u64>().is_err()
        {
            return Some(number);
        }
        rest = behind;
    }
    None
}

fn string_len(text: &[u8]) -> usize {
    let mut len = 1;
    while let Some(byte) = text.get(len) {
        match byte {
            b'"' => return len + 1,
            b'\\' => len += 2,
            _ => len += 1,
        }
    }
    text.len()
}

fn number_len(text: &[u8]) -> usize {
    let is_of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    text.iter().position(|byte| !is_of_number(byte)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    enum Shape {
        Unit,
        Newtype(f64),
        Tuple(f32, u8),
        Struct { value: Option<f64> },
    }

    #[derive(Serialize)]
    struct Everything {
        shapes: Vec<Shape>,
        tuple: (f64, char),
        map: BTreeMap<u8, f64>,
        nothing: (),
    }

    fn everything(value: f64, place: usize) -> Everything {
        let at = |own| if own == place { value } else { 0.5 };
        Everything {
            shapes: vec![
                Shape::Unit,
                Shape::Newtype(at(0)),
                Shape::Tuple(at(1) as f32, 1),
                Shape::Struct { value: Some(at(2)) },
            ],
            tuple: (at(3), 'x'),
            map: [(1, at(4))].into(),
            nothing: (),
        }
    }

    #[test]
    fn what_is_no_finite_number_is_refused_wherever_it_stands() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for place in 0..5 {
                let error = encode(&everything(value, place)).unwrap_err().to_string();
                assert_eq!(error, format!("{value} is no number of JSON"), "place {place}");
            }
        }
    }

    #[test]
    fn everything_else_is_what_serde_json_writes() {
        let value = everything(1e300, 3);
        assert_eq!(encode(&value).unwrap(), serde_json::to_vec(&value).unwrap());
        let raw = serde_json::json!({ "a": [null, true, -1, 1.5, "x", {}], "b": u64::MAX });
        assert_eq!(encode(&raw).unwrap(), serde_json::to_vec(&raw).unwrap());
        assert_eq!(encode(&(u128::MAX, i128::MIN)).unwrap(), serde_json::to_vec(&(u128::MAX, i128::MIN)).unwrap());
        let as_it_is = serde_json::value::RawValue::from_string(r#"{"a":  1e400}"#.into()).unwrap();
        assert_eq!(encode(&[as_it_is]).unwrap(), br#"[{"a":  1e400}]"#);
    }

    /// Arrays and objects in turn.
    #[derive(Serialize)]
    enum Nested {
        End,
        Newtype(Box<Nested>),
        Tuple(Box<Nested>, ()),
        Struct { inner: Box<Nested> },
        List(Vec<Nested>),
    }

    #[test]
    fn what_is_written_at_any_depth_can_be_read() {
        type Shape = fn(Box<Nested>) -> Nested;
        let shapes: [(usize, Shape); 4] = [
            (1, |inner| Nested::Newtype(inner)),
            (2, |inner| Nested::Tuple(inner, ())),
            (2, |inner| Nested::Struct { inner }),
            (2, |inner| Nested::List(vec![*inner])),
        ];
        for (levels, shape) in shapes {
            let nested = |times| (0..times).fold(Nested::End, |inner, _| shape(Box::new(inner)));
            let most = DEPTH_MAX / levels;
            let written = encode(&nested(most)).unwrap();
            serde_json::from_slice::<serde_json::Value>(&written).unwrap();
            assert!(encode(&nested(most + 1)).unwrap_err().to_string().contains("inside each other"));
            let deeper = serde_json::to_vec(&nested(most + 1)).unwrap();
            assert!(serde_json::from_slice::<serde_json::Value>(&deeper).is_err(), "{levels} levels");
        }
    }

    #[test]
    fn an_integer_beyond_64_bits_is_found_outside_of_strings() {
        let most = u64::MAX.to_string();
        for fine in ["", "1", "[-9223372036854775808, 0.1, 1e400, 12345678901234567890123.5]", &most, "nonsense-"] {
            assert_eq!(rounded_integer(fine.as_bytes()).filter(|found| *found != "-"), None, "{fine}");
        }
        for (json, found) in [
            ("18446744073709551616", "18446744073709551616"),
            (r#"{"a\"1": "99999999999999999999", "b": [1,-9223372036854775809]}"#, "-9223372036854775809"),
            (r#"["\\",340282366920938463463374607431768211455]"#, "340282366920938463463374607431768211455"),
        ] {
            assert_eq!(rounded_integer(json.as_bytes()), Some(found), "{json}");
        }
        for cut in [r#"""#, r#""\"#, r#"{"a"#] {
            assert_eq!(rounded_integer(cut.as_bytes()), None);
        }
    }
}
