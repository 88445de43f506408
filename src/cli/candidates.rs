//! `--candidate`: merges made elsewhere, to be judged beside the strategies.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;

use super::args::ReadingArgs;
use super::evaluation::digests;
use crate::checkpoint::{Checkpoint, ModelSource, OpenOptions, open_model};
use crate::config::Architecture;
use crate::eval::{SliceOutcome, Variant};
use crate::merge::Strategy;
use crate::report::{CandidateInfo, SettingDifference};

/// Which merges made elsewhere to judge.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct CandidateArgs {
    /// A merge that another tool made, judged like a strategy (repeatable; NAME= names its row): a Hugging Face directory
    /// (GPTNeoXForCausalLM or LlamaForCausalLM; safetensors or pytorch_model.bin) or a gpt-neox checkpoint with any number
    /// of ranks. Where its vocabulary was padded or trimmed otherwise, its probabilities are over its own vocabulary, and
    /// KL is between both distributions renormalised over the tokens that both have.
    #[arg(long = "candidate", value_name = "[NAME=]DIR")]
    pub asked: Vec<NamedPath>,
}

/// `DIR` or `NAME=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPath {
    name: Option<String>,
    path: PathBuf,
}

impl FromStr for NamedPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |name: &str| {
            let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
            !name.is_empty() && !name.starts_with('.') && name.bytes().all(inside)
        };
        match text.split_once('=') {
            // A path may hold `=` itself.
            Some((name, path)) if plain(name) && !path.is_empty() && !Path::new(text).exists() => {
                Ok(Self { name: Some(name.to_owned()), path: path.into() })
            }
            _ if text.is_empty() => Err("expected DIR or NAME=DIR".to_owned()),
            _ => Ok(Self { name: None, path: text.into() }),
        }
    }
}

impl NamedPath {
    /// The name given, else that of the folder (of the save directory, for a step of a checkpoint).
    fn name(&self) -> String {
        let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.name.clone().unwrap_or_else(|| {
            let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
            let own = named(&path).unwrap_or_else(|| "candidate".to_owned());
            if own.starts_with("global_step") { path.parent().and_then(named).unwrap_or(own) } else { own }
        })
    }
}

/// A merge made elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub name: String,
    pub path: PathBuf,
    pub model: Arc<dyn ModelSource>,
}

impl CandidateArgs {
    /// Opens them all. A checkpoint of gpt-neox is read as the one that was merged: it is of the same version.
    pub(super) fn open(&self, reading: &ReadingArgs, strategies: &[Strategy]) -> anyhow::Result<Vec<Candidate>> {
        let mut taken: HashSet<String> = strategies.iter().map(|strategy| strategy.name.clone()).collect();
        taken.extend(["baseline".to_owned(), "noise floor".to_owned()]);
        let neox = OpenOptions { config_files: Vec::new(), ..reading.options() };
        let mut candidates = Vec::new();
        for asked in &self.asked {
            let name = asked.name();
            if !taken.insert(name.clone()) {
                bail!("--candidate {}: another row is called `{name}`; give NAME=DIR", asked.path.display());
            }
            let options = if Checkpoint::is_at(&asked.path) { &neox } else { &OpenOptions::default() };
            let model = open_model(&asked.path, options).with_context(|| format!("candidate `{name}`"))?;
            candidates.push(Candidate { name, path: asked.path.clone(), model: Arc::from(model) });
        }
        Ok(candidates)
    }
}

impl Candidate {
    /// It as the engine takes it.
    pub(super) fn variant(&self) -> Variant {
        Variant::candidate(self.name.clone(), Arc::clone(&self.model))
    }

    /// What the report says of it; `at` is its place among the variants.
    pub(super) fn info(&self, checkpoint: &Architecture, outcome: &SliceOutcome, at: usize) -> CandidateInfo {
        let architecture = self.model.architecture();
        let settings = checkpoint
            .differences(architecture)
            .into_iter()
            .map(|(setting, checkpoint, candidate)| SettingDifference { setting, checkpoint, candidate });
        let info = CandidateInfo {
            path: self.path.display().to_string(),
            format: self.model.describe(),
            dtype: self.model.dtype().to_string(),
            vocab_size: architecture.padded_vocab_size,
            replicated: Vec::new(),
            joined: Vec::new(),
            settings: settings.collect(),
            digests: outcome.candidate_digests.get(&at).map(|found| digests(found)),
        };
        match outcome.candidate_analyses.get(&at) {
            Some(elsewhere) => info.with_parameters(elsewhere),
            None => info,
        }
    }

    /// What whoever made it did wrong, then what he did, a sentence each.
    pub(super) fn findings(&self, checkpoint: &Architecture, outcome: &SliceOutcome, at: usize) -> Vec<String> {
        let (name, architecture) = (&self.name, self.model.architecture());
        let mut findings: Vec<_> = checkpoint
            .differences(architecture)
            .into_iter()
            .map(|(setting, ours, theirs)| {
                format!("WARNING: {name}: {setting} is {theirs}, the checkpoint's is {ours}")
            })
            .collect();
        if let Some(elsewhere) = outcome.candidate_analyses.get(&at) {
            let warnings = elsewhere.warnings();
            findings.splice(0..0, warnings.into_iter().map(|warning| format!("WARNING: {name}: {warning}")));
            findings.push(format!("{name} ({}): {}", self.model.describe(), elsewhere.summary()));
        }
        let (ours, theirs) = (checkpoint.padded_vocab_size, architecture.padded_vocab_size);
        if ours != theirs {
            findings.push(format!(
                "{name}: its vocabulary has {theirs} rows, the checkpoint's {ours}: its probabilities are over its own, and KL \
                 is over the {} tokens that both have, renormalised",
                ours.min(theirs)
            ));
        }
        findings
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_paths() {
        let parsed = |text: &str| text.parse::<NamedPath>().unwrap();
        assert_eq!(parsed("upstream=out/hf"), NamedPath { name: Some("upstream".to_owned()), path: "out/hf".into() });
        for path in ["out/hf", "out/a=b", "=x", "./a=b"] {
            assert_eq!(parsed(path), NamedPath { name: None, path: path.into() }, "{path}");
        }
        assert!("".parse::<NamedPath>().is_err());
        assert_eq!(parsed("runs/merge").name(), "merge");
        assert_eq!(parsed("runs/merged/global_step10").name(), "merged");
    }
}
