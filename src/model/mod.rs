//! GPT-NeoX on libtorch, one stage at a time, over any number of in-process tensor-parallel ranks. A merged model is the
//! model with one rank: baseline and merges run the same code and differ in weights only. Passages lie one behind
//! another without padding; see [`Chunk`]. After gpt-neox `megatron/model/transformer.py` and `megatron/mpu/layers.py`.

mod attention;
mod backend;
mod embedding;
mod kernels;
mod layer;
mod mlp;
mod norm;
mod output;
mod parallel;
mod products;
mod rotary;
mod scores;
mod speed;
mod streams;
#[cfg(test)]
mod tests;
mod threads;
mod weights;

use tch::{TchError, Tensor};

pub use backend::{Backend, Compute, DeviceChoice, cuda_device_count, free_device_memory};
pub use embedding::EmbeddingStage;
pub use layer::{LayerMeans, LayerStage};
pub use norm::NormMeans;
pub use output::{DeviceScores, OutputStage, Reference, TargetScores};
pub use products::has_tiles;
pub use rotary::RotaryTable;
pub use speed::matrix_product_flops;
pub use streams::Streams;
pub use threads::{each, set_threads};
pub use weights::Uploader;

use crate::partition::{PartitionError, Role, StageId};

/// What can go wrong in the forward pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// libtorch's word.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] TchError),
    /// A stage lacks a parameter that the forward pass needs.
    #[error("{stage}: no {role:?}")]
    MissingParameter {
        /// The stage.
        stage: StageId,
        /// What it lacks.
        role: Role,
    },
    /// Sizes that do not divide among the ranks.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The device asked for is not there.
    #[error("device {device}: {reason}")]
    Device {
        /// What was asked for.
        device: String,
        /// Why it cannot be had.
        reason: String,
    },
}

impl ModelError {
    /// Whether a smaller chunk might do.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Torch(error) if error.to_string().contains("out of memory"))
    }

    /// What the user can do about it, where we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Device { reason, .. } if reason.contains("cannot be loaded") => Some(
                "this may be libtorch for CPUs: `make setup LIBTORCH_KIND=cuda` gets the other; --device cpu always works"
                    .to_owned(),
            ),
            Self::Device { .. } => Some("`kintsugi doctor` lists the devices; --device cpu always works".to_owned()),
            Self::Torch(_) if self.is_out_of_memory() => {
                Some("give a smaller --memory-budget or --chunk-tokens".to_owned())
            }
            _ => None,
        }
    }
}

/// libtorch appends a C++ stack trace; its first line says it all.
fn first_line(error: &TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Consecutive passages that go through a stage together.
#[derive(Debug)]
pub struct Chunk {
    /// Its first packed row.
    pub start: i64,
    /// Its packed rows.
    pub tokens: i64,
    /// Its passages by length, in order; together they cover the rows.
    pub groups: Vec<Group>,
    /// Each row's position in its passage, `[tokens]`, int64, on the device.
    pub positions: Tensor,
}

impl Chunk {
    /// Two chunks with half of the passages each, first and second; `None` where there is but one passage.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn halves(&self) -> Result<Option<[Self; 2]>, ModelError> {
        let passages: i64 = self.groups.iter().map(|group| group.passages).sum();
        if passages < 2 {
            return Ok(None);
        }
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let (mut wanted, mut rows) = (passages / 2, 0);
        for group in &self.groups {
            let taken = group.passages.min(wanted);
            wanted -= taken;
            if taken > 0 {
                first.push(Group { passages: taken, ..*group });
                rows += taken * group.length;
            }
            if taken < group.passages {
                let start = group.start + taken * group.length - rows;
                second.push(Group { start, passages: group.passages - taken, ..*group });
            }
        }
        let part = |start: i64, tokens: i64, groups| -> Result<Self, ModelError> {
            let positions = self.positions.f_narrow(0, start, tokens)?;
            Ok(Self { start: self.start + start, tokens, groups, positions })
        };
        Ok(Some([part(0, rows, first)?, part(rows, self.tokens - rows, second)?]))
    }

    /// The same chunk for another thread.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        let (groups, positions) = (self.groups.clone(), self.positions.shallow_clone());
        Self { start: self.start, tokens: self.tokens, groups, positions }
    }
}

/// Consecutive passages of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its first row, counted from the chunk's first.
    pub start: i64,
    /// How many passages.
    pub passages: i64,
    /// Tokens of each.
    pub length: i64,
}
