//! The first stage: word embedding, learned and sinusoidal positions. After gpt-neox `megatron/model/word_embeddings.py`.

use tch::Tensor;

use super::backend::kind_of;
use super::extent::to_i64;
use super::rotary::sinusoidal;
use super::streams::of_rank;
use super::weights::Owners;
use super::{Chunk, ModelError, Streams, Uploader};
use crate::config::{Architecture, Multipliers, Positions};
use crate::partition::{ParamValue, Role, StageTensors};

#[derive(Debug)]
pub struct EmbeddingStage {
    words: Tensor,
    // One replica a rank; one for all where they agree; empty without positions that are added.
    positions: Vec<Tensor>,
    position_offset: i64,
    // Likewise the trained prompt, which precedes every passage.
    prompts: Vec<Tensor>,
    prompt_length: i64,
    multipliers: Multipliers,
    backend: super::Backend,
    _owners: Owners,
}

impl EmbeddingStage {
    pub fn new(stage: &StageTensors, architecture: &Architecture, uploader: &mut Uploader) -> Result<Self, ModelError> {
        let role = Role::WordEmbedding;
        let Some(ParamValue::Joined(words)) = stage.get(role).map(|param| &param.value) else {
            return Err(ModelError::MissingParameter { stage: stage.id, role });
        };
        let (positions, position_offset) = match architecture.positions {
            Positions::Learned { offset } => {
                (replicas(stage, architecture, uploader, Role::PositionEmbedding)?, to_i64(offset))
            }
            Positions::Sinusoidal => {
                let longest = to_i64(architecture.max_position_embeddings);
                (vec![sinusoidal(architecture, uploader.backend, longest)?], 0)
            }
            _ => (Vec::new(), 0),
        };
        let prompt_length = to_i64(architecture.soft_prompt_length);
        let prompts =
            if prompt_length > 0 { replicas(stage, architecture, uploader, Role::SoftPrompt)? } else { Vec::new() };
        Ok(Self {
            words: uploader.upload_as(words, kind_of(words.dtype()))?,
            positions,
            position_offset,
            prompts,
            prompt_length,
            multipliers: architecture.multipliers,
            backend: uploader.backend,
            _owners: uploader.owners(),
        })
    }

    /// How many streams [`Self::forward`] returns.
    pub fn stream_count(&self) -> usize {
        self.positions.len().max(self.prompts.len()).max(1)
    }

    /// Width of the streams.
    pub fn hidden_size(&self) -> usize {
        self.words.size().last().map_or(0, |&width| usize::try_from(width).unwrap_or(0))
    }

    /// The streams `[packed rows, hidden]` of the token ids `[packed rows]`. `chunk` spans all rows. Ids after the
    /// vocabulary are the rows of the trained prompt, which have no positions added and no multiplier (gpt-neox's
    /// `SoftEmbedding` puts them before what the embedding gives).
    ///
    /// The ranks' vocabularies do not overlap, so the all-reduce adds one row and zeros: looking the row up in the
    /// joined table is the same to the last bit.
    pub fn forward(&self, input_ids: &Tensor, chunk: &Chunk) -> Result<Streams, ModelError> {
        let vocabulary = self.words.size()[0];
        let word_ids =
            if self.prompts.is_empty() { input_ids.shallow_clone() } else { input_ids.f_clamp_max(vocabulary - 1)? };
        let words = self.words.f_index_select(0, &word_ids)?.f_to_kind(self.backend.kind)?;
        let embedded = if self.positions.is_empty() {
            vec![times(words, self.multipliers.embedding)?]
        } else {
            let rows = chunk.positions.f_sub_scalar(self.prompt_length)?.f_clamp_min(0)?;
            let rows = rows.f_add_scalar(self.position_offset)?;
            let with_positions = self.positions.iter().map(|table| {
                let positions = times(table.f_index_select(0, &rows)?, self.multipliers.positions)?;
                times(words.f_add(&positions)?, self.multipliers.embedding)
            });
            with_positions.collect::<Result<_, ModelError>>()?
        };
        if self.prompts.is_empty() {
            return Ok(Streams::new(embedded));
        }
        let is_prompt = input_ids.f_ge(vocabulary)?.f_unsqueeze(1)?;
        let prompt_rows = input_ids.f_sub_scalar(vocabulary)?.f_clamp_min(0)?;
        let streams = (0..self.prompts.len().max(embedded.len())).map(|tp_rank| {
            let prompt = of_rank(&self.prompts, tp_rank).f_index_select(0, &prompt_rows)?;
            Ok(prompt.f_where_self(&is_prompt, of_rank(&embedded, tp_rank))?)
        });
        Ok(Streams::new(streams.collect::<Result<_, ModelError>>()?))
    }
}

/// One tensor a rank; one for all where they agree.
fn replicas(
    stage: &StageTensors,
    architecture: &Architecture,
    uploader: &mut Uploader,
    role: Role,
) -> Result<Vec<Tensor>, ModelError> {
    let mut replicas: Vec<_> = uploader.per_rank(stage, architecture, role)?.into_iter().flatten().collect();
    if stage.ranks_agree(role) {
        replicas.truncate(1);
    }
    Ok(replicas)
}

/// The tensor times a factor, which is 1 in most models.
fn times(tensor: Tensor, factor: f64) -> Result<Tensor, ModelError> {
    if factor.total_cmp(&1.0).is_eq() { Ok(tensor) } else { Ok(tensor.f_mul_scalar(factor)?) }
}
