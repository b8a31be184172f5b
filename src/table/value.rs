//! The values of fields: what rows are compared by, whatever their own types are.
//!
//! All values are in one total order, in which numbers of different types compare by their exact mathematical value.
//! An index and a comparison of two values can therefore never disagree.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::types::{Position, StreamVersion, Timestamp};

/// The value of a field of a row, or what it is compared with.
///
/// In order: null, `false`, `true`, numbers, texts by their bytes, lists by their items. Numbers compare by their value,
/// so that the integer 1 equals the float 1.0; not-a-number equals itself and is greater than every other number.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FieldValue {
    /// Nothing: `None`, JSON's null, a path that leads nowhere.
    Null,
    /// True or false.
    Bool(bool),
    /// A number without a fraction.
    Integer(i128),
    /// A number that may have a fraction.
    Float(f64),
    /// A text.
    Text(String),
    /// Several values.
    List(Vec<FieldValue>),
}

/// What kind of values a field has, known from the type that its accessor returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldKind {
    /// True or false.
    Bool,
    /// Numbers, with or without a fraction.
    Number,
    /// Texts.
    Text,
    /// Lists of values.
    List,
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FieldKind::Bool => "bool",
            FieldKind::Number => "number",
            FieldKind::Text => "text",
            FieldKind::List => "list",
        })
    }
}

/// A type that a field of a row can have: what the accessor of [`Table::index`](crate::Table::index) may return.
///
/// Implemented for `bool`, the integers but `u128`, the floats, texts, positions, versions, times (as nanoseconds), and
/// for `Option` and `Vec` of them.
pub trait FieldType: Into<FieldValue> {
    /// The kind of its values.
    const KIND: FieldKind;
    /// Whether it may be null.
    const OPTIONAL: bool = false;
}

impl FieldValue {
    /// The kind of the value; `None` for null, which is of every kind.
    pub fn kind(&self) -> Option<FieldKind> {
        match self {
            FieldValue::Null => None,
            FieldValue::Bool(_) => Some(FieldKind::Bool),
            FieldValue::Integer(_) | FieldValue::Float(_) => Some(FieldKind::Number),
            FieldValue::Text(_) => Some(FieldKind::Text),
            FieldValue::List(_) => Some(FieldKind::List),
        }
    }

    /// What a piece of JSON is as a value. An object has no value of its own and counts as null.
    pub(super) fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null | serde_json::Value::Object(_) => FieldValue::Null,
            serde_json::Value::Bool(value) => FieldValue::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => value.into(),
                (None, Some(value)) => value.into(),
                (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
            },
            serde_json::Value::String(text) => FieldValue::Text(text.clone()),
            serde_json::Value::Array(items) => FieldValue::List(items.iter().map(Self::from_json).collect()),
        }
    }

    fn rank(&self) -> u8 {
        self.kind().map_or(0, |kind| 1 + kind as u8)
    }
}

