"""Reads kintsugi's report.json into typed records. One file, standard library, Python 3.10 or newer: copy it.

    from read_report import read_report

    report = read_report("out")
    for row in report.variants:
        print(row.name, row.loss.perplexity_ratio, [limit.verdict for limit in row.verdicts])

What a report leaves out is None, an empty list or the default that is given. Fields of later versions are passed over.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, is_dataclass
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

# The records, made from configs/report.schema.json, where the descriptions are whole.


@dataclass(frozen=True, kw_only=True)
class Report:
    """The losses of merging a tensor-parallel checkpoint: every merge compared with the unmerged model, paired by
    passage."""
    schema_version: Literal["2"]  # Version of this format: `2`.
    tool: Tool  # The program that made the report.
    partial: bool  # Whether only some of the passages were evaluated.
    checkpoint: CheckpointInfo  # The checkpoint that was merged.
    task: TaskInfo  # The task, its data and its tokenizer.
    run: RunInfo  # How the evaluation ran.
    statistics: Statistics  # How the statistics were made.
    limits: LimitsInfo  # The limits that rows are judged by.
    baseline: ModelRow  # The unmerged model, every rank with its own copy of the replicated parameters.
    variants: list[VariantRow]  # Every merge and candidate, in the order given.
    noise_floor: VariantRow | None = None  # The baseline evaluated again with another chunking, as if it were a variant.
    # How far each variant's residual stream strays from the baseline's, layer by layer; absent where not measured.
    divergence: list[DivergenceCurve] = field(default_factory=list)
    drift: list[ParamDrift] = field(default_factory=list)  # Drift of every replicated parameter of every stage.
    findings: list[str]  # Other findings, a sentence each.


@dataclass(frozen=True, kw_only=True)
class Tool:
    """The program that made the report."""
    name: str  # Always `kintsugi`.
    version: str  # Its version.


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """The checkpoint that was merged."""
    path: str  # The directory as it was given.
    name: str  # A short name for headings.
    iteration: int  # The training iteration it was saved at.
    tp_size: int  # Number of tensor-parallel ranks.
    layout: str  # Layout of the files, such as `layer files`.
    dtype: str  # Data type the parameters are stored in.
    parameter_count: int  # Number of parameters of the model, replicas counted once.
    bytes: int  # Size of the files read, in bytes.
    architecture: dict[str, Any]  # The architecture: name of a setting to its value.
    digests: list[FileDigest] = field(default_factory=list)  # Digest of every file read.


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """The contents of a file."""
    file: str  # File name, relative to the checkpoint.
    blake3: str  # BLAKE3 of its bytes (256 bits), hexadecimal, as `b3sum` prints it.
    bytes: int  # Its size in bytes.


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """The task, its data and its tokenizer."""
    name: str  # The task, by lm-evaluation-harness's name where it has it.
    version: float  # Version of the task's definition.
    data: DataInfo  # The data file.
    passages: PassageCounts  # Number of passages in all and evaluated.
    tokenizer: TokenizerInfo  # The tokenizer.
    splitting: str  # How a passage becomes context and target.
    truncated_count: int  # Number of passages whose context was cut at its beginning to fit the model.
    rolling: RollingText | None = None  # Size of the texts where every token of whole texts is predicted.


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """The data file of a task."""
    file: str  # File name.
    sha256: str  # SHA-256 of its bytes, hexadecimal.
    is_task_data: bool | None = None  # Whether it is, byte for byte, the file that the task pins.
    identity: str  # The same in a sentence that names the difference.


@dataclass(frozen=True, kw_only=True)
class PassageCounts:
    """Numbers of passages, by lm-evaluation-harness's names (`n-samples`)."""
    original: int  # Passages in the data file.
    effective: int  # Passages evaluated.


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """The tokenizer of a run."""
    file: str  # File name.
    sha256: str  # SHA-256 of its bytes, hexadecimal.
    special_tokens: str = ""  # Tokens around every text: `none` or `bos`.


