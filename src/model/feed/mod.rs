//! Weights for a GPU, copied while it computes the stage before. Where there is no GPU, or where what this needs is missing,
//! an [`Uploader`](super::Uploader) copies when it is asked for a tensor.

mod block;
mod calls;
mod copier;

use std::collections::BTreeSet;
use std::sync::Arc;

use tch::Device;

use self::block::Spare;
pub(super) use self::block::WeightBlock;
use self::calls::{COMPUTE, Calls, calls};
use self::copier::Copier;
use super::{Backend, ModelError};
use crate::tensor::HostTensor;

/// Where tensors begin: what kernels read in vectors, and libtorch's own alignment.
const ALIGNMENT: usize = 512;

/// Copies the stages of a run to a GPU.
#[derive(Debug)]
pub struct Feed {
    calls: &'static Calls,
    copier: Arc<Copier>,
    spare: Arc<Spare>,
    smallest: usize,
}

/// Tensors of a stage on a GPU, as they are stored.
#[derive(Debug)]
pub struct Fed {
    pub(super) block: Option<Arc<WeightBlock>>,
    /// Each with its first byte.
    pub(super) tensors: Vec<(HostTensor, *const u8)>,
    pub(super) late: Late,
}

/// Copies tensors that were not there in time, on the stream that libtorch computes on.
#[derive(Debug, Clone)]
pub(super) struct Late(Arc<Copier>);

// SAFETY: the addresses are of a GPU's memory, which this thread does not read.
#[expect(unsafe_code, reason = "raw pointers are not sent otherwise")]
unsafe impl Send for Fed {}

impl Feed {
    /// `stage_bytes` is about what the largest stage takes; larger ones are copied all the same. `None` where there is no GPU
    /// and where its runtime does not offer what is needed.
    pub fn new(backend: Backend, stage_bytes: u64) -> Option<Self> {
        let Device::Cuda(index) = backend.device else { return None };
        let calls = calls()?;
        let device = i32::try_from(index).ok()?;
        let copier = Copier::new(calls, device).inspect_err(|error| {
            tracing::warn!("weights are copied to {backend} without being pinned, which takes longer: {error}");
        });
        let spare = Arc::new(Spare::new(device));
        let smallest = usize::try_from(stage_bytes).unwrap_or(0);
        Some(Self { calls, copier: Arc::new(copier.ok()?), spare, smallest })
    }

    /// Copies the tensors, each once, and waits until they are there. Those for which there is no memory are left to the
    /// uploader, which takes it from libtorch.
    pub fn copy<'t>(&self, tensors: impl Iterator<Item = &'t HostTensor>) -> Result<Fed, ModelError> {
        let mut fed = Fed { block: None, tensors: Vec::new(), late: Late(Arc::clone(&self.copier)) };
        let mut seen = BTreeSet::new();
        let mut total = 0;
        let mut places = Vec::new();
        for tensor in tensors.filter(|tensor| seen.insert(tensor.storage_id())) {
            places.push((tensor, total));
            total += tensor.bytes().len().next_multiple_of(ALIGNMENT);
        }
        let Some(block) = self.spare.take(self.calls, total.max(self.smallest).max(1), self.copier.stream) else {
            return Ok(fed);
        };
        for (tensor, offset) in places {
            // Within the block, which has room for all.
            let to = block.address().wrapping_add(offset);
            #[expect(unsafe_code, reason = "memory of the GPU")]
            // SAFETY: this block alone has the memory, and nobody knows of it before the copies are made.
            unsafe {
                self.copier.copy(tensor.bytes(), to, self.copier.stream)?;
            }
            fed.tensors.push((tensor.clone(), to.cast_const()));
        }
        self.copier.finish()?;
        fed.block = Some(Arc::new(block));
        Ok(fed)
    }
}

impl Late {
    /// Fills a tensor of this GPU that was just made, before anything that is launched later reads it.
    pub(super) fn fill(&self, tensor: &tch::Tensor, bytes: &[u8]) -> Result<(), ModelError> {
        #[expect(unsafe_code, reason = "memory of the GPU")]
        // SAFETY: the tensor is contiguous and has as many bytes; copying, and whatever used its memory before, are on the
        // stream that libtorch computes on, so they follow each other.
        unsafe {
            self.0.copy(bytes, tensor.data_ptr().cast(), COMPUTE)
        }
    }
}
