//! Properties of the model that are read off the names and shapes in its files.

use std::path::Path;

use super::client::ClientState;
use super::error::CheckpointError;
use super::inventory::FileStage;
use crate::config::{NeoxConfig, Observed, Precision};
use crate::partition::StageKind;
use crate::tensor::DType;

/// Checks that the files hold every stage, as often as the configuration asks.
pub(super) fn check_stages(folder: &Path, config: &NeoxConfig, stages: &[FileStage]) -> Result<(), CheckpointError> {
    let count = |kind| stages.iter().filter(|stage| stage.kind == kind).count();
    let expected = config.num_layers;
    let found = count(StageKind::Layer);
    if found != expected {
        let indices: Vec<_> =
            stages.iter().filter(|stage| stage.kind == StageKind::Layer).map(|stage| stage.index).collect();
        // Layers are numbered from 2; a gap is the missing one, else it is the one after the last.
        let missing = (found < expected).then(|| {
            let first = indices.first().copied().unwrap_or(2).min(2);
            (first..=first + found).find(|index| !indices.contains(index))
        });
        let (folder, missing) = (folder.to_owned(), missing.flatten());
        return Err(CheckpointError::LayerCount { folder, expected, found, missing });
    }
    let mut required = vec![StageKind::Embedding];
    if config.norm.has_gain() {
        required.push(StageKind::FinalNorm);
    }
    if config.soft_prompt_tuning {
        required.push(StageKind::SoftPrompt);
    }
    if !config.tied_embeddings() {
        required.push(StageKind::Head);
    }
    match required.into_iter().map(|kind| (kind, count(kind))).find(|&(_, found)| found != 1) {
        Some((stage, found)) => Err(CheckpointError::StageCount { folder: folder.to_owned(), stage, found }),
        None => Ok(()),
    }
}

/// Reads the sizes and names that the configuration does not contain.
pub(super) fn observe(stages: &[FileStage], tp_size: usize, config: &NeoxConfig, client: &ClientState) -> Observed {
    let form = |kind, names: &[&str]| {
        let stage = stages.iter().find(|stage| stage.kind == kind)?;
        names.iter().find_map(|&name| stage.ranks[0].forms.get(name)).map(|form| form.shape.as_slice())
    };
    let inner =
        form(StageKind::Layer, &["mlp.linear2.weight", "mlp.dense_4h_to_h.weight", "mlp.w2.weight", "mlp.fc2_weight"]);
    let layer = stages.iter().find(|stage| stage.kind == StageKind::Layer);
    let words = stages
        .iter()
        .find(|stage| stage.kind == StageKind::Embedding)
        .and_then(|stage| stage.ranks[0].forms.get("word_embeddings.weight"));
    let vocabulary = form(StageKind::Embedding, &["word_embeddings.weight"]);
    Observed {
        tp_size,
        mlp_first_size: form(StageKind::Layer, &["mlp.linear1.weight", "mlp.dense_h_to_4h.weight", "mlp.fc1_weight"])
            .and_then(|shape| shape.first()?.checked_mul(tp_size)),
        mlp_inner_size: inner.and_then(|shape| shape.get(1)?.checked_mul(tp_size)),
        padded_vocab_size: vocabulary
            .and_then(|shape| shape.first()?.checked_mul(tp_size))
            .or_else(|| config.padded_vocab_size(Some(&client.args))),
        head_shape: form(StageKind::Head, &["final_linear.weight"]).map(<[usize]>::to_vec),
        soft_prompt_length: form(StageKind::SoftPrompt, &["soft_embedding_weight"])
            .and_then(|shape| shape.first().copied()),
        layer_tensors: layer.map_or_else(Vec::new, |stage| stage.ranks[0].forms.keys().cloned().collect()),
        precision: words.map(|form| match form.dtype {
            DType::F16 => Precision::Fp16,
            DType::BF16 => Precision::Bf16,
            _ => Precision::Fp32,
        }),
    }
}
