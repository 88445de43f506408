//! A run that is ready to be executed.

use std::path::Path;

use super::inputs::Inputs;
use super::key::RunKey;
use super::models::ModelSet;
use super::provenance::versions;
use super::records::RECORDS_VERSION;
use super::request::Request;
use crate::eval::{Variant, Weights};
use crate::stats::PairedBootstrap;

/// Which models are evaluated, and where their results are kept.
pub(super) struct Job<'a> {
    pub models: ModelSet<'a>,
    /// The output directory; none where results are kept in memory.
    pub folder: Option<&'a Path>,
    pub journal: &'static str,
    pub restart: bool,
    /// Tokens of a slice; none: by time and memory.
    pub slice_tokens: Option<usize>,
    pub bootstrap: PairedBootstrap,
}

impl<'a> Job<'a> {
    pub(super) fn new(models: ModelSet<'a>, journal: &'static str, request: &'a Request) -> Self {
        let Request { output, resources, statistics, .. } = request;
        Self {
            models,
            folder: output.output_dir.as_deref(),
            journal,
            restart: output.restart,
            slice_tokens: resources.slice_tokens,
            bootstrap: statistics.bootstrap(),
        }
    }

    /// How the run decides when to stop.
    fn stopping(&self, inputs: &Inputs) -> String {
        inputs.stopping.as_ref().map_or("no".to_owned(), |rule| {
            format!("seed {}, limits {}", self.bootstrap.seed, &digest(&rule.gates)[..12])
        })
    }

    pub(super) fn key(&self, inputs: &Inputs, chunk_tokens: usize) -> RunKey {
        let (source, variants) = (self.models.source, &self.models.variants);
        let versions = versions();
        let commit = versions.git_commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
        let calibration = &inputs.options.calibration;
        let task = &inputs.task;
        let names: Vec<_> = variants.iter().map(|variant| variant.name.as_str()).collect();
        let key = RunKey::default()
            .with("records", RECORDS_VERSION.to_string())
            .with("kintsugi", format!("{}{commit}", versions.kintsugi))
            .with("libtorch", versions.libtorch)
            .with("architecture", digest(&format!("{:?}{}", source.architecture(), source.row_orders())))
            .with("ranks", source.tp_size().to_string())
            .with("task", format!("{} ({})", task.name, digest(&format!("{task:?}"))))
            .with("data", inputs.passages.data.sha256.clone())
            .with("limit", inputs.limit.map_or("none".to_owned(), |limit| limit.to_string()))
            .with(
                "calibration",
                if calibration.is_empty() { "none".to_owned() } else { digest(&format!("{calibration:?}")) },
            )
            .with("tokenizer", inputs.tokenizer.sha256())
            .with("tokens before a text", format!("{:?}", inputs.tokenizer.before()))
            .with("max_length", inputs.max_length.to_string())
            .with("dtype", inputs.dtype_name())
            .with("device", inputs.device_kind())
            .with("chunk_tokens", chunk_tokens.to_string())
            .with("until_decided", self.stopping(inputs))
            .with("models", names.join(", "));
        variants.iter().fold(key, |key, variant| key.with(format!("model `{}`", variant.name), weights(variant)))
    }
}

fn weights(variant: &Variant) -> String {
    let chunking = if variant.rechunked { ", rechunked" } else { "" };
    match &variant.weights {
        Weights::Unmerged => format!("unmerged{chunking}"),
        Weights::Merged(strategy) => {
            let rules = (&strategy.rules, &strategy.overrides, strategy.arithmetic);
            let text = (strategy.calibrate, strategy.allow_inexact, &strategy.only_for);
            format!("merged by {}{chunking}", digest(&format!("{rules:?} {text:?} {}", strategy.description)))
        }
        Weights::Candidate(model) => {
            let read = format!("{:?}{}", model.architecture(), model.row_orders());
            format!("{} {}{chunking}", model.describe(), digest(&read))
        }
    }
}

/// The first 16 digits of a text's BLAKE3.
fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}
