//! The stages of the model from the pipeline stages of the files: every tensor is one parameter of one stage, and every
//! parameter is there on every rank, in its shape.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::MegatronError;
use super::names::{self, Meaning, Place};
use super::rank_file::{RankFile, Tensor};
use super::rows::RowOrders;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::inventory::ParamEntry;
use crate::config::{Architecture, Head};
use crate::partition::{PartitionTable, Role, StageId, StageKind};

/// A parameter of a stage.
#[derive(Debug)]
pub(super) struct Entry {
    pub param: ParamEntry,
    /// The pipeline rank whose files hold it.
    pub pipeline: usize,
    /// Its name in those files.
    pub file_name: String,
}

pub(super) type Stage = BTreeMap<Role, Entry>;

/// The tensors of one virtual pipeline stage on one rank.
struct Sorted<'a> {
    file: &'a RankFile,
    places: BTreeMap<Place, BTreeMap<Role, (&'a str, &'a Tensor)>>,
}

/// A virtual pipeline stage on all tensor-parallel ranks.
pub(super) struct Chunk<'a> {
    pipeline: usize,
    ranks: Vec<Sorted<'a>>,
    layers: usize,
}

/// The virtual pipeline stages in the order in which they run: the first of every pipeline rank, then the second.
pub(super) fn sort(files: &[Vec<RankFile>]) -> Result<Vec<Chunk<'_>>, CheckpointError> {
    let count = files.first().and_then(|ranks| ranks.first()).map_or(0, |file| file.chunks.len());
    for file in files.iter().flatten() {
        let found = file.chunks.len();
        if found != count {
            let path = file.file.path().to_owned();
            return Err(MegatronError::VirtualStages { path, expected: count, found }.into());
        }
    }
    let order = (0..count).flat_map(|chunk| (0..files.len()).map(move |pipeline| (chunk, pipeline)));
    let chunks = order.map(|(chunk, pipeline)| {
        let ranks = files[pipeline].iter().enumerate().map(|(tp_rank, file)| sort_rank(file, chunk, tp_rank));
        let ranks = ranks.collect::<Result<Vec<_>, _>>()?;
        let layers = count_layers(&ranks)?;
        Ok(Chunk { pipeline, ranks, layers })
    });
    let chunks = chunks.collect::<Result<Vec<_>, CheckpointError>>()?;
    check_places(&chunks)?;
    Ok(chunks)
}

fn sort_rank(file: &RankFile, chunk: usize, tp_rank: usize) -> Result<Sorted<'_>, CheckpointError> {
    let path = || file.file.path().to_owned();
    let mut places: BTreeMap<Place, BTreeMap<Role, (&str, &Tensor)>> = BTreeMap::new();
    for (name, tensor) in &file.chunks[chunk] {
        if let Some(source) = names::refused(name) {
            return Err(MegatronError::Unsupported { path: path(), source }.into());
        }
        let (place, role) = match names::meaning(name) {
            Meaning::Parameter(place, role) => (place, role),
            Meaning::Ignored => continue,
            Meaning::Unknown => {
                return Err(MegatronError::UnknownName { path: path(), tp_rank, name: name.clone() }.into());
            }
        };
        if !tensor.form.dtype.is_float() {
            return Err(CheckpointError::NotFloat { path: path(), name: name.clone(), found: tensor.form.dtype });
        }
        if let Some((other, _)) = places.entry(place).or_default().insert(role, (name, tensor)) {
            let (name, other) = (name.clone(), other.to_owned());
            return Err(CheckpointError::SameParameter { path: path(), tp_rank, name, other });
        }
    }
    Ok(Sorted { file, places })
}

/// Layers are numbered from 0 in every stage.
fn count_layers(ranks: &[Sorted<'_>]) -> Result<usize, MegatronError> {
    let layers = |rank: &Sorted<'_>| {
        rank.places
            .keys()
            .filter_map(|place| if let Place::Layer(number) = place { Some(*number) } else { None })
            .collect::<Vec<_>>()
    };
    let count = ranks.iter().map(|rank| layers(rank).len()).max().unwrap_or(0);
    for rank in ranks {
        let found = layers(rank);
        if let Some(missing) = (0..count).find(|number| found.get(*number) != Some(number)) {
            return Err(MegatronError::LayerGap { path: rank.file.file.path().to_owned(), missing });
        }
    }
    Ok(count)
}

