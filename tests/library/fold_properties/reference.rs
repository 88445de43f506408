//! The unmerged forward pass in plain loops over float64: every rank with its own shards and replicas, in gpt-neox's
//! order of operations (`megatron/model/transformer.py`, `word_embeddings.py`, `norms.py`, `megatron/mpu/layers.py` at
//! `ea7aefd8`). It shares no code with `kintsugi::model` and knows nothing of libtorch.

mod attention;

use std::collections::BTreeMap;

use attention::attend;
use kintsugi::config::{
    Activation, Architecture, EpsilonPlacement, Head, MlpInput, MlpMatrices, Norm, Positions, Residual,
};
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
    for (number, layer) in layers.iter().enumerate() {
        transform(architecture, number, layer, &mut streams);
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

/// One stream per rank: the vocabulary shards are reduced, then each rank adds positions from its own replica and puts its
/// own prompt before them.
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
        for (position, row) in stream.iter_mut().enumerate() {
            let own: Vec<f64> = match architecture.positions {
                Positions::Learned { offset } => {
                    shards[&Role::PositionEmbedding][(position + offset) * hidden..][..hidden].to_vec()
                }
                Positions::Sinusoidal => sinusoid(position, hidden),
                _ => vec![0.0; hidden],
            };
            for (value, own) in row.iter_mut().zip(own) {
                *value = (*value + own * architecture.multipliers.positions) * architecture.multipliers.embedding;
            }
        }
        // The trained prompt stands before what the embedding gives, as it is.
        let prompt = shards.get(&Role::SoftPrompt).map_or(&[][..], Vec::as_slice);
        prompt.chunks_exact(hidden).map(<[f64]>::to_vec).chain(stream).collect()
    };
    ranks.iter().map(own_stream).collect()
}

/// All sines, then all cosines.
fn sinusoid(position: usize, hidden: usize) -> Vec<f64> {
    let angle = |pair: usize| to_f64(position) / 10_000_f64.powf(to_f64(2 * pair) / to_f64(hidden));
    let half = hidden / 2;
    (0..half).map(|pair| angle(pair).sin()).chain((0..half).map(|pair| angle(pair).cos())).collect()
}

