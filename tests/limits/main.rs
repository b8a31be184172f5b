//! The limits of the system: open files, sizes of files, memory, threads. Each is met for real, in a process of its own,
//! ends in a clean error, and leaves nothing behind: files, maps and threads are counted. When it is lifted, the same
//! handle goes on. A fork, a clock that jumps, and media that cannot be written are here as well.
//!
//! What takes long is small unless the environment asks for more:
//!
//! ```text
//! ANNALS_LIMITS_STREAMS=1000000 cargo test --release --test limits -- --nocapture
//! ```

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
#![allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "as their callers have and want it")]

mod alone;
mod clock;
mod files;
mod fork;
mod media;
mod memory;
mod sizes;
mod support;
mod threads;
#[path = "../torture/mod.rs"]
mod torture;
