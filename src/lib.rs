//! kintsugi
pub mod checkpoint;
pub mod config;
#[cfg(feature = "libtorch")]
pub mod eval;
pub mod merge;
#[cfg(feature = "libtorch")]
pub mod model;
pub mod partition;
pub mod samples;
pub mod stats;
pub mod tensor;
