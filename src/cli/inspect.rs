//! `kintsugi inspect`: what is in a checkpoint, how far its replicas have drifted, which strategies lose nothing. Reads names and
//! shapes of everything and the weights of replicated parameters alone, so it takes seconds whatever the model's size.

mod notes;

use std::path::{Path, PathBuf};

use clap::Args;

use super::screen::Screen;
use crate::checkpoint::{Checkpoint, ModelSource, ParamEntry, STORED_ONCE, open_model};
use crate::error::{Error, Result};
use crate::merge::Strategy;
use crate::report::{self, DTypeCount, INSPECTION_VERSION, Inspection, ParameterRow, TerminalStyle, Tool, Vocabulary};
use crate::run::{ReadingOptions, checkpoint_info, drift, judge_strategies, model_path, read_replicated};

#[derive(Debug, Clone, Args)]
pub(super) struct InspectArgs {
    /// Save directory (its `latest` is followed), `global_stepN` directory, Hugging Face directory, or a name on the Hub
    checkpoint: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A built-in strategy or a strategy file to judge (repeatable) [default: all built-in ones]
    #[arg(long, value_name = "NAME|FILE")]
    strategy: Vec<String>,
    /// Read no weights: no drift, and no judgement of strategies
    #[arg(long, conflicts_with_all = ["strategy", "svg"])]
    no_drift: bool,
    /// Compare the model on tokens 0, 1, 2, … with the logits that gpt-neox stored with the checkpoint
    ///
    /// They are stored with `checkpoint_validation_logits`. A build with libtorch always does it where it takes seconds.
    #[arg(long)]
    self_check: bool,
    /// Draw the drift of every parameter in every layer into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingOptions,
}

pub(super) fn run(args: &InspectArgs, screen: &Screen) -> Result<()> {
    let strategies = Strategy::resolve_all(&args.strategy)?;
    let path = model_path(&args.checkpoint, &mut screen.download_bar())?;
    let model = &*open_model(&path, &args.reading.open_options())?;
    let mut inspection = describe(model, &args.checkpoint);
    if model.stored_once() && (args.svg.is_some() || !args.strategy.is_empty()) {
        let option = if args.svg.is_some() { "svg" } else { "strategy" };
        return Err(Error::usage(format!("--{option}: {}: {STORED_ONCE}", args.checkpoint.display())));
    }
    if !args.no_drift && !model.stored_once() {
        let stages = read_replicated(model)?;
        let drift = drift(&stages)?;
        inspection.notes.extend(notes::of_unused_replicas(&drift));
        inspection.drift = Some(drift);
        inspection.strategies = Some(judge_strategies(model, &stages, &strategies)?);
    }
    if let (true, Some(checkpoint)) = (args.self_check || !args.no_drift, model.as_neox()) {
        inspection.notes.extend(check_stored_outputs(checkpoint, args.self_check)?);
    }
    if let Some(path) = &args.svg {
        report::write_atomically(path, report::render_drift_svg(&inspection).as_bytes())?;
        tracing::info!("drift drawn into {}", path.display());
    }
    if args.json {
        return screen.json(&inspection);
    }
    let style = TerminalStyle { width: Screen::width(), styled: Screen::styled() };
    screen.data(&report::render_inspection(&inspection, style))
}

/// Multiplications that the self-check may take without being asked for: a few seconds on a CPU.
const SELF_CHECK_UNASKED: u64 = if cfg!(feature = "libtorch") { 200_000_000_000 } else { 0 };

/// Compares the forward pass with what the checkpoint stores, in a sentence.
fn check_stored_outputs(checkpoint: &Checkpoint, asked: bool) -> Result<Option<String>> {
    if !checkpoint.has_validation_logits() {
        let none = || "self-check: the checkpoint stores no checkpoint_validation_logits".to_owned();
        return Ok(asked.then(none));
    }
    if !asked && checkpoint.architecture().not_evaluated.is_some() {
        return Ok(None);
    }
    let cost = checkpoint.size().0.saturating_mul(checkpoint.config().seq_length as u64);
    if !asked && cost > SELF_CHECK_UNASKED {
        return Ok(Some(
            "checkpoint_validation_logits are stored: --self-check compares the model with them".to_owned(),
        ));
    }
    self_check(checkpoint)
}

