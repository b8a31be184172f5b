//! Finds types that a format which does not describe itself writes without complaint and can never read again.
//!
//! Such a type asks the format what comes next: a tagged or untagged enum, a flattened struct, a JSON value. It is found
//! without a sample, by letting the type read from a deserializer that has a plain value for everything but that
//! question. What refuses the plain values is given up: nothing is reported that is not certain.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::variant::VariantSeed;

/// Types may hold themselves: how far they are followed.
const DEPTH_MAX: usize = 10;
/// Values that are given for one variant before it is given up.
const VALUES_MAX: u32 = 10_000;
/// Variants of nested enums that are looked into.
const NESTED_VARIANTS_MAX: usize = 64;

/// Whether something in a variant asks the format what comes next.
pub(super) fn asks_what_comes_next<'de, E: Deserialize<'de>>(variant: &str) -> bool {
    let mut choice = 0;
    loop {
        let walk = Walk { choice, values: Cell::new(0), widest: Cell::new(0), has_asked: Cell::new(false) };
        let _ = VariantSeed::<E>::new(variant).deserialize(Value { walk: &walk, depth: 0 });
        if walk.has_asked.get() {
            return true;
        }
        // Once with the first variant of each nested enum, once with the second, and so on.
        choice += 1;
        if choice >= walk.widest.get().min(NESTED_VARIANTS_MAX) {
            return false;
        }
    }
}

struct Walk {
    choice: usize,
    values: Cell<u32>,
    /// The most variants that a nested enum has.
    widest: Cell<usize>,
    has_asked: Cell<bool>,
}

/// A plain value of whatever type is asked for.
#[derive(Clone, Copy)]
struct Value<'w> {
    walk: &'w Walk,
    depth: usize,
}

#[derive(Debug)]
struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("given up")
    }
}

impl std::error::Error for GivenUp {}

impl Error for GivenUp {
    fn custom<T: fmt::Display>(_: T) -> Self {
        GivenUp
    }
}

impl<'w> Value<'w> {
    /// The value inside this one.
    fn inside(self) -> Result<Self, GivenUp> {
        let values = self.walk.values.get() + 1;
        self.walk.values.set(values);
        if values > VALUES_MAX || self.depth > 2 * DEPTH_MAX {
            return Err(GivenUp);
        }
        Ok(Self { walk: self.walk, depth: self.depth + 1 })
    }

    /// Whether what may be absent is.
    fn is_deep(self) -> bool {
        self.depth >= DEPTH_MAX
    }

    fn fields(self, left: usize) -> Fields<'w> {
        Fields { value: self, left }
    }

    fn ask<T>(self) -> Result<T, GivenUp> {
        self.walk.has_asked.set(true);
        Err(GivenUp)
    }
}

