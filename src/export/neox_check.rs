//! What is to be written for gpt-neox, held against the rules that a checkpoint is read by.

use std::collections::BTreeMap;

use super::ExportError;
use super::neox_config::Changes;
use super::plan::Plan;
use crate::checkpoint::{Description, TensorForm};
use crate::config::{Architecture, ConfigError, Head, NeoxConfig, QuirkOptions};
use crate::partition::rank_ranges;

/// The tensors of every rank, by the number of their stage and their name.
pub(super) type Inventory = BTreeMap<usize, BTreeMap<String, TensorForm>>;

/// Describes the files and checks them as those of a checkpoint that is read: a reader takes them for the model that they
/// are.
///
/// # Errors
/// [`ExportError::Ranks`], with the numbers of ranks that there could be.
pub(super) fn check(plan: &Plan, changes: &Changes<'_>) -> Result<Inventory, ExportError> {
    readable(plan, changes).map_err(|source| {
        let heads = changes.source.architecture().head_count;
        let possible = |&tp_size: &usize| {
            heads.is_multiple_of(tp_size) && readable(plan, &Changes { tp_size, ..changes.clone() }).is_ok()
        };
        let possible = (1..=heads).filter(possible).collect();
        let rows = plan.vocab_size.next_multiple_of(changes.tp_size);
        let fits = rows != plan.vocab_size && rows <= changes.source.architecture().padded_vocab_size;
        let (tp_size, source) = (changes.tp_size, Box::new(source));
        ExportError::Ranks { tp_size, possible, rows: fits.then_some(rows), source }
    })
}

fn readable(plan: &Plan, changes: &Changes<'_>) -> Result<Inventory, ExportError> {
    let config = config(changes)?;
    let stages = inventory(plan, changes.tp_size)?;
    let (folder, tp_size, args) = (changes.directory, changes.tp_size, &changes.client_args());
    let written = Description { folder, tp_size, config: &config, args, stages: stages.clone() };
    let (found, _) = written.check(&QuirkOptions::default())?;
    let source = changes.source.architecture();
    let expected = Architecture {
        padded_vocab_size: plan.vocab_size,
        head: if plan.unties_head { Head::Column } else { source.head },
        // Of the files, and nothing that changes the model.
        storage: found.storage,
        sequence_parallel: found.sequence_parallel,
        ..source.clone()
    };
    if found != expected {
        let [found, expected] = [found, expected].map(|model| format!("{model:?}"));
        return Err(ExportError::OtherModel { expected, found });
    }
    Ok(stages)
}

/// The settings as they will be read.
fn config(changes: &Changes<'_>) -> Result<NeoxConfig, ConfigError> {
    let mut raw = changes.settings();
    // gpt-neox derives it and divides it among the ranks.
    raw.insert("padded_vocab_size".to_owned(), changes.vocab_size.into());
    NeoxConfig::from_raw(raw, vec![changes.directory.to_owned()])
}

fn inventory(plan: &Plan, tp_size: usize) -> Result<Inventory, ExportError> {
    let mut stages = Inventory::new();
    for param in &plan.params {
        let mut shape = param.shape.clone();
        if let Some(partition) = &param.partition {
            rank_ranges(partition, tp_size, 0)
                .map_err(|source| ExportError::Partition { name: param.name.clone(), source })?;
            shape[partition.dim] /= tp_size;
        }
        let form = TensorForm { dtype: param.dtype, shape };
        stages.entry(param.file_stage).or_default().insert(param.name.clone(), form);
    }
    Ok(stages)
}
