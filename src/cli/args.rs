//! Argument groups that several subcommands share.

use std::path::PathBuf;

use clap::Args;

use crate::checkpoint::{Checkpoint, CheckpointError, OpenOptions};
use crate::config::{Era, QuirkOptions, QuirkSetting};

/// Which checkpoint.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Save directory (its `latest` is followed) or `global_stepN` directory.
    pub checkpoint: PathBuf,
    /// How to read it.
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How to read what gpt-neox wrote.
#[derive(Debug, Clone, Default, Args)]
pub struct ReadingArgs {
    /// Use this configuration instead of the one saved with the checkpoint (repeatable: files are combined).
    #[arg(long, value_name = "FILE")]
    pub neox_config: Vec<PathBuf>,
    /// When gpt-neox wrote the checkpoint, where the files do not show it: a date (2022-12-10) or branch-2021,
    /// norm-of-norm, 20b, tied-inverted, pythia, gqa-interleaved, head. See `inspect` for what follows from it.
    #[arg(long, value_name = "NAME|DATE")]
    pub era: Option<Era>,
    /// One thing that depends on gpt-neox's version, whatever files and era say (repeatable). `inspect` lists them.
    #[arg(long = "quirk", value_name = "NAME=VALUE")]
    pub quirks: Vec<QuirkSetting>,
}

impl ModelArgs {
    /// The checkpoint in this place, nothing else given.
    #[must_use]
    pub fn at(checkpoint: PathBuf) -> Self {
        Self { checkpoint, reading: ReadingArgs::default() }
    }

    /// Opens the checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with`].
    pub fn open(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open_with(&self.checkpoint, &self.reading.options())
    }
}

impl ReadingArgs {
    /// The same as the reader takes it.
    pub(super) fn options(&self) -> OpenOptions {
        let quirks = QuirkOptions { era: self.era.clone(), settings: self.quirks.clone() };
        OpenOptions { config_files: self.neox_config.clone(), quirks }
    }
}

/// Whether merges that lose something whatever the replicas hold are made all the same.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct MergeArgs {
    /// Merge even where no one-rank model can be the unmerged one (qk_layernorm); the report says what is lost.
    #[arg(long)]
    allow_inexact: bool,
}

impl MergeArgs {
    /// Tells the strategies.
    pub(super) fn apply(self, strategies: &mut [crate::merge::Strategy]) {
        for strategy in strategies {
            strategy.allow_inexact |= self.allow_inexact;
        }
    }
}

/// A size: `8GiB`, `500MB` or a plain number of bytes.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: &[(&str, u64)] = &[
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|&(_, factor)| factor);
    number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "expected a number of bytes, for example 8GiB or 500MB".to_owned())
}

#[cfg(feature = "libtorch")]
pub(super) use evaluation_args::{CacheArgs, EvaluationArgs, Shard};

#[cfg(feature = "libtorch")]
mod evaluation_args {
    use std::path::PathBuf;
    use std::str::FromStr;

    use clap::Args;

    use super::parse_bytes;
    use crate::model::{Compute, DeviceChoice};
    use crate::tensor::DType;

