//! kintsugi
pub mod checkpoint;
pub mod cli;
pub mod config;
#[cfg(feature = "libtorch")]
pub mod eval;
pub mod export;
pub mod merge;
#[cfg(feature = "libtorch")]
pub mod model;
pub mod partition;
pub mod report;
pub mod samples;
pub mod stats;
pub mod tensor;