@dataclass(frozen=True, kw_only=True)
class RollingText:
    """Whole texts that were predicted in windows."""
    texts: int  # Number of texts.
    words: int  # Their words, as Python's `re.split(r"\s+", text)` counts them.
    bytes: int  # Their bytes in UTF-8.
    tokens: int  # Their tokens.


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """How the evaluation ran."""
    argv: list[str]  # The command line, program name first; enough to repeat the run.
    started: str  # When the run began, RFC 3339, UTC.
    seconds: float  # Wall-clock seconds from start to the last sample.
    device: str  # The device, such as `NVIDIA H200` or `cpu`.
    dtype: str  # Data type of the matrix products: `f32`, `bf16` or `f16`.
    threads: int  # Number of CPU threads of libtorch.
    versions: Versions  # Versions of the software.
    limit: int | None = None  # Only the first so many passages were evaluated (`--limit`); absent where all were.
    run_shard: RunShard | None = None  # Only this share of the passages was evaluated (`--shard`).
    run_shards: int | None = None  # Number of run shards that were joined (`combine`).
    until_decided: UntilDecided | None = None  # How the run decided when to stop (`--until-decided`).
    chunk_tokens: int  # Packed tokens per matrix product.
    # Number of slices the passages were cut into, so that the residual streams fit in memory and results are saved from
    # time to time; every slice reads the checkpoint once.
    slices: int
    peak_rss_bytes: int | None = None  # Largest resident memory of the process, in bytes.
    stages: StageSeconds | None = None  # Where the time went; absent where it was not measured.
    tokens: int  # Tokens pushed through each model, targets included.
    tokens_per_second: float  # Tokens a second over all models evaluated.


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Versions of the software that computed the numbers."""
    kintsugi: str  # Version of kintsugi.
    git_commit: str | None = None  # Git commit it was built from; absent where it was built outside a repository.
    libtorch: str  # Version of the libtorch that was loaded.


@dataclass(frozen=True, kw_only=True)
class RunShard:
    """A share of the passages."""
    index: int  # Its number, counted from 1.
    count: int  # Number of run shards.


@dataclass(frozen=True, kw_only=True)
class UntilDecided:
    """A run that stops when every model is decided against its limits."""
    rule: str  # The rule by which it stops.
    limits: str  # The limits it was judged by: their file, or `built-in`.
    decided: bool  # Whether every model was decided at the last look; otherwise all passages were evaluated.
    looked_after: list[int]  # The numbers of passages after which it looked.
    of: int  # Passages that it would have evaluated if nothing had been decided.
    order: list[int]  # The passages seen, by `doc_id`, in the random order in which they were seen.


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Seconds spent per kind of work. On GPUs a stage is merged and copied while the one before is computed, so the sum
    may exceed `run.seconds`."""
    read_seconds: float  # Waiting for a stage to be read, on GPUs also to be merged and copied.
    merge_seconds: float  # Merging parameters.
    compute_seconds: float  # Forward passes.
    copy_seconds: float = 0.0  # Copying weights to GPUs ahead of computing; 0 in reports that did not count it.
    divergence_seconds: float = 0.0  # Measuring how far residual streams are from the baseline's.


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """How the statistics of a report were made."""
    confidence: float  # Level of every interval, a fraction; p-values are judged against the rest.
    bootstrap_replicates: int  # Number of bootstrap resamples.
    bootstrap_seed: int  # Seed of the resampling.


