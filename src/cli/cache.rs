//! Results of finished runs, by everything that they depend on: a model that was evaluated on the same passages in the same
//! way is not evaluated again, in whichever run it comes up.
//!
//! `results/RUN/CHECKPOINT/` holds a frame (what was found out about the checkpoint, the passages) and a column for every
//! model. RUN is the digest of the run's identity without its models, CHECKPOINT that of the digests of its files. Nothing
//! here is ever needed: what cannot be read or written is passed over.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::args::CacheArgs;
use super::files_read::FilesRead;
use super::job::Job;
use super::{identity, provenance};
use crate::files;
use crate::merge::ParamDrift;
use crate::report::{
    ChunkRecord, FileDigest, FileStamp, ModelRecord, ModelScores, ModelsRecord, Number, Records, RunRecord,
    SliceRecord, StageSeconds,
};
use crate::samples::{DocumentText, Identity};

/// What all models of a run have in common.
#[derive(Debug, Serialize, Deserialize)]
struct Frame {
    /// The checkpoint's files when they were read, and their digests.
    files: Vec<FileStamp>,
    digests: Vec<FileDigest>,
    drift: Vec<ParamDrift>,
    documents: Vec<DocumentText>,
    tokens: u64,
    device: String,
    threads: usize,
}

/// What one model scored.
#[derive(Debug, Serialize, Deserialize)]
struct Column {
    model: ModelRecord,
    scores: ModelScores,
    /// `[chunks][stages but the last]`
    divergence: Vec<Vec<(Number, Number)>>,
}

/// The results of runs that share everything but their models.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Where a run's results would be; `None` where nothing is to be kept, or nobody says where.
    pub(super) fn of(args: &CacheArgs, run: &RunRecord, passages: &Identity) -> Option<Self> {
        if args.no_cache {
            return None;
        }
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = args.cache_dir.clone().or_else(|| {
            let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
            Some(base.join("kintsugi"))
        })?;
        // The program itself, since two of one version need not compute the same while it is being written.
        let program = fs::metadata(std::env::current_exe().ok()?).ok()?;
        let passages = passages
            .clone()
            .with("program", format!("{} {:?}", program.len(), program.modified().ok()?))
            .with("records", run.version.to_string())
            .with("chunks", identity::digest(&format!("{:?}", run.chunks)));
        Some(Self { folder: root.join("results").join(passages.digest()) })
    }

    /// The records of a run all of whose models are here. Files that were moved or touched since are hashed; where nothing of
    /// this kind was ever kept, nothing is read.
    pub(super) fn find(&self, job: &Job<'_>, run: &RunRecord, files: &FilesRead<'_>) -> Option<Records> {
        if job.variants.iter().any(|variant| variant.candidate_model().is_some()) {
            // What their files hold, nobody knows before they are read.
            return None;
        }
        let folders: Vec<_> = fs::read_dir(&self.folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let frames: Vec<(PathBuf, Frame)> = folders
            .into_iter()
            .filter_map(|folder| Some((folder.clone(), read(&folder.join("frame.json"))?)))
            .collect();
        let (folder, frame) = if let Some(found) = frames.iter().find(|(_, frame)| frame.files == files.stamps()) {
            found
        } else {
            let digests = files.digests_of_checkpoint().ok().filter(|_| !frames.is_empty())?;
            frames.iter().find(|(_, frame)| frame.digests == digests)?
        };
        let columns: Vec<Column> =
            identity::of_variants(job).map(|name| read(&column_path(folder, &name))).collect::<Option<_>>()?;
        tracing::info!(
            "nothing is computed: {} evaluated before on these passages, from the cache {} (--no-cache evaluates anew)",
            if columns.len() == 1 { "this model was".to_owned() } else { format!("all {} models were", columns.len()) },
            folder.display()
        );
        Some(records(job, run, frame, columns))
    }

    /// Keeps the results of a whole run.
    pub(super) fn store(&self, job: &Job<'_>, records: &Records) {
        if let Err(error) = self.try_store(job, records) {
            tracing::warn!("the results are not in the cache: {error}");
        }
    }

    fn try_store(&self, job: &Job<'_>, records: &Records) -> std::io::Result<()> {
        let (Some(models), Some(last)) = (&records.models, records.slices.last()) else { return Ok(()) };
        let Some(digests) = models.checkpoint.digests.clone() else { return Ok(()) };
        let folder = self.folder.join(identity::digest(&format!("{digests:?}")));
        fs::create_dir_all(&folder)?;
        let mut chunks: Vec<&ChunkRecord> = records.slices.iter().flat_map(|slice| &slice.chunks).collect();
        chunks.sort_by_key(|chunk| chunk.number);
        for (at, (name, model)) in identity::of_variants(job).zip(&models.models).enumerate() {
            if model.candidate.is_some() {
                continue;
            }
            let Ok(samples) = records.samples(at) else { continue };
            let column = Column {
                model: model.clone(),
                scores: ModelScores::Samples(samples),
                divergence: chunks.iter().map(|chunk| chunk.divergence.get(at).cloned().unwrap_or_default()).collect(),
            };
            write(&column_path(&folder, &name), &column)?;
        }
        let frame = Frame {
            files: records.run.files.clone(),
            digests,
            drift: models.drift.clone(),
            documents: records.texts(),
            tokens: records.slices.iter().map(|slice| slice.tokens).sum(),
            device: last.device.clone(),
            threads: last.threads,
        };
        write(&folder.join("frame.json"), &frame)
    }
}

/// As if the run had been one slice, which took no time.
fn records(job: &Job<'_>, run: &RunRecord, frame: &Frame, columns: Vec<Column>) -> Records {
    let mut records = Records::new(run.clone());
    let chunk = |number: usize| ChunkRecord {
        number,
        divergence: columns.iter().map(|column| column.divergence.get(number).cloned().unwrap_or_default()).collect(),
    };
    let chunks = (0..run.chunks.len()).map(chunk).collect();
    let (models, scores) = columns.into_iter().map(|column| (column.model, column.scores)).unzip();
    records.models = Some(ModelsRecord {
        checkpoint: provenance::checkpoint_info(job.model, job.given, Some(frame.digests.clone())),
        drift: frame.drift.clone(),
        models,
    });
    records.add(SliceRecord {
        chunks,
        documents: frame.documents.clone(),
        scores,
        tokens: frame.tokens,
        device: frame.device.clone(),
        threads: frame.threads,
        seconds: 0.0,
        stages: StageSeconds { read_seconds: 0.0, merge_seconds: 0.0, compute_seconds: 0.0 },
        peak_rss_bytes: None,
    });
    records
}

fn column_path(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{}.json", identity::digest(model)))
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    files::write_atomically(path, &serde_json::to_vec(value)?)
}
