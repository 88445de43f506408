//! The first stage: word embedding, learned and sinusoidal positions. After gpt-neox `megatron/model/word_embeddings.py`.

use tch::Tensor;

use super::rotary::sinusoidal;
use super::weights::to_i64;
use super::{Chunk, ModelError, Streams, Uploader};
use crate::config::{Architecture, Multipliers, Positions};
use crate::partition::{ParamValue, Role, StageTensors};
use crate::tensor::HostTensor;

/// Word embedding, learned and sinusoidal positions.
#[derive(Debug)]
pub struct EmbeddingStage {
    words: Tensor,
    // One replica a rank; one for all where they agree; empty without positions that are added.
    positions: Vec<Tensor>,
    position_offset: i64,
    multipliers: Multipliers,
    backend: super::Backend,
    // On the CPU weights may be views of these.
    _owners: Vec<HostTensor>,
}

impl EmbeddingStage {
    /// From the tensors of the embedding stage.
    ///
    /// # Errors
    /// The stage lacks a parameter, or libtorch fails.
    pub fn new(stage: &StageTensors, architecture: &Architecture, uploader: &mut Uploader) -> Result<Self, ModelError> {
        let role = Role::WordEmbedding;
        let Some(ParamValue::Joined(words)) = stage.get(role).map(|param| &param.value) else {
            return Err(ModelError::MissingParameter { stage: stage.id, role });
        };
        let (positions, position_offset) = match architecture.positions {
            Positions::Learned { offset } => {
                let mut tables: Vec<_> =
                    uploader.per_rank(stage, architecture, Role::PositionEmbedding)?.into_iter().flatten().collect();
                if stage.ranks_agree(Role::PositionEmbedding) {
                    tables.truncate(1);
                }
                (tables, to_i64(offset))
            }
            Positions::Sinusoidal => {
                let longest = to_i64(architecture.max_position_embeddings);
                (vec![sinusoidal(architecture, uploader.backend(), longest)?], 0)
            }
            _ => (Vec::new(), 0),
        };
        let (words, multipliers, backend) =
            (uploader.upload_stored(words)?, architecture.multipliers, uploader.backend());
        Ok(Self { words, positions, position_offset, multipliers, backend, _owners: uploader.owners() })
    }

    /// How many streams come out.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.positions.len().max(1)
    }

    /// The streams `[packed rows, hidden]` of the token ids `[packed rows]`. `chunk` spans all rows.
    ///
    /// The ranks' vocabularies do not overlap, so the all-reduce adds one row and zeros: looking the row up in the
    /// joined table is the same to the last bit.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn forward(&self, input_ids: &Tensor, chunk: &Chunk) -> Result<Streams, ModelError> {
        let words = self.words.f_index_select(0, input_ids)?.f_to_kind(self.backend.kind)?;
        if self.positions.is_empty() {
            return Ok(Streams::new(vec![times(words, self.multipliers.embedding)?]));
        }
        let rows = chunk.positions.f_add_scalar(self.position_offset)?;
        let streams = self
            .positions
            .iter()
            .map(|table| {
                let positions = times(table.f_index_select(0, &rows)?, self.multipliers.positions)?;
                times(words.f_add(&positions)?, self.multipliers.embedding)
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Streams::new(streams))
    }
}

/// The tensor times a factor, which is 1 in most models.
fn times(tensor: Tensor, factor: f64) -> Result<Tensor, ModelError> {
    if factor.total_cmp(&1.0).is_eq() { Ok(tensor) } else { Ok(tensor.f_mul_scalar(factor)?) }
}