@dataclass(frozen=True, kw_only=True)
class LimitsInfo:
    """Where the limits of a report come from."""
    origin: str  # The file, or `built-in`.
    significance: float  # Chance of a false verdict.


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A model and its scores."""
    name: str  # The model: `baseline`, or the strategy or candidate.
    also: list[str] = field(default_factory=list)  # Other strategies that make the same model of this checkpoint.
    description: str  # A sentence about it.
    source: str  # Where it comes from: a strategy file, a directory, or the paper or script it follows.
    samples: str  # Its samples, relative to the output directory.
    perplexity: float  # Perplexity per passage, `exp(−mean(loglikelihood))`; smaller is better.
    perplexity_stderr: float | None = None  # Its standard error by the delta method.
    acc: float  # Accuracy, a fraction: how often greedy decoding gives the whole target; larger is better.
    acc_stderr: float | None = None  # Its standard error `√(p(1−p)/(n−1))`; absent for a single passage.
    acc_wilson: Interval  # Wilson's score interval for the accuracy, at the level in `statistics.confidence`.
    n: int  # Number of passages.


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval."""
    lower: float  # Lower limit.
    upper: float  # Upper limit.


@dataclass(frozen=True, kw_only=True)
class VariantRow(ModelRow):
    """One variant beside the baseline."""
    loss: Loss  # Its loss against the baseline, passage by passage.
    # How far its distributions over the next token are from the baseline's, target token by target token; absent where
    # the divergences were not measured.
    fidelity: Fidelity | None = None
    verdicts: list[LimitVerdict] = field(default_factory=list)  # What was proven of its losses.
    # Of a merge: the strategies that make it of this checkpoint, its own first.
    strategies: list[StrategyDigest] = field(default_factory=list)
    exact: Exact | None = None  # Whether it is the baseline by construction.
    candidate: CandidateInfo | None = None  # Of a candidate: its format, and how it was made.


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a variant against the baseline on the same passages. Intervals are at `statistics.confidence`, one
    variant at a time."""
    acc: float  # Baseline minus variant accuracy, a fraction; positive where the variant is worse.
    acc_interval: Interval  # Tango's paired score interval for it.
    perplexity: float  # Variant minus baseline perplexity; positive where the variant is worse.
    perplexity_interval: Interval | None = None  # Paired bootstrap interval for it; absent for a single passage.
    perplexity_ratio: float  # Variant over baseline perplexity; above 1 where the variant is worse.
    perplexity_ratio_interval: Interval | None = None  # Paired bootstrap interval for it; absent for a single passage.
    delta_loglikelihood: float  # Mean over passages of variant minus baseline log-likelihood, in nats.
    delta_loglikelihood_interval: Interval | None = None  # Paired bootstrap interval for it.
    max_abs_delta_loglikelihood: float  # Largest absolute difference of a passage's log-likelihood, in nats.
    mcnemar_p: float  # Two-sided p-value of the exact `McNemar` test on the discordant passages.
    mcnemar_p_holm: float  # The same after Holm's correction over the variants of this report.
    baseline_only: int  # Discordant passages that only the baseline answers correctly.
    variant_only: int  # Discordant passages that only the variant answers correctly.


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Distance of a variant from the baseline, token by token. Quantiles interpolate linearly between sorted values.
    Perplexities here are per token; LAMBADA's own perplexity is per passage."""
    token_count: int  # Number of tokens compared.
    ppl_baseline: float  # Perplexity per token under the baseline, `exp(−mean(baseline logprob))`.
    ppl_baseline_stderr: float | None = None  # Its standard error by the delta method; absent for a single token.
    ppl_variant: float  # Perplexity per token under the variant: llama.cpp's `Mean PPL(Q)`.
    ppl_variant_stderr: float | None = None  # Its standard error by the delta method; absent for a single token.
    # Pearson correlation between the two models' log-probabilities, llama.cpp's `Cor(ln(PPL(Q)), ln(PPL(base)))` as a
    # fraction; absent where a model gives every token the same log-probability.
    ln_ppl_correlation: float | None = None
    ln_ppl_ratio: float  # `ln(ppl_variant/ppl_baseline)`, in nats; positive where the variant is worse.
    # Its standard error with the covariance of the two models taken into account; absent for a single token.
    ln_ppl_ratio_stderr: float | None = None
    ppl_ratio: float  # `ppl_variant/ppl_baseline`; above 1 where the variant is worse.
    ppl_ratio_stderr: float | None = None  # Its standard error by the delta method; absent for a single token.
    ppl_difference: float  # `ppl_variant − ppl_baseline`; positive where the variant is worse.
    ppl_difference_stderr: float | None = None  # Its standard error by the delta method, covariance included.
    kl_mean: float  # Mean over tokens of KL(baseline ‖ variant), in nats.
    kl_mean_stderr: float | None = None  # Its standard error; absent for a single token.
    kl_max: float  # Largest of KL(baseline ‖ variant) over tokens, in nats.
    kl_p999: float  # 99.9 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_p99: float  # 99 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_p95: float  # 95 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_p90: float  # 90 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_median: float  # Median of KL(baseline ‖ variant) over tokens, in nats.
    kl_p10: float  # 10 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_p05: float  # 5 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_p01: float  # 1 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_p001: float  # 0.1 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    kl_min: float  # Smallest of KL(baseline ‖ variant) over tokens, in nats.
    delta_logprob_mean: float  # Mean over tokens of variant minus baseline log-probability of the true token, in nats.
    delta_logprob_mean_stderr: float | None = None  # Its standard error; absent for a single token.
    delta_logprob_rms: float  # Root of the mean square of that difference, in nats.
    delta_logprob_rms_stderr: float | None = None  # Its standard error by the delta method; absent for a single token.
    delta_logprob_max: float  # Largest of that difference, in nats.
    delta_logprob_p999: float  # 99.9 % quantile of that difference, in nats.
    delta_logprob_p99: float  # 99 % quantile of that difference, in nats.
    delta_logprob_p95: float  # 95 % quantile of that difference, in nats.
    delta_logprob_p90: float  # 90 % quantile of that difference, in nats.
    delta_logprob_p75: float  # 75 % quantile of that difference, in nats.
    delta_logprob_median: float  # Median of that difference, in nats.
    delta_logprob_p25: float  # 25 % quantile of that difference, in nats.
    delta_logprob_p10: float  # 10 % quantile of that difference, in nats.
    delta_logprob_p05: float  # 5 % quantile of that difference, in nats.
    delta_logprob_p01: float  # 1 % quantile of that difference, in nats.
    delta_logprob_p001: float  # 0.1 % quantile of that difference, in nats.
    delta_logprob_min: float  # Smallest of that difference, in nats.
    # Mean over tokens of variant minus baseline probability of the true token, llama.cpp's `Mean Δp` as a fraction (it
    # prints percent); negative where the variant is worse.
    delta_p_mean: float
    delta_p_mean_stderr: float | None = None  # Its standard error; absent for a single token.
    delta_p_rms: float  # Root of the mean square of that difference, a fraction: llama.cpp's `RMS Δp`.
    delta_p_rms_stderr: float | None = None  # Its standard error by the delta method; absent for a single token.
    delta_p_max: float  # Largest of that difference, a fraction.
    delta_p_p999: float  # 99.9 % quantile of that difference, a fraction.
    delta_p_p99: float  # 99 % quantile of that difference, a fraction.
    delta_p_p95: float  # 95 % quantile of that difference, a fraction.
    delta_p_p90: float  # 90 % quantile of that difference, a fraction.
    delta_p_p75: float  # 75 % quantile of that difference, a fraction.
    delta_p_median: float  # Median of that difference, a fraction.
    delta_p_p25: float  # 25 % quantile of that difference, a fraction.
    delta_p_p10: float  # 10 % quantile of that difference, a fraction.
    delta_p_p05: float  # 5 % quantile of that difference, a fraction.
    delta_p_p01: float  # 1 % quantile of that difference, a fraction.
    delta_p_p001: float  # 0.1 % quantile of that difference, a fraction.
    delta_p_min: float  # Smallest of that difference, a fraction.
    same_top1_pct: float  # Percentage of tokens at which both models rank the same token first.
    same_top1_pct_stderr: float | None = None  # Its standard error `√(p(1−p)/(n−1))`, in percentage points.


