//! The unmerged forward pass in plain loops over float64: every rank with its own shards and replicas, in gpt-neox's
//! order of operations (`megatron/model/transformer.py`, `word_embeddings.py`, `norms.py`, `megatron/mpu/layers.py` at
//! `ea7aefd8`). It shares no code with `kintsugi::model` and knows nothing of libtorch.

use std::collections::BTreeMap;

use kintsugi::config::{Activation, Architecture, Head, MlpInput, Norm, Positions, QkvLayout, Residual};
use kintsugi::partition::Role;

/// What one rank holds of one stage: matrices row by row.
pub(super) type Shards = BTreeMap<Role, Vec<f64>>;

/// A model as its ranks hold it, `[stage][rank]`: embedding, layers, output.
pub(super) struct Ranks {
    pub stages: Vec<Vec<Shards>>,
}

/// One vector per token.
type Rows = Vec<Vec<f64>>;

/// The logits `[token][padded vocabulary]` of one sequence.
pub(super) fn logits(architecture: &Architecture, ranks: &Ranks, ids: &[usize]) -> Rows {
    let Some(((embedding, output), layers)) = ranks
        .stages
        .split_first()
        .and_then(|(first, rest)| rest.split_last().map(|(last, rest)| ((first, last), rest)))
    else {
        return Rows::new();
    };
    let mut streams = embed(architecture, embedding, ids);
    for layer in layers {
        transform(architecture, layer, &mut streams);
    }
    project(architecture, output, &streams)
}

/// `ln(softmax(logits))` of every token.
pub(super) fn log_probabilities(logits: &[Vec<f64>]) -> Rows {
    let of_token = |logits: &Vec<f64>| {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        logits.iter().map(|logit| logit - largest - total.ln()).collect()
    };
    logits.iter().map(of_token).collect()
}

/// One stream per rank: the vocabulary shards are reduced, then each rank adds positions from its own replica.
fn embed(architecture: &Architecture, ranks: &[Shards], ids: &[usize]) -> Vec<Rows> {
    let hidden = architecture.hidden_size;
    let rows_per_rank = architecture.padded_vocab_size / ranks.len();
    let mut words = vec![vec![0.0; hidden]; ids.len()];
    for (tp_rank, shards) in ranks.iter().enumerate() {
        for (word, id) in words.iter_mut().zip(ids) {
            if let Some(own) = id.checked_sub(tp_rank * rows_per_rank).filter(|&own| own < rows_per_rank) {
                add(word, &shards[&Role::WordEmbedding][own * hidden..(own + 1) * hidden]);
            }
        }
    }
    let own_stream = |shards: &Shards| {
        let mut stream = words.clone();
        if let Positions::Learned { offset } = architecture.positions {
            let table = &shards[&Role::PositionEmbedding];
            for (position, row) in stream.iter_mut().enumerate() {
                add(row, &table[(position + offset) * hidden..(position + offset + 1) * hidden]);
            }
        }
        stream
    };
    ranks.iter().map(own_stream).collect()
}

fn transform(architecture: &Architecture, ranks: &[Shards], streams: &mut [Rows]) {
    let norm_all = |streams: &[Rows], gain: Role, bias: Role| -> Vec<Rows> {
        let of_rank = |(stream, shards): (&Rows, &Shards)| {
            stream.iter().map(|row| norm(architecture, row, &shards[&gain], shards.get(&bias))).collect()
        };
        streams.iter().zip(ranks).map(of_rank).collect()
    };
    let attention_input = norm_all(streams, Role::InputNormGain, Role::InputNormBias);
    let attention: Vec<Rows> = ranks
        .iter()
        .zip(&attention_input)
        .map(|(shards, rows)| attend(architecture, shards, rows, ranks.len()))
        .collect();
    match architecture.residual {
        Residual::Parallel => {
            let mlp_input = match architecture.mlp_input {
                MlpInput::AttentionNorm => attention_input,
                MlpInput::OwnNorm => norm_all(streams, Role::MlpNormGain, Role::MlpNormBias),
                MlpInput::NormOfAttentionNorm => unreachable!("no such model is drawn"),
            };
            let branches = ranks.iter().zip(&attention).zip(&mlp_input).map(|((shards, attention), rows)| {
                let mut branch = mlp(architecture, shards, rows);
                add_bias(&mut branch, shards.get(&Role::MlpOutputBias));
                for (branch, attention) in branch.iter_mut().zip(attention) {
                    add(branch, attention);
                }
                add_bias(&mut branch, shards.get(&Role::AttentionOutputBias));
                branch
            });
            let reduced = all_reduce(&branches.collect::<Vec<_>>());
            for stream in streams.iter_mut() {
                for (row, reduced) in stream.iter_mut().zip(&reduced) {
                    add(row, reduced);
                }
            }
        }
        Residual::ParallelReducedApart => unreachable!("no such model is drawn"),
        Residual::Sequential => {
            add_reduced(streams, ranks, &attention, Role::AttentionOutputBias);
            let mlp_input = norm_all(streams, Role::MlpNormGain, Role::MlpNormBias);
            let outputs: Vec<Rows> =
                ranks.iter().zip(&mlp_input).map(|(shards, rows)| mlp(architecture, shards, rows)).collect();
            add_reduced(streams, ranks, &outputs, Role::MlpOutputBias);
        }
    }
}

