//! Putting an enum together: the name of a variant, and a deserializer of any codec that holds the variant's body.
//!
//! The counterpart of `capture`. Here too nothing allocates beyond what the event itself does.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, Expected, IgnoredAny, IntoDeserializer, Unexpected,
    VariantAccess, Visitor, value::StrDeserializer,
};
use serde::forward_to_deserialize_any;

/// Decodes a body as this variant of `E`.
pub(super) struct VariantSeed<'v, E> {
    variant: &'v str,
    event: PhantomData<E>,
}

impl<'v, E> VariantSeed<'v, E> {
    pub(super) fn new(variant: &'v str) -> Self {
        Self { variant, event: PhantomData }
    }
}

impl<'de, E: Deserialize<'de>> DeserializeSeed<'de> for VariantSeed<'_, E> {
    type Value = E;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, body: D) -> Result<E, D::Error> {
        E::deserialize(VariantDeserializer { variant: self.variant, body })
    }
}

/// Answers who asks for an enum, and nobody else.
struct VariantDeserializer<'v, D> {
    variant: &'v str,
    body: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for VariantDeserializer<'_, D> {
    type Error = D::Error;

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom("an event is a variant of an externally tagged enum"))
    }

    fn is_human_readable(&self) -> bool {
        self.body.is_human_readable()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for VariantDeserializer<'_, D> {
    type Error = D::Error;
    type Variant = VariantBody<D>;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, VariantBody<D>), D::Error> {
        let name: StrDeserializer<'_, D::Error> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, VariantBody(self.body)))
    }
}

struct VariantBody<D>(D);

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for VariantBody<D> {
    type Error = D::Error;

    /// A variant without fields wants none of those that are there, as a struct ignores fields that it does not have.
    /// A format that does not describe itself cannot skip over fields.
    #[inline]
    fn unit_variant(self) -> Result<(), D::Error> {
        match self.0.is_human_readable() {
            true => IgnoredAny::deserialize(self.0).map(|_| ()),
            false => <()>::deserialize(self.0),
        }
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, D::Error> {
        seed.deserialize(self.0)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct("", fields, visitor)
    }
}

/// The names of the variants that an enum can be deserialized from, aliases included.
///
/// # Errors
/// What the type asks for, if that is no enum.
pub(super) fn variants_of<'de, E: Deserialize<'de>>() -> Result<&'static [&'static str], String> {
    match E::deserialize(Probe) {
        Err(Answer::Variants(variants)) => Ok(variants),
        Err(Answer::Other(what)) => Err(what),
        Ok(_) => Err("it asks for nothing".into()),
    }
}

/// Deserializes nothing, and finds out what is asked for.
struct Probe;

#[derive(Debug)]
enum Answer {
    Variants(&'static [&'static str]),
    Other(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Variants(_) => f.write_str("an enum"),
            Answer::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Answer {}

impl Error for Answer {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Answer::Other(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Answer::Other(format!("it asks for {expected}"))
    }
}

impl<'de> Deserializer<'de> for Probe {
    type Error = Answer;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer::Variants(variants))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer::Other(format!("it asks for the struct {name:?}, as a struct or an adjacently tagged enum does")))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
        Err(Answer::invalid_type(Unexpected::Other("an event"), &visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}
