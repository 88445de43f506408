//! Results per passage, before any statistics. Knows nothing of libtorch or of checkpoints: a [`Sample`] is plain data that
//! goes to `samples/NAME.jsonl` and comes back from there.

mod error;
mod jsonl;
mod sample;

#[cfg(test)]
mod tests;

pub use error::SampleError;
pub use jsonl::{parse_jsonl, read_jsonl, write_jsonl};
pub use sample::{PassageText, RollingText, Sample, TokenScore, TopToken};
