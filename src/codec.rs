//! Payloads: values of serde to bytes and back, by the codec that is recorded with each event.
//!
//! Knows no events and no types. The settings of each codec are part of what is stored, and frozen.

mod json;

use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed};
use serde::ser::Serialize;

use crate::error::{Error, Result};
use crate::types::Codec;
pub(crate) use json::rounded_integer;

impl Codec {
    /// Whether this build can encode and decode values with the codec: its feature is on. [`Codec::Raw`] never can.
    pub const fn is_available(self) -> bool {
        match self {
            Codec::Raw => false,
            Codec::Json => true,
            Codec::Postcard => cfg!(feature = "postcard"),
            Codec::Bincode => cfg!(feature = "bincode"),
        }
    }

    /// Encodes a value.
    ///
    /// ```
    /// use annals::Codec;
    ///
    /// assert_eq!(Codec::Json.encode(&("alice", 5))?, br#"["alice",5]"#);
    /// assert_eq!(Codec::Json.decode::<(&str, u64)>(br#"["alice",5]"#)?, ("alice", 5));
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Codec`] if the value cannot be told in the codec, or the codec is not available.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>> {
        let encoded = match self {
            Codec::Json => json::encode(value).map_err(|error| error.to_string()),
            #[cfg(feature = "postcard")]
            Codec::Postcard => postcard::to_allocvec(value).map_err(|error| error.to_string()),
            #[cfg(feature = "bincode")]
            Codec::Bincode => {
                use bincode::Options;
                bincode_options().serialize(value).map_err(|error| error.to_string())
            }
            other => Err(unknown(other)),
        };
        encoded.map_err(|reason| Error::Codec { what: format!("cannot encode a value as {self}"), reason })
    }

    /// Decodes a value, which may borrow from the bytes. All of them must be used up.
    ///
    /// # Errors
    /// [`Error::Codec`] if the bytes are no such value, or the codec is not available.
    pub fn decode<'a, T: Deserialize<'a>>(self, payload: &'a [u8]) -> Result<T> {
        self.decode_seed(payload, PhantomData)
    }

    /// Decodes a value with a seed: for what has to be told something before it can be decoded.
    ///
    /// # Errors
    /// Those of [`Codec::decode`].
    pub fn decode_seed<'a, S: DeserializeSeed<'a>>(self, payload: &'a [u8], seed: S) -> Result<S::Value> {
        self.try_decode(payload, seed)
            .map_err(|reason| Error::Codec { what: format!("cannot decode a value from {self}"), reason })
    }

    #[inline]
    pub(crate) fn try_decode<'a, S: DeserializeSeed<'a>>(self, payload: &'a [u8], seed: S) -> Result<S::Value, String> {
        match self {
            Codec::Json => decode_json(payload, seed).map_err(|error| error.to_string()),
            #[cfg(feature = "postcard")]
            Codec::Postcard => decode_postcard(payload, seed),
            #[cfg(feature = "bincode")]
            Codec::Bincode => {
                use bincode::Options;
                bincode_options().deserialize_seed(seed, payload).map_err(|error| error.to_string())
            }
            other => Err(unknown(other)),
        }
    }
}

#[inline]
fn decode_json<'a, S: DeserializeSeed<'a>>(payload: &'a [u8], seed: S) -> serde_json::Result<S::Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[cfg(feature = "postcard")]
#[inline]
fn decode_postcard<'a, S: DeserializeSeed<'a>>(payload: &'a [u8], seed: S) -> Result<S::Value, String> {
    let mut deserializer = postcard::Deserializer::from_bytes(payload);
    let value = seed.deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    match deserializer.finalize() {
        Ok([]) => Ok(value),
        Ok(rest) => Err(format!("{} bytes are left over", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

fn unknown(codec: Codec) -> String {
    format!("the codec {codec} is not known here")
}

/// Fixed-size integers, little-endian, no more than a commit can hold, no trailing bytes. Frozen: events depend on it.
#[cfg(feature = "bincode")]
fn bincode_options() -> impl bincode::Options {
    use bincode::Options;
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_little_endian()
        .with_limit(crate::limits::COMMIT_BYTES_MAX as u64)
        .reject_trailing_bytes()
}
