//! Bytes: how each structure of `docs/FORMAT.md` is built, verified and taken apart.
//!
//! Pure functions over slices. No I/O, no time, no threads, no unsafe. Nothing here trusts its input: every length is
//! checked against what is there before it is used, and every number is read little-endian, so that the code is the
//! same on every machine.

pub(crate) mod bytes;
pub(crate) mod checksum;
pub(crate) mod frame;
pub(crate) mod page;
pub(crate) mod positions;
pub(crate) mod record;
pub(crate) mod run;
pub(crate) mod segment;
pub(crate) mod snapshot;
pub(crate) mod synced_head;
