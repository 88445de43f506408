//! The main job for callers from Rust.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::report::{Report, RunShard};
use crate::run::{self, Forecast, NamedPath, Request, Silent};

/// Evaluates the unmerged model in a checkpoint and its merges by these strategies (none: all built-in ones) on a task. Task
/// data and tokenizer are found as on the command line. For more options see [`Comparison`].
///
/// ```no_run
/// let report = kintsugi::compare("path/to/checkpoint", "lambada_openai", ["reduce-aware", "fold"])?;
/// for row in &report.variants {
///     println!("{}: perplexity times {:.4}", row.model.name, row.loss.perplexity_ratio);
/// }
/// # Ok::<(), kintsugi::Error>(())
/// ```
///
/// # Errors
/// Whatever keeps the evaluation from finishing; see [`Error::kind`] and [`Error::hint`].
pub fn compare<S: Into<String>>(
    checkpoint: impl Into<PathBuf>,
    task: impl Into<String>,
    strategies: impl IntoIterator<Item = S>,
) -> Result<Report> {
    Comparison::of(checkpoint).task(task).strategies(strategies).run()
}

/// A comparison to make: the options of `kintsugi compare`, under the same names and with the same defaults. Nothing is
/// printed, nothing is read from the environment but the Hugging Face Hub's settings, and nothing is written without
/// [`output_dir`](Self::output_dir); progress is logged with `tracing`.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "a comparison does nothing until it is run"]
pub struct Comparison {
    request: Request,
}

impl From<Request> for Comparison {
    fn from(request: Request) -> Self {
        Self { request }
    }
}

/// Parses as the command line does; an error names the option.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(option: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| Error::usage(format!("{option}: {error}")))
}

impl Comparison {
    /// All built-in strategies on `lambada_openai`, for the checkpoint in this directory, or the model of
    /// this name on the Hub.
    pub fn of(checkpoint: impl Into<PathBuf>) -> Self {
        Self { request: Request { checkpoint: checkpoint.into(), ..Request::default() } }
    }

    /// Makes the comparison. Of a [shard](Self::shard) with an output directory only the journal is written.
    ///
    /// # Errors
    /// As [`compare`].
    pub fn run(&self) -> Result<Report> {
        run::compare(&self.request, &Silent)?.write_report()
    }

    /// What [`run`](Self::run) would read, compute and write, with all checks but nothing computed or written
    /// (`--dry-run`).
    ///
    /// # Errors
    /// As [`compare`].
    pub fn dry_run(&self) -> Result<Forecast> {
        run::forecast(&self.request, &Silent)
    }
}

/// Model.
impl Comparison {
    /// Configuration files to use instead of the one saved with the checkpoint.
    pub fn neox_config<P: Into<PathBuf>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        self.request.reading.neox_config = files.into_iter().map(Into::into).collect();
        self
    }

    /// When gpt-neox wrote the checkpoint: a date such as `2022-12-10`, or the name of an era.
    ///
    /// # Errors
    /// Neither of both.
    pub fn era(mut self, name_or_date: &str) -> Result<Self> {
        self.request.reading.era = Some(parse("era", name_or_date)?);
        Ok(self)
    }

    /// Overrides one property that depends on gpt-neox's version, `NAME=VALUE`.
    ///
    /// # Errors
    /// An unknown name or value.
    pub fn quirk(mut self, setting: &str) -> Result<Self> {
        self.request.reading.quirks.push(parse("quirk", setting)?);
        Ok(self)
    }

    /// Files with fields of Megatron-LM's arguments, used before those in the checkpoint.
    pub fn megatron_args<P: Into<PathBuf>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        self.request.reading.megatron_args = files.into_iter().map(Into::into).collect();
        self
    }
}

/// Task.
impl Comparison {
    /// A built-in task, or the path of a task file.
    pub fn task(mut self, name_or_file: impl Into<String>) -> Self {
        self.request.task.task = name_or_file.into();
        self
    }

    /// The passages, instead of the task's own.
    pub fn data(mut self, file: impl Into<PathBuf>) -> Self {
        self.request.task.data = Some(file.into());
        self
    }