/// Methods that give a plain value.
macro_rules! give {
    ($($method:ident => $visit:ident($value:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GivenUp> {
            self.inside()?;
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = GivenUp;

    give! {
        deserialize_bool => visit_bool(true);
        deserialize_i8 => visit_i8(1);
        deserialize_i16 => visit_i16(1);
        deserialize_i32 => visit_i32(1);
        deserialize_i64 => visit_i64(1);
        deserialize_i128 => visit_i128(1);
        deserialize_u8 => visit_u8(1);
        deserialize_u16 => visit_u16(1);
        deserialize_u32 => visit_u32(1);
        deserialize_u64 => visit_u64(1);
        deserialize_u128 => visit_u128(1);
        deserialize_f32 => visit_f32(1.0);
        deserialize_f64 => visit_f64(1.0);
        deserialize_char => visit_char('a');
        deserialize_str => visit_borrowed_str("a");
        deserialize_string => visit_borrowed_str("a");
        deserialize_bytes => visit_borrowed_bytes(&[0; 16]);
        deserialize_byte_buf => visit_borrowed_bytes(&[0; 16]);
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, GivenUp> {
        self.ask()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, GivenUp> {
        self.ask()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, GivenUp> {
        self.ask()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GivenUp> {
        if self.is_deep() { visitor.visit_none() } else { visitor.visit_some(self.inside()?) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GivenUp> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, GivenUp> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, GivenUp> {
        visitor.visit_newtype_struct(self.inside()?)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GivenUp> {
        visitor.visit_seq(self.inside()?.fields(usize::from(!self.is_deep())))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GivenUp> {
        visitor.visit_map(self.inside()?.fields(usize::from(!self.is_deep())))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, GivenUp> {
        visitor.visit_seq(self.inside()?.fields(len))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, GivenUp> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, GivenUp> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, GivenUp> {
        self.walk.widest.set(self.walk.widest.get().max(variants.len()));
        let last = variants.len().checked_sub(1).ok_or(GivenUp)?;
        visitor.visit_enum(Variant { value: self.inside()?, index: self.walk.choice.min(last) as u32 })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// So many values, or pairs of them.
struct Fields<'w> {
    value: Value<'w>,
    left: usize,
}

impl Fields<'_> {
    fn take(&mut self) -> bool {
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

impl<'de> SeqAccess<'de> for Fields<'_> {
    type Error = GivenUp;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, GivenUp> {
        if self.take() { seed.deserialize(self.value).map(Some) } else { Ok(None) }
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = GivenUp;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, GivenUp> {
        if self.take() { seed.deserialize(self.value).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, GivenUp> {
        seed.deserialize(self.value)
    }
}

/// A variant of a nested enum, by its place.
struct Variant<'w> {
    value: Value<'w>,
    index: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = GivenUp;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), GivenUp> {
        use serde::de::{IntoDeserializer, value::U32Deserializer};
        let index: U32Deserializer<GivenUp> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = GivenUp;

    fn unit_variant(self) -> Result<(), GivenUp> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, GivenUp> {
        seed.deserialize(self.value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, GivenUp> {
        self.value.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, GivenUp> {
        self.value.deserialize_tuple(fields.len(), visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "nothing is ever read")]
    #[serde(tag = "kind")]
    enum Tagged {
        A { x: u8 },
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "nothing is ever read")]
    #[serde(untagged)]
    enum Untagged {
        A(u8),
        B(String),
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "nothing is ever read")]
    struct Flattened {
        a: u8,
        #[serde(flatten)]
        rest: Plain,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "nothing is ever read")]
    struct Plain {
        id: u64,
        odd: std::num::NonZeroU8,
        name: Option<String>,
        map: BTreeMap<String, (f32, char)>,
        chosen: Chosen<Box<Plain>>,
        children: Vec<Plain>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "nothing is ever read")]
    enum Chosen<T> {
        Unit,
        Newtype(T),
        Tuple(u8, Vec<T>),
        Struct { value: Option<T> },
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "nothing is ever read")]
    enum Event<T> {
        Held(T),
        Deep { list: Vec<(u8, Option<T>)> },
        Chosen(Chosen<T>),
        Unit,
    }

    fn asking<T: for<'de> Deserialize<'de>>() -> [bool; 4] {
        ["Held", "Deep", "Chosen", "Unit"].map(asks_what_comes_next::<Event<T>>)
    }

    #[test]
    fn what_asks_is_found_wherever_it_is() {
        let found = [true, true, true, false];
        assert_eq!(asking::<Tagged>(), found);
        assert_eq!(asking::<Untagged>(), found);
        assert_eq!(asking::<Flattened>(), found);
        assert_eq!(asking::<serde_json::Value>(), found);
        assert_eq!(asking::<BTreeMap<String, serde_json::Value>>(), found);
    }

    #[test]
    fn what_does_not_ask_is_let_through() {
        assert_eq!(asking::<Plain>(), [false; 4]);
        assert_eq!(asking::<(u128, i8, String, char, f64, ())>(), [false; 4]);
        assert_eq!(asking::<uuid::Uuid>(), [false; 4]);
        assert_eq!(asking::<crate::Position>(), [false; 4]);
    }
}
