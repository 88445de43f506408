//! Formats other than gpt-neox's.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherFormat {
    HuggingFace,
    /// `mp_rank_XX/model_optim_rng.pt` of Megatron-LM.
    Megatron,
    /// A distributed checkpoint of PyTorch, as Megatron-LM writes it since 2024.
    Distributed,
    Universal,
    Nemo,
    /// What `zero_to_fp32.py` writes, as several files or as safetensors.
    ZeroShards,
}

impl OtherFormat {
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::HuggingFace => "this is a Hugging Face directory, which `open_model` opens",
            Self::Megatron => "the step holds no mp_rank_XX/model_optim_rng.pt: copy the whole step folder again",
            Self::Distributed => {
                "of Megatron-LM's formats only `torch` (mp_rank_XX) is read; Megatron Bridge's convert_checkpoints.py export \
                 writes a Hugging Face directory"
            }
            Self::Universal => "give the checkpoint from which ds_to_universal.py made it",
            Self::Nemo => {
                "only checkpoints of gpt-neox and Hugging Face directories are read; NeMo's export writes the latter"
            }
            Self::ZeroShards => {
                "run zero_to_fp32.py with --max_shard_size 10000GB and without --safe_serialization, so that it writes one \
                 pytorch_model.bin"
            }
        }
    }
}

impl fmt::Display for OtherFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HuggingFace => "a Hugging Face directory",
            Self::Megatron => "a checkpoint of Megatron-LM",
            Self::Distributed => "a distributed checkpoint of PyTorch or Megatron-LM",
            Self::Universal => "a universal checkpoint of DeepSpeed",
            Self::Nemo => "a checkpoint of NeMo",
            Self::ZeroShards => "the output of zero_to_fp32.py in a form that is not read",
        })
    }
}
