//! `kintsugi synth`: checkpoints for benchmarks and tests, in gpt-neox's own file format: random weights of a known shape, or
//! a real model divided among ranks whose replicas differ.

use std::path::{Path, PathBuf};

use clap::Args;

use super::screen::Screen;
use crate::checkpoint::Layout;
use crate::error::{Error, Result};
use crate::export::Drift;
use crate::export::synth::{Shape, SynthOptions, write_checkpoint};
#[cfg(feature = "libtorch")]
use crate::run::Truth;
use crate::run::{TaskOptions, TestCheckpoint};
use crate::tensor::DType;

#[derive(Debug, Clone, Args)]
pub(super) struct SynthArgs {
    /// Write the checkpoint into this folder
    #[arg(short, long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Random weights with the layer count, widths and vocabulary of this model: Pythia's, or GPT-NeoX-20B's
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Shape::names()))]
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    shape: Option<String>,
    /// The weights of this model: a Hugging Face directory, a name on the Hub, or a merged checkpoint of gpt-neox
    ///
    /// What is true of the checkpoint is written beside it, into `truth.json`: which strategies keep the unmerged model, and
    /// with --evaluate what it scores.
    #[arg(long, value_name = "MODEL")]
    from: Option<PathBuf>,
    /// Number of ranks
    #[arg(long, value_name = "N", default_value_t = 2)]
    tensor_parallel: usize,
    /// Drift of replicas from rank to rank, relative to each value
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0)]
    drift: f64,
    /// Drift of row-parallel biases [default: as --drift]
    #[arg(long, value_name = "FRACTION", conflicts_with = "shape")]
    drift_biases: Option<f64>,
    /// Type of the weights: f16, bf16 or f32 [default: f16; with --from the model's]
    #[arg(long, value_name = "TYPE", value_parser = ["f16", "bf16", "f32"])]
    dtype: Option<String>,
    /// Seed of random weights and of drift
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Number of layers [default: the shape's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "from")]
    layers: Option<u16>,
    /// Sequential residual instead of the parallel one
    #[arg(long, conflicts_with = "from")]
    sequential: bool,
    /// One file per rank instead of one per layer and rank
    #[arg(long, conflicts_with = "from")]
    rank_files: bool,
    /// Evaluate the unmerged checkpoint, and write its numbers into `truth.json`
    #[arg(long, conflicts_with = "shape")]
    evaluate: bool,
    #[command(flatten)]
    task: TaskOptions,
}

pub(super) fn run(args: &SynthArgs, screen: &Screen) -> Result<()> {
    args.check_task()?;
    #[cfg(not(feature = "libtorch"))]
    if args.evaluate {
        return Err(super::hand_over::exec("--evaluate"));
    }
    if let Some(model) = &args.from {
        return from_model(args, model, screen);
    }
    let name = args.shape.as_deref().unwrap_or_default();
    let mut shape = Shape::named(name).ok_or_else(|| Error::usage(format!("no shape `{name}`")))?;
    shape.layer_count = args.layers.map_or(shape.layer_count, usize::from);
    let mut options = SynthOptions::new(shape);
    options.tp_size = args.tensor_parallel;
    options.dtype = args.dtype().unwrap_or(DType::F16);
    options.drift = args.drift;
    options.seed = args.seed;
    options.gpt_j_residual = !args.sequential;
    options.layout = if args.rank_files { Layout::RankFiles } else { Layout::LayerFiles };
    let step = write_checkpoint(&options, &args.output_dir)?;
    screen.data(&format!("{}\n", step.display()))
}

impl SynthArgs {
    fn dtype(&self) -> Option<DType> {
        self.dtype.as_deref().map(|word| match word {
            "bf16" => DType::BF16,
            "f32" => DType::F32,
            _ => DType::F16,
        })
    }

    /// Refuses settings that nothing would read.
    fn check_task(&self) -> Result<()> {
        if self.task.tokenizer.is_some() && self.from.is_none() {
            return Err(Error::usage("--tokenizer: random weights have none; it goes with --from"));
        }
        let of_task = TaskOptions { tokenizer: None, ..self.task.clone() };
        if !self.evaluate && of_task != TaskOptions::default() {
            return Err(Error::usage("a task, its data and their limits are for --evaluate, which is not given"));
        }
        Ok(())
    }
}

fn from_model(args: &SynthArgs, model: &Path, screen: &Screen) -> Result<()> {
    let drift = Drift { replicas: args.drift, biases: args.drift_biases.unwrap_or(args.drift), seed: args.seed };
    let directory = &args.output_dir;
    let (tp_size, dtype, tokenizer) = (args.tensor_parallel, args.dtype(), args.task.tokenizer.as_deref());
    let checkpoint = TestCheckpoint { model, tp_size, drift, dtype, tokenizer, directory };
    #[cfg_attr(not(feature = "libtorch"), expect(unused_variables, reason = "nothing is measured"))]
    let truth = checkpoint.write(screen.command_line(), &mut screen.download_bar())?;
    #[cfg(feature = "libtorch")]
    if args.evaluate {
        Truth { unmerged: Some(unmerged(args, screen)?), ..truth }.write(directory)?;
    }
    screen.data(&format!("{}\n", directory.display()))
}

/// What the unmerged checkpoint scores.
#[cfg(feature = "libtorch")]
fn unmerged(args: &SynthArgs, screen: &Screen) -> Result<crate::run::Numbers> {
    let request = crate::run::Request {
        checkpoint: args.output_dir.clone(),
        task: args.task.clone(),
        ..crate::run::Request::default()
    };
    let report = crate::run::evaluate(&request, &super::caller::Process::alone(screen))?.write_report()?;
    Ok(crate::run::Numbers {
        task: report.task.name,
        passages: report.baseline.n,
        perplexity: report.baseline.perplexity,
        acc: report.baseline.acc,
        dtype: report.run.dtype,
    })
}
