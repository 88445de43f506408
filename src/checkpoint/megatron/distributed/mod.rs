//! Distributed checkpoints of Megatron-LM (`torch_dist`, on PyTorch's `torch.distributed.checkpoint`): every tensor is stored
//! once, in parts that the ranks wrote, whatever the number of ranks was. What all ranks hold in common was taken from the
//! first when it was saved, so that this is a model of one rank.

mod error;
mod files;
mod folder;
mod keys;
mod parameters;
mod source;
mod tiles;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use error::DistributedError;

use self::files::ItemFiles;
use self::folder::{COMMON, METADATA};
use self::parameters::{Sorted, Stages, Tensor};
use super::architecture::Shown;
use super::args::{Args, GivenArgs};
use super::error::MegatronError;
use super::layout::iteration;
use super::names::Place;
use super::rank_file::QkvVersion;
use super::refusals;
use super::rows::RowOrders;
use super::settings::Settings;
use super::tokenizer::Tokenizer;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::source::STORED_ONCE;
use crate::checkpoint::torch_file::{Metadata, TensorForm, TorchFile};
use crate::config::{Architecture, Head, Positions, Precision};
use crate::partition::Role;

/// The largest `.metadata`. A part of a tensor takes some 200 bytes of it; parsed, it takes about ten times its size.
const MAX_METADATA_BYTES: u64 = 128 << 20;

/// A checkpoint whose every tensor has been accounted for, and whose parts tile it. No weights are held.
#[derive(Debug)]
pub struct DistributedCheckpoint {
    folder: PathBuf,
    architecture: Architecture,
    orders: RowOrders,
    files: ItemFiles,
    tensors: Vec<Tensor>,
    stages: Stages,
    tokenizer: Tokenizer,
    vocabulary_multiple: Option<usize>,
    iteration: Option<u64>,
    notes: Vec<String>,
}

impl DistributedCheckpoint {
    /// Whether a folder holds a distributed checkpoint, a step, or a save folder of such steps, perhaps in a format that is
    /// not read.
    pub(crate) fn is_at(path: &Path) -> bool {
        !matches!(folder::find(path), Ok(None))
    }

    /// Opens a step, or the step that a save folder's tracker names; `None` where there is none. Fields of the `args` files
    /// come before those of the checkpoint.
    pub fn open(path: &Path, args: &[PathBuf]) -> Result<Option<Self>, CheckpointError> {
        let Some(step) = folder::find(path)? else { return Ok(None) };
        Ok(Some(Self::open_step(step, &GivenArgs::read(args)?)?))
    }

    fn open_step(folder: PathBuf, given: &GivenArgs) -> Result<Self, CheckpointError> {
        folder::check(&folder)?;
        let path = folder.join(METADATA);
        let Metadata { tensors, objects, files } = read_metadata(&path)?;
        folder::check_names(&folder, tensors.keys().map(String::as_str))?;
        let (args, saved_iteration) = read_common(&folder, given)?;
        refusals::check(&args)?;
        let ranks = Settings::ranks(&args)?.0.unwrap_or(1);
        let settings = Settings::read(&args, false)?;
        let sorted = Sorted::new(&path, tensors)?;
        let architecture = settings.architecture(shown(&args, &settings, &sorted)?);
        let paired = match architecture.positions {
            Positions::Rotary { dims, .. } if settings.paired_rotation => dims,
            _ => 0,
        };
        let orders = RowOrders { version: QkvVersion::Heads, paired, zero_centred: settings.zero_centred };
        let stages = sorted.account(&path, &architecture, orders)?;
        let files = ItemFiles::new(&folder, &files, &path)?;
        sorted.check_parts(&path, &files)?;
        let mut notes = vec![STORED_ONCE.to_owned()];
        notes.extend(Settings::notes(&args, false));
        if let Some(first) = objects.first() {
            let more = if objects.len() > 1 { format!(" and {} more", objects.len() - 1) } else { String::new() };
            notes.push(format!("`{first}`{more}: pickled objects, not tensors; not read"));
        }
        for note in &notes {
            tracing::warn!("{note}");
        }
        Ok(Self {
            architecture,
            orders,
            files,
            tensors: sorted.tensors,
            stages,
            tokenizer: Tokenizer::read(&args)?,
            vocabulary_multiple: settings.vocabulary_multiple.checked_mul(ranks),
            iteration: saved_iteration.or_else(|| iteration(&folder)),
            notes,
            folder,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn read_metadata(path: &Path) -> Result<Metadata, CheckpointError> {
    let bytes = crate::files::read(path, MAX_METADATA_BYTES)?;
    Metadata::parse(&bytes, &keys::is_of_model)
        .map_err(|reason| DistributedError::Metadata { path: path.to_owned(), reason }.into())
}

/// The arguments and the step in `common.pt`.
fn read_common(folder: &Path, given: &GivenArgs) -> Result<(Args, Option<u64>), CheckpointError> {
    let path = folder.join(COMMON);
    let mut values = if path.is_file() {
        TorchFile::open_nested(&path, &|_| false, &|key| ["args", "iteration"].contains(&key))?.1
    } else {
        serde_json::Map::new()
    };
    let saved = match values.remove("args") {
        Some(Value::Object(args)) => Some(args),
        _ => None,
    };
    let args = Args::new(&path, saved, given).map_err(|error| match error {
        MegatronError::NoArgs { path } => CheckpointError::from(DistributedError::NoArgs { path }),
        error => error.into(),
    })?;
    Ok((args, values.get("iteration").and_then(Value::as_u64)))
}

/// What the tensors show. Sizes that arguments contradict are errors.
fn shown(args: &Args, settings: &Settings, sorted: &Sorted) -> Result<Shown, MegatronError> {
    let words = sorted.one(Place::Embedding, Role::WordEmbedding);
    let size = |extent: Option<&usize>| extent.copied().filter(|&extent| extent < 1 << 32).unwrap_or(0);
    // A word embedding that is missing is reported as that.
    let padded_vocab_size = words.map_or(settings.padded_vocab_size.unwrap_or(0), |words| size(words.shape.first()));
    if settings.padded_vocab_size.is_some_and(|size| size != padded_vocab_size) && padded_vocab_size > 0 {
        return Err(args.unexpected("padded_vocab_size", &format!("{padded_vocab_size} as in the word embedding")));
    }
    let mlp_size = size(sorted.shape_in_layers(Role::MlpOutputWeight).and_then(|shape| shape.get(1)));
    let precision =
        words.map_or(Precision::Fp32, |words| TensorForm { dtype: words.dtype, shape: Vec::new() }.precision());
    let head = if settings.tied { Head::Tied } else { Head::Column };
    // The parts are of any number of ranks; joined, they are one.
    Ok(Shown { tensor_ranks: 1, precision, padded_vocab_size, mlp_size, head })
}
