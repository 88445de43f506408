//! The records of a run, of which its report is made: the run itself, what is known of its models, and the scores of every
//! slice. An uninterrupted run, one that was killed and continued, and run shards that are joined have the same records.

mod assemble;
mod combine;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::RunError;
use super::key::RunKey;
use crate::merge::ParamDrift;
use crate::report::{
    CheckpointInfo, FileDigest, ModelRecord, PassageCounts, RunShard, StageSeconds, TaskInfo, Versions,
};
use crate::samples::{PassageText, Sample};

pub use combine::combine;

/// The form of the records. It changes whenever they do: a journal is no archive.
pub const RECORDS_VERSION: u32 = 2;

/// One line of a run's journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// The first.
    Run(Box<RunRecord>),
    /// Before the first slice.
    Models(Box<ModelsRecord>),
    /// Every further one.
    Slice(Box<SliceRecord>),
}

/// A run, as settled before anything is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`RECORDS_VERSION`].
    pub version: u32,
    /// What the numbers depend on, but for the contents of the checkpoint's files.
    pub key: RunKey,
    /// The share of the passages that this process evaluates; none: all.
    pub shard: Option<RunShard>,
    /// When the run first began.
    pub started: Timestamp,
    /// Its command line.
    pub argv: Vec<String>,
    /// Versions of what computes.
    pub versions: Versions,
    /// Data type of the matrix products.
    pub dtype: String,
    /// Only the first so many passages.
    pub limit: Option<usize>,
    /// Tokens of a chunk at most.
    pub chunk_tokens: usize,
    /// Tokens of a slice at most.
    pub slice_tokens: usize,
    /// The task; its passages are those of all run shards.
    pub task: TaskInfo,
    /// The passages in every chunk of the plan, by `doc_id`.
    pub chunks: Vec<Vec<usize>>,
    /// The files that the models are read from, as they were when the run began.
    pub files: Vec<FileStamp>,
    /// Resamples of the paired bootstrap, and its seed.
    pub bootstrap: (usize, u64),
}

/// Shows cheaply whether a file has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified: i64,
    /// Its number on its file system, 0 where there is none.
    pub inode: u64,
}

/// What is known of the models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelsRecord {
    /// The checkpoint, with the digests of its files.
    pub checkpoint: CheckpointInfo,
    /// Drift of its replicated parameters.
    pub drift: Vec<ParamDrift>,
    /// Every model evaluated: the baseline, then the others in their order.
    pub models: Vec<ModelRecord>,
}

impl ModelsRecord {
    /// The digests of all files, the checkpoint's first.
    pub fn digests(&self) -> impl Iterator<Item = &FileDigest> {
        let candidates = self.models.iter().filter_map(|model| model.candidate.as_ref()?.digests.as_ref());
        self.checkpoint.digests.iter().chain(candidates).flatten()
    }
}

/// The results of one slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceRecord {
    /// Its chunks.
    pub chunks: Vec<ChunkRecord>,
    /// Its passages.
    pub passages: Vec<PassageText>,
    /// What every model scored on them, in the order of [`ModelsRecord::models`] and of the passages.
    pub scores: Vec<ModelScores>,
    /// Its input tokens.
    pub tokens: u64,
    /// The device.
    pub device: String,
    /// CPU threads.
    pub threads: usize,
    /// Wall-clock seconds since the slice before, or since the process began.
    pub seconds: f64,
    /// Where the time went.
    pub stages: StageSeconds,
    /// The largest resident set of the process so far.
    pub peak_rss_bytes: Option<u64>,
}

/// One chunk of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Its number.
    pub number: usize,
    /// Of every model and stage but the last: Σ‖x − x_baseline‖² and Σ‖x_baseline‖² over the chunk's tokens. Empty where
    /// not measured.
    pub divergence: Vec<Vec<(Number, Number)>>,
}

/// What a model scored in a slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelScores {
    /// One sample a passage.
    Samples(Vec<Sample>),
    /// Its numbers overflow.
    NotFinite {
        /// The first passage where they do.
        doc_id: usize,
        /// The same in a sentence.
        message: String,
    },
}

/// A number that JSON may be unable to write: NaN and infinities are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Number(pub f64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Finite(f64),
    Text(String),
}

impl From<Number> for Written {
    fn from(Number(number): Number) -> Self {
        if number.is_finite() { Self::Finite(number) } else { Self::Text(number.to_string()) }
    }
}

impl TryFrom<Written> for Number {
    type Error = std::num::ParseFloatError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        Ok(Self(match written {
            Written::Finite(number) => number,
            Written::Text(text) => text.parse()?,
        }))
    }
}

/// Everything that a run, or several shards of one, have recorded.
#[derive(Debug, Clone)]
pub struct Records {
    /// The run.
    pub run: RunRecord,
    /// The models; absent until a slice is done.
    pub models: Option<ModelsRecord>,
    /// The slices that are done.
    pub slices: Vec<SliceRecord>,
    /// Of how many shards they are joined; none where one process computed them.
    pub joined: Option<usize>,
    /// Wall-clock seconds: the sum over the slices, over the slowest shard's where shards are joined.
    pub seconds: f64,
}

impl Records {
    /// A run that begins.
    #[must_use]
    pub fn new(run: RunRecord) -> Self {
        Self { run, models: None, slices: Vec::new(), joined: None, seconds: 0.0 }
    }

    /// From the lines of a journal.
    ///
    /// # Errors
    /// It does not begin with a run.
    pub fn read(path: &Path, records: Vec<Record>) -> Result<Self, RunError> {
        let form = || {
            let (path, reason) = (path.to_owned(), "it does not begin with a run".to_owned());
            RunError::JournalForm { path, reason }
        };
        let mut records = records.into_iter();
        let Some(Record::Run(run)) = records.next() else { return Err(form()) };
        let mut found = Self::new(*run);
        for record in records {
            match record {
                Record::Run(_) => return Err(form()),
                Record::Models(models) => found.models = Some(*models),
                Record::Slice(slice) => found.add(*slice),
            }
        }
        Ok(found)
    }

    /// Takes in a slice.
    pub fn add(&mut self, slice: SliceRecord) {
        self.seconds += slice.seconds;
        self.slices.push(slice);
    }

    /// The chunks that are done.
    #[must_use]
    pub fn done(&self) -> BTreeSet<usize> {
        self.slices.iter().flat_map(|slice| &slice.chunks).map(|chunk| chunk.number).collect()
    }

    /// How many passages were evaluated, of those in the file and those set aside.
    fn passage_counts(&self) -> PassageCounts {
        let effective = self.slices.iter().map(|slice| slice.passages.len()).sum();
        PassageCounts { effective, ..self.run.task.passages }
    }
}