#[cfg(not(feature = "libtorch"))]
fn self_check(_: &Checkpoint) -> Result<Option<String>> {
    Err(super::hand_over::exec("--self-check"))
}

#[cfg(feature = "libtorch")]
fn self_check(checkpoint: &Checkpoint) -> Result<Option<String>> {
    use crate::eval::self_check::self_check;
    use crate::model::Backend;
    use crate::options::{Compute, DeviceChoice};
    use crate::tensor::DType;
    use crate::words::scientific;

    let Some(device) = DeviceChoice::Auto.resolve()?.first().map(|chosen| chosen.device) else { return Ok(None) };
    let kind = Compute::Exactly(DType::F32).resolve(DType::F32, device);
    let Some(check) = self_check(checkpoint, Backend { device, kind })? else { return Ok(None) };
    let found =
        format!("largest difference {} over {} positions", scientific(check.max_abs_difference, 1), check.positions);
    Ok(Some(if check.agrees() {
        format!("self-check: the forward pass agrees with checkpoint_validation_logits ({}; {found})", check.form)
    } else {
        format!(
            "WARNING: self-check: the forward pass does NOT agree with checkpoint_validation_logits ({}; {found}): \
             another era or setting than the configuration says?",
            check.form
        )
    }))
}

fn describe(model: &dyn ModelSource, given: &Path) -> Inspection {
    Inspection {
        schema_version: INSPECTION_VERSION.to_owned(),
        tool: Tool { name: "kintsugi".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        checkpoint: checkpoint_info(model, given, None),
        dtypes: dtypes(model),
        vocabulary: Vocabulary::new(
            model.architecture().padded_vocab_size,
            model.vocabulary_multiple(),
            model.tp_size(),
        ),
        notes: notes::of_files(model),
        parameters: parameters(model),
        drift: None,
        strategies: None,
    }
}

/// Every parameter in the files, once: a tied head is the word embedding.
fn stored(model: &dyn ModelSource) -> impl Iterator<Item = &ParamEntry> {
    let entries = model.stage_ids().into_iter().flat_map(|id| model.stage_entries(id));
    entries.filter(|(role, entry)| *role == entry.row.role).map(|(_, entry)| entry)
}

fn dtypes(model: &dyn ModelSource) -> Vec<DTypeCount> {
    let mut counts: Vec<DTypeCount> = Vec::new();
    for entry in stored(model) {
        let shape = (entry.row.shape)(model.architecture());
        let parameters = shape.iter().product::<usize>() as u64;
        match counts.iter_mut().find(|count| count.dtype == entry.dtype) {
            Some(count) => {
                count.tensors += 1;
                count.parameters += parameters;
            }
            None => counts.push(DTypeCount { dtype: entry.dtype, tensors: 1, parameters }),
        }
    }
    counts
}

/// Parameters of the same name inside a stage and of the same form share a row.
fn parameters(model: &dyn ModelSource) -> Vec<ParameterRow> {
    let mut rows: Vec<ParameterRow> = Vec::new();
    for entry in stored(model) {
        let row = ParameterRow {
            name: entry.name.clone(),
            stage: entry.row.stage,
            kind: entry.row.kind,
            dtype: entry.dtype,
            shape: (entry.row.shape)(model.architecture()),
            rank_shape: entry.rank_shape.clone(),
            stage_count: 1,
            used: entry.used,
        };
        match rows.iter_mut().find(|known| ParameterRow { stage_count: 1, ..(**known).clone() } == row) {
            Some(known) => known.stage_count += 1,
            None => rows.push(row),
        }
    }
    rows
}
