//! Every limit of the crate, in one place. Each is tested at the limit and one beyond.
//!
//! Limits of the format cannot be raised by a program without a new format version; those that can be configured lower
//! say so.

/// Longest stream name, in bytes of UTF-8. The shortest is 1.
pub const STREAM_NAME_BYTES_MAX: usize = 512;

/// Longest event type name, in bytes of UTF-8. The shortest is 1.
pub const TYPE_NAME_BYTES_MAX: usize = 256;

/// Longest tag, in bytes of UTF-8. The shortest is 1.
pub const TAG_BYTES_MAX: usize = 256;

/// Most tags on one event, duplicates not counted.
pub const TAGS_PER_EVENT_MAX: usize = 64;

/// Most bytes of metadata on one event.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;

/// Most events in one commit.
pub const EVENTS_PER_COMMIT_MAX: usize = 65_536;

/// Most streams that one commit may expect something of without writing to them.
pub const CHECKS_PER_COMMIT_MAX: usize = 1_024;

/// Most query conditions on one commit.
pub const CONDITIONS_PER_COMMIT_MAX: usize = 256;

/// Most items in one query.
pub const QUERY_ITEMS_MAX: usize = 1_024;

/// Most types, and most tags, in one item of a query.
pub const QUERY_ITEM_NAMES_MAX: usize = 256;

/// Largest commit, in bytes of the log (headers, names and padding included). A payload can be nearly as large.
pub const COMMIT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Smallest configurable size of a segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 4 * 1024;

/// Largest configurable size of a segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// Most bytes of the log that are ever written and not yet synced. Part of the format: recovery looks so far behind the
/// end of the log.
pub const UNSYNCED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Largest key of the state store, in bytes of UTF-8: a key is a stream name there.
pub const STATE_KEY_BYTES_MAX: usize = STREAM_NAME_BYTES_MAX;

/// Largest state of a snapshot, in bytes. As it is saved, compressed where that makes it smaller, it must also fit into a
/// commit.
pub const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
