//! Properties of the model that are read off the names and shapes in its files.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::CheckpointError;
use super::inventory::FileStage;
use super::torch_file::TensorForm;
use crate::config::{ClientArgs, NeoxConfig, Observed};
use crate::partition::StageKind;

/// Checks that the files hold every stage, as often as the configuration asks.
pub(super) fn check_stages(folder: &Path, config: &NeoxConfig, stages: &[FileStage]) -> Result<(), CheckpointError> {
    let indices = |kind| stages.iter().filter(move |stage| stage.kind == kind).map(|stage| stage.index);
    let layers: Vec<_> = indices(StageKind::Layer).collect();
    let (expected, found) = (config.num_layers, layers.len());
    if found != expected {
        // Layers are numbered from 2; a gap is the missing one, else it is the one after the last.
        let missing = (found < expected).then(|| {
            let first = layers.first().copied().unwrap_or(2).min(2);
            (first..=first + found).find(|index| !layers.contains(index))
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
    match required.into_iter().map(|kind| (kind, indices(kind).count())).find(|&(_, found)| found != 1) {
        Some((stage, found)) => Err(CheckpointError::StageCount { folder: folder.to_owned(), stage, found }),
        None => Ok(()),
    }
}

/// Reads the sizes and names that the configuration does not contain.
pub(super) fn observe(stages: &[FileStage], tp_size: usize, config: &NeoxConfig, args: &ClientArgs) -> Observed {
    // Of all layers, so that a tensor that one of them lacks is reported as missing there.
    let forms = |kind| stages.iter().filter(move |stage| stage.kind == kind).map(|stage| &stage.ranks[0].forms);
    let form = |kind, names: &[&str]| forms(kind).find_map(|forms| names.iter().find_map(|&name| forms.get(name)));
    // Extents along partitioned dimensions.
    let whole = |form: Option<&TensorForm>, dim: usize| form?.shape.get(dim)?.checked_mul(tp_size);
    let words = form(StageKind::Embedding, &["word_embeddings.weight"]);
    let mlp_first = ["mlp.linear1.weight", "mlp.dense_h_to_4h.weight", "mlp.fc1_weight"];
    let mlp_second = ["mlp.linear2.weight", "mlp.dense_4h_to_h.weight", "mlp.w2.weight", "mlp.fc2_weight"];
    Observed {
        tp_size,
        mlp_first_size: whole(form(StageKind::Layer, &mlp_first), 0),
        mlp_inner_size: whole(form(StageKind::Layer, &mlp_second), 1),
        padded_vocab_size: whole(words, 0).or_else(|| config.padded_vocab_size(Some(args))),
        head_shape: form(StageKind::Head, &["final_linear.weight"]).map(|form| form.shape.clone()),
        soft_prompt_length: form(StageKind::SoftPrompt, &["soft_embedding_weight"])
            .and_then(|form| form.shape.first().copied()),
        layer_tensors: forms(StageKind::Layer)
            .flat_map(|forms| forms.keys().cloned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        precision: words.map(TensorForm::precision),
        stated: args.quirks.clone(),
    }
}