    /// The tokenizer: a file, or a name on the Hugging Face Hub.
    pub fn tokenizer(mut self, file_or_name: impl Into<PathBuf>) -> Self {
        self.request.task.tokenizer = Some(file_or_name.into());
        self
    }

    /// Whether every text begins with BOS: `auto` (if the tokenizer itself does that), `yes` or `no`.
    ///
    /// # Errors
    /// Anything else.
    pub fn add_special_tokens(mut self, choice: &str) -> Result<Self> {
        self.request.task.add_special_tokens = parse("add_special_tokens", choice)?;
        Ok(self)
    }

    /// Only the first passages; the report is marked as partial.
    pub fn limit(mut self, passages: usize) -> Self {
        self.request.task.limit = Some(passages);
        self
    }

    /// Longest input in tokens; longer contexts lose tokens on the left.
    pub fn max_length(mut self, tokens: usize) -> Self {
        self.request.task.max_length = Some(tokens);
        self
    }

    /// Text that calibrates, instead of the one that comes with kintsugi.
    pub fn calibration(mut self, file: impl Into<PathBuf>) -> Self {
        self.request.task.calibration = Some(file.into());
        self
    }
}

/// Strategies.
impl Comparison {
    /// Built-in strategies, or paths of strategy files, instead of all built-in ones.
    pub fn strategies<S: Into<String>>(mut self, names_or_files: impl IntoIterator<Item = S>) -> Self {
        self.request.strategies.strategies = names_or_files.into_iter().map(Into::into).collect();
        self
    }

    /// Whether to merge even where no one-rank model equals the unmerged one.
    pub fn allow_inexact(mut self, allow: bool) -> Self {
        self.request.strategies.allow_inexact = allow;
        self
    }

    /// Adds a merge by another tool, to be judged like a strategy.
    pub fn candidate(mut self, name: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        self.request.candidates.push(NamedPath::new(name, folder));
        self
    }
}

/// Output.
impl Comparison {
    /// Where report, page, plots, samples and journal go.
    pub fn output_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.request.output.output_dir = Some(folder.into());
        self
    }

    /// Whether to discard what an earlier run has left in the output directory instead of going on with it.
    pub fn restart(mut self, restart: bool) -> Self {
        self.request.output.restart = restart;
        self
    }

    /// Only one share of the passages, counted from 1.
    ///
    /// # Errors
    /// An index that is 0 or above the count.
    pub fn shard(mut self, index: usize, count: usize) -> Result<Self> {
        self.request.output.shard = Some(parse::<RunShard>("shard", &format!("{index}/{count}"))?);
        Ok(self)
    }
}

/// Resources.
impl Comparison {
    /// `auto`, `cpu`, `cuda` or `cuda:N[,N…]`.
    ///
    /// # Errors
    /// Anything else.
    pub fn device(mut self, device: &str) -> Result<Self> {
        self.request.resources.device = parse("device", device)?;
        Ok(self)
    }

    /// Type to compute in: `auto`, `f32`, `bf16`, `f16` or `f64`.
    ///
    /// # Errors
    /// Anything else.
    pub fn dtype(mut self, dtype: &str) -> Result<Self> {
        self.request.resources.dtype = parse("dtype", dtype)?;
        Ok(self)
    }

    /// CPU threads. Those that read and merge keep the number of the process's first run.
    pub fn threads(mut self, threads: usize) -> Self {
        self.request.resources.threads = Some(threads.clamp(1, u16::MAX.into()));
        self
    }

    /// Memory for residual streams, in bytes.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.request.resources.memory_budget = Some(bytes);
        self
    }

    /// Tokens that go through a layer together.
    pub fn chunk_tokens(mut self, tokens: usize) -> Self {
        self.request.resources.chunk_tokens = Some(tokens);
        self
    }

    /// Tokens of a slice.
    pub fn slice_tokens(mut self, tokens: usize) -> Self {
        self.request.resources.slice_tokens = Some(tokens);
        self
    }
}

/// Statistics.
impl Comparison {
    /// Whether to leave out the noise floor: the baseline's second run, summed in another order.
    pub fn no_noise_floor(mut self, leave_out: bool) -> Self {
        self.request.statistics.no_noise_floor = leave_out;
        self
    }

