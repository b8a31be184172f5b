//! A number that tells whether two states say the same: a hash of what their serialisation says.
//!
//! It sees names and values, not bytes, so that it does not depend on a codec. The entries of maps, and the elements of
//! sequences, count in any order: that of a hash set changes from run to run. Two lists that differ in their order alone
//! look the same to it.

use std::fmt;

use serde::Serialize;
use serde::ser::{self, Serializer};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::error::{Error, Result};

/// The fingerprint of a state.
///
/// # Errors
/// [`Error::Codec`] if the state refuses to be serialised.
pub(super) fn fingerprint(state: &impl Serialize) -> Result<u64> {
    state.serialize(Hasher).map_err(|Refused(reason)| Error::Codec { what: "cannot serialise a state".into(), reason })
}

/// Two numbers as one, in this order.
pub(super) fn mixed(first: u64, second: u64) -> u64 {
    xxh3_64_with_seed(&second.to_le_bytes(), first)
}

fn tagged(tag: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, tag)
}

/// Why a state refuses to be serialised.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self(reason.to_string())
    }
}

/// What a value is, apart from what it says: an empty text is no empty list.
mod tag {
    pub(super) const NOTHING: u64 = 1;
    pub(super) const BOOL: u64 = 2;
    pub(super) const SIGNED: u64 = 3;
    pub(super) const UNSIGNED: u64 = 4;
    pub(super) const FLOAT: u64 = 5;
    pub(super) const TEXT: u64 = 6;
    pub(super) const BYTES: u64 = 7;
    pub(super) const SOME: u64 = 8;
    pub(super) const VARIANT: u64 = 9;
    pub(super) const SEQUENCE: u64 = 10;
    pub(super) const TUPLE: u64 = 11;
    pub(super) const MAP: u64 = 12;
    pub(super) const STRUCT: u64 = 13;
}

struct Hasher;

/// The hash of a compound value on its way.
struct Compound {
    hash: u64,
    key: u64,
}

impl Compound {
    fn new(tag: u64) -> Self {
        Self { hash: tag, key: 0 }
    }

    /// A value whose place matters.
    fn add_ordered(&mut self, hash: u64) {
        self.hash = mixed(self.hash, hash);
    }

    /// A value whose place does not. Each is mixed on its own first, so that equal ones do not cancel out.
    fn add_unordered(&mut self, hash: u64) {
        self.hash = self.hash.wrapping_add(mixed(tag::SEQUENCE, hash));
    }

    fn add_field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), Refused> {
        let value = value.serialize(Hasher)?;
        self.add_unordered(mixed(xxh3_64(name.as_bytes()), value));
        Ok(())
    }
}

fn variant(name: &str, body: u64) -> u64 {
    mixed(tagged(tag::VARIANT, name.as_bytes()), body)
}

macro_rules! hash_numbers {
    ($($method:ident($number:ty) as $wide:ty, $tag:expr;)*) => {
        $(fn $method(self, value: $number) -> Result<u64, Refused> {
            Ok(tagged($tag, &<$wide>::from(value).to_le_bytes()))
        })*
    };
}

impl Serializer for Hasher {
    type Ok = u64;
    type Error = Refused;
    type SerializeSeq = Compound;
    type SerializeTuple = Compound;
    type SerializeTupleStruct = Compound;
    type SerializeTupleVariant = Compound;
    type SerializeMap = Compound;
    type SerializeStruct = Compound;
    type SerializeStructVariant = Compound;

    hash_numbers! {
        serialize_i8(i8) as i128, tag::SIGNED;
        serialize_i16(i16) as i128, tag::SIGNED;
        serialize_i32(i32) as i128, tag::SIGNED;
        serialize_i64(i64) as i128, tag::SIGNED;
        serialize_i128(i128) as i128, tag::SIGNED;
        serialize_u8(u8) as u128, tag::UNSIGNED;
        serialize_u16(u16) as u128, tag::UNSIGNED;
        serialize_u32(u32) as u128, tag::UNSIGNED;
        serialize_u64(u64) as u128, tag::UNSIGNED;
        serialize_u128(u128) as u128, tag::UNSIGNED;
        serialize_bool(bool) as u8, tag::BOOL;
        serialize_char(char) as u32, tag::TEXT;
    }

    fn serialize_f32(self, value: f32) -> Result<u64, Refused> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<u64, Refused> {
        Ok(tagged(tag::FLOAT, &value.to_bits().to_le_bytes()))
    }

