//! Checkpoints as gpt-neox writes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::client::{ClientState, VALIDATION_LOGITS};
use super::error::CheckpointError;
use super::examine::{self, Examined};
use super::inventory::{self, FileStage, ParamEntry};
use super::layout::{self, Layout};
use super::torch_file::TorchFile;
use super::{saved_tables, warnings};
use crate::config::{Architecture, Head, NeoxConfig, QuirkOptions, Quirks};
use crate::partition::{Role, StageId, StageKind};
use crate::tensor::{DType, HostTensor};

/// A checkpoint whose every tensor has been accounted for. No weights are held.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) folder: PathBuf,
    pub(super) layout: Layout,
    tp_size: usize,
    config: NeoxConfig,
    architecture: Architecture,
    quirks: Quirks,
    client: ClientState,
    ignored: Vec<String>,
    /// Where files and configuration depart from what gpt-neox writes.
    notes: Vec<String>,
    pub(super) stages: Vec<FileStage>,
    pub(super) entries: Vec<BTreeMap<Role, ParamEntry>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Used instead of the configuration that lies beside the shards, unless empty.
    pub config_files: Vec<PathBuf>,
    pub quirks: QuirkOptions,
    /// Fields that come before those of Megatron-LM's `args`.
    pub megatron_args: Vec<PathBuf>,
}

impl OpenOptions {
    /// Whether any of them is for checkpoints of gpt-neox.
    pub(crate) fn are_of_neox(&self) -> bool {
        !self.config_files.is_empty() || self.quirks != QuirkOptions::default()
    }
}

/// A parameter of a logical stage: which file stage it is in, under which role there.
pub(super) type Source = (Role, usize, Role);

impl Checkpoint {
    /// As [`Checkpoint::open_with`], with today's meaning of whatever the files leave open.
    pub fn open(path: &Path, config_files: &[PathBuf]) -> Result<Self, CheckpointError> {
        Self::open_with(path, &OpenOptions { config_files: config_files.to_vec(), ..OpenOptions::default() })
    }

    /// Opens a save directory (follows `latest`) or a `global_stepN` directory.
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let files = layout::list(&layout::step_folder(path)?)?;
        let given = &options.config_files;
        let config = NeoxConfig::from_files(&if given.is_empty() { files.config_files()? } else { given.clone() })?;
        let tp_size = files.tp_size();
        let client = ClientState::read(&files)?;
        let folder = files.folder.clone();
        examine::check_claims(&folder, &config, &client.args, tp_size, &options.quirks)?;
        let stages = inventory::list_stages(&files)?;
        let Examined { architecture, quirks, observed, entries, numbers } =
            examine::examine(&folder, &config, &client.args, &stages, &options.quirks)?;
        saved_tables::check(files.layout, &stages, &architecture)?;
        let mut notes: Vec<_> = numbers.into_iter().chain(client.unread.clone()).collect();
        notes.extend(observed.contradictions(&config));
        notes.extend(config.unknown_keys());
        if !files.ignored.is_empty() {
            tracing::info!(
                "ignoring {} files that hold no model weights (optimizer, ZeRO, experts), for example {}",
                files.ignored.len(),
                files.ignored[0]
            );
        }
        let (layout, ignored) = (files.layout, files.ignored);
        let checkpoint =
            Self { folder, layout, tp_size, config, architecture, quirks, client, ignored, notes, stages, entries };
        checkpoint.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(checkpoint)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn tp_size(&self) -> usize {
        self.tp_size
    }

    pub fn config(&self) -> &NeoxConfig {
        &self.config
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    pub fn quirks(&self) -> &Quirks {
        &self.quirks
    }

    /// Warnings about the files, the configuration and assumptions made, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notes.clone();
        warnings.extend(warnings::of(&self.config, &self.architecture, &self.quirks, self.tp_size));
        warnings
    }

    pub fn client(&self) -> &ClientState {
        &self.client
    }

    /// The model's output for tokens 0, 1, 2, … when it was saved (`checkpoint_validation_logits`), rank by rank,
    /// `[positions, vocabulary / ranks]` or `[positions, vocabulary]`; empty where gpt-neox was not asked to store it.
    pub fn validation_logits(&self) -> Result<Vec<HostTensor>, CheckpointError> {
        self.client.validation_files.iter().map(|path| TorchFile::open(path)?.read(VALIDATION_LOGITS)).collect()
    }

    pub fn has_validation_logits(&self) -> bool {
        !self.client.validation_files.is_empty()
    }

    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Every parameter with the number of its file stage, in file order.
    pub fn parameters(&self) -> impl Iterator<Item = (usize, StageKind, &ParamEntry)> {
        self.stages
            .iter()
            .zip(&self.entries)
            .flat_map(|(stage, entries)| entries.values().map(move |entry| (stage.index, stage.kind, entry)))
    }

    /// Element type of the word embedding, taken as the checkpoint's.
    pub fn dtype(&self) -> DType {
        self.parameters()
            .find(|(_, _, entry)| entry.row.role == Role::WordEmbedding)
            .map_or(DType::F32, |(_, _, entry)| entry.dtype)
    }

    /// Number of parameters of the merged model and the bytes that all shards hold.
    pub fn size(&self) -> (u64, u64) {
        let (mut parameters, mut bytes) = (0_u64, 0_u64);
        for (_, _, entry) in self.parameters() {
            let count = entry.rank_shape.iter().product::<usize>() as u64;
            let ranks = self.tp_size as u64;
            bytes += count * ranks * entry.dtype.size() as u64;
            if entry.used {
                parameters += if entry.row.kind.partition_dim().is_some() { count * ranks } else { count };
            }
        }
        (parameters, bytes)
    }

    pub(super) fn sources(&self, id: StageId, wanted: impl Fn(&ParamEntry) -> bool) -> Vec<Source> {
        let of_kind = |kind: StageKind, nth: usize| {
            let found = self.stages.iter().enumerate().filter(move |(_, stage)| stage.kind == kind).nth(nth);
            found
                .into_iter()
                .flat_map(|(at, _)| self.entries[at].values().map(move |entry| (at, entry)))
                .filter(|(_, entry)| wanted(entry))
                .map(|(at, entry)| (entry.row.role, at, entry.row.role))
        };
        match id {
            StageId::Embedding => of_kind(StageKind::Embedding, 0).chain(of_kind(StageKind::SoftPrompt, 0)).collect(),
            StageId::Layer(number) => of_kind(StageKind::Layer, number).collect(),
            StageId::Output => {
                let norm = of_kind(StageKind::FinalNorm, 0);
                if self.architecture.head == Head::Tied {
                    let head = of_kind(StageKind::Embedding, 0)
                        .filter(|&(role, _, _)| role == Role::WordEmbedding)
                        .map(|(_, at, role)| (Role::HeadWeight, at, role));
                    norm.chain(head).collect()
                } else {
                    norm.chain(of_kind(StageKind::Head, 0)).collect()
                }
            }
        }
    }
}
