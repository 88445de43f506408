//! Errors of checkpoints, with hints.

use std::path::PathBuf;

use pytorch_reader::{PickleError, PytorchError};

use super::huggingface::HuggingFaceError;
use super::megatron::MegatronError;
use super::other_format::OtherFormat;
use crate::config::{ConfigError, Unsupported};
use crate::files;
use crate::partition::{PartitionError, StageKind};
use crate::tensor::{DType, TensorError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum CheckpointError {
    #[error("{path}: expected a checkpoint directory, found {found}", path = path.display())]
    NotADirectory { path: PathBuf, found: &'static str },
    #[error("{path}: names `{tag}`, which is not a folder beside it", path = path.display())]
    Latest { path: PathBuf, tag: String },
    #[error("{path}: not a gpt-neox checkpoint: {}", found_instead(*.other), path = path.display())]
    NotACheckpoint { path: PathBuf, other: Option<OtherFormat> },
    #[error("{folder}: {name} exists twice, with differently padded numbers", folder = folder.display())]
    DuplicateFile { folder: PathBuf, name: String },
    #[error("{path}: ZeRO-3 shards hold slices of flattened parameters, not tensors", path = path.display())]
    ZeroThree { path: PathBuf },
    #[error("{path}: missing: rank {tp_rank} of {tp_size}", path = path.display())]
    MissingRank { path: PathBuf, tp_rank: usize, tp_size: usize },
    #[error("{folder}: expected {expected} transformer layers, found {found}{}", missing_note(*.missing), folder = folder.display())]
    LayerCount { folder: PathBuf, expected: usize, found: usize, missing: Option<usize> },
    #[error("{folder}: expected one {stage}, found {found}", folder = folder.display())]
    StageCount { folder: PathBuf, stage: StageKind, found: usize },
    #[error("{path}: holds no parameter of a known stage; its names: {names}", path = path.display())]
    UnknownStage { path: PathBuf, names: String },
    #[error("{folder}: no configuration files under configs/", folder = folder.display())]
    NoConfig { folder: PathBuf },
    #[error("{folder}: model_parallel_size is {expected} in {source_name}, but the files hold {}", ranks(*.found), folder = folder.display())]
    TpSize { folder: PathBuf, source_name: String, expected: usize, found: usize },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("this model is refused: {0}")]
    Unsupported(#[from] Unsupported),
    #[error("{path}: unsupported torch.save file: {reason}", path = path.display())]
    Archive { path: PathBuf, reason: String },
    #[error("{path}: tensor `{name}` has {bytes} bytes, the whole file {file_bytes}", path = path.display())]
    LargerThanFile { path: PathBuf, name: String, bytes: u64, file_bytes: u64 },
    #[error("{path}: changed since it was opened: {what}", path = path.display())]
    Changed { path: PathBuf, what: String },
    #[error("{path}: cannot be read as a torch.save file: {source}", path = path.display())]
    Damaged { path: PathBuf, source: PytorchError },
    #[error("{path}: tensor `{name}`: {source}", path = path.display())]
    Unreadable { path: PathBuf, name: String, source: std::io::Error },
    #[error("{path}: tensor `{name}`: the bytes do not match the checksum in the file", path = path.display())]
    Checksum { path: PathBuf, name: String },
    #[error("{path}: tensor `{name}` has an element type that no model parameter has", path = path.display())]
    ElementType { path: PathBuf, name: String },
    #[error("{path}: tensor `{name}`: expected floating point, found {found}", path = path.display())]
    NotFloat { path: PathBuf, name: String, found: DType },
    #[error("{path}: rank {tp_rank}: {source}", path = path.display())]
    Name { path: PathBuf, tp_rank: usize, source: PartitionError },
    #[error("{path}: holds no model under `module`, and there are no layer_XX-model_YY-model_states.pt", path = path.display())]
    NoModel { path: PathBuf },
    #[error("{path}: rank {tp_rank}: `{name}` and `{other}` are the same parameter", path = path.display())]
    SameParameter { path: PathBuf, tp_rank: usize, name: String, other: String },
    #[error("{path}: rank {tp_rank}: missing tensor `{name}`", path = path.display())]
    MissingParameter { path: PathBuf, tp_rank: usize, name: String },
    #[error("{path}: missing tensor `{name}`", path = path.display())]
    MissingTensor { path: PathBuf, name: String },
    #[error("{path}: rank {tp_rank}: tensor `{name}`: expected shape {expected:?}, found {found:?}", path = path.display())]
    Shape { path: PathBuf, tp_rank: usize, name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{path}: rank {tp_rank}: tensor `{name}`: expected {expected} as on rank 0, found {found}", path = path.display())]
    DTypeAcrossRanks { path: PathBuf, tp_rank: usize, name: String, expected: DType, found: DType },
    #[error("{path}: rank {tp_rank}: tensor `{name}`: NaN or infinity at element {index}", path = path.display())]
    NonFinite { path: PathBuf, tp_rank: usize, name: String, index: usize },
    #[error(
        "{path}: rank {tp_rank}: tensor `{name}`: the table in the files {found}, that of the configuration has base {base}",
        path = path.display()
    )]
    PositionTable { path: PathBuf, tp_rank: usize, name: String, found: String, base: f64 },
    #[error("{folder}: the order of the layer files is not one of gpt-neox: {found}", folder = folder.display())]
    LayerNumbers { folder: PathBuf, found: String },
    #[error("{folder}: `{name}`: {source}", folder = folder.display())]
    Partition { folder: PathBuf, name: String, source: PartitionError },
    #[error("{path}: tensor `{name}`: {source}", path = path.display())]
    Tensor { path: PathBuf, name: String, source: TensorError },
    #[error(transparent)]
    HuggingFace(#[from] HuggingFaceError),
    #[error("{path}: is {found}; --neox-config, --era and --quirk apply to gpt-neox checkpoints only", path = path.display())]
    OptionsOfNeox { path: PathBuf, found: OtherFormat },
    #[error("{path}: --megatron-args applies to checkpoints of Megatron-LM only", path = path.display())]
    OptionsOfMegatron { path: PathBuf },
    #[error(transparent)]
    Megatron(#[from] MegatronError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn found_instead(other: Option<OtherFormat>) -> String {
    match other {
        None | Some(OtherFormat::HuggingFace) => {
            "no layer_XX-model_YY-model_states.pt and no mp_rank_XX_model_states.pt".to_owned()
        }
        Some(other) => format!("it is {other}"),
    }
}

fn ranks(count: usize) -> String {
    if count == 1 { "1 rank".to_owned() } else { format!("{count} ranks") }
}

fn missing_note(missing: Option<usize>) -> String {
    missing.map(|layer| format!("; no file holds layer index {layer}")).unwrap_or_default()
}

/// Whether an error is about a Python object that pytorch-reader does not accept, not about damage or a hostile file.
pub(super) fn is_unknown_object(error: &PickleError) -> bool {
    match error {
        PickleError::UnexpectedOpCode(_) | PickleError::UnsupportedOpCode(_) | PickleError::UnsupportedType(_) => true,
        // As in a dictionary by tuples.
        PickleError::InvalidData(message) => message.starts_with("dict key"),
        _ => false,
    }
}

impl CheckpointError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotACheckpoint { other: Some(other), .. } => other.hint(),
            Self::NotADirectory { found: "nothing", .. } => {
                "give the save directory (which holds `latest`) or a global_stepN directory; a model on the Hub is named \
                 OWNER/NAME"
            }
            Self::NotADirectory { .. } | Self::NotACheckpoint { .. } => {
                "give the save directory (which holds `latest`) or a global_stepN directory"
            }
            Self::Latest { .. } => "give the global_stepN directory itself",
            Self::ZeroThree { .. } => {
                "run DeepSpeed's `python zero_to_fp32.py SAVE OUT` and give OUT, with the configuration under OUT/configs or as \
                 --neox-config; it joins no tensor-parallel ranks, so this is for models on one rank"
            }
            Self::PositionTable { base, .. } => {
                return Some(format!(
                    "gpt-neox before 2024-03 computes with the table in the files, later versions with that of the \
                     configuration (base {base}): pass the configuration it was trained with as --neox-config FILE"
                ));
            }
            Self::LayerNumbers { .. } => {
                "were files renamed? gpt-neox numbers layers from 02 without gaps, then the final norm, then the head"
            }
            Self::Damaged { source: PytorchError::Pickle(source), .. } if is_unknown_object(source) => {
                "the file holds a Python object that is not understood; load it with torch and torch.save the tensors alone"
            }
            Self::MissingRank { .. } => {
                "copy the file from where the checkpoint was written; every rank's shard is needed"
            }
            Self::LayerCount { .. } => {
                "compare num_layers in the configuration with the layer_* files; files 01 and num_layers+2 never exist"
            }
            Self::NoConfig { .. } => "give the training configuration with --neox-config FILE (repeatable)",
            Self::TpSize { expected, found, .. } if found < expected => {
                "copy the other ranks' files from where the checkpoint was written; if there were never more, \
                 pass the configuration it was trained with as --neox-config FILE"
            }
            Self::Checksum { .. } => "the file was damaged after it was written; copy it again",
            Self::TpSize { .. }
            | Self::Shape { .. }
            | Self::MissingParameter { .. }
            | Self::Name { source: PartitionError::NotInModel { .. }, .. } => {
                "is this the configuration that the checkpoint was trained with? --neox-config FILE overrides it"
            }
            Self::Damaged { .. } | Self::Unreadable { .. } | Self::LargerThanFile { .. } => {
                "the file may be truncated: compare its size or checksum with the original"
            }
            Self::Archive { .. } => "copy the file again, or load it with torch and torch.save it again",
            Self::Changed { .. } => "run it again when nothing writes to the checkpoint any more",
            Self::Io(error) => return files::hint(error),
            Self::NonFinite { .. } => "training diverged or the file is damaged; earlier steps may be sound",
            Self::NoModel { .. } => "with pipelines the weights are in layer files: copy those too",
            Self::StageCount { found: 0, .. } => "copy the missing layer files from where the checkpoint was written",
            Self::StageCount { .. }
            | Self::DuplicateFile { .. }
            | Self::SameParameter { .. }
            | Self::DTypeAcrossRanks { .. }
            | Self::NotFloat { .. }
            | Self::ElementType { .. } => {
                "files of several checkpoints seem to be mixed: copy the whole step directory again"
            }
            Self::Name { source: PartitionError::UnknownName { .. }, .. } | Self::UnknownStage { .. } => {
                "nothing is skipped, since any tensor may matter; was the file edited or written by another program?"
            }
            Self::Unsupported(refusal) => &refusal.needed,
            Self::Name { source: PartitionError::Refused { needed, .. }, .. } => needed,
            Self::HuggingFace(error) => return error.hint(),
            Self::Megatron(error) => return error.hint(),
            Self::Config(error) => {
                return error.hint().or_else(|| Some("pass another configuration with --neox-config FILE".to_owned()));
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}
