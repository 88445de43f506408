//! The reader thread: while a stage is being computed, the next one is read, joined and hashed. It hands over one stage
//! (of every model) at a time and waits with the next in hand, so that two stages are in memory at most.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rayon::prelude::*;

use super::EvalError;
use crate::checkpoint::{CheckpointError, FileDigest, ModelSource, digest_file};
use crate::partition::{StageId, StageTensors};

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
    let mut digests: Vec<_> = models.iter().map(|_| Digests::default()).collect();
    for &id in ids {
        let stages = models
            .iter()
            .zip(&mut digests)
            .map(|(model, digests)| {
                let stage = model.read_stage(id)?;
                if hash {
                    // The bytes were just read: they come from the page cache.
                    digests.add(model.stage_files(id))?;
                    model.check_unchanged(id)?;
                }
                Ok(stage)
            })
            .collect::<Result<Stages, CheckpointError>>();
        let failed = stages.is_err();
        // The receiver is gone if the run has ended with an error of its own.
        if sender.send(stages).is_err() || failed {
            break;
        }
    }
    let sorted = |mut digests: Digests| {
        digests.found.sort_by(|left, right| left.file.cmp(&right.file));
        digests.found
    };
    digests.into_iter().map(sorted).collect()
}

/// Digests of files, each hashed once.
#[derive(Default)]
struct Digests {
    known: BTreeSet<PathBuf>,
    found: Vec<FileDigest>,
}

impl Digests {
    fn add(&mut self, files: Vec<PathBuf>) -> Result<(), CheckpointError> {
        let new: Vec<_> = files.into_iter().filter(|path| !self.known.contains(path)).collect();
        self.found.extend(new.par_iter().map(|path| digest_file(path)).collect::<Result<Vec<_>, _>>()?);
        self.known.extend(new);
        Ok(())
    }
}
