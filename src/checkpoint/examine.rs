//! The checks of a checkpoint whose tensors have been listed: those of one that is read, and of one that is to be written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::inventory::{self, FileStage, ParamEntry, RankStage};
use super::layer_numbers;
use super::observe::{check_stages, observe};
use super::torch_file::TensorForm;
use crate::config::{Architecture, ClientArgs, NeoxConfig, Observed, QuirkOptions, Quirks};
use crate::files::FileStat;
use crate::partition::{Role, classify_stage};

/// A checkpoint that is to be written.
#[derive(Debug)]
pub struct Description<'a> {
    /// Where it will be, for messages.
    pub folder: &'a Path,
    /// Number of tensor-parallel ranks.
    pub tp_size: usize,
    /// What its configuration will say.
    pub config: &'a NeoxConfig,
    /// What its client state will say.
    pub args: &'a ClientArgs,
    /// The tensors of every rank, by the number of their stage and their name.
    pub stages: BTreeMap<usize, BTreeMap<String, TensorForm>>,
}

/// What a checkpoint turned out to be.
pub(super) struct Examined {
    pub architecture: Architecture,
    pub quirks: Quirks,
    pub observed: Observed,
    pub entries: Vec<BTreeMap<Role, ParamEntry>>,
    /// Where its numbers depart from those that gpt-neox uses.
    pub numbers: Option<String>,
}

impl Description<'_> {
    /// Checks it as one that is read. Returns the model that a reader takes it for, and the version of gpt-neox
    /// that it shows.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with`](super::Checkpoint::open_with), as far as no file is needed.
    pub fn check(&self, options: &QuirkOptions) -> Result<(Architecture, Quirks), CheckpointError> {
        let Self { folder, tp_size, config, args, ref stages } = *self;
        check_claims(folder, config, args, tp_size, options)?;
        let stages = stages.iter().map(|(&index, forms)| {
            let kind = classify_stage(forms.keys().map(String::as_str)).ok_or_else(|| {
                let names = forms.keys().cloned().collect::<Vec<_>>().join(", ");
                CheckpointError::UnknownStage { path: folder.to_owned(), names }
            })?;
            let rank = |_| RankStage {
                path: folder.to_owned(),
                identity: FileStat::default(),
                prefix: String::new(),
                forms: forms.clone(),
            };
            Ok(FileStage { index, kind, ranks: (0..tp_size).map(rank).collect() })
        });
        let stages = stages.collect::<Result<Vec<_>, CheckpointError>>()?;
        let examined = examine(folder, config, args, &stages, options)?;
        match examined.numbers {
            None => Ok((examined.architecture, examined.quirks)),
            Some(found) => Err(CheckpointError::LayerNumbers { folder: folder.to_owned(), found }),
        }
    }
}

/// Checks what configuration and client state say, before any tensor is looked at.
pub(super) fn check_claims(
    folder: &Path,
    config: &NeoxConfig,
    args: &ClientArgs,
    tp_size: usize,
    options: &QuirkOptions,
) -> Result<(), CheckpointError> {
    let observed = Observed { tp_size, stated: args.quirks.clone(), ..Observed::default() };
    Architecture::check_settings(config, &observed, options)?;
    let claims =
        [(config.model_parallel_size, "the configuration"), (args.model_parallel_size, "the checkpoint's args")];
    for (expected, source_name) in claims {
        if let Some(expected) = expected.filter(|&expected| expected != tp_size) {
            let (folder, source_name): (PathBuf, _) = (folder.to_owned(), source_name.to_owned());
            return Err(CheckpointError::TpSize { folder, source_name, expected, found: tp_size });
        }
    }
    Ok(config.check_against(args)?)
}

/// Finds out what model the tensors are, and accounts for each of them.
pub(super) fn examine(
    folder: &Path,
    config: &NeoxConfig,
    args: &ClientArgs,
    stages: &[FileStage],
    options: &QuirkOptions,
) -> Result<Examined, CheckpointError> {
    check_stages(folder, config, stages)?;
    let numbers = layer_numbers::check(folder, stages)?;
    let tp_size = stages.first().map_or(0, |stage| stage.ranks.len());
    let observed = observe(stages, tp_size, config, args);
    let (architecture, quirks) = Architecture::resolve_with(config, &observed, options)?;
    let entries = stages.iter().map(|stage| inventory::account(stage, &architecture));
    let entries = entries.collect::<Result<Vec<_>, CheckpointError>>()?;
    Ok(Examined { architecture, quirks, observed, entries, numbers })
}
