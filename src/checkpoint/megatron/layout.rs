//! Folders and file names: where the ranks' files of a checkpoint are (Megatron-LM `megatron/training/checkpointing.py`,
//! `get_checkpoint_name`). Nothing is opened here except `latest_checkpointed_iteration.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::error::MegatronError;
use crate::files;

const TRACKER: &str = "latest_checkpointed_iteration.txt";
const RELEASE: &str = "release";
const MAX_TRACKER_BYTES: u64 = 4096;

/// The file of a rank; the second until 2022 with a distributed optimizer, whose state is in files of its own.
const FILES: [&str; 2] = ["model_optim_rng.pt", "model_rng.pt"];

/// The files of a step by what their folders' names say.
#[derive(Debug)]
pub(super) struct StepFolder {
    pub path: PathBuf,
    pub files: BTreeMap<RankName, PathBuf>,
}

/// `mp_rank_TT`, `mp_rank_TT_PPP` or `mp_rank_TT_PPP_EEE`. With two numbers the second is the pipeline's rank, or in a model
/// with experts and no pipeline theirs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RankName {
    tensor: usize,
    others: Vec<usize>,
}

/// A complete grid: the files by pipeline rank, then by tensor-parallel rank.
#[derive(Debug)]
pub(super) struct Grid {
    pub files: Vec<Vec<PathBuf>>,
}

impl RankName {
    fn parse(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix("mp_rank_")?.split('_').map(number);
        let tensor = numbers.next()??;
        let others = numbers.collect::<Option<Vec<_>>>()?;
        (others.len() <= 2).then_some(Self { tensor, others })
    }

    fn folder(&self) -> String {
        let first = format!("mp_rank_{:02}", self.tensor);
        self.others.iter().fold(first, |name, other| format!("{name}_{other:03}"))
    }
}

fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    usize::try_from(text.parse::<u32>().ok().filter(|_| digits)?).ok()
}

impl StepFolder {
    /// The step that `path` is, or that its tracker names; `None` where Megatron's files of this format are not there.
    pub(super) fn find(path: &Path) -> Result<Option<Self>, MegatronError> {
        if let Some(found) = Self::at(path)? {
            return Ok(Some(found));
        }
        if let Some(step) = tracked(path)? {
            return Self::at(&step);
        }
        let mut steps = Vec::new();
        for name in self::steps(path)? {
            if Self::at(&path.join(&name))?.is_some() {
                steps.push(name);
            }
        }
        if steps.is_empty() { Ok(None) } else { Err(MegatronError::NoTracker { folder: path.to_owned(), steps }) }
    }

    /// The files of ranks in this very folder. As Megatron decides, `metadata.json` marks another format.
    fn at(path: &Path) -> Result<Option<Self>, MegatronError> {
        let names = if path.is_dir() && !path.join("metadata.json").exists() { names(path)? } else { Vec::new() };
        let mut files: BTreeMap<RankName, PathBuf> = BTreeMap::new();
        for (name, rank) in names.iter().filter_map(|name| Some((name, RankName::parse(name)?))) {
            // Folders without a model hold shares of the optimizer.
            let Some(file) = FILES.iter().map(|file| path.join(name).join(file)).find(|file| file.is_file()) else {
                continue;
            };
            if let Some(other) = files.insert(rank, file) {
                return Err(MegatronError::SameRank { path: other, name: name.clone() });
            }
        }
        Ok((!files.is_empty()).then(|| Self { path: path.to_owned(), files }))
    }

    /// The step that the folder's name tells.
    pub(super) fn iteration(&self) -> Option<u64> {
        iteration(&self.path)
    }

    /// The files as a grid of `pipeline` ranks, of which every one must have all `tensor` ranks; as many as there are files of
    /// where these are not known.
    pub(super) fn grid(&self, tensor: Option<usize>, pipeline: Option<usize>) -> Result<Grid, MegatronError> {
        let mut places: BTreeMap<(usize, usize), &Path> = BTreeMap::new();
        for (name, path) in &self.files {
            let (stage, expert) = match name.others[..] {
                [] => (0, 0),
                [expert] if pipeline == Some(1) => (0, expert),
                [stage] => (stage, 0),
                [stage, expert, ..] => (stage, expert),
            };
            if expert > 0 {
                return Err(MegatronError::ExpertRanks { path: path.clone() });
            }
            if let Some(other) = places.insert((stage, name.tensor), path) {
                let name = other.parent().and_then(Path::file_name).unwrap_or_default();
                return Err(MegatronError::SameRank { path: path.clone(), name: name.to_string_lossy().into_owned() });
            }
        }
        let last = |rank: fn(&(usize, usize)) -> usize| places.keys().map(rank).max().map_or(0, |rank| rank + 1);
        let found = (last(|&(_, tensor)| tensor), last(|&(stage, _)| stage));
        let (tensor, pipeline) = (tensor.unwrap_or(found.0), pipeline.unwrap_or(found.1));
        if found.0 > tensor || found.1 > pipeline {
            return Err(MegatronError::Ranks { folder: self.path.clone(), expected: (tensor, pipeline), found });
        }
        let numbers = self.files.keys().map(|name| name.others.len()).max().unwrap_or(0);
        let numbers = numbers.max(usize::from(pipeline > 1));
        let file = |stage: usize, rank: usize| {
            places.get(&(stage, rank)).map(|&path| path.to_owned()).ok_or_else(|| {
                let others = [stage, 0].into_iter().take(numbers).collect();
                let path = self.path.join(RankName { tensor: rank, others }.folder()).join(FILES[0]);
                MegatronError::MissingRank { path, expected: (tensor, pipeline) }
            })
        };
        let stage = |stage| (0..tensor).map(|rank| file(stage, rank)).collect::<Result<_, _>>();
        Ok(Grid { files: (0..pipeline).map(stage).collect::<Result<_, _>>()? })
    }
}

/// The step that a folder's name tells.
pub(super) fn iteration(step: &Path) -> Option<u64> {
    step.file_name()?.to_str()?.strip_prefix("iter_")?.parse().ok()
}

/// The step that a save folder's tracker names; `None` where there is no tracker.
pub(super) fn tracked(path: &Path) -> Result<Option<PathBuf>, MegatronError> {
    let tracker = path.join(TRACKER);
    if !tracker.is_file() {
        return Ok(None);
    }
    let text = files::read_to_string(&tracker, MAX_TRACKER_BYTES)?;
    let folder = match text.trim() {
        RELEASE => RELEASE.to_owned(),
        step => match number(step) {
            Some(step) => format!("iter_{step:07}"),
            None => return Err(MegatronError::Tracker { path: tracker, text: step.chars().take(80).collect() }),
        },
    };
    if !path.join(&folder).is_dir() {
        return Err(MegatronError::NoStep { path: tracker, folder });
    }
    Ok(Some(path.join(folder)))
}

/// The steps in a save folder.
pub(super) fn steps(path: &Path) -> Result<Vec<String>, MegatronError> {
    Ok(names(path)?.into_iter().filter(|name| name.starts_with("iter_") || name == RELEASE).collect())
}

fn names(folder: &Path) -> Result<Vec<String>, MegatronError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>, std::io::Error>>()?;
    names.sort();
    Ok(names)
}
