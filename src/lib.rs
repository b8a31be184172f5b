//! annals: an embedded event store.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![allow(dead_code, unused_imports, reason = "the layers that use it follow")]

pub use error::Error;
mod clock;
mod error;
mod format;
mod index;
pub mod limits;
mod log;
mod observe;
mod randomness;
mod storage;
mod types;