/// The embedding is in the first stage, final norm and head in the last.
fn check_places(chunks: &[Chunk<'_>]) -> Result<(), MegatronError> {
    let last = chunks.len().saturating_sub(1);
    for (at, chunk) in chunks.iter().enumerate() {
        for (tp_rank, rank) in chunk.ranks.iter().enumerate() {
            let misplaced = |place: &Place| match place {
                Place::Embedding => at != 0,
                Place::Output | Place::Head => at != last,
                Place::Layer(_) => false,
            };
            let found = rank.places.iter().find(|(place, _)| misplaced(place));
            if let Some((name, _)) = found.and_then(|(_, roles)| roles.values().next()) {
                let (path, name) = (rank.file.file.path().to_owned(), (*name).to_owned());
                return Err(MegatronError::Misplaced { path, tp_rank, name });
            }
        }
    }
    Ok(())
}

/// Checks that all stages together have as many layers as the arguments say.
pub(super) fn check_layers(folder: &Path, chunks: &[Chunk<'_>], expected: usize) -> Result<(), MegatronError> {
    let found = chunks.iter().map(|chunk| chunk.layers).sum();
    if found == expected {
        return Ok(());
    }
    Err(MegatronError::LayerCount { folder: folder.to_owned(), expected, found, stages: chunks.len() })
}

/// A tensor of the first rank, of the first stage or the last.
pub(super) fn find<'a>(chunk: Option<&Chunk<'a>>, place: Place, role: Role) -> Option<&'a Tensor> {
    let (_, tensor) = chunk?.ranks.first()?.places.get(&place)?.get(&role)?;
    Some(tensor)
}