@dataclass(frozen=True, kw_only=True)
class LimitVerdict:
    """A limit and what was proven of it. Losses are positive where the model is worse: fractions of accuracy and of
    changed top tokens, nats of log-likelihood (the logarithm of the perplexity ratio) and of KL divergence."""
    criterion: Criterion  # What the limit is for.
    # `within`: the upper bound is at or below the limit. `beyond`: the lower bound is above it by more than `noise`.
    # `undecided`: neither.
    verdict: Verdict
    loss: float  # The loss on the passages seen.
    lower: float | None = None  # One-sided lower bound, corrected for all limits of the report.
    upper: float | None = None  # One-sided upper bound; absent where none can be claimed.
    limit: float  # The largest loss that is allowed.
    noise: float | None = None  # What rounding alone makes of a divergence or of top tokens, by the noise floor.
    may_stay_undecided: bool  # Whether the verdict may stay undecided, since another limit of the same model is proven.
    # Where it is undecided, how many more passages would decide it at the rates and the spread seen; absent where no
    # number does.
    more_passages: int | None = None
    # The smallest loss that as many passages show to be beyond the limit with a probability of 80 %; absent where they
    # show none.
    detectable: float | None = None


# What a limit is for.
Criterion: TypeAlias = Literal["accuracy-loss", "perplexity-increase", "kl-divergence", "top-token-change"]


