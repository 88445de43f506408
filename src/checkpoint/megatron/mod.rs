//! Checkpoints as Megatron-LM writes them (`mp_rank_XX/model_optim_rng.pt`), of every year: the code before Megatron core, and
//! core's. Names become the roles of the partition table and rows its orders, so that nothing above knows of this format.

mod architecture;
mod args;
mod distributed;
mod error;
mod head_copy;
mod layout;
mod names;
mod rank_file;
mod refusals;
mod rows;
mod settings;
mod source;
mod stages;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests;
mod tokenizer;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use distributed::{DistributedCheckpoint, DistributedError};
pub use error::MegatronError;

use self::architecture::Shown;
use self::args::{Args, GivenArgs};
use self::layout::StepFolder;
use self::names::Place;
use self::rank_file::{QkvVersion, RankFile};
use self::rows::RowOrders;
use self::settings::Settings;
use self::stages::{Chunk, Stage};
use self::tokenizer::Tokenizer;
use super::error::CheckpointError;
use super::torch_file::{TensorForm, TorchFile};
use crate::config::{Architecture, Head, Positions, Precision};
use crate::partition::{Role, StageId};

/// A checkpoint whose every tensor has been accounted for. No weights are held.
#[derive(Debug)]
pub struct MegatronCheckpoint {
    folder: PathBuf,
    settings: Settings,
    architecture: Architecture,
    orders: RowOrders,
    /// By pipeline rank, then by tensor-parallel rank.
    files: Vec<Vec<TorchFile>>,
    stages: Vec<(StageId, Stage)>,
    tokenizer: Tokenizer,
    iteration: Option<u64>,
    notes: Vec<String>,
}

impl MegatronCheckpoint {
    /// Whether a folder holds such a checkpoint, a step, or a save folder of such steps, perhaps without the one that its
    /// tracker names.
    pub(crate) fn is_at(path: &Path) -> bool {
        !matches!(StepFolder::find(path), Ok(None))
    }

    /// Opens a step, or the step that a save folder's tracker names; `None` where there is none. Fields of the `args` files
    /// come before those of the checkpoint.
    pub fn open(path: &Path, args: &[PathBuf]) -> Result<Option<Self>, CheckpointError> {
        let Some(step) = StepFolder::find(path)? else { return Ok(None) };
        Ok(Some(Self::open_step(&step, &GivenArgs::read(args)?)?))
    }

