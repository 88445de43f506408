//! The work of a merge as a stream: a thread reads units ahead and hashes what it reads, this one merges them (with rayon's
//! threads), a third writes, a fourth waits for the disk, and a fifth hashes what nobody read of the inputs. What is in
//! memory stays within a budget.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::budget::{Budget, Permit};
use super::plan::{MergeChoice, Plan, PlannedParam, Unit, Work};
use super::sources::{self, Announcer};
use super::spread::Spread;
use super::writer::{Batch, FilePlan, Output, write_files};
use super::{ExportError, Progress};
use crate::checkpoint::{Checkpoint, CheckpointError, FileDigest, ModelSource as _, ReadDigests, Reading, StageReader};
use crate::merge::{Exactness, StageMerger};
use crate::partition::{Param, ParamValue, Role, StageId, StageTensors};
use crate::tensor::{HostTensor, Pool};

/// Units that wait between two threads; the budget is what really bounds them.
const QUEUE: usize = 64;

/// Threads that read. They wait for the disk most of the time, so they are not those that merge.
const READERS: usize = 4;

/// A form of output: which files there are, and which parts of which files a parameter becomes.
pub(super) trait Target: Sync {
    /// The files, in the order in which their tensors come.
    fn files(&self) -> &[FilePlan];

    /// The tensors that a parameter becomes, each with the number of its file.
    fn tensors(&self, param: &PlannedParam, value: &Spread) -> Result<Vec<Output>, ExportError>;
}

/// Supplies merged stages where a calibration makes them, in order.
pub type StageSupply<'a> =
    dyn FnMut(&StageTensors, &mut Exactness) -> Result<StageTensors, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// What a merge has written and read.
pub(super) struct Written {
    pub inputs: Vec<FileDigest>,
    pub outputs: Vec<FileDigest>,
    pub exactness: Exactness,
}

/// A unit that has been read.
struct ReadUnit<'a> {
    unit: &'a Unit,
    value: ReadValue,
    permit: Permit<'a>,
}

enum ReadValue {
    /// The unit as a stage that holds nothing else.
    Stage(StageTensors),
    /// The shards or replicas of its one parameter.
    Shards(Vec<HostTensor>),
}

/// Runs a plan; the files come to be in `folder`, and `budget` bytes are in memory at most.
pub(super) fn run(
    (checkpoint, plan, choice): (&Checkpoint, &Plan, &MergeChoice<'_>),
    (target, folder): (&dyn Target, &Path),
    budget: u64,
    supply: Option<&mut StageSupply<'_>>,
    progress: &dyn Progress,
) -> Result<Written, ExportError> {
    let sources = checkpoint.weight_files();
    let readers = ThreadPoolBuilder::new().num_threads(READERS).build().map_err(|_| ExportError::ThreadLost)?;
    let budget = Budget::new(budget);
    let failed = AtomicBool::new(false);
    // What was judged beforehand; merging adds what it did to weights.
    let mut exactness = plan.exactness.clone();
    progress.start(plan.units.iter().map(|unit| unit.bytes).sum());
    let fail = || {
        failed.store(true, Ordering::Relaxed);
        budget.close();
    };
    let (outputs, inputs) = thread::scope(|scope| {
        let (units, to_merge) = sync_channel(QUEUE);
        let (batches, to_write) = sync_channel(QUEUE);
        let (read, announced) = sources::announcer(&sources);
        let digests = Arc::new(ReadDigests::new(&sources));
        let reading = Reading { pool: Some(Arc::<Pool>::default()), digests: Some(digests.clone()) };
        let (files, has_failed) = (&sources, &failed);
        let hashing = scope.spawn(move || sources::hash(files, &digests, &announced, has_failed));
        let reader = Reader { checkpoint, plan, threads: &readers, reading };
        scope.spawn(|| reader.read_units(&budget, units, read));
        let writing = scope.spawn(|| {
            let written = write_files(target.files(), folder, to_write, progress);
            if written.is_err() {
                fail();
            }
            written
        });
        let merger = Merger { checkpoint, plan, choice, target };
        let merged = merger.merge_units(&to_merge, &batches, supply, &mut exactness);
        if merged.is_err() {
            fail();
        }
        drop((batches, to_merge));
        let written = writing.join().map_err(|_| ExportError::ThreadLost).flatten();
        let hashed = hashing.join().map_err(|_| ExportError::ThreadLost).flatten();
        // A merger that finds the writer gone has no error of its own to report.
        match (merged, written) {
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(outputs)) => Ok((outputs, hashed?)),
        }
    })?;
    // What was read and hashed must be one checkpoint.
    checkpoint.stage_ids().into_iter().try_for_each(|id| checkpoint.check_unchanged(id))?;
    Ok(Written { inputs, outputs, exactness })
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    threads: &'a ThreadPool,
    reading: Reading,
}