    fn serialize_str(self, value: &str) -> Result<u64, Refused> {
        Ok(tagged(tag::TEXT, value.as_bytes()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u64, Refused> {
        Ok(tagged(tag::BYTES, value))
    }

    fn serialize_none(self) -> Result<u64, Refused> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, Refused> {
        Ok(mixed(tag::SOME, value.serialize(self)?))
    }

    fn serialize_unit(self) -> Result<u64, Refused> {
        Ok(tag::NOTHING)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<u64, Refused> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<u64, Refused> {
        Ok(variant(name, tag::NOTHING))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<u64, Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<u64, Refused> {
        Ok(variant(name, value.serialize(self)?))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Compound, Refused> {
        Ok(Compound::new(tag::SEQUENCE))
    }

    fn serialize_tuple(self, _: usize) -> Result<Compound, Refused> {
        Ok(Compound::new(tag::TUPLE))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Compound, Refused> {
        Ok(Compound::new(tag::TUPLE))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Compound, Refused> {
        Ok(Compound::new(variant(name, tag::TUPLE)))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Compound, Refused> {
        Ok(Compound::new(tag::MAP))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound, Refused> {
        Ok(Compound::new(tag::STRUCT))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Compound, Refused> {
        Ok(Compound::new(variant(name, tag::STRUCT)))
    }
}

impl ser::SerializeSeq for Compound {
    type Ok = u64;
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.add_unordered(value.serialize(Hasher)?);
        Ok(())
    }

    fn end(self) -> Result<u64, Refused> {
        Ok(self.hash)
    }
}

impl ser::SerializeMap for Compound {
    type Ok = u64;
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        self.key = key.serialize(Hasher)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.add_unordered(mixed(self.key, value.serialize(Hasher)?));
        Ok(())
    }

    fn end(self) -> Result<u64, Refused> {
        Ok(self.hash)
    }
}

macro_rules! hash_ordered {
    ($($form:ident $method:ident;)*) => {
        $(impl ser::$form for Compound {
            type Ok = u64;
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                self.add_ordered(value.serialize(Hasher)?);
                Ok(())
            }

            fn end(self) -> Result<u64, Refused> {
                Ok(self.hash)
            }
        })*
    };
}

hash_ordered! {
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! hash_fields {
    ($($form:ident)*) => {
        $(impl ser::$form for Compound {
            type Ok = u64;
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
                self.add_field(name, value)
            }

            fn end(self) -> Result<u64, Refused> {
                Ok(self.hash)
            }
        })*
    };
}

hash_fields! { SerializeStruct SerializeStructVariant }

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use super::*;

    #[derive(Serialize, Clone, Default)]
    struct Plain {
        cents: u64,
        owner: Option<String>,
        pair: (u8, u8),
    }

    #[derive(Serialize)]
    struct Renamed {
        amount: u64,
        owner: Option<String>,
        pair: (u8, u8),
    }

    #[derive(Serialize)]
    enum Status {
        Open,
        Closed,
        Frozen(u8),
        Moved { to: u8 },
        Both(u8, u8),
    }

    fn of(state: &impl Serialize) -> u64 {
        fingerprint(state).unwrap()
    }

    #[test]
    fn equal_states_have_one_fingerprint_and_each_change_shows() {
        let plain = Plain { cents: 5, owner: Some("Alice".into()), pair: (1, 2) };
        assert_eq!(of(&plain), of(&plain.clone()));
        let changes = [
            of(&plain),
            of(&Plain { cents: 6, ..plain.clone() }),
            of(&Plain { owner: None, ..plain.clone() }),
            of(&Plain { pair: (2, 1), ..plain.clone() }),
            of(&Renamed { amount: 5, owner: Some("Alice".into()), pair: (1, 2) }),
            of(&Status::Open),
            of(&Status::Closed),
            of(&Status::Frozen(1)),
            of(&Status::Moved { to: 1 }),
            of(&Status::Both(1, 2)),
            of(&Status::Both(2, 1)),
            of(&""),
            of(&()),
            of(&[""; 0]),
            of(&vec![""]),
            of(&vec!["", ""]),
            of(&1.5),
            of(&-1),
            of(&true),
            of(&'a'),
        ];
        assert_eq!(changes.iter().collect::<HashSet<_>>().len(), changes.len(), "{changes:?}");
    }

    #[test]
    fn the_order_of_a_hash_table_does_not_matter() {
        let numbers = || 0..100_u32;
        let set: HashSet<u32> = numbers().collect();
        assert_eq!(of(&set), of(&numbers().rev().collect::<HashSet<u32>>()));
        assert_eq!(of(&set), of(&numbers().collect::<Vec<_>>()));
        let map: HashMap<(u32, bool), u32> = numbers().map(|number| ((number, true), number + 1)).collect();
        assert_eq!(of(&map), of(&map.clone().into_iter().collect::<BTreeMap<_, _>>()));
        let swapped: HashMap<(u32, bool), u32> = numbers().map(|number| ((number + 1, true), number)).collect();
        assert_ne!(of(&map), of(&swapped));
    }

    #[test]
    fn a_state_that_refuses_is_an_error() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(ser::Error::custom("no"))
            }
        }
        assert_eq!(fingerprint(&vec![Refuses]).unwrap_err().to_string(), "cannot serialise a state: no");
    }
}
