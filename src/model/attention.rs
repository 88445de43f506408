//! Causal attention over one rank's heads, on packed passages.

use tch::Tensor;

use super::extent::to_i64;
use super::norm::Norm;
use super::parallel::{ColumnParallelLinear, RowParallelLinear};
use super::scores::Scores;
use super::{Chunk, ModelError, RotaryTable, Uploader};
use crate::config::{Architecture, QkvLayout, QueryKeyNorm};
use crate::partition::{Role, StageTensors};

/// Self-attention without its output bias's addition.
#[derive(Debug)]
pub(super) struct Attention {
    qkv: ColumnParallelLinear,
    /// The output projection (`attention.dense`).
    pub(super) dense: RowParallelLinear,
    norms: Option<HeadNorms>,
    scores: Scores,
    layout: QkvLayout,
    heads: i64,
    kv_heads: i64,
    head_size: i64,
}

/// The norms of queries and keys.
#[derive(Debug)]
enum HeadNorms {
    OverHeads(Norm),
    PerHead { query: Norm, key: Norm },
}

impl HeadNorms {
    fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
    ) -> Result<Option<Self>, ModelError> {
        let mut norm = |gain, bias| Norm::new(stage, architecture, uploader, gain, bias);
        Ok(match architecture.query_key_norm {
            None => None,
            Some(QueryKeyNorm::OverHeads) => {
                Some(Self::OverHeads(norm(Role::QueryKeyNormGain, Role::QueryKeyNormBias)?))
            }
            Some(QueryKeyNorm::PerHead) => Some(Self::PerHead {
                query: norm(Role::QueryNormGain, Role::QueryNormBias)?,
                key: norm(Role::KeyNormGain, Role::KeyNormBias)?,
            }),
        })
    }
}

impl Attention {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
    ) -> Result<Self, ModelError> {
        let norms = HeadNorms::new(stage, architecture, uploader)?;
        Ok(Self {
            qkv: ColumnParallelLinear::new(stage, architecture, uploader, Role::QkvWeight, Role::QkvBias)?,
            dense: RowParallelLinear::new(
                stage,
                architecture,
                uploader,
                Role::AttentionOutputWeight,
                Role::AttentionOutputBias,
            )?,
            norms,
            scores: Scores::new(stage, architecture, uploader)?,
            layout: architecture.qkv,
            heads: to_i64(architecture.head_count / stage.tp_size),
            kv_heads: to_i64(architecture.kv_head_count / stage.tp_size),
            head_size: to_i64(architecture.head_size),
        })
    }

    /// The input of the rank's output projection, `[tokens, heads · head size]`.
    pub(super) fn forward(
        &self,
        tp_rank: usize,
        x: &Tensor,
        chunk: &Chunk,
        rotation: Option<&RotaryTable>,
    ) -> Result<Tensor, ModelError> {
        let parts = self.qkv.forward(tp_rank, x)?;
        let (mut query, mut key, value) = self.heads_of(&parts)?;
        match &self.norms {
            None => {}
            Some(HeadNorms::OverHeads(norm)) => {
                // The norm is made for as many heads as queries have.
                key = self.repeat(key)?;
                (query, key) = (norm.forward_heads(tp_rank, &query)?, norm.forward_heads(tp_rank, &key)?);
            }
            Some(HeadNorms::PerHead { query: of_query, key: of_key }) => {
                query = of_query.forward_each_head(tp_rank, &query)?;
                key = of_key.forward_each_head(tp_rank, &key)?;
            }
        }
        if let Some(rotation) = rotation {
            rotation.apply(&query)?;
            rotation.apply(&key)?;
        }
        let contexts = chunk
            .groups
            .iter()
            .map(|group| {
                // [passages, heads, length, head size]
                let of_group = |tensor: &Tensor, heads: i64| {
                    tensor
                        .f_narrow(0, group.start, group.passages * group.length)?
                        .f_view([group.passages, group.length, heads, self.head_size])?
                        .f_transpose(1, 2)
                };
                let key_heads = key.size()[1];
                let bias = self.scores.bias(tp_rank, group.length)?;
                let context = Tensor::f_scaled_dot_product_attention(
                    &of_group(&query, self.heads)?,
                    &self.repeat(of_group(&key, key_heads)?)?,
                    &self.repeat(of_group(&value, self.kv_heads)?)?,
                    bias.as_ref(),
                    0.0,
                    bias.is_none(),
                    self.scores.scale,
                    false,
                )?;
                let rows = group.passages * group.length;
                Ok(context.f_transpose(1, 2)?.f_reshape([rows, self.heads * self.head_size])?)
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(match contexts.as_slice() {
            [only] => only.shallow_clone(),
            many => Tensor::f_cat(many, 0)?,
        })
    }

    /// Queries, keys and values, each `[tokens, heads, head size]`, as views.
    fn heads_of(&self, parts: &[Tensor]) -> Result<(Tensor, Tensor, Tensor), ModelError> {
        let (heads, kv_heads, size) = (self.heads, self.kv_heads, self.head_size);
        if let (QkvLayout::Blocks, [query, key, value]) = (self.layout, parts) {
            return Ok((
                query.f_view([-1, heads, size])?,
                key.f_view([-1, kv_heads, size])?,
                value.f_view([-1, kv_heads, size])?,
            ));
        }
        if self.layout == QkvLayout::InterleavedGroups {
            // After every query head comes its part of the keys and of the values; the parts of all make the heads.
            let kv_size = size * kv_heads / heads;
            let joined = parts[0].f_view([-1, heads, size + 2 * kv_size])?;
            let gathered = |start: i64| joined.f_narrow(2, start, kv_size)?.f_reshape([-1, kv_heads, size]);
            return Ok((joined.f_narrow(2, 0, size)?, gathered(size)?, gathered(size + kv_size)?));
        }
        let joined = parts[0].f_view([-1, heads, 3, size])?;
        Ok((joined.f_select(2, 0)?, joined.f_select(2, 1)?, joined.f_select(2, 2)?))
    }

    /// Grouped queries: each key and value head, along dimension 1, serves `heads / kv_heads` consecutive query heads.
    fn repeat(&self, heads: Tensor) -> Result<Tensor, ModelError> {
        if heads.size()[1] == self.heads {
            return Ok(heads);
        }
        Ok(heads.f_repeat_interleave_self_int(self.heads / self.kv_heads, 1, None)?)
    }
}
