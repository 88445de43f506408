//! The partition table: what every parameter of a GPT-NeoX checkpoint is, and how the shards of the tensor-parallel
//! ranks make one tensor. Reader, merger, splitter, model and exporter all read this one table (`rules`); nothing
//! anywhere infers a kind from values. A name that matches no row, or a required row that finds no name, stops the run.

mod canonical;
mod error;
mod kinds;
mod row;
mod rules;
mod split;
mod stage;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use canonical::canonical;
pub use error::PartitionError;
pub(crate) use kinds::classify_stage;
pub use kinds::{Kind, Partition, Presence, Role, StageKind};
pub use row::Row;
pub(crate) use rules::{ignored_name, refused_name};
pub use split::{join, rank_ranges, split};
pub use stage::{Param, ParamValue, StageId, StageTensors};
pub use table::PartitionTable;
