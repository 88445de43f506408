//! The work of a merge as a stream: a thread reads units ahead and hashes what it reads, this one merges them (with rayon's
//! threads), a third writes, and a fourth waits for the disk. Memory stays within a budget.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

use super::budget::{Budget, Permit};
use super::plan::{Plan, PlannedParam, Unit, Work};
use super::sharded_tensor::ShardedTensor;
use super::writer::{Batch, FilePlan, Output, write_files};
use super::{ExportError, Progress};
use crate::checkpoint::{CheckpointError, FileDigest, ModelSource, ReadDigests, Reading, StageReader};
use crate::merge::{Exactness, StageMerger, Strategy};
use crate::partition::{Param, ParamValue, PartitionTable, Role, StageId, StageTensors};
use crate::tensor::{HostTensor, Pool};

/// Units that wait between two threads; the budget bounds them first.
const QUEUE: usize = 64;

/// Threads that read. They wait for the disk most of the time, so they are not those that merge.
const READERS: usize = 4;

/// A form of output: which files there are, and which parts of which files a parameter becomes.
pub(super) trait Target: Sync {
    /// The files, in the order in which their tensors come.
    fn files(&self) -> &[FilePlan];

    /// The tensors that a parameter becomes, each with the number of its file.
    fn tensors(&self, param: &PlannedParam, value: &ShardedTensor) -> Result<Vec<Output>, ExportError>;

    fn bytes(&self) -> u64;

    /// What a reader of the files must know, a sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Opens the written directory again, and compares it with what was planned. Reads no weights.
    fn check_written(&self, folder: &Path) -> Result<(), ExportError>;

    /// The small files beside the weights: path below the directory, and text.
    fn texts(&self) -> &[(PathBuf, String)];
}

/// Supplies merged stages where a calibration makes them, in order.
pub type StageSupply<'a> =
    dyn FnMut(&StageTensors, &mut Exactness) -> Result<StageTensors, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// Digests of the files of a merge.
pub(super) struct Written {
    pub inputs: Vec<FileDigest>,
    pub outputs: Vec<FileDigest>,
    pub exactness: Exactness,
}

struct ReadUnit<'a> {
    unit: &'a Unit,
    value: ReadValue,
    permit: Permit<'a>,
}

enum ReadValue {
    /// A stage with the unit's parameters only.
    Stage(StageTensors),
    /// The shards or replicas of its one parameter.
    Shards(Vec<HostTensor>),
}

/// A planned merge and the form and folder of its files.
#[derive(Clone, Copy)]
pub(super) struct Pipeline<'a> {
    pub source: &'a dyn ModelSource,
    pub plan: &'a Plan,
    pub strategy: &'a Strategy,
    pub target: &'a dyn Target,
    pub folder: &'a Path,
}

impl<'a> Pipeline<'a> {
    /// Writes the files, with at most `budget` bytes of tensors in memory.
    pub(super) fn run(
        self,
        budget: u64,
        supply: Option<&mut StageSupply<'_>>,
        progress: &dyn Progress,
    ) -> Result<Written, ExportError> {
        let readers = ThreadPoolBuilder::new().num_threads(READERS).build().map_err(|_| ExportError::ThreadLost)?;
        let budget = Budget::new(budget);
        // Judged beforehand; merging adds how far it changed weights.
        let mut exactness = self.plan.exactness.clone();
        progress.start(self.plan.units.iter().map(|unit| unit.bytes).sum());
        let (outputs, inputs) = thread::scope(|scope| {
            let (units, to_merge) = sync_channel(QUEUE);
            let (batches, to_write) = sync_channel(QUEUE);
            let reading = scope.spawn(|| readers.install(|| self.read_units(&budget, units)));
            let writing = scope.spawn(|| {
                let written = write_files(self.target.files(), self.folder, to_write, progress);
                if written.is_err() {
                    budget.close();
                }
                written
            });
            let merged = self.merge_units(&to_merge, &batches, supply, &mut exactness);
            if merged.is_err() {
                budget.close();
            }
            drop((batches, to_merge));
            let written = writing.join().map_err(|_| ExportError::ThreadLost).flatten();
            let read = reading.join().map_err(|_| ExportError::ThreadLost).flatten();
            // A merger that finds the writer gone has no error of its own to report.
            match (merged, written) {
                (Err(error), _) | (Ok(()), Err(error)) => Err(error),
                (Ok(()), Ok(outputs)) => Ok((outputs, read?)),
            }
        })?;
        // The files that were read and hashed must be one checkpoint.
        self.source.stage_ids().into_iter().try_for_each(|id| self.source.check_unchanged(id))?;
        Ok(Written { inputs, outputs, exactness })
    }