impl<'a> Reader<'a> {
    /// Reads units in order, as far ahead as the budget allows, and announces files once their last stage is read.
    #[expect(clippy::needless_pass_by_value, reason = "the channels are closed when this ends")]
    fn read_units(
        self,
        budget: &'a Budget,
        units: SyncSender<Result<ReadUnit<'a>, ExportError>>,
        mut read: Announcer<'_>,
    ) {
        let stages: Vec<StageId> = self.plan.units.iter().map(|unit| unit.stage).collect();
        let mut last_files = self.checkpoint.last_files(&stages);
        let mut open: Option<(StageId, StageReader<'_>)> = None;
        for unit in &self.plan.units {
            let Some(permit) = budget.take(unit.bytes) else { return };
            if open.as_ref().is_none_or(|(id, _)| *id != unit.stage) {
                if let Some((id, _)) = &open {
                    read.announce(&last_files.remove(id).unwrap_or_default());
                }
                match self.checkpoint.open_stage(unit.stage, &self.reading) {
                    Ok(reader) => open = Some((unit.stage, reader)),
                    Err(error) => return drop(units.send(Err(error.into()))),
                }
            }
            let Some((_, reader)) = &open else { return };
            let value = self.threads.install(|| self.read_unit(reader, unit));
            let failed = value.is_err();
            let unit = value.map(|value| ReadUnit { unit, value, permit }).map_err(ExportError::from);
            if units.send(unit).is_err() || failed {
                return;
            }
        }
    }

    fn read_unit(&self, reader: &StageReader<'_>, unit: &Unit) -> Result<ReadValue, CheckpointError> {
        let params = &self.plan.params[unit.params.clone()];
        if let (Work::Join | Work::FirstRank, [param]) = (unit.work, params) {
            return Ok(ReadValue::Shards(reader.read_shards(param.role)?));
        }
        let mut roles: Vec<Role> = params.iter().map(|param| param.role).collect();
        // Whoever supplies stages runs the unmerged model, which has a head even where the written one shares it.
        if unit.work == Work::Supplied && unit.stage == StageId::Output && !roles.contains(&Role::HeadWeight) {
            roles.push(Role::HeadWeight);
        }
        let read = roles.par_iter().map(|&role| Ok((role, reader.read(role)?)));
        let params = read.collect::<Result<_, CheckpointError>>()?;
        Ok(ReadValue::Stage(StageTensors { id: unit.stage, tp_size: self.checkpoint.tp_size(), params }))
    }
}

struct Merger<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    choice: &'a MergeChoice<'a>,
    target: &'a dyn Target,
}

