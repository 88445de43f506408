//! What a run's numbers depend on, but for the contents of the checkpoint's files, whose digests are known once they have
//! been read. The passages and how they are computed make one part of it, each model the other.

use super::args::EvaluationArgs;
use super::evaluation::{Prepared, versions};
use super::job::Job;
use crate::eval::chunk_plan::ChunkPlan;
use crate::eval::{Variant, Weights};
use crate::samples::Identity;

/// What results depend on besides the model that has them.
pub(super) fn of_passages(job: &Job<'_>, prepared: &Prepared, args: &EvaluationArgs, plan: &ChunkPlan) -> Identity {
    let versions = versions();
    let commit = versions.git_commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    let calibration = &prepared.options.calibration;
    Identity::default()
        .with("kintsugi", format!("{}{commit}", versions.kintsugi))
        .with("libtorch", versions.libtorch)
        .with("architecture", digest(&format!("{:?}", job.model.architecture())))
        .with("ranks", job.model.tp_size().to_string())
        .with("task", format!("{} ({})", prepared.task.name, digest(&format!("{:?}", prepared.task))))
        .with("data", prepared.passages.data.sha256.clone())
        .with("limit", args.limit.map_or("none".to_owned(), |limit| limit.to_string()))
        .with(
            "calibration",
            if calibration.is_empty() { "none".to_owned() } else { digest(&format!("{calibration:?}")) },
        )
        .with("tokenizer", prepared.tokenizer.sha256())
        .with("max_length", prepared.max_length.to_string())
        .with("dtype", prepared.dtype_name())
        .with("device", prepared.device_kind())
        .with("chunk_tokens", plan.chunk_tokens().to_string())
}

/// The same with the run's models.
pub(super) fn with_models(passages: Identity, job: &Job<'_>) -> Identity {
    let names: Vec<_> = job.variants.iter().map(|variant| variant.name.as_str()).collect();
    job.variants.iter().fold(passages.with("models", names.join(", ")), |identity, variant| {
        identity.with(format!("model `{}`", variant.name), of_variant(variant))
    })
}

/// Each model with its name.
pub(super) fn of_variants<'a>(job: &'a Job<'_>) -> impl Iterator<Item = String> + 'a {
    job.variants.iter().map(|variant| format!("{}: {}", variant.name, of_variant(variant)))
}

fn of_variant(variant: &Variant) -> String {
    let chunking = if variant.rechunked { ", rechunked" } else { "" };
    match &variant.weights {
        Weights::Unmerged => format!("unmerged{chunking}"),
        Weights::Merged(strategy) => {
            let rules = (&strategy.rules, &strategy.overrides, strategy.arithmetic);
            let text = (strategy.calibrate, strategy.allow_inexact, &strategy.elsewhere);
            format!("merged by {}{chunking}", digest(&format!("{rules:?} {text:?} {}", strategy.description)))
        }
        Weights::Candidate(model) => {
            format!("{} {}{chunking}", model.describe(), digest(&format!("{:?}", model.architecture())))
        }
    }
}

/// The first 16 digits of a text's BLAKE3.
pub(super) fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}
