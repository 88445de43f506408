//! Linear layers over tensor-parallel ranks, and the all-reduce between them: a sum in rank order. After gpt-neox
//! `megatron/mpu/layers.py`, `ColumnParallelLinear` and `RowParallelLinear`.

use tch::Tensor;

use super::products::LinearWeight;
use super::{ModelError, Uploader};
use crate::config::Architecture;
use crate::partition::{Role, StageTensors};

/// `y_r = x_r W_rᵀ + b_r`: each rank computes some of the outputs.
#[derive(Debug)]
pub(super) struct ColumnParallelLinear {
    ranks: Vec<Vec<(LinearWeight, Option<Tensor>)>>,
}

impl ColumnParallelLinear {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
        weight: Role,
        bias: Role,
    ) -> Result<Self, ModelError> {
        let weights = uploader.linear(stage, architecture, weight)?;
        let biases = uploader.per_rank_optional(stage, architecture, bias)?;
        let ranks = weights.into_iter().zip(biases).map(|(weights, biases)| {
            let mut biases = biases.into_iter();
            weights.into_iter().map(|weight| (weight, biases.next())).collect()
        });
        Ok(Self { ranks: ranks.collect() })
    }

    /// One tensor `[rows, outputs / ranks]` for each block of the rank's outputs.
    pub(super) fn forward(&self, tp_rank: usize, x: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        self.ranks[tp_rank].iter().map(|(weight, bias)| weight.product(x, bias.as_ref())).collect()
    }
}

/// `y = Σ_r x_r W_rᵀ`: each rank holds some of the inputs and computes a partial sum. Its bias is not partitioned;
/// where it is added is the transformer layer's business.
#[derive(Debug)]
pub(super) struct RowParallelLinear {
    weights: Vec<LinearWeight>,
    /// `[hidden]`, one per rank.
    pub(super) biases: Vec<Option<Tensor>>,
    pub(super) biases_agree: bool,
}

impl RowParallelLinear {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
        weight: Role,
        bias: Role,
    ) -> Result<Self, ModelError> {
        let weights = uploader.linear(stage, architecture, weight)?;
        let biases = uploader.per_rank_optional(stage, architecture, bias)?;
        Ok(Self {
            weights: weights.into_iter().flatten().collect(),
            biases: biases.into_iter().map(|parts| parts.into_iter().next()).collect(),
            biases_agree: stage.ranks_agree(bias),
        })
    }

    /// Adds the rank's partial sum `[rows, hidden]` to what the ranks before it have reduced; `bias` is where the sum
    /// starts. The matrix product adds as it goes, so no pass over memory is spent on the all-reduce.
    pub(super) fn reduce_into(
        &self,
        total: Option<Tensor>,
        tp_rank: usize,
        x: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        let weight = &self.weights[tp_rank];
        match total {
            None => weight.product(x, bias),
            Some(total) => weight.add_product(total, x),
        }
    }
}
