//! What the fuzz targets share: a sample store and damage to its files, a reader by the format alone, a model of what a
//! store should answer, files to import, events to upcast, and a bound on what may be allocated.

pub mod allocation;
pub mod damage;
pub mod damaged;
pub mod importing;
pub mod model;
pub mod reader;
pub mod sample;
pub mod segments;
pub mod snapshots;
pub mod upcasting;

// Parts of the program `annals`, which no library offers.
#[path = "../../src/bin/annals/lines.rs"]
mod lines;
#[path = "../../src/bin/annals/ndjson/mod.rs"]
#[allow(dead_code, reason = "the program uses what this does not")]
mod ndjson;
#[path = "../../src/bin/annals/text.rs"]
#[allow(dead_code, reason = "the program uses what this does not")]
mod text;
#[path = "../../src/bin/annals/time.rs"]
#[allow(dead_code, reason = "the program uses what this does not")]
mod time;