/// Sequential residual: the reduced sum and then the rank's own bias.
fn add_reduced(streams: &mut [Rows], ranks: &[Shards], partial_sums: &[Rows], bias: Role) {
    let reduced = all_reduce(partial_sums);
    for (stream, shards) in streams.iter_mut().zip(ranks) {
        let mut branch = reduced.clone();
        add_bias(&mut branch, shards.get(&bias));
        for (row, branch) in stream.iter_mut().zip(&branch) {
            add(row, branch);
        }
    }
}

/// The rank's partial sum of the attention's output projection, without bias.
fn attend(architecture: &Architecture, shards: &Shards, rows: &[Vec<f64>], tp_size: usize) -> Rows {
    let size = architecture.head_size();
    let heads = architecture.head_count / tp_size;
    let kv_heads = architecture.kv_head_count / tp_size;
    let fused: Rows =
        rows.iter().map(|row| linear(&shards[&Role::QkvWeight], shards.get(&Role::QkvBias), row)).collect();
    // Where head `head` of queries (0), keys (1) and values (2) starts in a fused row.
    let start = |part: usize, head: usize| match (architecture.qkv, part) {
        (QkvLayout::Interleaved, part) => (head * 3 + part) * size,
        (QkvLayout::InterleavedGroups, _) => unreachable!("no such model is drawn"),
        (QkvLayout::Blocks, 0) => head * size,
        (QkvLayout::Blocks, part) => (heads + (part - 1) * kv_heads + head / (heads / kv_heads)) * size,
    };
    let element = |part: usize, head: usize, position: usize| -> Vec<f64> {
        let from = start(part, head);
        let vector = &fused[position][from..from + size];
        if part == 2 { vector.to_vec() } else { rotate(architecture, vector, position) }
    };
    let mut context = vec![vec![0.0; heads * size]; rows.len()];
    for head in 0..heads {
        for (position, context) in context.iter_mut().enumerate() {
            let query = element(0, head, position);
            let scores: Vec<f64> =
                (0..=position).map(|past| dot(&query, &element(1, head, past)) / to_f64(size).sqrt()).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            for (past, score) in scores.iter().enumerate() {
                let weight = (score - largest).exp() / total;
                let own = &mut context[head * size..(head + 1) * size];
                for (sum, value) in own.iter_mut().zip(element(2, head, past)) {
                    *sum += weight * value;
                }
            }
        }
    }
    context.iter().map(|row| linear(&shards[&Role::AttentionOutputWeight], None, row)).collect()
}

/// `x·cos + rotate_half(x)·sin` on the first elements of a head, the rest as it is.
fn rotate(architecture: &Architecture, head: &[f64], position: usize) -> Vec<f64> {
    let mut rotated = head.to_vec();
    if let Positions::Rotary { dims, base } = architecture.positions {
        for pair in 0..dims / 2 {
            let angle = to_f64(position) / base.powf(to_f64(2 * pair) / to_f64(dims));
            let (first, second) = (head[pair], head[pair + dims / 2]);
            rotated[pair] = first * angle.cos() - second * angle.sin();
            rotated[pair + dims / 2] = second * angle.cos() + first * angle.sin();
        }
    }
    rotated
}

