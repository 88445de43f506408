//! The records of a run, of which its report is made: the run itself, what is known of its models, and the scores of every
//! slice. An uninterrupted run, one that was killed and continued, and run shards that are joined have the same records.

mod assemble;
mod combine;
mod looks;

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

pub(crate) use combine::combine;
pub(crate) use looks::StoppingRule;

/// The form of the records. It changes whenever they do: a journal is no archive.
#[cfg(feature = "libtorch")]
pub(crate) const RECORDS_VERSION: u32 = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Record {
    Run(Box<RunRecord>),
    /// In front of the first slice's record.
    Models(Box<ModelsRecord>),
    /// One a slice.
    Slice(Box<SliceRecord>),
}

/// A run, as settled before anything is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// What the numbers depend on, but for the contents of the checkpoint's files.
    pub key: RunKey,
    /// The share of the passages that this process evaluates; none: all.
    pub shard: Option<RunShard>,
    pub started: Timestamp,
    pub argv: Vec<String>,
    pub versions: Versions,
    pub dtype: String,
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
    /// How the run decides when to stop; none: once all passages are evaluated.
    pub stopping: Option<StoppingRule>,
}

/// Shows cheaply whether a file has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    pub path: PathBuf,
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified: i64,
    /// Its number on its file system, 0 where there is none.
    pub inode: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelsRecord {
    /// The checkpoint, with the digests of its files.
    pub checkpoint: CheckpointInfo,
    pub drift: Vec<ParamDrift>,
    /// Every model evaluated: the baseline, then the others in their order.
    pub models: Vec<ModelRecord>,
    /// For each, the place of an earlier merge that makes the same model.
    pub same_as: Vec<Option<usize>>,
}

impl ModelsRecord {
    /// The merges that make the same model as the one in this place.
    fn also(&self, at: usize) -> impl Iterator<Item = &ModelRecord> {
        let same = self.models.iter().zip(&self.same_as).filter(move |(_, same_as)| **same_as == Some(at));
        same.map(|(model, _)| model)
    }

    /// The digests of all files, the checkpoint's first.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &FileDigest> {
        let candidates = self.models.iter().filter_map(|model| model.candidate.as_ref()?.digests.as_ref());
        self.checkpoint.digests.iter().chain(candidates).flatten()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SliceRecord {
    pub chunks: Vec<ChunkRecord>,
    pub passages: Vec<PassageText>,
    /// What every model scored on them, in the order of [`ModelsRecord::models`] and of the passages.
    pub scores: Vec<ModelScores>,
    /// Its input tokens.
    pub tokens: u64,
    pub device: String,
    pub threads: usize,
    /// Wall-clock seconds since the slice before, or since the process began.
    pub seconds: f64,
    pub stages: StageSeconds,
    pub peak_rss_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChunkRecord {
    pub number: usize,
    /// Of every model and stage but the last: Σ‖x − x_baseline‖² and Σ‖x_baseline‖² over the chunk's tokens. Empty where
    /// not measured.
    pub divergence: Vec<Vec<(Number, Number)>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ModelScores {
    Samples(Vec<Sample>),
    NotFinite {
        /// The first passage where they do.
        doc_id: usize,
        message: String,
    },
}

/// A number that JSON may be unable to write: NaN and infinities are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub(crate) struct Number(pub f64);

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
pub(crate) struct Records {
    pub run: RunRecord,
    /// The models; absent until a slice is done.
    pub models: Option<ModelsRecord>,
    pub slices: Vec<SliceRecord>,
    /// Of how many shards they are joined; none where one process computed them.
    pub joined: Option<usize>,
    /// Wall-clock seconds: the sum over the slices, over the slowest shard's where shards are joined.
    pub seconds: f64,
}

impl Records {
    pub(crate) fn new(run: RunRecord) -> Self {
        Self { run, models: None, slices: Vec::new(), joined: None, seconds: 0.0 }
    }

    pub(crate) fn read(path: &Path, records: Vec<Record>) -> Result<Self, RunError> {
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

    pub(crate) fn add(&mut self, slice: SliceRecord) {
        self.seconds += slice.seconds;
        self.slices.push(slice);
    }

    pub(crate) fn done(&self) -> BTreeSet<usize> {
        self.slices.iter().flat_map(|slice| &slice.chunks).map(|chunk| chunk.number).collect()
    }

    /// How many passages were evaluated, of those in the file.
    fn passage_counts(&self) -> PassageCounts {
        let effective = self.slices.iter().map(|slice| slice.passages.len()).sum();
        PassageCounts { effective, ..self.run.task.passages }
    }
}