    fn open_step(step: &StepFolder, given: &GivenArgs) -> Result<Self, CheckpointError> {
        let folder = step.path.clone();
        let first_path = step.files.values().next().cloned().unwrap_or_default();
        let first = RankFile::open(&first_path)?;
        let args = Args::new(&first_path, first.args.clone(), given)?;
        refusals::check(&args)?;
        let legacy = first.chunks.iter().flat_map(|chunk| chunk.keys()).any(|name| names::is_legacy(name));
        let settings = Settings::read(&args, legacy)?;
        let (tensor, pipeline) = Settings::ranks(&args)?;
        let files: Vec<Vec<RankFile>> = step
            .grid(tensor, pipeline)?
            .files
            .into_par_iter()
            .map(|ranks| ranks.par_iter().map(|path| RankFile::open(path)).collect())
            .collect::<Result<_, _>>()?;
        files.iter().flatten().try_for_each(|file| check_agreement(file, given, &args, &first))?;
        let tensor_ranks = files.first().map_or(0, Vec::len);
        check_divisions(&args, &settings, tensor_ranks, first.version)?;
        let chunks = stages::sort(&files)?;
        stages::check_layers(&folder, &chunks, settings.layers)?;
        let mut notes = Settings::notes(&args, legacy);
        let head = head(&settings, &chunks, &files, &mut notes)?;
        let architecture = settings.architecture(shown(&args, &settings, &chunks, (tensor_ranks, head))?);
        let paired = match architecture.positions {
            Positions::Rotary { dims, .. } if settings.paired_rotation => dims,
            _ => 0,
        };
        let orders = RowOrders { version: first.version, paired, zero_centred: settings.zero_centred };
        let stages = stages::account(&chunks, &architecture, orders)?;
        if architecture.sequence_parallel {
            let biases = architecture.attention_output_bias || architecture.mlp_bias;
            let what = if biases { "norms and row-parallel biases" } else { "norms" };
            notes.push(format!(
                "sequence_parallel: in training each rank's {what} acted on its own stretch of the sequence; it is evaluated \
                 without: each rank uses its own everywhere"
            ));
        }
        for note in &notes {
            tracing::warn!("{note}");
        }
        Ok(Self {
            folder,
            architecture,
            orders,
            stages,
            tokenizer: Tokenizer::read(&args)?,
            iteration: first.iteration.or_else(|| step.iteration()),
            notes,
            settings,
            files: files.into_iter().map(|ranks| ranks.into_iter().map(|file| file.file).collect()).collect(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// All files must be of one run and step.
fn check_agreement(file: &RankFile, given: &GivenArgs, args: &Args, first: &RankFile) -> Result<(), MegatronError> {
    let differ = |field: &str, found: String, expected: String| {
        let (path, other, field) = (file.file.path().to_owned(), first.file.path().to_owned(), field.to_owned());
        Err(MegatronError::ArgsDiffer { path, other, field, expected, found })
    };
    let fields: Vec<&str> = settings::READ.iter().copied().chain(refusals::fields()).collect();
    let own = Args::new(file.file.path(), file.args.clone(), given)?;
    if let Some((field, found, expected)) = own.difference(args, &fields) {
        return differ(field, found, expected);
    }
    if file.version != first.version {
        return differ("checkpoint_version", format!("{:?}", file.version), format!("{:?}", first.version));
    }
    let iteration = |file: &RankFile| file.iteration.map_or_else(|| "None".to_owned(), |number| number.to_string());
    if file.iteration != first.iteration {
        return differ("iteration", iteration(file), iteration(first));
    }
    Ok(())
}

/// Heads and groups of keys are never divided between ranks.
fn check_divisions(args: &Args, settings: &Settings, ranks: usize, version: QkvVersion) -> Result<(), MegatronError> {
    if settings.query_groups != settings.heads && version != QkvVersion::Heads {
        return Err(args.unexpected("group_query_attention", "False in files of checkpoint_version below 2.0"));
    }
    let indivisible =
        |what: String| Err(MegatronError::Indivisible { source_name: args.source_name().to_owned(), what, ranks });
    if settings.query_groups < ranks && settings.query_groups < settings.heads {
        let (setting, reason) = (
            format!("num_query_groups: {}", settings.query_groups),
            format!(
                "fewer groups than the {ranks} tensor-parallel ranks, which then share keys and values: not implemented"
            ),
        );
        let source = crate::config::Unsupported::new(setting, &reason, refusals::NEEDED);
        return Err(refusals::error(args, source));
    }
    if !settings.heads.is_multiple_of(ranks) {
        return indivisible(format!("{} heads", settings.heads));
    }
    if !settings.query_groups.is_multiple_of(ranks) {
        return indivisible(format!("{} query groups", settings.query_groups));
    }
    Ok(())
}

/// What the tensors show. Sizes that arguments contradict are errors.
fn shown(
    args: &Args,
    settings: &Settings,
    chunks: &[Chunk<'_>],
    (tensor_ranks, head): (usize, Head),
) -> Result<Shown, MegatronError> {
    let words = stages::find(chunks.first(), Place::Embedding, Role::WordEmbedding).map(|tensor| &tensor.form);
    // An extent beside one of 0 may be anything.
    let whole = |extent: Option<&usize>| extent.filter(|&&extent| extent < 1 << 32).map(|extent| extent * tensor_ranks);
    let padded_vocab_size = whole(words.and_then(|form| form.shape.first())).unwrap_or(0);
    if settings.padded_vocab_size.is_some_and(|size| size != padded_vocab_size) && padded_vocab_size > 0 {
        return Err(args.unexpected("padded_vocab_size", &format!("{padded_vocab_size} as in the word embedding")));
    }
    let second = chunks.iter().find_map(|chunk| stages::find(Some(chunk), Place::Layer(0), Role::MlpOutputWeight));
    let mlp_size = whole(second.and_then(|tensor| tensor.form.shape.get(1))).unwrap_or(0);
    let precision = words.map_or(Precision::Fp32, TensorForm::precision);
    Ok(Shown { tensor_ranks, precision, padded_vocab_size, mlp_size, head })
}

/// The head. With pipelines the last stage holds a copy of a tied word embedding, which Megatron loads as it is: where it
/// differs, the model's head is the copy.
fn head(
    settings: &Settings,
    chunks: &[Chunk<'_>],
    files: &[Vec<RankFile>],
    notes: &mut Vec<String>,
) -> Result<Head, CheckpointError> {
    if !settings.tied {
        return Ok(Head::Column);
    }
    let Some(copy) = stages::find(chunks.last(), Place::Head, Role::HeadWeight) else { return Ok(Head::Tied) };
    let Some(words) = stages::find(chunks.first(), Place::Embedding, Role::WordEmbedding) else {
        return Ok(Head::Tied);
    };
    let (first, last) = (files.first().into_iter().flatten(), files.last().into_iter().flatten());
    for (tp_rank, (first, last)) in first.zip(last).enumerate() {
        if !head_copy::is_same((&first.file, &words.name), (&last.file, &copy.name))? {
            notes.push(format!(
                "{}: rank {tp_rank}: `{}` differs from the word embedding that it is a copy of; it is the head, as when \
                 Megatron loads the files",
                last.file.path().display(),
                copy.name
            ));
            return Ok(Head::Column);
        }
    }
    Ok(Head::Tied)
}
