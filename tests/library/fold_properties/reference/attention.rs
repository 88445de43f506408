//! Attention of one rank's heads, score by score.

use kintsugi::config::{Architecture, Norm, Positions, QkvLayout, QueryKeyNorm, RotaryScaling};
use kintsugi::partition::Role;

use super::{Rows, Shards, dot, linear, norm, normalise, to_f64};

/// The rank's partial sum of the attention's output projection, without bias.
pub(super) fn attend(
    architecture: &Architecture,
    layer: usize,
    shards: &Shards,
    rows: &[Vec<f64>],
    tp_size: usize,
) -> Rows {
    let size = architecture.head_size;
    let heads = architecture.head_count / tp_size;
    let [queries, keys, values] = heads_of(architecture, shards, rows, tp_size);
    let mut context = vec![vec![0.0; heads * size]; rows.len()];
    for head in 0..heads {
        for (position, context) in context.iter_mut().enumerate() {
            let first = oldest_seen(architecture, layer, position);
            let scores: Vec<f64> = (first..=position)
                .map(|past| {
                    let product = dot(&queries[position][head], &keys[past][head]);
                    score(architecture, layer, shards, (head, heads), product, position - past)
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            for (past, score) in (first..).zip(&scores) {
                let weight = (score - largest).exp() / total;
                let own = &mut context[head * size..(head + 1) * size];
                for (sum, value) in own.iter_mut().zip(&values[past][head]) {
                    *sum += weight * value;
                }
            }
        }
    }
    context.iter().map(|row| linear(&shards[&Role::AttentionOutputWeight], None, row)).collect()
}

/// `[token][head][element]` of queries, keys and values; keys and values repeated for the query heads they serve.
fn heads_of(architecture: &Architecture, shards: &Shards, rows: &[Vec<f64>], tp_size: usize) -> [Vec<Rows>; 3] {
    let size = architecture.head_size;
    let heads = architecture.head_count / tp_size;
    let kv_heads = architecture.kv_head_count / tp_size;
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for (position, row) in rows.iter().enumerate() {
        let fused = linear(&shards[&Role::QkvWeight], shards.get(&Role::QkvBias), row);
        for (part, found) in found.iter_mut().enumerate() {
            // All heads of this part, one behind another.
            let elements: Vec<f64> = match (architecture.qkv, part) {
                (QkvLayout::Interleaved, _) => {
                    (0..heads).flat_map(|head| fused[(head * 3 + part) * size..][..size].to_vec()).collect()
                }
                (QkvLayout::Blocks, 0) => fused[..heads * size].to_vec(),
                (QkvLayout::Blocks, _) => fused[(heads + (part - 1) * kv_heads) * size..][..kv_heads * size].to_vec(),
                (QkvLayout::InterleavedGroups, _) => {
                    let share = size * kv_heads / heads;
                    let (skipped, taken) = match part {
                        0 => (0, size),
                        1 => (size, share),
                        _ => (size + share, share),
                    };
                    (0..heads).flat_map(|head| fused[head * (size + 2 * share) + skipped..][..taken].to_vec()).collect()
                }
            };
            let count = elements.len() / size;
            let mut of_token: Rows =
                (0..heads).map(|head| elements[head / (heads / count) * size..][..size].to_vec()).collect();
            if part < 2 {
                match architecture.query_key_norm {
                    None => {}
                    Some(QueryKeyNorm::OverHeads) => of_token = normalise_heads(architecture, shards, &of_token),
                    Some(QueryKeyNorm::PerHead) => {
                        let roles =
                            [(Role::QueryNormGain, Role::QueryNormBias), (Role::KeyNormGain, Role::KeyNormBias)];
                        let (gain, bias) = roles[part];
                        let (own_gain, own_bias) = (shards.get(&gain), shards.get(&bias));
                        of_token =
                            of_token.iter().map(|head| norm(architecture, head, gain, own_gain, own_bias)).collect();
                    }
                }
                of_token = of_token.iter().map(|head| rotate(architecture, head, position)).collect();
            }
            found.push(of_token);
        }
    }
    found
}

/// Layer norm over all heads of the rank and their elements together; rmsnorm over the elements of each head.
fn normalise_heads(architecture: &Architecture, shards: &Shards, heads: &[Vec<f64>]) -> Rows {
    let (gain, bias) = (shards.get(&Role::QueryKeyNormGain), shards.get(&Role::QueryKeyNormBias));
    if architecture.norm == Norm::RmsNorm {
        let of_head = |(at, head): (usize, &Vec<f64>)| {
            let own = gain.map(|gain| gain[at * head.len()..][..head.len()].to_vec());
            norm(architecture, head, Role::QueryKeyNormGain, own.as_ref(), None)
        };
        return heads.iter().enumerate().map(of_head).collect();
    }
    let normed = normalise(&heads.concat(), architecture.norm_epsilon);
    let gain_at = |at: usize| gain.map_or(1.0, |gain| gain[at]);
    let affine = |(at, value): (usize, &f64)| value * gain_at(at) + bias.map_or(0.0, |bias| bias[at]);
    let scaled: Vec<f64> = normed.iter().enumerate().map(affine).collect();
    scaled.chunks_exact(heads[0].len()).map(<[f64]>::to_vec).collect()
}

/// The oldest position that is seen: flash attention with a window of w looks back w tokens.
fn oldest_seen(architecture: &Architecture, layer: usize, position: usize) -> usize {
    match architecture.sliding_window {
        Some(width) if architecture.is_flash(layer) => position.saturating_sub(width),
        _ => 0,
    }
}

/// gpt-neox divides by √(head size) · number of the layer, adds the relative bias, and multiplies by the number.
fn score(
    architecture: &Architecture,
    layer: usize,
    shards: &Shards,
    (head, heads): (usize, usize),
    product: f64,
    distance: usize,
) -> f64 {
    let size = to_f64(architecture.head_size);
    let flash = architecture.is_flash(layer);
    let number = if architecture.query_key_layer_scaling && !flash { to_f64(layer.max(1)) } else { 1.0 };
    let divisor = if architecture.multipliers.scores_by_head_size && !flash { size } else { size.sqrt() * number };
    let relative = match architecture.positions {
        Positions::Alibi => -shards[&Role::AlibiSlopes][head] * to_f64(distance),
        Positions::RelativeBuckets { buckets, max_distance } if !flash => {
            let weight = &shards[&Role::RelativeBias];
            weight[bucket(distance, buckets, max_distance) * heads + head] * size.sqrt()
        }
        _ => 0.0,
    };
    (product / divisor + relative) * number
}

/// T5's causal buckets.
fn bucket(distance: usize, buckets: usize, max_distance: usize) -> usize {
    let exact = buckets / 2;
    if distance < exact {
        return distance;
    }
    let octaves = (to_f64(max_distance) / to_f64(exact)).ln();
    let grown = (to_f64(distance) / to_f64(exact)).ln() / octaves * to_f64(buckets - exact);
    (1..buckets - exact).filter(|&step| to_f64(step) <= grown).count() + exact
}

/// A frequency, changed by its wavelength as Llama 3.1 does or divided.
fn scaled(frequency: f64, scaling: Option<RotaryScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RotaryScaling::Linear { factor }) => frequency / factor,
        Some(RotaryScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_positions }) => {
            let waves = to_f64(original_positions) * frequency / std::f64::consts::TAU;
            let share = ((waves - low) / (high - low)).clamp(0.0, 1.0);
            frequency * ((1.0 - share) / factor + share)
        }
    }
}

/// `x·cos + rotate_half(x)·sin` on the first elements of a head, the rest as it is.
fn rotate(architecture: &Architecture, head: &[f64], position: usize) -> Vec<f64> {
    let mut rotated = head.to_vec();
    if let Positions::Rotary { dims, base, scaling } = architecture.positions {
        for pair in 0..dims / 2 {
            let frequency = base.powf(-to_f64(2 * pair) / to_f64(dims));
            let angle = to_f64(position) * scaled(frequency, scaling);
            let (first, second) = (head[pair], head[pair + dims / 2]);
            rotated[pair] = first * angle.cos() - second * angle.sin();
            rotated[pair + dims / 2] = second * angle.cos() + first * angle.sin();
        }
    }
    rotated
}
