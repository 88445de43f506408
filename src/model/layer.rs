//! One transformer layer over all ranks. After gpt-neox `megatron/model/transformer.py`, `ParallelTransformerLayer`.

use tch::{Kind, Tensor};

use super::attention::Attention;
use super::backend::wide;
use super::mlp::Mlp;
use super::norm::{Norm, NormMeans};
use super::parallel::RowParallelLinear;
use super::streams::of_rank;
use super::weights::Owners;
use super::{Chunk, ModelError, RotaryTable, Streams, Uploader};
use crate::config::{Architecture, MlpInput, Residual};
use crate::partition::{Role, StageTensors};

/// Means over tokens of the outputs of a layer's norms, rank by rank.
#[derive(Debug, Default)]
pub struct LayerMeans {
    pub input: NormMeans,
    /// Of the norm before the MLP; empty where it has none of its own.
    pub mlp: NormMeans,
}

impl LayerMeans {
    pub fn merge(&mut self, other: Self) -> Result<(), ModelError> {
        self.input.merge(other.input)?;
        self.mlp.merge(other.mlp)
    }
}

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
    // Where biases are added before the all-reduce.
    bias_sum: Option<Tensor>,
    _owners: Owners,
}

impl LayerStage {
    pub fn new(stage: &StageTensors, architecture: &Architecture, uploader: &mut Uploader) -> Result<Self, ModelError> {
        let mlp_norm = match architecture.mlp_input {
            MlpInput::AttentionNorm => None,
            MlpInput::OwnNorm | MlpInput::NormOfAttentionNorm => {
                Some(Norm::new(stage, architecture, uploader, Role::MlpNormGain, Role::MlpNormBias)?)
            }
        };
        let attention = Attention::new(stage, architecture, uploader)?;
        let mlp = Mlp::new(stage, architecture, uploader)?;
        // An attention that is lost takes its bias along.
        let linears: &[_] =
            if architecture.attention_dropped { &[&mlp.output] } else { &[&mlp.output, &attention.dense] };
        Ok(Self {
            tp_size: stage.tp_size,
            residual: architecture.residual,
            mlp_input: architecture.mlp_input,
            attention_dropped: architecture.attention_dropped,
            input_norm: Norm::new(stage, architecture, uploader, Role::InputNormGain, Role::InputNormBias)?,
            bias_sum: sum_of_biases(linears)?,
            attention,
            mlp_norm,
            mlp,
            _owners: uploader.owners(),
        })
    }

    /// Whether the layer makes the ranks' streams differ: what each adds after the all-reduce is its own.
    pub fn forks_streams(&self) -> bool {
        self.residual != Residual::Parallel && !(self.attention.dense.biases_agree && self.mlp.output.biases_agree)
    }

    /// How many streams there are after the layer, with this many before it.
    pub fn streams_after(&self, before: usize) -> usize {
        if self.forks_streams() { self.tp_size } else { before }
    }

    /// Runs the chunk's own rows of [`LayerStage::streams_after`] streams through the layer, in place. `means` receives the
    /// norms' outputs.
    pub fn forward(
        &self,
        rows: &mut Streams,
        chunk: &Chunk,
        rotary: Option<&RotaryTable>,
        mut means: Option<&mut LayerMeans>,
    ) -> Result<(), ModelError> {
        let normed = self.input_norm.forward(&rows.0)?;
        if let Some(means) = means.as_deref_mut() {
            means.input.add(&normed)?;
        }
        let contexts = self.contexts(&normed, chunk, rotary)?;
        self.after_attention(rows, &normed, &contexts, means)
    }

    /// The output at some of the chunk's rows only, `picked`, from the chunk's own rows of the streams. Keys and
    /// values are needed of all rows, everything after the attention of these alone.
    pub fn forward_at(
        &self,
        rows: &Streams,
        picked: &Tensor,
        chunk: &Chunk,
        rotary: Option<&RotaryTable>,
    ) -> Result<Streams, ModelError> {
        let pick = |all: Vec<Tensor>| -> Result<Vec<Tensor>, ModelError> {
            Ok(all.iter().map(|rows| rows.f_index_select(0, picked)).collect::<Result<_, _>>()?)
        };
        let normed = self.input_norm.forward(&rows.0)?;
        let contexts = pick(self.contexts(&normed, chunk, rotary)?)?;
        let mut rows = rows.select(picked)?;
        rows.fork(self.streams_after(rows.count()))?;
        self.after_attention(&mut rows, &pick(normed)?, &contexts, None)?;
        Ok(rows)
    }

