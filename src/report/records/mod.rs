//! What a run keeps as it goes, and all that its report is made of: the run itself, what was found out about the models,
//! and the scores of every slice. A finished run and one that was killed and went on, one process and several, all come
//! to the same records.

mod assemble;
mod combine;

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CheckpointInfo, ModelRecord, PassageCounts, Shard, StageSeconds, TaskInfo, Versions};
use crate::merge::ParamDrift;
use crate::samples::{Identity, PassageText, Sample};

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

/// What runs, settled before anything is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`RECORDS_VERSION`].
    pub version: u32,
    /// What the numbers depend on, but for the contents of the checkpoint's files.
    pub identity: Identity,
    /// The share of the passages that this process has; none where it has all.
    pub shard: Option<Shard>,
    /// When the run first began.
    pub started: Timestamp,
    /// Its command line.
    pub argv: Vec<String>,
    /// Versions of what computes.
    pub versions: Versions,
    /// Data type of the matrix products.
    pub dtype: String,
    /// Only the first so many documents.
    pub limit: Option<usize>,
    /// Tokens of a chunk at most.
    pub chunk_tokens: usize,
    /// Tokens of a slice at most.
    pub slice_tokens: usize,
    /// The task; its documents are those of all shards.
    pub task: TaskInfo,
    /// The documents in every chunk of the plan, by `doc_id`.
    pub chunks: Vec<Vec<usize>>,
    /// The files that the models are read from, as they were when the run began.
    pub files: Vec<FileStamp>,
    /// Resamples of the paired bootstrap, and its seed.
    pub bootstrap: (usize, u64),
}

/// What tells cheaply that a file is still the same.
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

/// What was found out about the models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelsRecord {
    /// The checkpoint, with the digests of its files.
    pub checkpoint: CheckpointInfo,
    /// Drift of its replicated parameters.
    pub drift: Vec<ParamDrift>,
    /// Every model evaluated: the baseline, then the others in their order.
    pub models: Vec<ModelRecord>,
}

/// The results of one slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceRecord {
    /// Its chunks.
    pub chunks: Vec<ChunkRecord>,
    /// Its passages.
    pub documents: Vec<PassageText>,
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
        /// The first document where they do.
        doc_id: usize,
        /// The same in a sentence.
        message: String,
    },
}

/// A number that JSON may have no word for: NaN and infinities are written as text.
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

    /// From the lines of a journal; `None` where it does not begin with a run.
    #[must_use]
    pub fn read(records: Vec<Record>) -> Option<Self> {
        let mut records = records.into_iter();
        let Some(Record::Run(run)) = records.next() else { return None };
        let mut found = Self::new(*run);
        for record in records {
            match record {
                Record::Run(_) => return None,
                Record::Models(models) => found.models = Some(*models),
                Record::Slice(slice) => found.add(*slice),
            }
        }
        Some(found)
    }

    /// The lines of its journal after the first.
    pub fn after_the_run(&self) -> impl Iterator<Item = Record> {
        let models = self.models.iter().map(|models| Record::Models(Box::new(models.clone())));
        models.chain(self.slices.iter().map(|slice| Record::Slice(Box::new(slice.clone()))))
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

    /// The passages that were evaluated, of those in the file and those set aside.
    fn passages(&self) -> PassageCounts {
        let effective = self.slices.iter().map(|slice| slice.documents.len()).sum();
        PassageCounts { effective, ..self.run.task.passages }
    }
}
