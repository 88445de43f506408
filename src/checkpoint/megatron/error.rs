//! Errors of Megatron-LM's checkpoints, with hints.

use std::path::PathBuf;

use crate::config::{ConfigError, Unsupported};
use crate::files;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum MegatronError {
    #[error("{path}: expected a number or `release`, found `{text}`", path = path.display())]
    Tracker { path: PathBuf, text: String },
    #[error("{path}: names step `{folder}`, which is not a folder beside it", path = path.display())]
    NoStep { path: PathBuf, folder: String },
    #[error("{folder}: no latest_checkpointed_iteration.txt that names one of {}", steps.join(", "), folder = folder.display())]
    NoTracker { folder: PathBuf, steps: Vec<String> },
    #[error("{path}: of the same rank as {name}", path = path.display())]
    SameRank { path: PathBuf, name: String },
    #[error("{path}: of another rank than 0 among the experts", path = path.display())]
    ExpertRanks { path: PathBuf },
    #[error("{path}: missing: args tell of {}", grid(*.expected), path = path.display())]
    MissingRank { path: PathBuf, expected: (usize, usize) },
    #[error("{folder}: args tell of {}, the files are of {}", grid(*.expected), grid(*.found), folder = folder.display())]
    Ranks { folder: PathBuf, expected: (usize, usize), found: (usize, usize) },
    #[error("{path}: holds no model: neither `model` nor `model0`", path = path.display())]
    NoModel { path: PathBuf },
    #[error("{path}: expected {expected} virtual pipeline stages (model0, model1, …), found {found}", path = path.display())]
    VirtualStages { path: PathBuf, expected: usize, found: usize },
    #[error("{path}: holds no args", path = path.display())]
    NoArgs { path: PathBuf },
    #[error("{source_name}: `{field}` is missing")]
    MissingField { source_name: String, field: &'static str },
    #[error("{source_name}: `{field}`: expected {expected}, found {found}")]
    Field { source_name: String, field: String, expected: String, found: String },
    #[error("{path}: `{field}` is {found} in its args, {expected} in those of {other}", path = path.display(), other = other.display())]
    ArgsDiffer { path: PathBuf, other: PathBuf, field: String, expected: String, found: String },
    #[error("{path}: checkpoint_version {found} is not known", path = path.display())]
    Version { path: PathBuf, found: String },
    #[error("{path}: rank {tp_rank}: unexpected tensor `{name}`", path = path.display())]
    UnknownName { path: PathBuf, tp_rank: usize, name: String },
    #[error("{path}: rank {tp_rank}: tensor `{name}`: the model has no such parameter by its args ({setting})", path = path.display())]
    NotInModel { path: PathBuf, tp_rank: usize, name: String, setting: &'static str },
    #[error("{path}: rank {tp_rank}: missing tensor: {wanted}", path = path.display())]
    Missing { path: PathBuf, tp_rank: usize, wanted: String },
    #[error("{path}: rank {tp_rank}: tensor `{name}` belongs to another pipeline stage", path = path.display())]
    Misplaced { path: PathBuf, tp_rank: usize, name: String },
    #[error("{folder}: expected {expected} layers (num_layers), found {found} in its {stages} pipeline stages", folder = folder.display())]
    LayerCount { folder: PathBuf, expected: usize, found: usize, stages: usize },
    #[error("{path}: its layers are not numbered from 0 without gaps: layer {missing} is missing", path = path.display())]
    LayerGap { path: PathBuf, missing: usize },
    #[error("{source_name}: {what} cannot be divided among {ranks} tensor-parallel ranks")]
    Indivisible { source_name: String, what: String, ranks: usize },
    #[error("{path}: this model is refused: {source}", path = path.display())]
    Unsupported { path: PathBuf, source: Unsupported },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn grid((tensor, pipeline): (usize, usize)) -> String {
    let count = |count: usize, what: &str| format!("{count} {what} rank{}", if count == 1 { "" } else { "s" });
    format!("{} by {}", count(tensor, "tensor-parallel"), count(pipeline, "pipeline"))
}

impl MegatronError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Tracker { .. } | Self::NoStep { .. } | Self::NoTracker { .. } => {
                "give the folder of a step itself: iter_NNNNNNN or release"
            }
            Self::SameRank { .. } | Self::VirtualStages { .. } | Self::Misplaced { .. } | Self::ArgsDiffer { .. } => {
                "files of several checkpoints seem to be mixed: copy the whole step folder again"
            }
            Self::ExpertRanks { .. } => "mixtures of experts are not read; evaluate it with Megatron-LM",
            Self::MissingRank { .. } | Self::LayerGap { .. } => {
                "copy the file from where the checkpoint was written; every rank's is needed"
            }
            Self::Ranks { .. } => {
                "args are those of the run that wrote the files: files of another run may lie beside them; \
                 --megatron-args FILE overrides fields of args"
            }
            Self::NoModel { .. } => "give a checkpoint of a GPT model as Megatron-LM's save_checkpoint writes it",
            Self::NoArgs { .. } | Self::MissingField { .. } => {
                "give the fields of Megatron-LM's arguments as JSON or YAML with --megatron-args FILE, for example \
                 `num_layers: 24`"
            }
            Self::Field { .. } => "--megatron-args FILE overrides fields of args",
            Self::Version { .. } => "versions 0 (none in the file), 1.0, 2.0 and 3.0 are read",
            Self::UnknownName { .. } => {
                "nothing is skipped, since any tensor may matter; was the file edited or written by another program?"
            }
            Self::NotInModel { .. } | Self::Missing { .. } | Self::LayerCount { .. } => {
                "are these the args that the model was trained with? --megatron-args FILE overrides fields of args"
            }
            Self::Indivisible { .. } => "args and files do not belong together",
            Self::Unsupported { source, .. } => &source.needed,
            Self::Config(error) => return error.hint(),
            Self::Io(error) => return files::hint(error),
        };
        Some(text.to_owned())
    }
}
