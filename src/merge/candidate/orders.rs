//! Orders of rows that a converter may have got wrong: of each, which row of the right tensor stands in every place.

use super::order::Order;
use super::qkv_orders;
use crate::config::Architecture;
use crate::partition::{PartitionTable, Role};

/// The wrong orders of a parameter's rows, in the canonical layout; of its columns where it is row-parallel.
pub(super) fn wrong_orders(architecture: &Architecture, role: Role, ranks: usize) -> Vec<Order> {
    let blocks = match role {
        Role::QkvWeight | Role::QkvBias => qkv_orders::blocks(architecture),
        Role::MlpInputWeight | Role::MlpInputBias if architecture.gated => vec![architecture.mlp_inner_size; 2],
        role => PartitionTable::new(architecture).partition(role).map(|partition| partition.blocks).unwrap_or_default(),
    };
    let mut orders = Vec::new();
    match role {
        Role::QkvWeight | Role::QkvBias => orders.extend(qkv_orders::wrong_orders(architecture)),
        Role::MlpInputWeight | Role::MlpInputBias if architecture.gated => {
            let inner = architecture.mlp_inner_size;
            orders.push(Order::of_blocks("has its halves, gate and up, exchanged", [inner..2 * inner, 0..inner]));
            let pairs = (0..inner).flat_map(|row| [row, inner + row]);
            orders.push(Order::new("has rows of gate and up by turns", pairs));
        }
        _ => {}
    }
    orders.extend(of_ranks(&blocks, ranks));
    orders.retain(|order| !order.is_right());
    orders
}

/// Shards joined in another order than the ranks', or each whole behind the other where blocks have to be joined apart.
fn of_ranks(blocks: &[usize], ranks: usize) -> Vec<Order> {
    if ranks < 2 || blocks.iter().any(|block| !block.is_multiple_of(ranks)) {
        return Vec::new();
    }
    let starts: Vec<usize> = blocks
        .iter()
        .scan(0, |start, &block| {
            *start += block;
            Some(*start - block)
        })
        .collect();
    let part = |(&start, &block): (&usize, &usize), rank: usize| {
        let rows = block / ranks;
        start + rank * rows..start + (rank + 1) * rows
    };
    let reversed = starts.iter().zip(blocks).flat_map(|block| (0..ranks).rev().map(move |rank| part(block, rank)));
    let reversed = Order::of_blocks("has the ranks' shards joined in reverse", reversed);
    let whole = (0..ranks).flat_map(|rank| starts.iter().zip(blocks).map(move |block| part(block, rank)));
    let whole =
        Order::of_blocks("has the ranks' shards one behind another, where their parts are to be joined apart", whole);
    vec![reversed, whole]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_of_two_blocks_worked_by_hand() {
        let [reversed, whole] = &of_ranks(&[4, 2], 2)[..] else { panic!() };
        assert_eq!(reversed.source, [2, 3, 0, 1, 5, 4]);
        assert_eq!(whole.source, [0, 1, 4, 2, 3, 5]);
        assert!(of_ranks(&[4, 3], 2).is_empty() && of_ranks(&[4], 1).is_empty());
    }
}
