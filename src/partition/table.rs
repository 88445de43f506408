//! Looking up the rows that hold for one architecture.

use super::error::PartitionError;
use super::kinds::{Partition, Presence, Role, StageKind};
use super::row::Row;
use super::rules;
use crate::config::{Architecture, Head, MlpMatrices};

/// The rows that hold for one architecture.
#[derive(Debug, Clone, Copy)]
pub struct PartitionTable<'a> {
    architecture: &'a Architecture,
}

impl<'a> PartitionTable<'a> {
    pub fn new(architecture: &'a Architecture) -> Self {
        Self { architecture }
    }

    pub fn lookup(&self, stage: StageKind, name: &str) -> Result<&'static Row, PartitionError> {
        if let Some((reason, needed)) = rules::refused_name(name) {
            return Err(PartitionError::Refused { name: name.to_owned(), stage, reason, needed });
        }
        let mut excluded = None;
        for row in rules::TABLE.iter().filter(|row| row.stage == stage && row.names.contains(&name)) {
            match (row.presence)(self.architecture) {
                Presence::Required | Presence::Unused => return Ok(row),
                Presence::Absent(reason) => excluded = Some(reason),
            }
        }
        Err(match excluded {
            Some(reason) => PartitionError::NotInModel { name: name.to_owned(), stage, reason },
            None => PartitionError::UnknownName { name: name.to_owned(), stage },
        })
    }

    /// Whether a tensor is a parameter that the model does not use and that has no row: Transformer Engine's MLP has a norm of
    /// its own, and until gpt-neox ce65b363 (2025-05-09) files also hold the untrained norm in its place.
    pub(crate) fn is_left_over(self, stage: StageKind, name: &str, shape: &[usize]) -> bool {
        let engine_mlp = self.architecture.mlp_matrices == MlpMatrices::TransformerEngine;
        let norm = name.strip_prefix("post_attention_layernorm.").or_else(|| name.strip_prefix("ln2."));
        let parameter = norm.map(|name| name.strip_prefix("norm.").unwrap_or(name));
        engine_mlp
            && stage == StageKind::Layer
            && parameter.is_some_and(|name| ["weight", "bias", "scale"].contains(&name))
            && shape == [self.architecture.hidden_size]
    }

    pub fn required(&self, stage: StageKind) -> impl Iterator<Item = &'static Row> + use<'a> {
        let architecture = self.architecture;
        rules::TABLE.iter().filter(move |row| row.stage == stage && (row.presence)(architecture) == Presence::Required)
    }

    /// The row of a role in this architecture; `None` where the model has no such parameter.
    pub(crate) fn row(self, role: Role) -> Option<&'static Row> {
        rules::TABLE
            .iter()
            .find(|row| row.role == role && !matches!((row.presence)(self.architecture), Presence::Absent(_)))
    }

    /// How the shards of a role make the joined tensor; `None` for replicas and for what the model does not have.
    pub fn partition(&self, role: Role) -> Option<Partition> {
        let role = match (role, self.architecture.head) {
            // A tied head is the word embedding, whose vocabulary rows are split alike.
            (Role::HeadWeight, Head::Tied) => Role::WordEmbedding,
            (role, _) => role,
        };
        self.row(role)?.partition(self.architecture)
    }
}