impl Ord for FieldValue {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (FieldValue::Bool(a), FieldValue::Bool(b)) => a.cmp(b),
            (FieldValue::Integer(a), FieldValue::Integer(b)) => a.cmp(b),
            (FieldValue::Float(a), FieldValue::Float(b)) => compare_floats(*a, *b),
            (FieldValue::Integer(a), FieldValue::Float(b)) => compare_mixed(*a, *b),
            (FieldValue::Float(a), FieldValue::Integer(b)) => compare_mixed(*b, *a).reverse(),
            (FieldValue::Text(a), FieldValue::Text(b)) => a.cmp(b),
            (FieldValue::List(a), FieldValue::List(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// Zero equals its negative; not-a-number is the greatest, and equal to itself.
fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Exactly: a conversion of the integer would round, and make different numbers equal.
fn compare_mixed(integer: i128, float: f64) -> Ordering {
    const BEYOND: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0; // 2^127
    if float.is_nan() || float >= BEYOND {
        return Ordering::Less;
    }
    if float < -BEYOND {
        return Ordering::Greater;
    }
    let whole = float.trunc();
    integer.cmp(&(whole as i128)).then_with(|| compare_floats(whole, float))
}

impl PartialOrd for FieldValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for FieldValue {}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldValue::Null => f.write_str("null"),
            FieldValue::Bool(value) => value.fmt(f),
            FieldValue::Integer(value) => value.fmt(f),
            FieldValue::Float(value) => value.fmt(f),
            FieldValue::Text(text) => write!(f, "{text:?}"),
            FieldValue::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

macro_rules! field_types {
    ($($type:ty, $kind:ident, $value:pat => $into:expr;)*) => {$(
        impl From<$type> for FieldValue {
            fn from($value: $type) -> Self {
                $into
            }
        }

        impl FieldType for $type {
            const KIND: FieldKind = FieldKind::$kind;
        }
    )*};
}

field_types! {
    bool, Bool, value => FieldValue::Bool(value);
    i8, Number, value => FieldValue::Integer(value.into());
    i16, Number, value => FieldValue::Integer(value.into());
    i32, Number, value => FieldValue::Integer(value.into());
    i64, Number, value => FieldValue::Integer(value.into());
    i128, Number, value => FieldValue::Integer(value);
    isize, Number, value => FieldValue::Integer(value as i128);
    u8, Number, value => FieldValue::Integer(value.into());
    u16, Number, value => FieldValue::Integer(value.into());
    u32, Number, value => FieldValue::Integer(value.into());
    u64, Number, value => FieldValue::Integer(value.into());
    usize, Number, value => FieldValue::Integer(value as i128);
    f32, Number, value => FieldValue::Float(value.into());
    f64, Number, value => FieldValue::Float(value);
    String, Text, value => FieldValue::Text(value);
    &str, Text, value => FieldValue::Text(value.to_owned());
    &String, Text, value => FieldValue::Text(value.clone());
    Arc<str>, Text, value => FieldValue::Text(value.as_ref().to_owned());
    char, Text, value => FieldValue::Text(value.into());
    Position, Number, value => FieldValue::Integer(value.number().into());
    StreamVersion, Number, value => FieldValue::Integer(value.number().into());
    Timestamp, Number, value => FieldValue::Integer(value.nanos().into());
}

impl<T: Into<FieldValue>> From<Option<T>> for FieldValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(FieldValue::Null, Into::into)
    }
}

impl<T: FieldType> FieldType for Option<T> {
    const KIND: FieldKind = T::KIND;
    const OPTIONAL: bool = true;
}

impl<T: Into<FieldValue>> From<Vec<T>> for FieldValue {
    fn from(values: Vec<T>) -> Self {
        FieldValue::List(values.into_iter().map(Into::into).collect())
    }
}

impl<T: FieldType> FieldType for Vec<T> {
    const KIND: FieldKind = FieldKind::List;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_their_exact_value() {
        let big = (1_i128 << 53) + 1;
        assert!(FieldValue::from(big) > FieldValue::from((1_i64 << 53) as f64), "a float cannot tell them apart");
        assert_eq!(FieldValue::from(1), FieldValue::from(1.0));
        assert_eq!(FieldValue::from(0.0), FieldValue::from(-0.0));
        assert!(FieldValue::from(-1) > FieldValue::from(-1.5));
        assert!(FieldValue::from(1) < FieldValue::from(1.5));
        assert!(FieldValue::from(i128::MAX) < FieldValue::from(f64::INFINITY));
        assert!(FieldValue::from(i128::MAX) < FieldValue::from(2_f64.powi(127)));
        assert!(FieldValue::from(i128::MIN) > FieldValue::from(f64::NEG_INFINITY));
        assert_eq!(FieldValue::from(i128::MIN), FieldValue::from(-(2_f64.powi(127))));
        assert!(FieldValue::from(f64::NAN) > FieldValue::from(i128::MAX));
        assert_eq!(FieldValue::from(f64::NAN), FieldValue::from(f64::NAN));
    }

    #[test]
    fn kinds_are_ordered_one_behind_the_other() {
        let ascending = [
            FieldValue::Null,
            false.into(),
            true.into(),
            f64::NEG_INFINITY.into(),
            0.into(),
            f64::NAN.into(),
            "".into(),
            "a".into(),
            Vec::<bool>::new().into(),
            vec![1].into(),
        ];
        for (index, value) in ascending.iter().enumerate() {
            for (other, against) in ascending.iter().enumerate() {
                assert_eq!(value.cmp(against), index.cmp(&other), "{value} and {against}");
            }
        }
    }

    #[test]
    fn json_becomes_the_value_that_rust_would_have_given() {
        let json = serde_json::json!([null, true, -1, u64::MAX, 0.5, "x", {"a": 1}]);
        let expected =
            vec![FieldValue::Null, true.into(), (-1).into(), u64::MAX.into(), 0.5.into(), "x".into(), FieldValue::Null];
        assert_eq!(FieldValue::from_json(&json), FieldValue::List(expected));
    }
}
