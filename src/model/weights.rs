//! Host tensors on the device. A tensor that several variants share is converted and copied once.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::backend::kind_of;
use super::extent::to_i64;
use super::feed::{Fed, Late, WeightBlock};
use super::products::{self, LinearWeight, Packed};
use super::{Backend, ModelError, each};
use crate::config::Architecture;
use crate::partition::{ParamValue, PartitionError, PartitionTable, Role, StageTensors, rank_ranges};
use crate::tensor::{HostTensor, Piece, concatenate};

/// Elements from which on it pays to divide a conversion among threads.
const CONVERTED_TOGETHER: usize = 1 << 20;

/// Puts the tensors of one stage on a device, each once.
#[derive(Debug)]
pub struct Uploader {
    pub(super) backend: Backend,
    done: HashMap<(u64, Kind), Uploaded>,
    block: Option<Arc<WeightBlock>>,
    late: Option<Late>,
    // Matrices in tiles; `None` of those that cannot be.
    packed: HashMap<u64, Option<Packed>>,
    /// Whether products with weights uploaded from now on are summed in another order than usual.
    pub other_order: bool,
}

/// A tensor on the device, and the host tensor whose memory it lies in, if it does.
#[derive(Debug)]
struct Uploaded {
    tensor: Tensor,
    owner: Option<HostTensor>,
}

impl Clone for Uploaded {
    fn clone(&self) -> Self {
        Self { tensor: self.tensor.shallow_clone(), owner: self.owner.clone() }
    }
}

impl Uploader {
    pub fn new(backend: Backend) -> Self {
        let (done, packed) = (HashMap::new(), HashMap::new());
        Self { backend, done, block: None, late: None, packed, other_order: false }
    }

    /// Starts with what was copied ahead.
    pub fn with(backend: Backend, fed: Fed) -> Result<Self, ModelError> {
        let mut uploader = Self::new(backend);
        for (host, address) in fed.tensors {
            let kind = kind_of(host.dtype());
            let tensor = over_memory(&host, address, backend.device)?;
            uploader.done.insert((host.storage_id(), kind), Uploaded { tensor, owner: None });
        }
        (uploader.block, uploader.late) = (fed.block, Some(fed.late));
        Ok(uploader)
    }

    /// Another on the same device, which need not copy what is there.
    pub fn sharing(&self, backend: Backend) -> Self {
        let done = if backend.device == self.backend.device { self.done.clone() } else { HashMap::new() };
        Self { done, block: self.block.clone(), late: self.late.clone(), ..Self::new(backend) }
    }

    /// What device tensors share memory with; it is kept as long as views of those are.
    pub(super) fn owners(&self) -> Owners {
        let hosts = self.done.values().filter_map(|uploaded| uploaded.owner.clone()).collect();
        Owners { _hosts: hosts, _block: self.block.clone() }
    }

    pub(super) fn upload_as(&mut self, host: &HostTensor, kind: Kind) -> Result<Tensor, ModelError> {
        let key = (host.storage_id(), kind);
        if let Some(Uploaded { tensor, .. }) = self.done.get(&key) {
            return Ok(tensor.shallow_clone());
        }
        let tensor = if self.backend.device == Device::Cpu {
            self.converted(&borrowed(host)?, kind)?
        } else if kind_of(host.dtype()) == kind {
            self.copied(host)?
        } else {
            // The bytes as they are stored, 16 bits of a number, are half of those that it is computed with.
            self.upload_as(host, kind_of(host.dtype()))?.f_to_kind(kind)?
        };
        let owner = (tensor.data_ptr().cast_const().cast() == host.bytes().as_ptr()).then(|| host.clone());
        self.done.insert(key, Uploaded { tensor: tensor.shallow_clone(), owner });
        Ok(tensor)
    }

    /// On a GPU.
    fn copied(&self, host: &HostTensor) -> Result<Tensor, ModelError> {
        let stored = borrowed(host)?;
        let Some(late) = &self.late else { return Ok(stored.f_to_device(self.backend.device)?) };
        let tensor = Tensor::f_empty(stored.size(), (stored.kind(), self.backend.device))?;
        late.fill(&tensor, host.bytes())?;
        Ok(tensor)
    }

    /// A CPU's threads convert large tensors together.
    fn converted(&self, stored: &Tensor, kind: Kind) -> Result<Tensor, ModelError> {
        if stored.kind() == kind || stored.numel() < CONVERTED_TOGETHER {
            return Ok(stored.f_to_device_(self.backend.device, kind, false, false)?);
        }
        let converted = Tensor::f_empty(stored.size(), (kind, self.backend.device))?;
        let (from, to) = (stored.f_view([-1])?, converted.f_view([-1])?);
        let count = to_i64(stored.numel());
        let block = to_i64(CONVERTED_TOGETHER / 4);
        let blocks = (0..count).step_by(CONVERTED_TOGETHER / 4).map(|start| {
            let length = block.min(count - start);
            Ok((from.f_narrow(0, start, length)?, to.f_narrow(0, start, length)?))
        });
        each(self.backend, blocks.collect::<Result<_, ModelError>>()?, |(from, mut to): (Tensor, Tensor)| {
            Ok(to.f_copy_(&from)?)
        })?;
        Ok(converted)
    }

    /// A role as each rank sees it: ranges of the joined tensor as views, or its own replica. Empty inner lists never
    /// occur; a partitioned role gives one tensor per block.
    pub(super) fn per_rank(
        &mut self,
        stage: &StageTensors,
        architecture: &Architecture,
        role: Role,
    ) -> Result<Vec<Vec<Tensor>>, ModelError> {
        self.per_rank_as(stage, architecture, role, self.backend.kind)
    }

