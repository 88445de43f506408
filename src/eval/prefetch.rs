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
    thread: Option<ScopedJoinHandle<'scope, Vec<FileDigest>>>,
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
        Self { stages, thread: Some(thread) }
    }

    /// Waits for the next stage.
    pub(super) fn next(&mut self, expected: StageId) -> Result<StageTensors, EvalError> {
        if let Ok(stage) = self.stages.recv() {
            return Ok(stage?);
        }
        // Joined here, a thread that died is an error; left to the scope, it would take the process along.
        let _ = self.thread.take().map(ScopedJoinHandle::join);
        Err(EvalError::ReaderGone { stage: expected })
    }

    /// Ends the thread and gives the digests, sorted by file name; empty if they were not asked for.
    pub(super) fn finish(self) -> Result<Vec<FileDigest>, EvalError> {
        drop(self.stages);
        let digests = self.thread.and_then(|thread| thread.join().ok());
        digests.ok_or(EvalError::ReaderGone { stage: StageId::Output })
    }
}

fn read_all(
    checkpoint: &Checkpoint,
    ids: &[StageId],
    hash: bool,
    sender: &SyncSender<Result<StageTensors, CheckpointError>>,
) -> Vec<FileDigest> {
    let mut digests = Digests::default();
    for &id in ids {
        let stage = checkpoint.read_stage(id).and_then(|stage| {
            if hash {
                // The bytes were just read: they come from the page cache.
                digests.add(checkpoint.stage_files(id))?;
                checkpoint.check_unchanged(id)?;
            }
            Ok(stage)
        });
        let failed = stage.is_err();
        // The receiver is gone if the run has ended with an error of its own.
        if sender.send(stage).is_err() || failed {
            break;
        }
    }
    digests.found.sort_by(|left, right| left.file.cmp(&right.file));
    digests.found
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
        self.found.extend(new.par_iter().map(|path| sha256_file(path)).collect::<Result<Vec<_>, _>>()?);
        self.known.extend(new);
        Ok(())
    }
}
