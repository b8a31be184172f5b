//! Taking an enum apart: the name of its variant, and the variant's body handed on to the serializer of any codec.
//!
//! An externally tagged enum is one that asks its serializer for a variant by name. Whatever asks for anything else has
//! no variant to capture and is refused. Nothing here allocates.

use std::cell::Cell;
use std::fmt::Display;

use serde::ser::{
    Error as _, Impossible, Serialize, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleVariant,
    Serializer,
};

/// An event that serializes as the body of its variant: what stands inside, without the variant's name.
pub(super) struct Body<'a, E> {
    event: &'a E,
    captured: Cell<Captured>,
}

/// What an event turned out to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Captured {
    Nothing,
    /// The variant of this name.
    Variant(&'static str),
    /// No variant, but this.
    Other(&'static str),
}

impl<'a, E: Serialize> Body<'a, E> {
    pub(super) fn new(event: &'a E) -> Self {
        Self { event, captured: Cell::new(Captured::Nothing) }
    }

    /// What was serialized last.
    pub(super) fn captured(&self) -> Captured {
        self.captured.get()
    }
}

/// What an event is, without its body.
pub(super) fn capture<E: Serialize>(event: &E) -> Captured {
    let body = Body::new(event);
    // The name is known before the first byte, for which there is no room: so nothing more than that is done.
    let _ = serde_json::to_writer(&mut [][..], &body);
    body.captured()
}

impl<E: Serialize> Serialize for Body<'_, E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.event.serialize(BodySerializer { inner: serializer, captured: &self.captured })
    }
}

struct BodySerializer<'v, S> {
    inner: S,
    captured: &'v Cell<Captured>,
}

impl<S: Serializer> BodySerializer<'_, S> {
    fn refuse<T>(self, what: &'static str) -> Result<T, S::Error> {
        self.captured.set(Captured::Other(what));
        Err(S::Error::custom("no variant of an externally tagged enum"))
    }
}

/// Methods that refuse what is no variant.
macro_rules! refuse {
    ($($method:ident($($argument:ty),*) -> $ok:ty, $what:literal;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$ok, S::Error> { self.refuse($what) })*
    };
}

impl<S: Serializer> Serializer for BodySerializer<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Impossible<S::Ok, S::Error>;
    type SerializeTuple = Impossible<S::Ok, S::Error>;
    type SerializeTupleStruct = Impossible<S::Ok, S::Error>;
    type SerializeTupleVariant = TupleBody<S::SerializeTuple>;
    type SerializeMap = Impossible<S::Ok, S::Error>;
    type SerializeStruct = Impossible<S::Ok, S::Error>;
    type SerializeStructVariant = StructBody<S::SerializeStruct>;

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.captured.set(Captured::Variant(variant));
        self.inner.serialize_unit()
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.captured.set(Captured::Variant(variant));
        value.serialize(self.inner)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.captured.set(Captured::Variant(variant));
        self.inner.serialize_tuple(len).map(TupleBody)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.captured.set(Captured::Variant(variant));
        self.inner.serialize_struct(variant, len).map(StructBody)
    }

    refuse! {
        serialize_bool(bool) -> S::Ok, "a bool";
        serialize_i8(i8) -> S::Ok, "a number";
        serialize_i16(i16) -> S::Ok, "a number";
        serialize_i32(i32) -> S::Ok, "a number";
        serialize_i64(i64) -> S::Ok, "a number";
        serialize_i128(i128) -> S::Ok, "a number";
        serialize_u8(u8) -> S::Ok, "a number";
        serialize_u16(u16) -> S::Ok, "a number";
        serialize_u32(u32) -> S::Ok, "a number";
        serialize_u64(u64) -> S::Ok, "a number";
        serialize_u128(u128) -> S::Ok, "a number";
        serialize_f32(f32) -> S::Ok, "a number";
        serialize_f64(f64) -> S::Ok, "a number";
        serialize_char(char) -> S::Ok, "a character";
        serialize_str(&str) -> S::Ok, "a string";
        serialize_bytes(&[u8]) -> S::Ok, "bytes";
        serialize_none() -> S::Ok, "an option";
        serialize_unit() -> S::Ok, "nothing: a unit, or a variant of an untagged enum";
        serialize_unit_struct(&'static str) -> S::Ok, "a struct";
        serialize_seq(Option<usize>) -> Self::SerializeSeq, "a sequence";
        serialize_tuple(usize) -> Self::SerializeTuple, "a tuple";
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct, "a struct";
        serialize_map(Option<usize>) -> Self::SerializeMap, "a map";
        serialize_struct(&'static str, usize) -> Self::SerializeStruct, "a struct, or a variant of a tagged enum";
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<S::Ok, S::Error> {
        self.refuse("an option")
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<S::Ok, S::Error> {
        self.refuse("a struct")
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Result<S::Ok, S::Error> {
        self.refuse("a string")
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// The fields of a tuple variant, as a tuple.
pub(super) struct TupleBody<S>(S);

impl<S: SerializeTuple> SerializeTupleVariant for TupleBody<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_element(value)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

/// The fields of a struct variant, as a struct.
pub(super) struct StructBody<S>(S);

impl<S: SerializeStruct> SerializeStructVariant for StructBody<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), S::Error> {
        self.0.serialize_field(name, value)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
        self.0.skip_field(name)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}
