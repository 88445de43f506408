//! The reader thread: while a stage is being computed, the next one is read, joined and hashed, and where GPUs compute also
//! merged and copied to them, so that they need not wait. It sends one stage (of every model) at a time. On a
//! CPU it begins with the next one when that is as it is computed with, so that two stages are in memory at most.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::EvalError;
use crate::checkpoint::{CheckpointError, FileDigest, ModelSource, ReadDigests, Reading};
use crate::config::Architecture;
use crate::merge::{MergedTensors, StageMerger, Strategy};
use crate::model::{Backend, Fed, Feed};
use crate::partition::{StageId, StageTensors};
use crate::tensor::Pool;

/// The same stage of every model.
type Stages = Vec<StageTensors>;

/// A stage, and what was made of it ahead.
#[derive(Default)]
pub(super) struct Prepared {
    /// Of every model.
    pub stages: Stages,
    pub merged: MergedTensors,
    /// By device; `None` for one whose uploader copies when it is asked to.
    pub fed: Vec<Option<Fed>>,
    pub merging: Duration,
    pub copying: Duration,
    /// Takes the word to begin with the next stage; `None` where the reader does not wait for it.
    pub go_on: Option<SyncSender<()>>,
}

/// What is done with a stage for GPUs once it is read.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    /// Of the first model.
    pub architecture: &'a Architecture,
    pub strategies: Vec<&'a Strategy>,
    pub backends: Vec<Backend>,
    /// About what the largest stage takes on a GPU.
    pub stage_bytes: u64,
}

/// Stages in the order asked for, read ahead by one.
pub(super) struct Prefetcher<'scope> {
    stages: Receiver<Result<Prepared, EvalError>>,
    thread: Option<ScopedJoinHandle<'scope, Vec<Vec<FileDigest>>>>,
}

impl<'scope> Prefetcher<'scope> {
    /// Starts the thread. `hash` asks for the digest of every file it reads from; with no `ahead` it reads and hashes alone.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        models: Vec<&'env dyn ModelSource>,
        ids: Vec<StageId>,
        hash: bool,
        ahead: Option<Ahead<'env>>,
    ) -> Self {
        let (sender, stages) = sync_channel(0);
        let thread = scope.spawn(move || read_all(&models, &ids, hash, ahead.as_ref(), &sender));
        Self { stages, thread: Some(thread) }
    }

    /// Waits for the next stage, of every model in the order given.
    pub(super) fn next(&mut self, expected: StageId) -> Result<Prepared, EvalError> {
        if let Ok(prepared) = self.stages.recv() {
            return prepared;
        }
        // Joined here, a thread that died is an error; left to the scope, it would take the process along.
        let _ = self.thread.take().map(ScopedJoinHandle::join);
        Err(EvalError::ReaderGone { stage: expected })
    }

    /// Ends the thread and gives the digests of every model's files, sorted by name; empty if they were not asked for.
    pub(super) fn finish(self) -> Result<Vec<Vec<FileDigest>>, EvalError> {
        drop(self.stages);
        let digests = self.thread.and_then(|thread| thread.join().ok());
        digests.ok_or(EvalError::ReaderGone { stage: StageId::Output })
    }
}

fn read_all(
    models: &[&dyn ModelSource],
    ids: &[StageId],
    hash: bool,
    ahead: Option<&Ahead<'_>>,
    sender: &SyncSender<Result<Prepared, EvalError>>,
) -> Vec<Vec<FileDigest>> {
    let pool = Arc::<Pool>::default();
    let feeds = ahead.map(Ahead::feeds).unwrap_or_default();
    let mut readers: Vec<_> = models.iter().map(|&model| ModelReader::new(model, ids, hash, pool.clone())).collect();
    for &id in ids {
        let stages = readers.iter_mut().map(|reader| reader.read(id)).collect::<Result<Stages, CheckpointError>>();
        let prepared = stages.map_err(EvalError::from).and_then(|stages| match ahead {
            Some(ahead) => ahead.prepare(id, stages, &feeds),
            None => Ok(Prepared { stages, ..Prepared::default() }),
        });
        let (go_on, word) = sync_channel(1);
        // A GPU's weights are not the host's memory.
        let waits = ahead.is_none();
        let prepared = prepared.map(|prepared| Prepared { go_on: waits.then_some(go_on), ..prepared });
        let failed = prepared.is_err();
        // Nobody asks any more if the run has ended with an error of its own.
        if sender.send(prepared).is_err() || failed || (waits && word.recv().is_err()) {
            break;
        }
    }
    let sorted = |mut reader: ModelReader<'_>| {
        reader.digests.sort_by(|left, right| left.file.cmp(&right.file));
        reader.digests
    };
    readers.into_iter().map(sorted).collect()
}

impl Ahead<'_> {
    fn feeds(&self) -> Vec<Option<Feed>> {
        self.backends.iter().map(|&backend| Feed::new(backend, self.stage_bytes)).collect()
    }

    fn prepare(&self, id: StageId, stages: Stages, feeds: &[Option<Feed>]) -> Result<Prepared, EvalError> {
        let merging = Instant::now();
        let strategies = self.strategies.iter().copied();
        let merged = stages.first().map(|stage| StageMerger::ahead(stage, self.architecture, strategies));
        let (merged, merging) = (merged.unwrap_or_default(), merging.elapsed());
        let copying = Instant::now();
        let tensors = || {
            let params = stages.iter().flat_map(|stage| stage.params.values());
            params.flat_map(|param| param.value.tensors()).chain(merged.iter())
        };
        let copy = |feed: &Option<Feed>| feed.as_ref().map(|feed| feed.copy(tensors())).transpose();
        let fed = feeds.iter().map(copy).collect::<Result<_, _>>();
        let fed = fed.map_err(|source| EvalError::Model { stage: id, source })?;
        Ok(Prepared { merged, fed, merging, copying: copying.elapsed(), stages, go_on: None })
    }
}

/// Reads the stages of a model and hashes its files, each when its last stage has been read.
struct ModelReader<'a> {
    model: &'a dyn ModelSource,
    reading: Reading,
    last_files: HashMap<StageId, Vec<PathBuf>>,
    digests: Vec<FileDigest>,
}

impl<'a> ModelReader<'a> {
    fn new(model: &'a dyn ModelSource, ids: &[StageId], hash: bool, pool: Arc<Pool>) -> Self {
        let last_files = if hash { model.last_files(ids) } else { HashMap::new() };
        let files: Vec<PathBuf> = last_files.values().flatten().cloned().collect();
        let digests = hash.then(|| Arc::new(ReadDigests::new(&files)));
        Self { model, reading: Reading { pool: Some(pool), digests }, last_files, digests: Vec::new() }
    }

    fn read(&mut self, id: StageId) -> Result<StageTensors, CheckpointError> {
        let stage = self.model.read_stage_as(id, &self.reading)?;
        if let (Some(digests), Some(files)) = (&self.reading.digests, self.last_files.remove(&id)) {
            let found = files.par_iter().map(|path| digests.finish(path)).collect::<Result<Vec<_>, _>>()?;
            self.digests.extend(found);
            self.model.check_unchanged(id)?;
        }
        Ok(stage)
    }
}