# What was proven about a loss and its limit.
Verdict: TypeAlias = Literal["within", "beyond", "undecided"]


@dataclass(frozen=True, kw_only=True)
class StrategyDigest:
    """A strategy and the digest of its text."""
    name: str  # Its name.
    blake3: str  # BLAKE3 of its text (256 bits), hexadecimal.


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Whether a merge is the unmerged model in exact arithmetic, judged from rules and parameters, not from scores."""
    exact: bool  # Whether it is.
    because: list[str]  # If not, why: a line for each parameter that it changes.


@dataclass(frozen=True, kw_only=True)
class CandidateInfo:
    """A merge made by another tool."""
    path: str  # The directory as it was given.
    format: str  # Its format, such as `Hugging Face GPTNeoXForCausalLM` or `gpt-neox, 1 rank`.
    dtype: str  # Data type the parameters are stored in.
    # Rows of its vocabulary. Where they are not the checkpoint's, probabilities are over its own rows, and divergences
    # from the baseline are between both distributions renormalised over the tokens that both have.
    vocab_size: int
    strategy: str = ""  # The strategy that explains most of its parameters.
    same_as: list[str] = field(default_factory=list)  # Strategies that make the same of this checkpoint.
    explained: int = 0  # Parameters that are as the strategy makes them, those of each layer counted.
    parameters: int = 0  # All parameters that were compared.
    rounding: str | None = None  # The type that the parameters were rounded to as a whole.
    # Parameters that it has another multiple of than the model.
    miscounts: list[Miscount] = field(default_factory=list)
    exceptions: list[ExceptionInfo] = field(default_factory=list)  # Parameters that are not as the strategy makes them.
    settings: list[SettingDifference]  # Settings by which it computes something else than the checkpoint.
    digests: list[FileDigest] = field(default_factory=list)  # Digest of every file read.


@dataclass(frozen=True, kw_only=True)
class Miscount:
    """Parameters that a strategy makes another multiple of than the model has: a wrong rule, which loses more than any
    drift."""
    factor: float  # How many times the model's parameter the merged one is, but for drift.
    parameters: list[str]  # Names of the parameters inside their layers.


@dataclass(frozen=True, kw_only=True)
class ExceptionInfo:
    """Parameters of a candidate that are not as its strategy makes them."""
    parameters: list[str]  # Their names inside the checkpoint's layers; none where whole layers are meant.
    layers: list[int]  # Numbers of their layers; none for parameters outside of layers.
    what: str  # What each is instead, such as `is the transpose`.
    suspect: bool  # Whether something must be wrong.


@dataclass(frozen=True, kw_only=True)
class SettingDifference:
    """A setting that is not the checkpoint's."""
    setting: str  # Its name.
    checkpoint: str  # The checkpoint's value.
    candidate: str  # The candidate's.


