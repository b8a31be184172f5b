//! What the fuzz targets share: a sample store, damage to its files, a model of what a store should answer, and events to
//! upcast.

pub mod damage;
pub mod model;
pub mod sample;
pub mod upcasting;
