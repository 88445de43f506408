//! Directories and file names: where the shards of a checkpoint are. Nothing is opened here except `latest`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::CheckpointError;
use super::other_format::OtherFormat;
use super::recognize::zero_dictionary;
use crate::config::Unsupported;
use crate::config::refusals::EXPERTS;
use crate::files;

const MAX_LATEST_BYTES: u64 = 4096;

/// How the shards are spread over files. Detected from the files, never from `pipe_parallel_size`, whose meaning changed
/// six times between 2021 and 2024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `layer_XX-model_YY-model_states.pt`: one file per layer and rank (`PipelineModule`).
    LayerFiles,
    /// `mp_rank_XX_model_states.pt` with everything under `module`: one file per rank. Or the one file, with everything at its
    /// root, that DeepSpeed's `zero_to_fp32.py` writes of a model on one rank.
    RankFiles,
}

#[derive(Debug)]
pub(super) struct StepFiles {
    pub folder: PathBuf,
    pub layout: Layout,
    /// Layer files by layer index, then rank; empty for [`Layout::RankFiles`].
    pub layers: BTreeMap<usize, BTreeMap<usize, PathBuf>>,
    pub rank_files: BTreeMap<usize, PathBuf>,
    /// Names of files that hold no weights we read: optimizer, ZeRO, experts.
    pub ignored: Vec<String>,
}

/// `layer_02-model_01-model_states.pt` → (2, 1). Expert files (`layer_2_expert_…`) do not match.
pub(super) fn parse_layer_file(name: &str) -> Option<(usize, usize)> {
    let (layer, rank) = name.strip_prefix("layer_")?.strip_suffix("-model_states.pt")?.split_once("-model_")?;
    Some((parse_number(layer)?, parse_number(rank)?))
}

/// `mp_rank_01_model_states.pt` → 1.
pub(super) fn parse_rank_file(name: &str) -> Option<usize> {
    parse_number(name.strip_prefix("mp_rank_")?.strip_suffix("_model_states.pt")?)
}

pub(super) fn layer_file_name(layer: usize, tp_rank: usize) -> String {
    format!("layer_{layer:02}-model_{tp_rank:02}-model_states.pt")
}

fn parse_number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    usize::try_from(text.parse::<u32>().ok().filter(|_| digits)?).ok()
}

/// Finds the step folder: `path` itself if it holds shards, else the folder that `path/latest` names.
pub(super) fn step_folder(path: &Path) -> Result<PathBuf, CheckpointError> {
    if !path.is_dir() {
        let found = if path.exists() { "a file" } else { "nothing" };
        return Err(CheckpointError::NotADirectory { path: path.to_owned(), found });
    }
    let latest = path.join("latest");
    // Also one that cannot be read: the step it names is unknown.
    if latest.symlink_metadata().is_ok() {
        let text = files::read_to_string(&latest, MAX_LATEST_BYTES)?;
        let tag = text.trim();
        let mut components = Path::new(tag).components();
        let only = (components.next(), components.next());
        let plain = matches!(only, (Some(Component::Normal(_)), None)) && !tag.starts_with('.');
        let folder = path.join(tag);
        if !plain || !folder.is_dir() {
            return Err(CheckpointError::Latest { path: latest, tag: tag.to_owned() });
        }
        return Ok(folder);
    }
    Ok(path.to_owned())
}

pub(super) fn list(folder: &Path) -> Result<StepFiles, CheckpointError> {
    let mut files = StepFiles {
        folder: folder.to_owned(),
        layout: Layout::LayerFiles,
        layers: BTreeMap::new(),
        rank_files: BTreeMap::new(),
        ignored: Vec::new(),
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some((layer, tp_rank)) = parse_layer_file(name) {
            let name = name.to_owned();
            if files.layers.entry(layer).or_default().insert(tp_rank, path).is_some() {
                return Err(CheckpointError::DuplicateFile { folder: folder.to_owned(), name });
            }
        } else if let Some(number) = parse_rank_file(name) {
            let name = name.to_owned();
            if files.rank_files.insert(number, path).is_some() {
                return Err(CheckpointError::DuplicateFile { folder: folder.to_owned(), name });
            }
        } else if name.starts_with("zero_pp_rank_") && name.ends_with("_model_states.pt") {
            return Err(CheckpointError::ZeroThree { path });
        } else if name.contains("expert_") && name.ends_with("_model_states.pt") {
            let (reason, needed) = EXPERTS;
            return Err(Unsupported::new(path.display().to_string(), reason, needed).into());
        } else if path.extension().is_some_and(|extension| extension == "pt") {
            files.ignored.push(name.to_owned());
        }
    }
    files.ignored.sort();
    if files.layers.is_empty() {
        let other = OtherFormat::at(folder);
        // A universal checkpoint also has files of ranks, without weights.
        if other == Some(OtherFormat::Universal) {
            return Err(CheckpointError::NotACheckpoint { path: folder.to_owned(), other });
        }
        if files.rank_files.is_empty() {
            let Some(file) = zero_dictionary(folder) else {
                return Err(CheckpointError::NotACheckpoint { path: folder.to_owned(), other });
            };
            files.rank_files.insert(0, file);
        }
        files.layout = Layout::RankFiles;
    }
    check_ranks(&files)?;
    Ok(files)
}

/// Every layer must have every rank.
fn check_ranks(files: &StepFiles) -> Result<(), CheckpointError> {
    let tp_size = files.tp_size();
    let missing = |ranks: &BTreeMap<usize, PathBuf>| (0..tp_size).find(|tp_rank| !ranks.contains_key(tp_rank));
    let found = match files.layout {
        Layout::LayerFiles => files.layers.iter().find_map(|(&layer, ranks)| {
            let tp_rank = missing(ranks)?;
            Some((layer_file_name(layer, tp_rank), tp_rank))
        }),
        Layout::RankFiles => {
            missing(&files.rank_files).map(|tp_rank| (format!("mp_rank_{tp_rank:02}_model_states.pt"), tp_rank))
        }
    };
    match found {
        Some((name, tp_rank)) => Err(CheckpointError::MissingRank { path: files.folder.join(name), tp_rank, tp_size }),
        None => Ok(()),
    }
}

impl StepFiles {
    /// Number of tensor-parallel ranks, judged by the files.
    pub(super) fn tp_size(&self) -> usize {
        let last = match self.layout {
            Layout::LayerFiles => self.layers.values().filter_map(|ranks| ranks.keys().next_back()).max(),
            Layout::RankFiles => self.rank_files.keys().next_back(),
        };
        last.map_or(0, |last| last + 1)
    }

    /// Configuration files: those gpt-neox wrote beside the shards (since 2021-11-26), else those in the save folder.
    pub(super) fn config_files(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let beside = self.folder.join("configs");
        let root = self.folder.parent().map(|parent| parent.join("configs"));
        for folder in std::iter::once(beside).chain(root).filter(|folder| folder.is_dir()) {
            let mut found = Vec::new();
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let known = path.extension().is_some_and(|extension| {
                    ["yml", "yaml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
                });
                // A broken link stays, so that it is reported.
                if known && !path.is_dir() {
                    found.push(path);
                }
            }
            if !found.is_empty() {
                found.sort();
                return Ok(found);
            }
        }
        Err(CheckpointError::NoConfig { folder: self.folder.clone() })
    }
}
