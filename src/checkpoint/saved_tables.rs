//! Saved tables of positions: gpt-neox loaded them over its own until 2024-03. A table of another model is an error.

use rayon::prelude::*;

use super::error::CheckpointError;
use super::inventory::FileStage;
use super::layout::Layout;
use super::rotary_table::difference;
use super::torch_file::Reading;
use crate::config::{Architecture, Positions};

/// Reads every saved table, a few hundred bytes each, and compares it with the configuration's.
pub(super) fn check(layout: Layout, stages: &[FileStage], architecture: &Architecture) -> Result<(), CheckpointError> {
    let (name, dims, base) = match architecture.positions {
        Positions::Rotary { dims, base, .. } => ("attention.rotary_emb.inv_freq", dims, base),
        Positions::Sinusoidal => ("position_embeddings.inv_freq", architecture.hidden_size, 10_000.0),
        _ => return Ok(()),
    };
    let ranks = stages.iter().flat_map(|stage| stage.ranks.iter().enumerate());
    let holders: Vec<_> = ranks.filter(|(_, rank)| rank.forms.contains_key(name)).collect();
    holders.into_par_iter().try_for_each(|(tp_rank, rank)| {
        let tensor = rank.open(layout, &Reading::default())?.read(&format!("{}{name}", rank.prefix))?;
        let (path, name) = (rank.path.clone(), name.to_owned());
        match difference(&tensor, dims, base) {
            Ok(None) => Ok(()),
            Ok(Some(found)) => Err(CheckpointError::PositionTable { path, tp_rank, name, found, base }),
            Err(source) => Err(CheckpointError::Tensor { path, name, source }),
        }
    })
}
