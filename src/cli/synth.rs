//! `kintsugi synth`: random weights of a known shape in gpt-neox's own file format, for benchmarks and tests.

use std::path::PathBuf;

use clap::Args;

use super::screen::Screen;
use crate::checkpoint::Layout;
use crate::error::{Error, Result};
use crate::export::synth::{Shape, SynthOptions, write_checkpoint};
use crate::tensor::DType;

#[derive(Debug, Clone, Args)]
pub(super) struct SynthArgs {
    /// Write the checkpoint into this folder
    #[arg(short, long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Layer count, widths and vocabulary of this model: Pythia's, or GPT-NeoX-20B's
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Shape::names()))]
    shape: String,
    /// Number of layers [default: the shape's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    layers: Option<u16>,
    /// Number of ranks
    #[arg(long, value_name = "N", default_value_t = 2)]
    tensor_parallel: usize,
    /// Type of the weights
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = ["f16", "bf16", "f32"])]
    dtype: String,
    /// Drift of replicas from rank to rank, relative to each value
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0)]
    drift: f64,
    /// Seed of the weights
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Sequential residual instead of the parallel one
    #[arg(long)]
    sequential: bool,
    /// One file per rank instead of one per layer and rank
    #[arg(long)]
    rank_files: bool,
}

pub(super) fn run(args: &SynthArgs, screen: &Screen) -> Result<()> {
    let mut shape = Shape::named(&args.shape).ok_or_else(|| Error::usage(format!("no shape `{}`", args.shape)))?;
    shape.layer_count = args.layers.map_or(shape.layer_count, usize::from);
    let mut options = SynthOptions::new(shape);
    options.tp_size = args.tensor_parallel;
    options.dtype = match args.dtype.as_str() {
        "bf16" => DType::BF16,
        "f32" => DType::F32,
        _ => DType::F16,
    };
    options.drift = args.drift;
    options.seed = args.seed;
    options.gpt_j_residual = !args.sequential;
    options.layout = if args.rank_files { Layout::RankFiles } else { Layout::LayerFiles };
    let step = write_checkpoint(&options, &args.output_dir)?;
    screen.data(&format!("{}\n", step.display()))
}
