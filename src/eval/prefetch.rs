//! The reader thread: while a stage is being computed, the next one is read, joined and hashed. It hands over one stage at
//! a time and waits with the next in hand, so that two stages are in memory at most.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rayon::prelude::*;

use super::EvalError;
use crate::checkpoint::{Checkpoint, CheckpointError, FileDigest, sha256_file};
use crate::partition::{StageId, StageTensors};

/// Stages in the order asked for, read ahead by one.
pub(super) struct Prefetcher<'scope> {
    stages: Receiver<Result<StageTensors, CheckpointError>>,
    thread: ScopedJoinHandle<'scope, Result<Vec<FileDigest>, CheckpointError>>,
}

impl<'scope> Prefetcher<'scope> {
    /// Starts the thread. `hash` asks for the digest of every file it reads from.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        checkpoint: &'env Checkpoint,
        ids: Vec<StageId>,
        hash: bool,
    ) -> Self {
        let (sender, stages) = sync_channel(0);
        let thread = scope.spawn(move || read_all(checkpoint, &ids, hash, &sender));
        Self { stages, thread }
    }

    /// Waits for the next stage.
    pub(super) fn next(&self, expected: StageId) -> Result<StageTensors, EvalError> {
        match self.stages.recv() {
            Ok(stage) => Ok(stage?),
            Err(_) => Err(EvalError::ReaderGone { stage: expected }),
        }
    }

    /// Ends the thread and gives the digests, sorted by file name; empty if they were not asked for.
    pub(super) fn finish(self) -> Result<Vec<FileDigest>, EvalError> {
        drop(self.stages);
        match self.thread.join() {
            Ok(digests) => Ok(digests?),
            Err(_) => Err(EvalError::ReaderGone { stage: StageId::Output }),
        }
    }
}

fn read_all(
    checkpoint: &Checkpoint,
    ids: &[StageId],
    hash: bool,
    sender: &SyncSender<Result<StageTensors, CheckpointError>>,
) -> Result<Vec<FileDigest>, CheckpointError> {
    let mut hashed: BTreeSet<PathBuf> = BTreeSet::new();
    let mut digests = Vec::new();
    for &id in ids {
        let stage = checkpoint.read_stage(id);
        let failed = stage.is_err();
        if hash && !failed {
            // The bytes were just read: they come from the page cache.
            let new: Vec<_> = checkpoint.stage_files(id).into_iter().filter(|path| !hashed.contains(path)).collect();
            let found = new.par_iter().map(|path| sha256_file(path)).collect::<Result<Vec<_>, _>>()?;
            digests.extend(found);
            hashed.extend(new);
        }
        // The receiver is gone if the run has ended with an error of its own.
        if sender.send(stage).is_err() || failed {
            break;
        }
    }
    digests.sort_by(|left, right| left.file.cmp(&right.file));
    Ok(digests)
}