    /// As [`Uploader::per_rank`], in another type than the compute type.
    pub(super) fn per_rank_as(
        &mut self,
        stage: &StageTensors,
        architecture: &Architecture,
        role: Role,
        kind: Kind,
    ) -> Result<Vec<Vec<Tensor>>, ModelError> {
        let param = stage.get(role).ok_or(ModelError::MissingParameter { stage: stage.id, role })?;
        match &param.value {
            ParamValue::Replicas(replicas) => {
                replicas.iter().map(|replica| Ok(vec![self.upload_as(replica, kind)?])).collect()
            }
            ParamValue::Joined(joined) => {
                let whole = self.upload_as(joined, kind)?;
                let partition = PartitionTable::new(architecture)
                    .partition(role)
                    .ok_or(ModelError::MissingParameter { stage: stage.id, role })?;
                let dim = to_i64(partition.dim);
                (0..stage.tp_size)
                    .map(|tp_rank| {
                        rank_ranges(&partition, stage.tp_size, tp_rank)?
                            .into_iter()
                            .map(|range| Ok(whole.f_narrow(dim, to_i64(range.start), to_i64(range.len()))?))
                            .collect()
                    })
                    .collect()
            }
        }
    }

    /// A linear layer's matrix as each rank sees it, as [`Uploader::per_rank`], ready to be multiplied with.
    pub(super) fn linear(
        &mut self,
        stage: &StageTensors,
        architecture: &Architecture,
        role: Role,
    ) -> Result<Vec<Vec<LinearWeight>>, ModelError> {
        if products::usable(self.backend)
            && let Some(ranks) = self.packed_per_rank(stage, architecture, role)?
        {
            return Ok(ranks);
        }
        let other_order = self.other_order;
        let plain = |ranges: Vec<Tensor>| {
            ranges.into_iter().map(|range| LinearWeight::plain(range, other_order)).collect::<Result<_, _>>()
        };
        self.per_rank(stage, architecture, role)?.into_iter().map(plain).collect()
    }

    /// Every rank's ranges of a joined matrix in tiles; `None` if it is not joined or cannot be.
    fn packed_per_rank(
        &mut self,
        stage: &StageTensors,
        architecture: &Architecture,
        role: Role,
    ) -> Result<Option<Vec<Vec<LinearWeight>>>, ModelError> {
        let param = stage.get(role).ok_or(ModelError::MissingParameter { stage: stage.id, role })?;
        let (ParamValue::Joined(joined), Some(partition)) =
            (&param.value, PartitionTable::new(architecture).partition(role))
        else {
            return Ok(None);
        };
        let Some(whole) = self.packed(joined)? else { return Ok(None) };
        let mut ranks = Vec::with_capacity(stage.tp_size);
        for tp_rank in 0..stage.tp_size {
            let mut parts = Vec::new();
            for range in rank_ranges(&partition, stage.tp_size, tp_rank)? {
                let part = if let Some(part) = whole.narrow(partition.dim, range.clone()) {
                    Some(part)
                } else {
                    // Ranks that share a tile have their own.
                    let part = concatenate(partition.dim, &[Piece { tensor: joined, range }]);
                    Packed::new(self.backend, &part.map_err(PartitionError::from)?)?
                };
                let Some(part) = part else { return Ok(None) };
                let part = if self.other_order { part.in_other_order() } else { part };
                parts.push(LinearWeight::Packed(part));
            }
            ranks.push(parts);
        }
        Ok(Some(ranks))
    }

    /// The matrix in tiles; `None` if it cannot be.
    fn packed(&mut self, host: &HostTensor) -> Result<Option<Packed>, ModelError> {
        if let Some(packed) = self.packed.get(&host.storage_id()) {
            return Ok(packed.clone());
        }
        let packed = Packed::new(self.backend, host)?;
        self.packed.insert(host.storage_id(), packed.clone());
        Ok(packed)
    }

    /// As [`Uploader::per_rank`] for a role that a model may lack: no tensors for every rank then.
    pub(super) fn per_rank_optional(
        &mut self,
        stage: &StageTensors,
        architecture: &Architecture,
        role: Role,
    ) -> Result<Vec<Vec<Tensor>>, ModelError> {
        if stage.get(role).is_none() {
            return Ok((0..stage.tp_size).map(|_| Vec::new()).collect());
        }
        self.per_rank(stage, architecture, role)
    }
}

/// Keeps the memory that a stage's weights are in.
#[derive(Debug)]
pub(super) struct Owners {
    // On the CPU weights may be views of these.
    _hosts: Vec<HostTensor>,
    _block: Option<Arc<WeightBlock>>,
}

/// A libtorch tensor over the host tensor's own memory.
fn borrowed(host: &HostTensor) -> Result<Tensor, ModelError> {
    over_memory(host, host.bytes().as_ptr(), Device::Cpu)
}

/// A libtorch tensor of the host tensor's form over its bytes, which are at `address` in this device's memory.
#[expect(unsafe_code, reason = "copying every weight once more would cost a stage of memory")]
fn over_memory(host: &HostTensor, address: *const u8, device: Device) -> Result<Tensor, ModelError> {
    let shape: Vec<i64> = host.shape().iter().map(|&extent| to_i64(extent)).collect();
    let mut strides = vec![1_i64; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at];
    }
    // SAFETY: the bytes fill the shape (`HostTensor::new` checks it), are never written to (stages only read weights), and
    // outlive the tensor: `Uploader` keeps the host tensor of one on the CPU, unless it is only copied from, and the GPU's block,
    // and every stage that is built from views of either keeps `Uploader::owners`, and hands out no weight.
    let tensor = unsafe { Tensor::f_from_blob(address, &shape, &strides, kind_of(host.dtype()), device) };
    Ok(tensor?)
}
