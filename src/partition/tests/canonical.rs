//! Matrices of every layout in the one order that comparisons use. Every tensor has one column, and rows that say what
//! they are.

use super::*;
use crate::partition::canonical;

/// A layer with one parameter, whose rows hold these numbers.
fn layer(role: Role, rows: &[u8]) -> StageTensors {
    let value = ParamValue::Joined(bytes(&[rows.len(), 1], rows.iter().copied()));
    let param = Param { name: format!("{role:?}"), kind: Kind::ColumnParallel, value };
    StageTensors { id: StageId::Layer(0), tp_size: 2, params: [(role, param)].into() }
}

fn rows(stage: &StageTensors, role: Role) -> Vec<u8> {
    stage.get(role).unwrap().value.tensors()[0].bytes().to_vec()
}

/// Head by head: 8 queries, then as many keys as a query head has, then values; a head of each kind has its own number.
fn head_by_head(share: usize) -> Vec<u8> {
    let block = |kind: u8, head: u8, count: usize| std::iter::repeat_n(10 * kind + head, count);
    (0..8).flat_map(|head| block(1, head, 8).chain(block(2, head, share)).chain(block(3, head, share))).collect()
}

fn in_blocks(share: usize) -> Vec<u8> {
    let block = |kind: u8, count: usize| (0..8).flat_map(move |head| std::iter::repeat_n(10 * kind + head, count));
    block(1, 8).chain(block(2, share)).chain(block(3, share)).collect()
}

#[test]
fn queries_keys_and_values_come_in_blocks() {
    let interleaved = canonical(&pythia(), &layer(Role::QkvWeight, &head_by_head(8))).unwrap();
    assert_eq!(rows(&interleaved, Role::QkvWeight), in_blocks(8));
    let grouped = Architecture { qkv: QkvLayout::InterleavedGroups, ..llama() };
    let found = canonical(&grouped, &layer(Role::QkvWeight, &head_by_head(4))).unwrap();
    assert_eq!(rows(&found, Role::QkvWeight), in_blocks(4));
    // Today's grouped queries lie so.
    let found = canonical(&llama(), &layer(Role::QkvWeight, &in_blocks(4))).unwrap();
    assert_eq!(rows(&found, Role::QkvWeight), in_blocks(4));
}

#[test]
fn up_comes_before_gate() {
    let (up, gate) = (vec![1_u8; 96], vec![2_u8; 96]);
    let up_gate = [up.clone(), gate.clone()].concat();
    let found = canonical(&llama(), &layer(Role::MlpInputWeight, &up_gate)).unwrap();
    assert_eq!(rows(&found, Role::MlpInputWeight), up_gate);
    let engine = Architecture { mlp_matrices: MlpMatrices::TransformerEngine, ..llama() };
    let found = canonical(&engine, &layer(Role::MlpInputWeight, &[gate.clone(), up.clone()].concat())).unwrap();
    assert_eq!(rows(&found, Role::MlpInputWeight), up_gate);
    let separate = Architecture { mlp_matrices: MlpMatrices::Separate, ..llama() };
    let mut two = layer(Role::MlpGateWeight, &gate);
    two.params.extend(layer(Role::MlpUpWeight, &up).params);
    let found = canonical(&separate, &two).unwrap();
    assert_eq!(rows(&found, Role::MlpInputWeight), up_gate);
    assert_eq!(found.params.len(), 1);
}

#[test]
fn matrices_that_are_too_small_are_refused() {
    assert!(canonical(&pythia(), &layer(Role::QkvWeight, &[0; 100])).is_err());
}
