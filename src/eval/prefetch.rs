//! The reader thread: while a stage is being computed, the next one is read, joined and hashed. It sends one stage
//! (of every model) at a time and waits with the next one, so that two stages are in memory at most.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rayon::prelude::*;

use super::EvalError;
use crate::checkpoint::{CheckpointError, FileDigest, ModelSource, ReadDigests, Reading};
use crate::partition::{StageId, StageTensors};
use crate::tensor::Pool;

/// The same stage of every model.
pub(super) type Stages = Vec<StageTensors>;

/// Stages in the order asked for, read ahead by one.
pub(super) struct Prefetcher<'scope> {
    stages: Receiver<Result<Stages, CheckpointError>>,
    thread: Option<ScopedJoinHandle<'scope, Vec<Vec<FileDigest>>>>,
}

impl<'scope> Prefetcher<'scope> {
    /// Starts the thread. `hash` asks for the digest of every file it reads from.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        models: Vec<&'env dyn ModelSource>,
        ids: Vec<StageId>,
        hash: bool,
    ) -> Self {
        let (sender, stages) = sync_channel(0);
        let thread = scope.spawn(move || read_all(&models, &ids, hash, &sender));
        Self { stages, thread: Some(thread) }
    }

    /// Waits for the next stage, of every model in the order given.
    pub(super) fn next(&mut self, expected: StageId) -> Result<Stages, EvalError> {
        if let Ok(stages) = self.stages.recv() {
            return Ok(stages?);
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
    sender: &SyncSender<Result<Stages, CheckpointError>>,
) -> Vec<Vec<FileDigest>> {
    let pool = Arc::<Pool>::default();
    let mut readers: Vec<_> = models.iter().map(|&model| ModelReader::new(model, ids, hash, pool.clone())).collect();
    for &id in ids {
        let stages = readers.iter_mut().map(|reader| reader.read(id)).collect::<Result<Stages, CheckpointError>>();
        let failed = stages.is_err();
        // The receiver is gone if the run has ended with an error of its own.
        if sender.send(stages).is_err() || failed {
            break;
        }
    }
    let sorted = |mut reader: ModelReader<'_>| {
        reader.digests.sort_by(|left, right| left.file.cmp(&right.file));
        reader.digests
    };
    readers.into_iter().map(sorted).collect()
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
