//! Errors of distributed checkpoints, with hints.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum DistributedError {
    #[error("{path}: sharded_backend is `{found}`: only torch_dist is read", path = path.display())]
    Backend { path: PathBuf, found: String },
    #[error("{folder}: a checkpoint in the format {found}, which is not read: only torch_dist is", folder = folder.display())]
    Format { folder: PathBuf, found: &'static str },
    #[error("{path}: missing: it says which file holds which tensor", path = path.display())]
    NotFinished { path: PathBuf },
    #[error("{path}: not the metadata of a distributed checkpoint: {reason}", path = path.display())]
    Metadata { path: PathBuf, reason: String },
    #[error("{path}: names the file `{name}`, which is not one in its folder", path = path.display())]
    FileName { path: PathBuf, name: String },
    #[error("{path}: missing: it holds a part of `{name}`", path = path.display())]
    MissingFile { path: PathBuf, name: String },
    #[error("{path}: holds no args; the model's settings are not in common.pt", path = path.display())]
    NoArgs { path: PathBuf },
    #[error("{path}: unexpected tensor `{name}`", path = path.display())]
    UnknownName { path: PathBuf, name: String },
    #[error("{path}: `{name}` and `{other}` are the same parameter", path = path.display())]
    SameParameter { path: PathBuf, name: String, other: String },
    #[error("{path}: tensor `{name}`: the model has no such parameter by its args ({setting})", path = path.display())]
    NotInModel { path: PathBuf, name: String, setting: &'static str },
    #[error("{path}: missing tensor: {wanted}", path = path.display())]
    Missing { path: PathBuf, wanted: String },
    #[error("{path}: tensor `{name}`: expected shape {expected:?}, found {found:?}", path = path.display())]
    Shape { path: PathBuf, name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{path}: tensor `{name}`: expected {expected}, found {found}", path = path.display())]
    ElementType { path: PathBuf, name: String, expected: String, found: String },
    #[error("{path}: tensor `{name}`: its part {part} is not in the checkpoint", path = path.display())]
    MissingPart { path: PathBuf, name: String, part: String },
    #[error("{path}: tensor `{name}`: its part {part} is there more than once", path = path.display())]
    Overlap { path: PathBuf, name: String, part: String },
    #[error("{path}: tensor `{name}`: a part {part} is outside of its shape {shape:?}", path = path.display())]
    Outside { path: PathBuf, name: String, part: String, shape: Vec<usize> },
    #[error("{path}: tensor `{name}`: divided into its {parts} parts in too many ways", path = path.display())]
    Tangled { path: PathBuf, name: String, parts: usize },
    #[error("{path}: tensor `{name}`: {length} bytes at {offset} expected, the file has {bytes}", path = path.display())]
    Beyond { path: PathBuf, name: String, offset: u64, length: u64, bytes: u64 },
    #[error("{path}: tensor `{name}`: its part {part} does not fit the {length} bytes at {offset}", path = path.display())]
    Small { path: PathBuf, name: String, part: String, offset: u64, length: u64 },
    #[error("{path}: tensor `{name}`: its shape {shape:?} is that of more bytes than all files have ({bytes})", path = path.display())]
    Larger { path: PathBuf, name: String, shape: Vec<usize>, bytes: u64 },
    #[error("{path}: tensor `{name}`: written with {transform}, which is not read", path = path.display())]
    Transformed { path: PathBuf, name: String, transform: String },
    #[error("{path}: tensor `{name}`, item at byte {offset}: {reason}", path = path.display())]
    Item { path: PathBuf, name: String, offset: u64, reason: String },
    #[error("{path}: tensor `{name}`, item at byte {offset}: expected {expected}, found {found}", path = path.display())]
    Form { path: PathBuf, name: String, offset: u64, expected: String, found: String },
}

impl DistributedError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Backend { .. } | Self::Transformed { .. } => {
                "load it with Megatron-LM and save it with `--ckpt-format torch_dist` and its defaults"
            }
            Self::Format { .. } => {
                "load it with the program that wrote it and save it with Megatron-LM's `--ckpt-format torch_dist`, or export a \
                 Hugging Face directory"
            }
            Self::NotFinished { .. } | Self::MissingFile { .. } | Self::MissingPart { .. } | Self::Beyond { .. } => {
                "saving it was not finished, or files were not copied: compare the folder with the original"
            }
            Self::NoArgs { .. } => {
                "give the fields of Megatron-LM's arguments as JSON or YAML with --megatron-args FILE, for example \
                 `num_layers: 24`; NeMo and Megatron Bridge keep their settings in run_config.yaml or context/model.yaml"
            }
            Self::UnknownName { .. } => {
                "nothing is skipped, since any tensor may matter; was the checkpoint written by another program?"
            }
            Self::NotInModel { .. } | Self::Missing { .. } | Self::Shape { .. } => {
                "are these the args that the model was trained with? --megatron-args FILE overrides fields of args"
            }
            Self::Metadata { .. }
            | Self::FileName { .. }
            | Self::Overlap { .. }
            | Self::Outside { .. }
            | Self::Tangled { .. }
            | Self::Small { .. }
            | Self::Larger { .. }
            | Self::Item { .. }
            | Self::Form { .. }
            | Self::SameParameter { .. } => {
                "files of several checkpoints seem to be mixed, or one is damaged: copy the whole step folder again"
            }
            Self::ElementType { .. } => return None,
        };
        Some(text.to_owned())
    }
}