    /// What to evaluate on, and how.
    #[derive(Debug, Clone, Args)]
    pub(in crate::cli) struct EvaluationArgs {
        /// A run file: YAML in which every flag is a key, without its dashes. Flags win over KINTSUGI_FLAG in the
        /// environment, which wins over the file.
        #[arg(long, value_name = "FILE")]
        pub config: Option<PathBuf>,
        /// The tokenizer: a tokenizer.json, or a name on the Hugging Face Hub (EleutherAI/gpt-neox-20b). Default:
        /// `tokenizer.json` or `20B_tokenizer.json` beside the checkpoint, or the file that its configuration names.
        #[arg(long, value_name = "FILE|NAME")]
        pub tokenizer: Option<PathBuf>,
        /// Passages: a JSON object with `text` a line, or one passage a line. Default: the task's own file, from the Hugging
        /// Face cache or Hub where it is not here.
        #[arg(long, value_name = "FILE")]
        pub data: Option<PathBuf>,
        /// Built-in task, or a task file.
        #[arg(long, value_name = "NAME|FILE", default_value = "lambada_openai")]
        pub task: String,
        /// auto, cpu, cuda, or cuda:N[,N…]; auto takes all GPUs if there are any.
        #[arg(long, value_name = "DEVICE", default_value = "auto")]
        pub device: DeviceChoice,
        /// Type to compute in: auto (the checkpoint's on a GPU, f32 on a CPU), f32, bf16, f16 or f64.
        #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = parse_compute)]
        pub dtype: Compute,
        /// Only the first N passages. For trying things out: the report is marked as partial.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        pub limit: Option<u64>,
        /// Only the I-th of N shares of the passages (counted from 1); `combine` joins them. Default: what torchrun, Slurm,
        /// Open MPI or Kubernetes say in the environment, else everything (1/1).
        #[arg(long, value_name = "I/N")]
        pub shard: Option<Shard>,
        /// Longest input in tokens; longer contexts lose tokens on the left. Default: the model's
        /// `max_position_embeddings`.
        #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
        pub max_length: Option<u64>,
        /// Memory for residual streams, for example 8GiB or 500MB. Default: half of what is available.
        #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
        pub memory_budget: Option<u64>,
        /// Tokens that go through a layer together. Default: by device.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        pub chunk_tokens: Option<u64>,
        /// Tokens of a slice, after each of which the results are on disk (with --output-dir) and the checkpoint is read
        /// again. Default: about a minute's work, more where reading takes long.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        pub slice_tokens: Option<u64>,
        /// Discard what an earlier run has left in --output-dir instead of going on with it.
        #[arg(long)]
        pub restart: bool,
        #[command(flatten)]
        pub cache: CacheArgs,
        /// Passages that fold-calibrated may look at, in a file of their own. Default: where it needs any, up to a fifth
        /// of the data is set aside for it and not scored.
        #[arg(long, value_name = "FILE")]
        pub calibration: Option<PathBuf>,
        /// CPU threads. Default: one per core.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        pub threads: Option<u16>,
    }

    impl EvaluationArgs {
        /// A task, everything else at its default.
        pub(in crate::cli) fn for_task(task: String) -> Self {
            Self {
                config: None,
                tokenizer: None,
                data: None,
                task,
                device: DeviceChoice::default(),
                dtype: Compute::default(),
                limit: None,
                shard: None,
                max_length: None,
                memory_budget: None,
                chunk_tokens: None,
                slice_tokens: None,
                restart: false,
                cache: CacheArgs::default(),
                calibration: None,
                threads: None,
            }
        }
    }

    /// Where results of finished runs are kept, so that nothing is evaluated twice.
    #[derive(Debug, Clone, Default, Args)]
    pub(in crate::cli) struct CacheArgs {
        /// Where results are kept for later runs, which evaluate no model twice on the same passages. Default:
        /// `kintsugi` in $XDG_CACHE_HOME or ~/.cache.
        #[arg(long, value_name = "DIR", env = "KINTSUGI_CACHE_DIR", hide_env_values = true)]
        pub cache_dir: Option<PathBuf>,
        /// Neither use results of earlier runs nor keep these for later ones.
        #[arg(long, env = "KINTSUGI_NO_CACHE", hide_env_values = true, value_parser = clap::builder::BoolishValueParser::new())]
        pub no_cache: bool,
    }

    /// A share of the passages.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::cli) struct Shard {
        /// Which share, counted from 1.
        pub index: usize,
        /// Of how many.
        pub count: usize,
    }

    impl FromStr for Shard {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            let parsed =
                text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
            match parsed {
                Some((index, count)) if index >= 1 && index <= count => Ok(Self { index, count }),
                _ => Err("expected I/N with 1 ≤ I ≤ N, for example 2/4".to_owned()),
            }
        }
    }

    fn parse_compute(text: &str) -> Result<Compute, String> {
        Ok(match text {
            "auto" => Compute::Auto,
            "f32" => Compute::Exactly(DType::F32),
            "bf16" => Compute::Exactly(DType::BF16),
            "f16" => Compute::Exactly(DType::F16),
            "f64" => Compute::Exactly(DType::F64),
            _ => return Err("expected auto, f32, bf16, f16 or f64".to_owned()),
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn sizes_and_shards() {
            assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
            assert_eq!(parse_bytes("500MB"), Ok(500_000_000));
            assert_eq!(parse_bytes("123"), Ok(123));
            for wrong in ["", "GiB", "0", "3 apples", "99999999999999TB"] {
                assert!(parse_bytes(wrong).is_err(), "{wrong}");
            }
            assert_eq!("2/4".parse(), Ok(Shard { index: 2, count: 4 }));
            for wrong in ["0/4", "5/4", "1", "a/b", "1/0"] {
                assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
            }
        }
    }
}
