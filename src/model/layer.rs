//! One transformer layer over all ranks. After gpt-neox `megatron/model/transformer.py`, `ParallelTransformerLayer`.

use tch::Tensor;

use super::attention::Attention;
use super::mlp::Mlp;
use super::norm::{Norm, NormMeans};
use super::parallel::{RowParallelLinear, reduce_into};
use super::streams::of_rank;
use super::{Chunk, ModelError, RotaryTable, Streams, Uploader};
use crate::config::{Architecture, MlpInput, Residual};
use crate::partition::{Role, StageTensors};
use crate::tensor::HostTensor;

/// Means over tokens of what a layer's norms put out, rank by rank.
#[derive(Debug, Default)]
pub struct LayerMeans {
    /// Of the norm before the attention.
    pub input: NormMeans,
    /// Of the norm before the MLP; empty where it has none of its own.
    pub mlp: NormMeans,
}

/// A transformer layer.
#[derive(Debug)]
pub struct LayerStage {
    tp_size: usize,
    residual: Residual,
    mlp_input: MlpInput,
    // Computed and lost: not computed.
    attention_dropped: bool,
    input_norm: Norm,
    attention: Attention,
    // `None` where the MLP is fed by the attention's norm.
    mlp_norm: Option<Norm>,
    mlp: Mlp,
    // On the CPU weights may be views of these.
    _owners: Vec<HostTensor>,
}

impl LayerStage {
    /// From the tensors of a layer.
    ///
    /// # Errors
    /// The stage lacks a parameter, or libtorch fails.
    pub fn new(stage: &StageTensors, architecture: &Architecture, uploader: &mut Uploader) -> Result<Self, ModelError> {
        let mlp_norm = match architecture.mlp_input {
            MlpInput::AttentionNorm => None,
            MlpInput::OwnNorm | MlpInput::NormOfAttentionNorm => {
                Some(Norm::new(stage, architecture, uploader, Role::MlpNormGain, Role::MlpNormBias)?)
            }
        };
        Ok(Self {
            tp_size: stage.tp_size,
            residual: architecture.residual,
            mlp_input: architecture.mlp_input,
            attention_dropped: architecture.attention_dropped,
            input_norm: Norm::new(stage, architecture, uploader, Role::InputNormGain, Role::InputNormBias)?,
            attention: Attention::new(stage, architecture, uploader)?,
            mlp_norm,
            mlp: Mlp::new(stage, architecture, uploader)?,
            _owners: uploader.owners(),
        })
    }

    /// Whether the layer makes the ranks' streams differ: what each adds after the all-reduce is its own.
    #[must_use]
    pub fn forks_streams(&self) -> bool {
        self.residual != Residual::Parallel && !(self.attention.dense.biases_agree() && self.mlp.output.biases_agree())
    }

    /// Runs the chunk's rows of the streams through the layer, in place. `means` takes part in what the norms put out.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn forward(
        &self,
        streams: &mut Streams,
        chunk: &Chunk,
        rotary: Option<&RotaryTable>,
        mut means: Option<&mut LayerMeans>,
    ) -> Result<(), ModelError> {
        if self.forks_streams() {
            streams.fork(self.tp_size)?;
        }
        let mut rows = streams.rows(chunk)?;
        let rotation = rotary.map(|table| table.rows(chunk)).transpose()?;
        let normed = self.input_norm.forward(&rows)?;
        if let Some(means) = means.as_deref_mut() {
            means.input.add(&normed)?;
        }
        let attend =
            |tp_rank: usize| self.attention.forward(tp_rank, of_rank(&normed, tp_rank), chunk, rotation.as_ref());
        match self.residual {
            Residual::Parallel => {
                let own = self.own_mlp_input(&rows, &normed, means)?;
                let mlp_input = own.as_deref().unwrap_or(&normed);
                let mut total = None;
                for tp_rank in 0..self.tp_size {
                    // Each rank adds its biases to its partial sum, then the sums are reduced.
                    let mlp = self.mlp.forward(tp_rank, of_rank(mlp_input, tp_rank))?;
                    let mut branch = with_bias(mlp, self.mlp.output.bias(tp_rank))?;
                    if !self.attention_dropped {
                        let attended = with_bias(attend(tp_rank)?, self.attention.dense.bias(tp_rank))?;
                        branch = branch.f_add_(&attended)?;
                    }
                    total = Some(reduce_into(total, branch)?);
                }
                add_to_all(&mut rows, total)
            }
            Residual::ParallelReducedApart => {
                let own = self.own_mlp_input(&rows, &normed, means)?;
                let mlp_input = own.as_deref().unwrap_or(&normed);
                let attended = reduced(self.tp_size, attend)?;
                let mlp = reduced(self.tp_size, |tp_rank| self.mlp.forward(tp_rank, of_rank(mlp_input, tp_rank)))?;
                add_with_own_bias(&mut rows, attended, &self.attention.dense)?;
                add_with_own_bias(&mut rows, mlp, &self.mlp.output)
            }
            Residual::Sequential => {
                add_with_own_bias(&mut rows, reduced(self.tp_size, attend)?, &self.attention.dense)?;
                let own = self.own_mlp_input(&rows, &normed, means)?;
                let mlp_input = own.as_deref().unwrap_or(&normed);
                let mlp = reduced(self.tp_size, |tp_rank| self.mlp.forward(tp_rank, of_rank(mlp_input, tp_rank)))?;
                add_with_own_bias(&mut rows, mlp, &self.mlp.output)
            }
        }
    }

    /// What the MLP's own norm puts out; `None` where it has none and reads the attention's.
    fn own_mlp_input(
        &self,
        rows: &[Tensor],
        normed: &[Tensor],
        means: Option<&mut LayerMeans>,
    ) -> Result<Option<Vec<Tensor>>, ModelError> {
        let Some(norm) = &self.mlp_norm else { return Ok(None) };
        let own = norm.forward(if self.mlp_input == MlpInput::NormOfAttentionNorm { normed } else { rows })?;
        if let Some(means) = means {
            means.mlp.add(&own)?;
        }
        Ok(Some(own))
    }
}

/// The sum of the ranks' partial sums, in rank order.
fn reduced(
    tp_size: usize,
    partial_sum: impl Fn(usize) -> Result<Tensor, ModelError>,
) -> Result<Option<Tensor>, ModelError> {
    let mut total = None;
    for tp_rank in 0..tp_size {
        total = Some(reduce_into(total, partial_sum(tp_rank)?)?);
    }
    Ok(total)
}

fn with_bias(mut partial: Tensor, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
    match bias {
        Some(bias) => Ok(partial.f_add_(bias)?),
        None => Ok(partial),
    }
}

/// `x_s += total` for every stream.
fn add_to_all(rows: &mut [Tensor], total: Option<Tensor>) -> Result<(), ModelError> {
    if let Some(total) = total {
        for stream in rows {
            let _ = stream.f_add_(&total)?;
        }
    }
    Ok(())
}

/// `x_r += total + b_r`: after the all-reduce each rank adds its own replica of the bias to its own stream.
fn add_with_own_bias(rows: &mut [Tensor], total: Option<Tensor>, linear: &RowParallelLinear) -> Result<(), ModelError> {
    let Some(total) = total else { return Ok(()) };
    for (tp_rank, stream) in rows.iter_mut().enumerate() {
        let _ = match linear.bias(tp_rank) {
            Some(bias) => stream.f_add_(&total.f_add(bias)?)?,
            None => stream.f_add_(&total)?,
        };
    }
    Ok(())
}
