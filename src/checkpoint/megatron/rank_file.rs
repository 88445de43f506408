//! The file of one rank: names and forms of its tensors, and what it holds beside them. No tensor is read.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::MegatronError;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::torch_file::{TensorForm, TorchFile};

const ARGS: &str = "args";
const VERSION: &str = "checkpoint_version";
const ITERATION: &str = "iteration";

#[derive(Debug)]
pub(super) struct RankFile {
    pub file: TorchFile,
    /// The tensors of each virtual pipeline stage, by their names in the stage.
    pub chunks: Vec<BTreeMap<String, Tensor>>,
    pub args: Option<Map<String, Value>>,
    pub version: QkvVersion,
    pub iteration: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Tensor {
    /// Its name in the file.
    pub name: String,
    pub form: TensorForm,
}

/// How the rows of queries, keys and values lie in a rank's matrix (Megatron-LM `checkpointing.py`,
/// `fix_query_key_value_ordering`), by `checkpoint_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QkvVersion {
    /// `[3, heads, head size]`: no version in the file, until 2020-09.
    Parts,
    /// `[heads, head size, 3]`: 1.0.
    Elements,
    /// `[heads, 3, head size]`, or with query groups `[groups, queries of a group + 2, head size]`: since 2.0.
    Heads,
}

impl RankFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let is_value = |key: &str| [ARGS, VERSION, ITERATION].contains(&key);
        let (file, mut values) = TorchFile::open_nested(path, &|key| chunk(key).is_some(), &is_value)?;
        let mut chunks: BTreeMap<usize, BTreeMap<String, Tensor>> = BTreeMap::new();
        for (name, form) in file.forms()? {
            let Some((key, inner)) = name.split_once('.') else {
                return Err(CheckpointError::UnknownStage { path: path.to_owned(), names: name });
            };
            let mut inner = inner;
            // Of wrappers that a writer left in place.
            while let Some(rest) = inner.strip_prefix("module.") {
                inner = rest;
            }
            let inner = inner.to_owned();
            let chunk = chunks.entry(chunk(key).unwrap_or(0)).or_default();
            chunk.insert(inner, Tensor { name, form });
        }
        if chunks.is_empty() {
            return Err(MegatronError::NoModel { path: path.to_owned() }.into());
        }
        let (expected, found) = (chunks.keys().max().map_or(0, |last| last + 1), chunks.len());
        if found != expected {
            return Err(MegatronError::VirtualStages { path: path.to_owned(), expected, found }.into());
        }
        let chunks = chunks.into_values().collect();
        let args = match values.remove(ARGS) {
            Some(Value::Object(args)) => Some(args),
            _ => None,
        };
        let version = version(path, values.get(VERSION))?;
        let iteration = values.get(ITERATION).and_then(Value::as_u64);
        Ok(Self { file, chunks, args, version, iteration })
    }
}

/// The number of a virtual stage: `model` or `model0` is the first.
fn chunk(key: &str) -> Option<usize> {
    let number = key.strip_prefix("model")?;
    if number.is_empty() { Some(0) } else { number.parse::<u16>().ok().map(usize::from) }
}

fn version(path: &Path, version: Option<&Value>) -> Result<QkvVersion, MegatronError> {
    let number = match version {
        None | Some(Value::Null) => Some(0.0),
        Some(version) => version.as_f64(),
    };
    match number {
        Some(0.0) => Ok(QkvVersion::Parts),
        Some(1.0) => Ok(QkvVersion::Elements),
        Some(2.0..4.0) => Ok(QkvVersion::Heads),
        _ => Err(MegatronError::Version {
            path: path.to_owned(),
            found: version.map(Value::to_string).unwrap_or_default(),
        }),
    }
}