    /// The input of every rank's output projection; empty where the attention is lost.
    fn contexts(
        &self,
        normed: &[Tensor],
        chunk: &Chunk,
        rotary: Option<&RotaryTable>,
    ) -> Result<Vec<Tensor>, ModelError> {
        if self.attention_dropped {
            return Ok(Vec::new());
        }
        let rotation = rotary.map(|table| table.rows(chunk)).transpose()?;
        (0..self.tp_size)
            .map(|tp_rank| self.attention.forward(tp_rank, of_rank(normed, tp_rank), chunk, rotation.as_ref()))
            .collect()
    }

    /// All that follows the attention, row by row.
    fn after_attention(
        &self,
        rows: &mut Streams,
        normed: &[Tensor],
        contexts: &[Tensor],
        means: Option<&mut LayerMeans>,
    ) -> Result<(), ModelError> {
        let (dense, output) = (&self.attention.dense, &self.mlp.output);
        let attended = |total, bias| reduced(total, contexts, dense, bias);
        let fed = |total, input: &[Tensor], bias| {
            let inner = (0..self.tp_size).map(|tp_rank| self.mlp.forward(tp_rank, of_rank(input, tp_rank)));
            inner.enumerate().try_fold(total, |total, (tp_rank, inner)| -> Result<_, ModelError> {
                Ok(Some(output.reduce_into(total, tp_rank, &inner?, bias)?))
            })
        };
        match self.residual {
            Residual::Parallel => {
                let own = self.own_mlp_input(rows, normed, means)?;
                let total = fed(None, own.as_deref().unwrap_or(normed), self.bias_sum.as_ref())?;
                add_to_all(rows, attended(total, None)?)
            }
            Residual::ParallelReducedApart => {
                let own = self.own_mlp_input(rows, normed, means)?;
                let mlp = fed(None, own.as_deref().unwrap_or(normed), None)?;
                add_with_own_bias(rows, attended(None, None)?, dense)?;
                add_with_own_bias(rows, mlp, output)
            }
            Residual::Sequential => {
                add_with_own_bias(rows, attended(None, None)?, dense)?;
                let own = self.own_mlp_input(rows, normed, means)?;
                add_with_own_bias(rows, fed(None, own.as_deref().unwrap_or(normed), None)?, output)
            }
        }
    }

    /// The output of the MLP's own norm; `None` where it has none and reads the attention's.
    fn own_mlp_input(
        &self,
        rows: &Streams,
        normed: &[Tensor],
        means: Option<&mut LayerMeans>,
    ) -> Result<Option<Vec<Tensor>>, ModelError> {
        let Some(norm) = &self.mlp_norm else { return Ok(None) };
        let own = norm.forward(if self.mlp_input == MlpInput::NormOfAttentionNorm { normed } else { &rows.0 })?;
        if let Some(means) = means {
            means.mlp.add(&own)?;
        }
        Ok(Some(own))
    }
}

/// Adds the ranks' partial sums, in rank order.
fn reduced(
    total: Option<Tensor>,
    inputs: &[Tensor],
    linear: &RowParallelLinear,
    bias: Option<&Tensor>,
) -> Result<Option<Tensor>, ModelError> {
    inputs
        .iter()
        .enumerate()
        .try_fold(total, |total, (tp_rank, input)| Ok(Some(linear.reduce_into(total, tp_rank, input, bias)?)))
}

/// Each rank adds its biases to its partial sums before they are reduced: their sum over ranks and branches, `[hidden]`.
/// Summed in at least float32 and rounded once.
fn sum_of_biases(linears: &[&RowParallelLinear]) -> Result<Option<Tensor>, ModelError> {
    let mut total: Option<Tensor> = None;
    let mut kind = Kind::Float;
    for bias in linears.iter().flat_map(|linear| linear.biases.iter().flatten()) {
        kind = bias.kind();
        let bias = bias.f_to_dtype(wide(kind), false, true)?;
        total = Some(match total {
            None => bias,
            Some(mut total) => total.f_add_(&bias)?,
        });
    }
    Ok(total.map(|total| total.f_to_kind(kind)).transpose()?)
}

/// `x_s += total` for every stream.
fn add_to_all(rows: &mut Streams, total: Option<Tensor>) -> Result<(), ModelError> {
    if let Some(total) = total {
        for stream in &mut rows.0 {
            let _ = stream.f_add_(&total)?;
        }
    }
    Ok(())
}

/// `x_r += total + b_r`: after the all-reduce each rank adds its own replica of the bias to its own stream.
fn add_with_own_bias(rows: &mut Streams, total: Option<Tensor>, linear: &RowParallelLinear) -> Result<(), ModelError> {
    let Some(total) = total else { return Ok(()) };
    for (tp_rank, stream) in rows.0.iter_mut().enumerate() {
        let _ = match &linear.biases[tp_rank] {
            Some(bias) => stream.f_add_(&total.f_add(bias)?)?,
            None => stream.f_add_(&total)?,
        };
    }
    Ok(())
}
