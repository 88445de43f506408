//! What is unusual in the files or easily misread, a sentence each.

use std::collections::BTreeSet;

use crate::checkpoint::{Checkpoint, Layout, ModelSource};
use crate::config::{Head, QkvLayout, QuirkLine};
use crate::merge::ParamDrift;
use crate::partition::{Kind, Role, StageKind};

/// What names, numbers and settings tell.
pub(super) fn of_files(model: &dyn ModelSource) -> Vec<String> {
    let architecture = model.architecture();
    let mut notes: Vec<String> = model.as_neox().map(of_neox).unwrap_or_default();
    if architecture.head.is_row_parallel() {
        notes.push("the output head is row-parallel: each rank reads its own slice of the final norm".to_owned());
    }
    if let Some(refusal) = &architecture.not_evaluated {
        notes.push(format!("it can be merged but not evaluated: {refusal}; {}", refusal.needed));
    }
    notes.extend(model.as_neox().map(quirks));
    notes.extend(model.notes());
    notes
}

/// What gpt-neox's names and numbers tell.
fn of_neox(checkpoint: &Checkpoint) -> Vec<String> {
    let architecture = checkpoint.architecture();
    let mut notes = vec![numbering(checkpoint)];
    let has = |role, name: &str| {
        checkpoint.parameters().any(|(_, _, entry)| entry.row.role == role && entry.name.contains(name))
    };
    if has(Role::MlpInputWeight, "dense_h_to_4h") {
        notes.push("the MLP's layers have the names gpt-neox gave them until 2024-09: mlp.dense_h_to_4h is now mlp.linear1, mlp.dense_4h_to_h is mlp.linear2".to_owned());
    }
    if architecture.gated {
        let name = if has(Role::MlpInputWeight, "linear1") { "mlp.linear1" } else { "mlp.dense_h_to_4h" };
        notes.push(format!("{name} holds [up | gate] on every rank: the halves are joined one by one, which concatenating the shards would mix up"));
    }
    if architecture.qkv == QkvLayout::Blocks {
        notes.push("attention.query_key_value holds [Q | K | V] on every rank: the three are joined one by one, which concatenating the shards would mix up".to_owned());
    }
    if checkpoint.parameters().any(|(_, _, entry)| entry.row.role == Role::MlpNormGain && !entry.used) {
        notes.push(
            "post_attention_layernorm is saved but unused: with gpt_j_tied the MLP reads input_layernorm".to_owned(),
        );
    }
    notes
}

/// What the replicas of buffers tell.
pub(super) fn of_unused_replicas(drift: &[ParamDrift]) -> Option<String> {
    let buffers: Vec<_> = drift.iter().filter(|entry| entry.kind == Kind::Buffer).collect();
    let name = &buffers.first()?.name;
    let differing = buffers.iter().filter(|entry| !entry.drift.bit_identical).count();
    let agreement = match differing {
        0 => "the same on all ranks".to_owned(),
        count => format!("not the same on all ranks in {count} of them"),
    };
    Some(format!(
        "{name} is saved in {} layers (gpt-neox did so until 2024-03), {agreement}; the model computes it anew",
        buffers.len()
    ))
}

/// What depends on gpt-neox's version at the time: first what matters to this model, then what does not.
fn quirks(checkpoint: &Checkpoint) -> String {
    let lines = checkpoint.quirks().list();
    let (matter, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.matters);
    let words = |lines: &[&QuirkLine]| {
        let words: Vec<_> = lines.iter().map(|line| format!("{}={} ({})", line.name, line.value, line.why)).collect();
        words.join(", ")
    };
    let mut parts = Vec::new();
    if !matter.is_empty() {
        parts.push(format!("depends on gpt-neox's version: {}; --era and --quirk change it", words(&matter)));
    }
    if !others.is_empty() {
        parts.push(format!("of gpt-neox's other quirks, none matters here: {}", words(&others)));
    }
    parts.join("; ")
}

/// Which numbers the stages have, and why some are missing.
fn numbering(checkpoint: &Checkpoint) -> String {
    let stages: BTreeSet<(usize, StageKind)> = checkpoint.parameters().map(|(index, kind, _)| (index, kind)).collect();
    let name = |index: usize| match checkpoint.layout() {
        Layout::LayerFiles => format!("layer_{index:02}"),
        Layout::RankFiles => format!("sequential.{index}"),
    };
    let of_kind = |kind| stages.iter().filter(move |stage| stage.1 == kind).map(|stage| stage.0);
    let mut parts = Vec::new();
    for (kind, what) in [
        (StageKind::Embedding, "the embedding"),
        (StageKind::SoftPrompt, "the trained prompt"),
        (StageKind::Layer, "the layers"),
        (StageKind::FinalNorm, "the final norm"),
        (StageKind::Head, "the output head"),
    ] {
        match (of_kind(kind).min(), of_kind(kind).max()) {
            (Some(first), Some(last)) if first == last => parts.push(format!("{} is {what}", name(first))),
            (Some(first), Some(last)) => parts.push(format!("{} to {} are {what}", name(first), name(last))),
            _ => {}
        }
    }
    let present: BTreeSet<_> = stages.iter().map(|stage| stage.0).collect();
    let last = present.last().copied().unwrap_or(0);
    // Steps without parameters are two; a file with a wild number is no reason to name thousands.
    let missing: Vec<_> = (0..last).filter(|index| !present.contains(index)).take(8).map(name).collect();
    if !missing.is_empty() {
        parts.push(format!("there is no {}: such steps have no parameters", missing.join(" and no ")));
    }
    if checkpoint.architecture().head == Head::Tied {
        parts.push("the output head is the word embedding".to_owned());
    }
    parts.join("; ")
}
