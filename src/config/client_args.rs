//! The arguments that gpt-neox stores in a checkpoint, and their comparison with the configuration.

use serde::Deserialize;

use super::error::ConfigError;
use super::neox::NeoxConfig;
use super::quirk_setting::QuirkSetting;

/// The entry `args` of `mp_rank_*_model_states.pt`: the settings gpt-neox compares when it loads a checkpoint
/// (`megatron/checkpointing.py`, `check_checkpoint_args`), and what `kintsugi merge` states beside them. `None` where the file
/// has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClientArgs {
    pub num_layers: Option<usize>,
    pub hidden_size: Option<usize>,
    pub num_attention_heads: Option<usize>,
    pub max_position_embeddings: Option<usize>,
    /// The vocabulary was padded to a multiple of this times the number of tensor-parallel ranks.
    pub make_vocab_size_divisible_by: Option<usize>,
    /// Rows of the embedding over all ranks, padding included.
    pub padded_vocab_size: Option<usize>,
    pub tokenizer_type: Option<String>,
    pub model_parallel_size: Option<usize>,
    /// Beside gpt-neox's `args`, in files of `kintsugi merge`: what the source was taken for.
    #[serde(skip)]
    pub quirks: Vec<QuirkSetting>,
}

impl NeoxConfig {
    /// Compares this configuration with the arguments stored in a checkpoint, where both have a value.
    pub fn check_against(&self, args: &ClientArgs) -> Result<(), ConfigError> {
        let sizes = [
            ("num_layers", Some(self.num_layers), args.num_layers),
            ("hidden_size", Some(self.hidden_size), args.hidden_size),
            ("num_attention_heads", Some(self.num_attention_heads), args.num_attention_heads),
            ("max_position_embeddings", Some(self.max_position_embeddings), args.max_position_embeddings),
            (
                "make_vocab_size_divisible_by",
                Some(self.make_vocab_size_divisible_by),
                args.make_vocab_size_divisible_by,
            ),
            ("padded_vocab_size", self.padded_vocab_size, args.padded_vocab_size),
            ("model_parallel_size", self.model_parallel_size, args.model_parallel_size),
        ];
        let sizes = sizes.map(|(key, config, checkpoint)| {
            (key, config.map(|size| size.to_string()), checkpoint.map(|size| size.to_string()))
        });
        let tokenizer = ("tokenizer_type", self.tokenizer_type.clone(), args.tokenizer_type.clone());
        for (key, config, checkpoint) in sizes.into_iter().chain([tokenizer]) {
            if let (Some(config), Some(checkpoint)) = (config, checkpoint)
                && config != checkpoint
            {
                let file = self.sources.describe(key);
                return Err(ConfigError::CheckpointMismatch { key: key.to_owned(), config, checkpoint, file });
            }
        }
        Ok(())
    }

    /// Rows of the embedding over all ranks, padding included: from the configuration, else from the checkpoint.
    pub fn padded_vocab_size(&self, args: Option<&ClientArgs>) -> Option<usize> {
        self.padded_vocab_size.or_else(|| args.and_then(|args| args.padded_vocab_size))
    }
}
