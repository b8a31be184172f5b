//! What the fuzz targets share: a sample store, damage to its files, and a model of what a store should answer.

pub mod damage;
pub mod model;
pub mod sample;
