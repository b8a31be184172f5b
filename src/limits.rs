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

/// Longest name of a subscription, in bytes of UTF-8. The shortest is 1.
pub const SUBSCRIPTION_NAME_BYTES_MAX: usize = 256;

/// Most events of a subscription that are out at once, or acknowledged behind one that is not. Then it waits.
pub const UNACKNOWLEDGED_EVENTS_MAX: usize = 65_536;

/// Most positions that do not match, and that a subscription looks at once more after its process was killed.
pub const UNSAVED_POSITIONS_MAX: u64 = 1_024;

/// Most threads of one replay.
pub const REPLAY_WORKERS_MAX: usize = 256;

/// How often a store that is open for reading looks whether its writer has synced more while somebody waits for that, in
/// milliseconds.
pub const FOLLOW_INTERVAL_MS: u64 = 20;

/// Longest name of a store in a [`StoreDirectory`](crate::StoreDirectory), and so of a tenant, in bytes. The shortest is 1.
pub const STORE_NAME_BYTES_MAX: usize = 64;

/// Largest state of a snapshot, in bytes. As it is saved, compressed where that makes it smaller, it must also fit into a
/// commit.
pub const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest name of a handler, in bytes of UTF-8. The shortest is 1.
pub const HANDLER_NAME_BYTES_MAX: usize = 256;

/// Most events that a handler takes between two checkpoints.
pub const HANDLER_BATCH_EVENTS_MAX: usize = 10_000;

/// Most retries that a handler's policy can ask for.
pub const RETRIES_MAX: u32 = 1_000;

/// Longest delay between two attempts, and longest time that a circuit breaker cools down, in seconds: a day.
pub const RETRY_DELAY_SECONDS_MAX: u64 = 24 * 60 * 60;

/// Most failures in a row after which a circuit breaker can open.
pub const BREAKER_FAILURES_MAX: u32 = 10_000;

/// Most dead letters of one handler, those parked behind others included. Can be configured lower.
pub const DEAD_LETTERS_MAX: usize = 100_000;

/// Most bytes of an error's text that a dead letter keeps; what is beyond is cut.
pub const DEAD_LETTER_ERROR_BYTES_MAX: usize = 1_024;

/// Most records of skipped events that are kept of one handler: each more takes the place of the oldest.
pub const SKIPPED_RECORDS_MAX: u64 = 1_000;

/// Most conditions in the filter of a query over a table; each value of an `is_in` counts.
pub const FILTER_CONDITIONS_MAX: usize = 10_000;

/// Most upcasters that one enum of events, or one file of rules, may declare.
pub const UPCASTERS_MAX: usize = 1_024;

/// Most events that upcasters may turn one recorded event into, on the way and in the end.
pub const UPCAST_EVENTS_MAX: usize = 1_024;

/// Longest name of a part of a read model, in bytes of UTF-8. The shortest is 1.
pub const READ_MODEL_PART_NAME_BYTES_MAX: usize = 64;

/// Largest row of a saved table with its key, and largest other part of a read model, in bytes as it is saved (JSON).
pub const READ_MODEL_VALUE_BYTES_MAX: usize = COMMIT_BYTES_MAX - 64 * 1024;

/// Longest name of a process manager, in bytes of UTF-8. The shortest is 1.
pub const PROCESS_NAME_BYTES_MAX: usize = 128;

/// Longest id of an instance of a process manager, in bytes of UTF-8. The shortest is 1.
pub const PROCESS_INSTANCE_BYTES_MAX: usize = 256;

/// Longest name of a timer of a process manager, in bytes of UTF-8. The shortest is 1.
pub const TIMER_NAME_BYTES_MAX: usize = 256;

/// Most timers that one instance of a process manager has set at a time, those that it sets anew counted twice.
pub const TIMERS_PER_INSTANCE_MAX: usize = 1_024;

/// Most commands that a process manager asks for in one reaction.
pub const COMMANDS_PER_REACTION_MAX: usize = 1_024;

/// Most commands that one instance of a process manager remembers for the case that it fails.
pub const COMPENSATIONS_PER_INSTANCE_MAX: usize = 1_024;

/// Most rejections that one instance of a process manager reacts to without an event or a timer between; at the next it
/// fails.
pub const REJECTIONS_IN_A_ROW_MAX: u32 = 100;

/// Longest reason of a rejection or a failure that a process manager keeps, in bytes of UTF-8. A longer one is cut.
pub const REASON_BYTES_MAX: usize = 4 * 1024;