    /// Reads units in order, as far ahead as the budget allows, and in the end what is left of the files. Returns the
    /// digests of the files, or none if the merger is gone.
    fn read_units(
        self,
        budget: &'a Budget,
        units: SyncSender<Result<ReadUnit<'a>, CheckpointError>>,
    ) -> Result<Vec<FileDigest>, ExportError> {
        let files = self.source.weight_files();
        let digests = Arc::new(ReadDigests::new(&files));
        let reading = Reading { pool: Some(Arc::<Pool>::default()), digests: Some(digests.clone()) };
        let mut open: Option<(StageId, Box<dyn StageReader + '_>)> = None;
        for unit in &self.plan.units {
            let Some(permit) = budget.take(unit.bytes) else { return Ok(Vec::new()) };
            let already = open.take().filter(|(id, _)| *id == unit.stage);
            let read = if let Some((_, reader)) = already {
                Ok(reader)
            } else {
                let roles: Vec<_> = self.source.stage_entries(unit.stage).into_iter().map(|(role, _)| role).collect();
                self.source.open_stage(unit.stage, &roles, &reading)
            };
            let read = read.and_then(|reader| {
                let value = self.read_unit(&*reader, unit)?;
                open = Some((unit.stage, reader));
                Ok(ReadUnit { unit, value, permit })
            });
            let failed = read.is_err();
            if units.send(read).is_err() || failed {
                return Ok(Vec::new());
            }
        }
        drop(units);
        let digests = files.par_iter().map(|path| digests.finish(path));
        digests.collect::<Result<_, _>>().map_err(|source| ExportError::Read { source })
    }

    fn read_unit(self, reader: &dyn StageReader, unit: &Unit) -> Result<ReadValue, CheckpointError> {
        let params = &self.plan.params[unit.params.clone()];
        if let (Work::Join | Work::FirstRank, [param]) = (unit.work, params) {
            return Ok(ReadValue::Shards(reader.read_shards(param.role)?));
        }
        let mut roles: Vec<Role> = params.iter().map(|param| param.role).collect();
        // A calibration runs the unmerged model, which has a head even where the written one shares it.
        if unit.work == Work::Supplied && unit.stage == StageId::Output && !roles.contains(&Role::HeadWeight) {
            roles.push(Role::HeadWeight);
        }
        let read = roles.par_iter().map(|&role| Ok((role, reader.read(role)?)));
        let params = read.collect::<Result<_, CheckpointError>>()?;
        Ok(ReadValue::Stage(StageTensors { id: unit.stage, tp_size: self.source.tp_size(), params }))
    }

    /// Merges units and passes them on to the writer. Ends early, without an error, if the writer is gone.
    fn merge_units<'b>(
        self,
        units: &Receiver<Result<ReadUnit<'b>, CheckpointError>>,
        batches: &SyncSender<Batch<'b>>,
        mut supply: Option<&mut StageSupply<'_>>,
        exactness: &mut Exactness,
    ) -> Result<(), ExportError> {
        for read in units {
            let ReadUnit { unit, value, permit } = read?;
            let params = &self.plan.params[unit.params.clone()];
            let outputs = match (unit.work, value) {
                (Work::Join, ReadValue::Shards(shards)) => self.join(&params[0], &shards)?,
                (_, ReadValue::Shards(shards)) => {
                    let Some(first) = shards.first() else { continue };
                    self.output(&params[0], ShardedTensor::whole(cast(&params[0], first)?))?
                }
                (Work::Supplied, ReadValue::Stage(stage)) => {
                    let Some(supply) = supply.as_mut() else { return Err(ExportError::ThreadLost) };
                    let merged = supply(&stage, exactness)
                        .map_err(|source| ExportError::Calibration { stage: unit.stage, source })?;
                    self.outputs(params, &merged)?
                }
                (_, ReadValue::Stage(mut stage)) => {
                    for param in params {
                        if let Some(read) = stage.params.get_mut(&param.role) {
                            widen(param, read)?;
                        }
                    }
                    let architecture = self.source.architecture();
                    let merged = StageMerger::new(&stage, architecture).merge(self.strategy, exactness)?;
                    drop(stage);
                    self.outputs(params, &merged)?
                }
            };
            if batches.send(Batch { outputs, bytes: unit.bytes, permit }).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn join(self, param: &PlannedParam, shards: &[HostTensor]) -> Result<Vec<Output>, ExportError> {
        let shards = shards.iter().map(|shard| cast(param, shard)).collect::<Result<Vec<_>, ExportError>>()?;
        let partition = PartitionTable::new(self.source.architecture()).partition(param.role);
        let partition = partition.ok_or(ExportError::ThreadLost)?;
        let joined = ShardedTensor::of_shards(&partition, &shards)
            .map_err(|source| ExportError::Partition { name: param.name.clone(), source })?;
        self.output(param, joined)
    }

    fn outputs(self, params: &[PlannedParam], merged: &StageTensors) -> Result<Vec<Output>, ExportError> {
        let mut outputs = Vec::new();
        for param in params {
            let tensor = merged.get(param.role).and_then(|merged| merged.value.tensors().first());
            let Some(tensor) = tensor else { continue };
            outputs.extend(self.output(param, ShardedTensor::whole(cast(param, tensor)?))?);
        }
        Ok(outputs)
    }

    fn output(self, param: &PlannedParam, mut value: ShardedTensor) -> Result<Vec<Output>, ExportError> {
        if value.shape().first() != param.shape.first() {
            value = value
                .with_rows(param.shape.first().copied().unwrap_or(0))
                .map_err(|source| ExportError::Tensor { name: param.name.clone(), source })?;
        }
        self.target.tensors(param, &value)
    }
}

/// Converts a parameter to the type that it is merged in.
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