/// Accounts for every tensor. The stages in the order of the model, with their parameters.
pub(super) fn account(
    chunks: &[Chunk<'_>],
    architecture: &Architecture,
    orders: RowOrders,
) -> Result<Vec<(StageId, Stage)>, CheckpointError> {
    let of = |chunk, place, kinds: &[StageKind]| account_place(chunk, place, kinds, architecture, orders);
    let mut stages = Vec::new();
    let mut output = Stage::new();
    for (at, chunk) in chunks.iter().enumerate() {
        if at == 0 {
            stages.push((StageId::Embedding, of(chunk, Place::Embedding, &[StageKind::Embedding])?));
        }
        for layer in 0..chunk.layers {
            let number = stages.len() - 1;
            stages.push((StageId::Layer(number), of(chunk, Place::Layer(layer), &[StageKind::Layer])?));
        }
        if at + 1 == chunks.len() {
            output = of(chunk, Place::Output, &[StageKind::FinalNorm])?;
            if architecture.head != Head::Tied {
                output.extend(of(chunk, Place::Head, &[StageKind::Head])?);
            }
        }
    }
    stages.push((StageId::Output, output));
    Ok(stages)
}

fn account_place(
    chunk: &Chunk<'_>,
    place: Place,
    kinds: &[StageKind],
    architecture: &Architecture,
    orders: RowOrders,
) -> Result<Stage, CheckpointError> {
    let table = PartitionTable::new(architecture);
    let tp_size = chunk.ranks.len();
    let mut stage = Stage::new();
    for (tp_rank, rank) in chunk.ranks.iter().enumerate() {
        let path = || rank.file.file.path().to_owned();
        let none = BTreeMap::new();
        let found = rank.places.get(&place).unwrap_or(&none);
        // Before shapes: what a missing tensor would have shown of the model is not known.
        let required = kinds.iter().flat_map(|&kind| table.required(kind));
        if let Some(row) = required.into_iter().find(|row| !found.contains_key(&row.role)) {
            let place = match place {
                Place::Layer(number) => format!(" of the stage's layer {number}"),
                Place::Embedding | Place::Output | Place::Head => String::new(),
            };
            let wanted = format!("{}{place}", parameter(row.role));
            return Err(MegatronError::Missing { path: path(), tp_rank, wanted }.into());
        }
        for (&role, &(name, tensor)) in found {
            let row = table.row(role).ok_or_else(|| {
                let (name, setting) = (name.to_owned(), setting_of(role));
                MegatronError::NotInModel { path: path(), tp_rank, name, setting }
            })?;
            let expected = row.rank_shape(architecture, tp_size).map_err(|source| CheckpointError::Partition {
                folder: path(),
                name: name.to_owned(),
                source,
            })?;
            if tensor.form.shape != expected {
                let (name, found) = (name.to_owned(), tensor.form.shape.clone());
                return Err(CheckpointError::Shape { path: path(), tp_rank, name, expected, found });
            }
            let dtype = orders.dtype(row.kind, tensor.form.dtype);
            let entry = stage.entry(role).or_insert_with(|| Entry {
                param: ParamEntry { name: inner_name(name), row, dtype, rank_shape: expected, used: true },
                pipeline: chunk.pipeline,
                file_name: tensor.name.clone(),
            });
            if entry.param.dtype != dtype {
                let (name, expected, found) = (name.to_owned(), entry.param.dtype, dtype);
                return Err(CheckpointError::DTypeAcrossRanks { path: path(), tp_rank, name, expected, found });
            }
            if entry.file_name != tensor.name {
                let name = entry.file_name.clone();
                return Err(CheckpointError::MissingParameter { path: path(), tp_rank, name });
            }
        }
        if let Some(entry) = stage.iter().find(|(role, _)| !found.contains_key(role)).map(|(_, entry)| entry) {
            let name = entry.file_name.clone();
            return Err(CheckpointError::MissingParameter { path: path(), tp_rank, name });
        }
    }
    Ok(stage)
}

/// A parameter's name without the number of its layer, as in the layer.
pub(super) fn inner_name(name: &str) -> String {
    let inner = name.split_once("layers.").and_then(|(_, rest)| rest.split_once('.'));
    inner.map_or(name, |(_, inner)| inner).to_owned()
}

/// A parameter in words, for files that have no name of it.
pub(super) fn parameter(role: Role) -> &'static str {
    match role {
        Role::WordEmbedding => "the word embedding",
        Role::PositionEmbedding => "the position embedding (position_embedding_type: learned_absolute)",
        Role::InputNormGain => "the gain of the norm before attention",
        Role::InputNormBias => "the bias of the norm before attention (normalization: LayerNorm)",
        Role::MlpNormGain => "the gain of the norm before the MLP",
        Role::MlpNormBias => "the bias of the norm before the MLP (normalization: LayerNorm)",
        Role::QkvWeight => "the weight of queries, keys and values",
        Role::QkvBias => "the bias of queries, keys and values (add_bias_linear or add_qkv_bias: True)",
        Role::AttentionOutputWeight => "the weight of attention's output",
        Role::AttentionOutputBias => "the bias of attention's output (add_bias_linear: True)",
        Role::MlpInputWeight => "the weight of the MLP's first layer",
        Role::MlpInputBias => "the bias of the MLP's first layer (add_bias_linear: True)",
        Role::MlpOutputWeight => "the weight of the MLP's second layer",
        Role::MlpOutputBias => "the bias of the MLP's second layer (add_bias_linear: True)",
        Role::FinalNormGain => "the gain of the final norm",
        Role::FinalNormBias => "the bias of the final norm (normalization: LayerNorm)",
        Role::HeadWeight => "the output layer (untie_embeddings_and_output_weights: True)",
        Role::QueryNormGain | Role::KeyNormGain => "a gain of the norms of queries and keys (qk_layernorm: True)",
        Role::QueryNormBias | Role::KeyNormBias => "a bias of the norms of queries and keys (qk_layernorm: True)",
        _ => "a parameter",
    }
}

/// The argument by which a model lacks a parameter.
pub(super) fn setting_of(role: Role) -> &'static str {
    match role {
        Role::PositionEmbedding => "position_embedding_type is not learned_absolute",
        Role::InputNormBias | Role::MlpNormBias | Role::FinalNormBias => "normalization is not LayerNorm",
        Role::QkvBias => "add_bias_linear and add_qkv_bias are False",
        Role::AttentionOutputBias | Role::MlpInputBias | Role::MlpOutputBias => "add_bias_linear is False",
        Role::QueryNormGain | Role::KeyNormGain => "qk_layernorm is False",
        Role::QueryNormBias | Role::KeyNormBias => "qk_layernorm is False or normalization is not LayerNorm",
        Role::HeadWeight => "untie_embeddings_and_output_weights is False",
        _ => "no argument asks for it",
    }
}