    /// Resamples of the paired bootstrap.
    pub fn bootstrap_replicates(mut self, replicates: usize) -> Self {
        self.request.statistics.bootstrap_replicates = replicates.max(1);
        self
    }

    /// Seed of the paired bootstrap and of the order of [`until_decided`](Self::until_decided).
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.statistics.seed = seed;
        self
    }

    /// Whether to stop as soon as every model is decided against its limits. The report is marked, and its numbers are those of
    /// the passages seen.
    pub fn until_decided(mut self, stop: bool) -> Self {
        self.request.statistics.until_decided = stop;
        self
    }

    /// Limits for [`until_decided`](Self::until_decided), instead of the built-in ones.
    pub fn gates(mut self, file: impl Into<PathBuf>) -> Self {
        self.request.statistics.gates = Some(file.into());
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;
    use crate::error::ErrorKind;

    /// The options of `compare` as methods, each with a value that is not the default, and the same as arguments.
    fn everything() -> (Comparison, Vec<&'static str>) {
        let comparison = Comparison::of("checkpoint")
            .neox_config(["a.yml"])
            .era("2022-12-10")
            .unwrap()
            .quirk("norm-tying=inverted")
            .unwrap()
            .megatron_args(["args.yml"])
            .task("task.yml")
            .data("data.jsonl")
            .tokenizer("tokenizer.json")
            .add_special_tokens("yes")
            .unwrap()
            .limit(3)
            .max_length(64)
            .calibration("calibration.jsonl")
            .strategies(["mean", "fold"])
            .allow_inexact(true)
            .candidate("upstream", "out/hf")
            .output_dir("out")
            .restart(true)
            .shard(2, 4)
            .unwrap()
            .device("cuda:0,1")
            .unwrap()
            .dtype("bf16")
            .unwrap()
            .threads(3)
            .memory_budget(8 << 30)
            .chunk_tokens(96)
            .slice_tokens(192)
            .no_noise_floor(true)
            .bootstrap_replicates(100)
            .seed(7)
            .until_decided(true)
            .gates("gates.yml");
        let arguments = "checkpoint --neox-config a.yml --era 2022-12-10 --quirk norm-tying=inverted --megatron-args args.yml --task task.yml --data data.jsonl \
            --tokenizer tokenizer.json --add-special-tokens yes --limit 3 --max-length 64 --calibration calibration.jsonl --strategy mean --strategy fold \
            --allow-inexact --candidate upstream=out/hf --output-dir out --restart --shard 2/4 --device cuda:0,1 --dtype bf16 \
            --threads 3 --memory-budget 8GiB --chunk-tokens 96 --slice-tokens 192 --no-noise-floor --bootstrap-replicates 100 \
            --seed 7 --until-decided --gates gates.yml";
        (comparison, arguments.split_whitespace().collect())
    }

    fn parsed(arguments: &[&str]) -> Request {
        let command = Request::augment_args(Command::new("compare").no_binary_name(true));
        Request::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }

    #[test]
    fn a_method_an_argument_and_a_key_are_one_field() {
        let (comparison, arguments) = everything();
        assert_eq!(comparison.request, parsed(&arguments));
        let json = serde_json::to_value(&comparison.request).unwrap();
        assert_eq!(serde_json::from_value::<Request>(json.clone()).unwrap(), comparison.request);
        let command = Request::augment_args(Command::new("compare"));
        for argument in command.get_arguments() {
            let key = argument.get_long().unwrap_or(argument.get_id().as_str());
            assert!(arguments.contains(&format!("--{key}").as_str()) || key == "checkpoint", "{key} is not tried here");
            assert!(json.get(key).is_some(), "{key} is no key of {json}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_command_line() {
        assert_eq!(Comparison::of("checkpoint").request, parsed(&["checkpoint"]));
        let read: Request = serde_json::from_str(r#"{"checkpoint": "checkpoint"}"#).unwrap();
        assert_eq!(read, parsed(&["checkpoint"]));
    }

    #[test]
    fn the_error_of_a_main_is_a_message_with_its_hint() {
        let error = Comparison::of("nowhere").run().map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Checkpoint, 2));
        let shown = format!("{error:?}");
        assert!(shown.starts_with("nowhere: expected a checkpoint directory, found nothing\nhint: give"), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
}
