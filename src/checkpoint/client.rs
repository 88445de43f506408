//! The client state beside the weights, in `mp_rank_00_model_states.pt`: used for cross-checks and for the report.

use std::path::PathBuf;

use pytorch_reader::{PickleValue, PytorchError};

use super::error::CheckpointError;
use super::layout::{Layout, StepFiles};
use super::torch_file::{TorchFile, read_value};
use crate::config::{ClientArgs, QuirkSetting};

pub(super) const VALIDATION_LOGITS: &str = "checkpoint_validation_logits";

/// Beside `args`, whose entries gpt-neox takes for settings of its own: what `kintsugi merge` took the source for, as
/// `NAME=VALUE` with spaces between.
pub(crate) const QUIRKS: &str = "kintsugi_quirks";

/// The client state, as far as it is used (gpt-neox `megatron/checkpointing.py`, `save_ds_checkpoint`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientState {
    pub args: ClientArgs,
    pub iteration: Option<u64>,
    /// The files that hold `checkpoint_validation_logits`, rank by rank; empty unless every rank's does.
    pub(super) validation_files: Vec<PathBuf>,
    /// What could not be read, and why.
    pub(super) unread: Option<String>,
}

impl ClientState {
    /// Reads the first `mp_rank_*` file, if there is one. Where the weights are in layer files, objects in it that are not
    /// understood do no harm.
    pub(super) fn read(files: &StepFiles) -> Result<Self, CheckpointError> {
        match Self::read_all(files) {
            Err(CheckpointError::Damaged { path, source: PytorchError::Pickle(source) })
                if files.layout == Layout::LayerFiles =>
            {
                let unread = format!("{}: the client state was not read or compared: {source}", path.display());
                Ok(Self { unread: Some(unread), ..Self::default() })
            }
            read => read,
        }
    }

    fn read_all(files: &StepFiles) -> Result<Self, CheckpointError> {
        let Some(path) = files.rank_files.values().next() else { return Ok(Self::default()) };
        let mut state = Self::default();
        for key in ["iteration", "total_iters"] {
            if let Some(PickleValue::Int(iteration)) = read_value(path, key)? {
                state.iteration = u64::try_from(iteration).ok();
                break;
            }
        }
        if let Some(PickleValue::Dict(args)) = read_value(path, "args")? {
            let size = |key: &str| match args.get(key) {
                Some(&PickleValue::Int(value)) => usize::try_from(value).ok(),
                _ => None,
            };
            state.args = ClientArgs {
                num_layers: size("num_layers"),
                hidden_size: size("hidden_size"),
                num_attention_heads: size("num_attention_heads"),
                max_position_embeddings: size("max_position_embeddings"),
                make_vocab_size_divisible_by: size("make_vocab_size_divisible_by"),
                padded_vocab_size: size("padded_vocab_size"),
                model_parallel_size: size("model_parallel_size"),
                tokenizer_type: match args.get("tokenizer_type") {
                    Some(PickleValue::String(name)) => Some(name.clone()),
                    _ => None,
                },
                quirks: Vec::new(),
            };
        }
        if let Some(stated) = read_value(path, QUIRKS)? {
            let (quirks, unknown) = match &stated {
                PickleValue::String(line) => QuirkSetting::of_line(line),
                _ => (Vec::new(), vec!["it is no text".to_owned()]),
            };
            state.args.quirks = quirks;
            if !unknown.is_empty() {
                let reasons = unknown.join("; ");
                state.unread = Some(format!("{}: `{QUIRKS}` was not read whole: {reasons}", path.display()));
            }
        }
        state.validation_files = validation_files(files)?;
        Ok(state)
    }
}

/// With pipelines, file `mp_rank_KK` has `KK = pipeline stage · ranks + rank`, and only the last stage's hold anything.
fn validation_files(files: &StepFiles) -> Result<Vec<PathBuf>, CheckpointError> {
    let paths: Vec<_> = files.rank_files.values().collect();
    let last_stage = paths.len().saturating_sub(files.tp_size());
    for path in &paths[last_stage..] {
        if !TorchFile::open(path)?.has(VALIDATION_LOGITS) {
            return Ok(Vec::new());
        }
    }
    Ok(paths[last_stage..].iter().map(|&path| path.clone()).collect())
}
