//! Results per passage, before any statistics. Knows nothing of libtorch or of checkpoints: a [`Sample`] is plain data that
//! goes to `samples/NAME.jsonl` and comes back from there; until a run is finished, its results are in a [`Journal`].

mod error;
mod identity;
mod journal;
mod jsonl;
mod sample;

#[cfg(test)]
mod tests;

pub use error::SampleError;
pub use identity::{Differences, Identity};
pub use journal::{Contents, Journal, read_journal};
pub use jsonl::{parse_jsonl, read_jsonl, write_jsonl};
pub use sample::{PassageText, RollingText, Sample, TokenScore, TopToken};
