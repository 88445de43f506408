//! Orders that the rows of queries, keys and values may have come into by mistake.

use std::ops::Range;

use super::order::Order;
use crate::config::{Architecture, Positions};

/// Rows of queries, of keys and of values in the canonical layout.
pub(super) fn blocks(architecture: &Architecture) -> Vec<usize> {
    let keys = architecture.kv_head_count * architecture.head_size;
    vec![architecture.query_size(), keys, keys]
}

pub(super) fn wrong_orders(architecture: &Architecture) -> Vec<Order> {
    let mut orders = exchanged(architecture);
    orders.extend(turned(architecture));
    orders.extend(regrouped(architecture));
    orders
}

/// Two of queries, keys and values in each other's place.
fn exchanged(architecture: &Architecture) -> Vec<Order> {
    let [queries, keys, values] = ranges(architecture);
    let mut orders =
        vec![Order::of_blocks("has keys and values exchanged", [queries.clone(), values.clone(), keys.clone()])];
    if queries.len() == keys.len() {
        let of = |words, blocks: [&Range<usize>; 3]| Order::of_blocks(words, blocks.map(Clone::clone));
        orders.push(of("has queries and keys exchanged", [&keys, &queries, &values]));
        orders.push(of("has queries and values exchanged", [&values, &keys, &queries]));
    }
    orders
}

fn ranges(architecture: &Architecture) -> [Range<usize>; 3] {
    let (queries, keys) = (architecture.query_size(), architecture.kv_head_count * architecture.head_size);
    [0..queries, queries..queries + keys, queries + keys..queries + 2 * keys]
}

/// The elements of each head that rotary embedding turns: the first half and the second where pairs stand side by side, or
/// the other way round.
fn turned(architecture: &Architecture) -> Vec<Order> {
    let Positions::Rotary { dims, .. } = architecture.positions else { return Vec::new() };
    let (size, half) = (architecture.head_size, dims / 2);
    let paired = |at: usize| if at >= 2 * half { at } else { at / 2 + (at % 2) * half };
    let halved = |at: usize| if at >= 2 * half { at } else { (at % half) * 2 + at / half };
    let [queries, keys, _] = ranges(architecture);
    let total = queries.len() + 2 * keys.len();
    let parts = [("queries and keys", 0..keys.end), ("queries", queries), ("keys", keys)];
    let mut orders = Vec::new();
    for (part, rows) in parts {
        let within = |order: &dyn Fn(usize) -> usize| -> Vec<usize> {
            let place = |at: usize| if rows.contains(&at) { at - at % size + order(at % size) } else { at };
            (0..total).map(place).collect()
        };
        orders.push(Order::new(
            format!("has the rotary order of {part} wrong: pairs side by side, not halves"),
            within(&paired),
        ));
        orders.push(Order::new(
            format!("has the rotary order of {part} wrong: halves, not pairs side by side"),
            within(&halved),
        ));
    }
    orders
}

/// One layout of the file taken for another: every pair of them.
fn regrouped(architecture: &Architecture) -> Vec<Order> {
    let layouts = layouts(architecture);
    let mut orders = Vec::new();
    for (wrote, written) in &layouts {
        // By row of the file, its row in the canonical layout.
        let mut place = vec![0; written.len()];
        written.iter().enumerate().for_each(|(canonical, &row)| place[row] = canonical);
        for (read, rows) in layouts.iter().filter(|(read, _)| read != wrote) {
            let source = rows.iter().map(|&row| place[row]);
            orders.push(Order::new(format!("has its rows {wrote}, where they belong {read}"), source));
        }
    }
    orders
}

/// Layouts of a file by name: by canonical row, the row of the file.
fn layouts(architecture: &Architecture) -> Vec<(String, Vec<usize>)> {
    let (heads, size) = (architecture.head_count, architecture.head_size);
    let total = architecture.qkv_size();
    let mut layouts = vec![("in blocks of queries, keys and values".to_owned(), (0..total).collect())];
    if architecture.kv_head_count != heads {
        return layouts;
    }
    let width = heads * size;
    for count in [heads, heads / 2, heads * 2] {
        let of_head = if count == 0 || !width.is_multiple_of(count) { continue } else { width / count };
        let place = |row: usize| {
            let (part, head, at) = (row / width, row % width / of_head, row % of_head);
            (head * 3 + part) * of_head + at
        };
        let rows = (0..total).map(place).collect();
        layouts.push((format!("head by head, of {count} heads"), rows));
    }
    let innermost = |row: usize| (row % width) * 3 + row / width;
    layouts.push(("element by element".to_owned(), (0..total).map(innermost).collect()));
    layouts
}