impl Merger<'_> {
    /// Merges what the reader sends and sends on what is to be written. Ends early, without an error, if the writer is
    /// gone.
    fn merge_units<'b>(
        &self,
        units: &Receiver<Result<ReadUnit<'b>, ExportError>>,
        batches: &SyncSender<Batch<'b>>,
        mut supply: Option<&mut StageSupply<'_>>,
        exactness: &mut Exactness,
    ) -> Result<(), ExportError> {
        for read in units {
            let ReadUnit { unit, value, permit } = read?;
            let params = &self.plan.params[unit.params.clone()];
            let mut outputs = Vec::new();
            match (unit.work, value) {
                (Work::Join, ReadValue::Shards(shards)) => {
                    outputs.extend(self.join(&params[0], shards)?);
                }
                (_, ReadValue::Shards(shards)) => {
                    let first = shards.into_iter().take(1).collect::<Vec<_>>();
                    let Some(first) = first.into_iter().next() else { continue };
                    outputs.extend(self.output(&params[0], Spread::whole(cast(&params[0], &first)?))?);
                }
                (Work::Supplied, ReadValue::Stage(stage)) => {
                    let Some(supply) = supply.as_mut() else { return Err(ExportError::ThreadLost) };
                    let merged = supply(&stage, exactness)
                        .map_err(|source| ExportError::Calibration { stage: unit.stage, source })?;
                    outputs.extend(self.outputs(params, &merged)?);
                }
                (_, ReadValue::Stage(mut stage)) => {
                    for param in params {
                        if let Some(read) = stage.params.get_mut(&param.role) {
                            widen(param, read)?;
                        }
                    }
                    let architecture = self.checkpoint.architecture();
                    let merged = StageMerger::new(&stage, architecture).merge(self.choice.strategy, exactness)?;
                    drop(stage);
                    outputs.extend(self.outputs(params, &merged)?);
                }
            }
            if batches.send(Batch { outputs, bytes: unit.bytes, permit }).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn join(&self, param: &PlannedParam, shards: Vec<HostTensor>) -> Result<Vec<Output>, ExportError> {
        let shards = shards.into_iter().map(|shard| cast(param, &shard)).collect::<Result<Vec<_>, ExportError>>()?;
        let row = crate::partition::PartitionTable::new(self.checkpoint.architecture()).partition(param.role);
        let spread = match row {
            Some(partition) => Spread::of_shards(&partition, &shards)
                .map_err(|source| ExportError::Partition { name: param.name.clone(), source })?,
            None => return Err(ExportError::ThreadLost),
        };
        self.output(param, spread)
    }

    fn outputs(&self, params: &[PlannedParam], merged: &StageTensors) -> Result<Vec<Output>, ExportError> {
        let mut outputs = Vec::new();
        for param in params {
            let tensor = merged.get(param.role).and_then(|merged| merged.value.tensors().first());
            let Some(tensor) = tensor else { continue };
            outputs.extend(self.output(param, Spread::whole(cast(param, tensor)?))?);
        }
        Ok(outputs)
    }

    fn output(&self, param: &PlannedParam, mut value: Spread) -> Result<Vec<Output>, ExportError> {
        if value.shape().first() > param.shape.first() {
            value = value
                .first_rows(param.shape[0])
                .map_err(|source| ExportError::Tensor { name: param.name.clone(), source })?;
        }
        self.target.tensors(param, &value)
    }
}

/// Brings what is merged to the type it is merged in.
fn widen(param: &PlannedParam, read: &mut Param) -> Result<(), ExportError> {
    let widened = |tensor: &HostTensor| {
        tensor.cast(param.work_dtype).map_err(|source| ExportError::Tensor { name: param.name.clone(), source })
    };
    read.value = match &read.value {
        ParamValue::Joined(tensor) => ParamValue::Joined(widened(tensor)?),
        ParamValue::Replicas(replicas) => ParamValue::Replicas(replicas.iter().map(widened).collect::<Result<_, _>>()?),
    };
    Ok(())
}

/// The tensor in the type that is written; what was finite must still be.
fn cast(param: &PlannedParam, tensor: &HostTensor) -> Result<HostTensor, ExportError> {
    let cast = tensor.cast(param.dtype).map_err(|source| ExportError::Tensor { name: param.name.clone(), source })?;
    // As read and checked by the reader, unless it was merged or converted.
    let as_read = param.untouched && cast.storage_id() == tensor.storage_id();
    let non_finite = if as_read { None } else { cast.first_non_finite() };
    match non_finite {
        None => Ok(cast),
        Some(index) => {
            let (stage, name) = (param.stage, param.name.clone());
            Err(ExportError::Overflow { stage, name, index, dtype: param.dtype })
        }
    }
}