/// The rank's partial sum of the MLP's output, without bias. A gated rank holds `[up | gate]`.
fn mlp(architecture: &Architecture, shards: &Shards, rows: &[Vec<f64>]) -> Rows {
    let of_token = |row: &Vec<f64>| {
        let wide = linear(&shards[&Role::MlpInputWeight], shards.get(&Role::MlpInputBias), row);
        let inner: Vec<f64> = if architecture.gated {
            let (up, gate) = wide.split_at(wide.len() / 2);
            up.iter().zip(gate).map(|(up, &gate)| up * activate(architecture, gate)).collect()
        } else {
            wide.iter().map(|&value| activate(architecture, value)).collect()
        };
        linear(&shards[&Role::MlpOutputWeight], None, &inner)
    };
    rows.iter().map(of_token).collect()
}

/// Each rank's share of the vocabulary from its own stream and its own final norm; a row-parallel head takes slice r of
/// rank r's normalised stream and reduces.
fn project(architecture: &Architecture, ranks: &[Shards], streams: &[Rows]) -> Rows {
    let width = architecture.hidden_size / ranks.len();
    let of_token = |token: usize| {
        let mut logits = Vec::new();
        for (tp_rank, shards) in ranks.iter().enumerate() {
            let (gain, bias) = (&shards[&Role::FinalNormGain], shards.get(&Role::FinalNormBias));
            let normed = norm(architecture, &streams[tp_rank][token], gain, bias);
            let weight = &shards[&Role::HeadWeight];
            match architecture.head {
                Head::Column | Head::Tied => logits.extend(linear(weight, None, &normed)),
                Head::Row => {
                    logits.resize(architecture.padded_vocab_size, 0.0);
                    add(&mut logits, &linear(weight, None, &normed[tp_rank * width..(tp_rank + 1) * width]));
                }
            }
        }
        logits
    };
    (0..streams.first().map_or(0, Vec::len)).map(of_token).collect()
}

fn norm(architecture: &Architecture, row: &[f64], gain: &[f64], bias: Option<&Vec<f64>>) -> Vec<f64> {
    let width = to_f64(row.len());
    let centre = if architecture.norm == Norm::LayerNorm { row.iter().sum::<f64>() / width } else { 0.0 };
    let mean_square = row.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / width;
    let deviation = (mean_square + architecture.norm_epsilon).sqrt();
    let affine = |(at, value): (usize, &f64)| {
        let scaled = (value - centre) / deviation * gain[at];
        bias.map_or(scaled, |bias| scaled + bias[at])
    };
    row.iter().enumerate().map(affine).collect()
}

fn activate(architecture: &Architecture, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match architecture.activation {
        Activation::Gelu if architecture.tanh_gelu => {
            // gpt-neox writes the constant √(2/π) with eight digits, libtorch with all.
            let slope = std::f64::consts::FRAC_2_PI.sqrt();
            x * 0.5 * (1.0 + (slope * x * (1.0 + 0.044_715 * x * x)).tanh())
        }
        Activation::Gelu | Activation::GeGlu => x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::Relu | Activation::ReGlu => x.max(0.0),
        Activation::Softsign => x / (1.0 + x.abs()),
        Activation::Swish | Activation::Silu | Activation::SwiGlu => x * sigmoid(x),
        Activation::Mish => x * x.exp().ln_1p().tanh(),
        Activation::Glu => sigmoid(x),
        Activation::Bilinear => x,
    }
}

/// `2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!!` (Abramowitz and Stegun 7.1.6): all terms of one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut total, mut odd) = (x, x, 1.0);
    while term.abs() > total.abs() * 1e-18 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        total += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * total
}

/// `W x + b` for a weight of any number of rows.
fn linear(weight: &[f64], bias: Option<&Vec<f64>>, input: &[f64]) -> Vec<f64> {
    let rows = weight.chunks_exact(input.len()).enumerate();
    rows.map(|(at, row)| dot(row, input) + bias.map_or(0.0, |bias| bias[at])).collect()
}

fn all_reduce(partial_sums: &[Rows]) -> Rows {
    let mut total = partial_sums[0].clone();
    for partial in &partial_sums[1..] {
        for (total, partial) in total.iter_mut().zip(partial) {
            add(total, partial);
        }
    }
    total
}

fn add_bias(rows: &mut [Vec<f64>], bias: Option<&Vec<f64>>) {
    let Some(bias) = bias else { return };
    for row in rows {
        add(row, bias);
    }
}

fn add(total: &mut [f64], addend: &[f64]) {
    for (total, addend) in total.iter_mut().zip(addend) {
        *total += addend;
    }
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