fn transform(architecture: &Architecture, number: usize, ranks: &[Shards], streams: &mut [Rows]) {
    let norm_all = |streams: &[Rows], gain: Role, bias: Role| -> Vec<Rows> {
        let of_rank = |(stream, shards): (&Rows, &Shards)| {
            stream.iter().map(|row| norm(architecture, row, gain, shards.get(&gain), shards.get(&bias))).collect()
        };
        streams.iter().zip(ranks).map(of_rank).collect()
    };
    let attention_input = norm_all(streams, Role::InputNormGain, Role::InputNormBias);
    let attention: Vec<Rows> = ranks
        .iter()
        .zip(&attention_input)
        .map(|(shards, rows)| attend(architecture, number, shards, rows, ranks.len()))
        .collect();
    let mlp_input = |streams: &[Rows]| match architecture.mlp_input {
        MlpInput::AttentionNorm => attention_input.clone(),
        MlpInput::OwnNorm => norm_all(streams, Role::MlpNormGain, Role::MlpNormBias),
        MlpInput::NormOfAttentionNorm => norm_all(&attention_input, Role::MlpNormGain, Role::MlpNormBias),
    };
    let outputs = |inputs: &[Rows]| -> Vec<Rows> {
        ranks.iter().zip(inputs).map(|(shards, rows)| mlp(architecture, shards, rows)).collect()
    };
    match architecture.residual {
        Residual::Parallel => {
            let outputs = outputs(&mlp_input(streams));
            let branches = ranks.iter().zip(&attention).zip(outputs).map(|((shards, attention), mut branch)| {
                add_bias(&mut branch, shards.get(&Role::MlpOutputBias));
                if !architecture.attention_dropped {
                    for (branch, attention) in branch.iter_mut().zip(attention) {
                        add(branch, attention);
                    }
                    add_bias(&mut branch, shards.get(&Role::AttentionOutputBias));
                }
                branch
            });
            let reduced = all_reduce(&branches.collect::<Vec<_>>());
            for stream in streams.iter_mut() {
                for (row, reduced) in stream.iter_mut().zip(&reduced) {
                    add(row, reduced);
                }
            }
        }
        Residual::ParallelReducedApart => {
            let outputs = outputs(&mlp_input(streams));
            add_reduced(streams, ranks, &attention, Role::AttentionOutputBias);
            add_reduced(streams, ranks, &outputs, Role::MlpOutputBias);
        }
        Residual::Sequential => {
            add_reduced(streams, ranks, &attention, Role::AttentionOutputBias);
            let outputs = outputs(&mlp_input(streams));
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

/// The rank's partial sum of the MLP's output, without bias. A gated rank holds `[up | gate]`, under Transformer Engine
/// `[gate | up]`, under LLaMA's MLP one matrix each.
fn mlp(architecture: &Architecture, shards: &Shards, rows: &[Vec<f64>]) -> Rows {
    let of_token = |row: &Vec<f64>| {
        let wide = match architecture.mlp_matrices {
            MlpMatrices::Separate => {
                let of = |role: Role| linear(&shards[&role], None, row);
                [of(Role::MlpUpWeight), of(Role::MlpGateWeight)].concat()
            }
            _ => linear(&shards[&Role::MlpInputWeight], shards.get(&Role::MlpInputBias), row),
        };
        let inner: Vec<f64> = if architecture.gated {
            let (mut up, mut gate) = wide.split_at(wide.len() / 2);
            if architecture.mlp_matrices == MlpMatrices::TransformerEngine {
                (up, gate) = (gate, up);
            }
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
            let (gain, bias) = (shards.get(&Role::FinalNormGain), shards.get(&Role::FinalNormBias));
            let mut normed = norm(architecture, &streams[tp_rank][token], Role::FinalNormGain, gain, bias);
            for value in &mut normed {
                *value /= architecture.multipliers.logit_divisor;
            }
            let weight = &shards[&Role::HeadWeight];
            match architecture.head {
                Head::Column | Head::Tied => logits.extend(linear(weight, None, &normed)),
                Head::Row | Head::Reward => {
                    let outputs = if architecture.head == Head::Row { architecture.padded_vocab_size } else { 1 };
                    logits.resize(outputs, 0.0);
                    add(&mut logits, &linear(weight, None, &normed[tp_rank * width..(tp_rank + 1) * width]));
                }
            }
        }
        logits
    };
    (0..streams.first().map_or(0, Vec::len)).map(of_token).collect()
}

fn norm(
    architecture: &Architecture,
    row: &[f64],
    role: Role,
    gain: Option<&Vec<f64>>,
    bias: Option<&Vec<f64>>,
) -> Vec<f64> {
    let engine = architecture.mlp_matrices == MlpMatrices::TransformerEngine && role == Role::MlpNormGain;
    let rms = matches!(architecture.norm, Norm::RmsNorm | Norm::TransformerEngineRmsNorm);
    // Transformer Engine's MLP has epsilons of its own.
    let epsilon = match (engine, rms) {
        (true, true) => 1e-8,
        (true, false) => 1e-5,
        (false, _) => architecture.norm_epsilon,
    };
    let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
    let root = length / to_f64(row.len()).sqrt();
    let normed: Vec<f64> = match architecture.norm {
        Norm::LayerNorm | Norm::NonParametricLayerNorm | Norm::TransformerEngineLayerNorm => normalise(row, epsilon),
        Norm::ScaleNorm => row.iter().map(|value| value / length.max(epsilon)).collect(),
        Norm::RmsNorm if architecture.rms_epsilon == EpsilonPlacement::Outside && !engine => {
            row.iter().map(|value| value / (root + epsilon)).collect()
        }
        Norm::RmsNorm | Norm::TransformerEngineRmsNorm => {
            row.iter().map(|value| value / (root * root + epsilon).sqrt()).collect()
        }
    };
    let gain_at = |at: usize| gain.map_or(1.0, |gain| if gain.len() == 1 { gain[0] } else { gain[at] });
    let affine = |(at, value): (usize, &f64)| value * gain_at(at) + bias.map_or(0.0, |bias| bias[at]);
    normed.iter().enumerate().map(affine).collect()
}

/// `(x − mean) / √(variance + ε)`.
fn normalise(row: &[f64], epsilon: f64) -> Vec<f64> {
    let width = to_f64(row.len());
    let centre = row.iter().sum::<f64>() / width;
    let variance = row.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / width;
    row.iter().map(|value| (value - centre) / (variance + epsilon).sqrt()).collect()
}

/// gpt-neox's √2 under `onnx_safe`.
#[expect(clippy::approx_constant, reason = "gpt-neox rounds it so")]
const ONNX_SAFE_ROOT: f64 = 1.41421;

fn activate(architecture: &Architecture, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match architecture.activation {
        Activation::Gelu if architecture.onnx_gelu => x * 0.5 * (erf(x / ONNX_SAFE_ROOT) + 1.0),
        Activation::Gelu | Activation::GeGlu if architecture.tanh_gelu => {
            // gpt-neox writes the constant √(2/π) with eight digits, libtorch with all.
            let slope = std::f64::consts::FRAC_2_PI.sqrt();
            x * 0.5 * (1.0 + (slope * x * (1.0 + 0.044_715 * x * x)).tanh())
        }
        Activation::Gelu | Activation::GeGlu => x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::Relu | Activation::ReGlu => x.max(0.0),
        Activation::SquaredRelu => x.max(0.0).powi(2),
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