@dataclass(frozen=True, kw_only=True)
class DivergenceCurve:
    """How far a strategy's residual stream is from the baseline's after each stage."""
    strategy: str  # The strategy.
    # √(Σ‖x − x_baseline‖² / Σ‖x_baseline‖²) over all tokens, after the embedding and after each layer.
    relative: list[float]


@dataclass(frozen=True, kw_only=True)
class ParamDrift:
    """The drift of one parameter of one stage."""
    stage: StageId  # The stage.
    name: str  # Name of the parameter inside its layer file.
    kind: Kind  # Its kind.
    used: bool  # Whether the model uses it; drift of what it does not use costs nothing.
    bit_identical: bool  # Whether all ranks hold the same bits.
    max_abs: float  # Largest absolute difference of an element between two ranks.
    mean_abs: float  # Mean absolute difference over all elements and pairs of ranks.
    # Root mean square of the difference, over all elements and pairs of ranks, divided by the root mean square of the
    # values; 0 where all values are 0.
    relative: float
    # Largest number of steps from a value to its replica through the numbers that the storage type can hold (units in
    # the last place).
    max_ulps: int
    min_cosine: float  # Smallest cosine between the replicas of two ranks.
    most_different_ranks: tuple[int, int] | None = None  # The two ranks between which `max_abs` was found.


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Transformer layer, 0-based."""
    layer: int


# Which stage of the model.
StageId: TypeAlias = Literal["embedding", "output"] | Layer


# How a parameter relates to the tensor-parallel ranks. Strategies give one rule per kind.
Kind: TypeAlias = Literal[
    "vocab-parallel", "column-parallel", "row-parallel", "row-parallel-bias", "norm-gain", "norm-bias",
    "learned-positions", "buffer", "head-parallel", "relative-bias", "head-norm",
]


# The end of the records.


def read_report(path: str | PathLike[str]) -> Report:
    """Reads a report.json, or that of an output folder. ValueError: it is of another version, or no report."""
    path = Path(path)
    if path.is_dir():
        path /= "report.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = data.get("schema_version")
        (expected,) = get_args(get_type_hints(Report)["schema_version"])
        if found != expected:
            raise ValueError(f"its schema_version is {found!r}, this reader is for {expected!r}")
        report: Report = _typed(Report, data)
        return report
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no report that can be read: {error}") from error


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type says: objects become records, pairs tuples."""
    kinds = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return _typed(next((kind for kind in kinds if is_dataclass(kind) == isinstance(value, dict)), Any), value)
    if get_origin(hint) is list:
        return [_typed(kinds[0], item) for item in value]
    if get_origin(hint) is tuple:
        return tuple(value)
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{name: _typed(hints[name], item) for name, item in value.items() if name in hints})
    return value


def main() -> None:
    """Prints the models of a report, a line each."""
    report = read_report(sys.argv[1])
    print(f"{report.checkpoint.name}: {report.task.name}, {report.task.passages.effective} passages")
    for model in [report.baseline, *report.variants]:
        verdicts = [f"{limit.criterion} {limit.verdict}" for limit in getattr(model, "verdicts", [])]
        print(f"{model.name}: perplexity {model.perplexity:.4g}, accuracy {model.acc:.2%}", *verdicts, sep=", ")


if __name__ == "__main__":
    main()
