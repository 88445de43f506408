//! Every stored value of a folded stage against the formula it must be the one rounding of.

use kintsugi::config::{Head, MlpInput, MlpMatrices, Norm, Residual};
use kintsugi::merge::FoldSummary;
use kintsugi::partition::{Kind, ParamValue, PartitionTable, Role, StageId, StageTensors, split};
use kintsugi::tensor::DType;

use super::random_model::Design;
use super::reference::Shards;

/// A norm's gain and bias, and weight and bias of the layers that read it.
type Unit = (Role, Role, Vec<(Role, Option<Role>)>);

/// What was found over the stages so far, to hold against the fold's own summary.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `None` until a norm whose replicas differ was met.
    pub summary: Option<FoldSummary>,
    /// Largest magnitude of the weights that read such norms, before folding.
    pub largest_weight: f64,
}

/// Checks one stage, of which `before` is the unmerged form and `ranks` what its ranks hold.
pub(super) fn check(
    design: &Design,
    before: &StageTensors,
    ranks: &[Shards],
    merged: &StageTensors,
    found: &mut Found,
) {
    check_what_no_norm_reads(design, before, ranks, merged);
    for (gain, bias, readers) in units(design, merged.id) {
        let drifted = |role| ranks.iter().any(|shards| shards.get(&role) != ranks[0].get(&role));
        if !drifted(gain) && !drifted(bias) {
            // Nothing to fold: the weights are the ranks' own, bit for bit.
            for (weight, bias) in readers {
                for role in std::iter::once(weight).chain(bias) {
                    let kept = shards_of(design, merged, role);
                    assert!(ranks.iter().zip(&kept).all(|(shards, kept)| shards.get(&role) == kept.as_ref()));
                }
            }
            continue;
        }
        let summary =
            found.summary.get_or_insert(FoldSummary { max_weight_change: 0.0, max_rank_one: 0.0, unties_head: false });
        if gain == Role::FinalNormGain && design.architecture.head.is_row_parallel() {
            if design.architecture.norm == Norm::ScaleNorm {
                check_columns(design, ranks, merged, summary);
                found.largest_weight = ranks
                    .iter()
                    .flat_map(|shards| &shards[&Role::HeadWeight])
                    .fold(found.largest_weight, |largest, value| largest.max(value.abs()));
            } else {
                check_slices(ranks, merged, &[gain, bias]);
            }
            continue;
        }
        summary.unties_head |= gain == Role::FinalNormGain && design.architecture.head == Head::Tied;
        let width = design.architecture.hidden_size;
        let common_gain = spread(&replica(merged, gain).unwrap(), width);
        let common_bias = replica(merged, bias);
        assert!(common_gain.iter().all(|gain| gain.is_finite() && *gain != 0.0));
        for (weight, reader_bias) in readers {
            let folded = shards_of(design, merged, weight);
            let folded_biases = reader_bias.map(|role| shards_of(design, merged, role));
            for (tp_rank, shards) in ranks.iter().enumerate() {
                let reader = Reader {
                    dtype: design.dtype,
                    weight: &shards[&weight],
                    folded: folded[tp_rank].as_ref().unwrap(),
                    bias: reader_bias.and_then(|role| shards.get(&role)),
                    folded_bias: folded_biases.as_ref().and_then(|biases| biases[tp_rank].as_ref()),
                };
                let own_gain = spread(&shards[&gain], width);
                let own = Affine { gain: &own_gain, bias: shards.get(&bias).map(Vec::as_slice) };
                let common = Affine { gain: &common_gain, bias: common_bias.as_deref() };
                reader.check(&own, &common, summary);
                let largest = shards[&weight].iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
                found.largest_weight = found.largest_weight.max(largest);
            }
        }
    }
}

const PER_HEAD_NORMS: [Role; 4] = [Role::QueryNormGain, Role::QueryNormBias, Role::KeyNormGain, Role::KeyNormBias];

/// Row-parallel weights and the embedding stay what they are to the last bit; row-parallel biases are summed or
/// averaged, learned positions and the norms of queries and keys averaged, with one rounding.
fn check_what_no_norm_reads(design: &Design, before: &StageTensors, ranks: &[Shards], merged: &StageTensors) {
    assert!(before.params.keys().eq(merged.params.keys()));
    for (&role, param) in &merged.params {
        match (param.kind, &before.params[&role].value, &param.value) {
            (
                Kind::RowParallel | Kind::VocabParallel | Kind::HeadParallel | Kind::RelativeBias | Kind::HeadNorm,
                ParamValue::Joined(before),
                ParamValue::Joined(after),
            ) => {
                assert!(role == Role::HeadWeight || before.same_bits(after));
            }
            (kind, ..)
                if matches!(kind, Kind::RowParallelBias | Kind::LearnedPositions) || PER_HEAD_NORMS.contains(&role) =>
            {
                let summed = param.kind == Kind::RowParallelBias && design.architecture.residual == Residual::Parallel;
                let divisor = if summed { 1.0 } else { f64::from(u32::try_from(ranks.len()).unwrap()) };
                for (at, stored) in replica(merged, role).unwrap().into_iter().enumerate() {
                    let sum: f64 = ranks.iter().map(|shards| shards[&role][at]).sum();
                    assert_rounded_once(design.dtype, stored, sum / divisor);
                }
            }
            _ => {}
        }
    }
}

/// Gain and bias of a norm.
struct Affine<'a> {
    gain: &'a [f64],
    bias: Option<&'a [f64]>,
}

/// One rank's shard of a layer that reads a norm, before and after.
struct Reader<'a> {
    dtype: DType,
    weight: &'a [f64],
    folded: &'a [f64],
    bias: Option<&'a Vec<f64>>,
    folded_bias: Option<&'a Vec<f64>>,
}

impl Reader<'_> {
    /// `W' = W·diag(γ_r/γ) + u(1/γ)ᵀ`, with u only where there is no bias to take the constant;
    /// `c' = c + Wβ_r − W'β`.
    fn check(&self, own: &Affine<'_>, common: &Affine<'_>, summary: &mut FoldSummary) {
        let width = own.gain.len();
        for (at, (row, folded)) in self.weight.chunks_exact(width).zip(self.folded.chunks_exact(width)).enumerate() {
            let scaled: Vec<f64> =
                row.iter().zip(own.gain).zip(common.gain).map(|((value, own), common)| value * own / common).collect();
            // The quotient and, for float64's noise, its terms' magnitudes: both sums may all but cancel.
            let (rank_one, terms) = match (own.bias, common.bias, self.bias) {
                (Some(own), Some(shared), None) => {
                    let missing = dot(row, own) - dot(&scaled, shared);
                    let ratios: Vec<f64> = shared.iter().zip(common.gain).map(|(bias, gain)| bias / gain).collect();
                    let visible: f64 = ratios.iter().sum();
                    let rank_one = if visible == 0.0 { 0.0 } else { missing / visible };
                    let terms = magnitudes(row, own) + magnitudes(&scaled, shared);
                    let ratios: f64 = ratios.iter().map(|ratio| ratio.abs()).sum();
                    (rank_one, if visible == 0.0 { 0.0 } else { (terms + rank_one.abs() * ratios) / visible.abs() })
                }
                _ => (0.0, 0.0),
            };
            for (((before, scaled), gain), &stored) in row.iter().zip(&scaled).zip(common.gain).zip(folded) {
                let noise = 1e-15 * terms / gain.abs();
                assert_rounded_to_within(self.dtype, stored, scaled + rank_one / gain, noise);
                summary.max_weight_change = summary.max_weight_change.max((stored - before).abs());
            }
            summary.max_rank_one = summary.max_rank_one.max(rank_one.abs());
            if let (Some(bias), Some(folded_bias)) = (self.bias, self.folded_bias) {
                let constant = |affine: &Affine<'_>, row: &[f64]| affine.bias.map_or(0.0, |bias| dot(row, bias));
                let exact = bias[at] + constant(own, row) - constant(common, folded);
                assert_rounded_once(self.dtype, folded_bias[at], exact);
            }
        }
    }
}

/// A row-parallel head: slice r of the final norm is rank r's, bit for bit.
fn check_slices(ranks: &[Shards], merged: &StageTensors, roles: &[Role]) {
    for &role in roles {
        let Some(values) = replica(merged, role) else { continue };
        let width = values.len() / ranks.len();
        for (tp_rank, shards) in ranks.iter().enumerate() {
            let slice = tp_rank * width..(tp_rank + 1) * width;
            assert_eq!(values[slice.clone()], shards[&role][slice]);
        }
    }
}

/// A row-parallel head behind a norm with one gain: slice r of every row takes up rank r's gain.
fn check_columns(design: &Design, ranks: &[Shards], merged: &StageTensors, summary: &mut FoldSummary) {
    let common = replica(merged, Role::FinalNormGain).unwrap()[0];
    assert!(common.is_finite() && common != 0.0);
    let folded = shards_of(design, merged, Role::HeadWeight);
    for (shards, folded) in ranks.iter().zip(&folded) {
        let ratio = shards[&Role::FinalNormGain][0] / common;
        for (before, &stored) in shards[&Role::HeadWeight].iter().zip(folded.as_ref().unwrap()) {
            assert_rounded_once(design.dtype, stored, before * ratio);
            summary.max_weight_change = summary.max_weight_change.max((stored - before).abs());
        }
    }
}

/// The one gain of a scalenorm stands for all elements.
fn spread(gain: &[f64], width: usize) -> Vec<f64> {
    if gain.len() == 1 { vec![gain[0]; width] } else { gain.to_vec() }
}

/// The stored value is one that `dtype` can hold and none is nearer, up to float64's own noise.
fn assert_rounded_once(dtype: DType, stored: f64, exact: f64) {
    assert_rounded_to_within(dtype, stored, exact, 0.0);
}

/// As [`assert_rounded_once`], for a value that is itself known to within `noise`.
fn assert_rounded_to_within(dtype: DType, stored: f64, exact: f64, noise: f64) {
    let half_step = half_step(dtype, exact);
    let difference = (stored - exact).abs();
    assert!(
        difference <= half_step + noise + 1e-13 * exact.abs().max(1.0),
        "{stored:e} stored for {exact:e}: {difference:e} is more than half a step, {half_step:e}"
    );
}

/// Half the distance between the values of a type around `value`.
pub(super) fn half_step(dtype: DType, value: f64) -> f64 {
    let (digits, smallest_exponent) = match dtype {
        DType::F16 => (11, -14),
        DType::BF16 => (8, -126),
        DType::F32 => (24, -126),
        _ => return 0.0,
    };
    // The exponent of the value's binade; below the smallest, steps stay as they are.
    let exponent = (smallest_exponent..=127).rev().find(|&exponent| value.abs() >= 2_f64.powi(exponent));
    2_f64.powi(exponent.unwrap_or(smallest_exponent) - digits)
}

fn units(design: &Design, stage: StageId) -> Vec<Unit> {
    let attention = (Role::QkvWeight, design.architecture.qkv_bias.then_some(Role::QkvBias));
    let mlp = match design.architecture.mlp_matrices {
        MlpMatrices::Separate => vec![(Role::MlpGateWeight, None), (Role::MlpUpWeight, None)],
        _ => vec![(Role::MlpInputWeight, design.architecture.mlp_bias.then_some(Role::MlpInputBias))],
    };
    match (stage, design.architecture.mlp_input) {
        _ if !design.architecture.norm.has_gain() => Vec::new(),
        (StageId::Embedding, _) => Vec::new(),
        (StageId::Layer(_), MlpInput::AttentionNorm) => {
            let readers = std::iter::once(attention).chain(mlp).collect();
            vec![(Role::InputNormGain, Role::InputNormBias, readers)]
        }
        (StageId::Layer(_), MlpInput::OwnNorm | MlpInput::NormOfAttentionNorm) => vec![
            (Role::InputNormGain, Role::InputNormBias, vec![attention]),
            (Role::MlpNormGain, Role::MlpNormBias, mlp),
        ],
        (StageId::Output, _) => vec![(Role::FinalNormGain, Role::FinalNormBias, vec![(Role::HeadWeight, None)])],
    }
}

/// Σ |a||b|, what a dot product's rounding errors are in proportion to.
fn magnitudes(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

fn replica(merged: &StageTensors, role: Role) -> Option<Vec<f64>> {
    merged.replicas(role).first().map(|tensor| tensor.to_f64().unwrap())
}

/// A partitioned parameter of the merged stage, split among the ranks again.
fn shards_of(design: &Design, merged: &StageTensors, role: Role) -> Vec<Option<Vec<f64>>> {
    let Some(ParamValue::Joined(joined)) = merged.get(role).map(|param| &param.value) else {
        return vec![None; design.tp_size];
    };
    let partition = PartitionTable::new(&design.architecture).partition(role).unwrap();
    let shards = split(&partition, joined, design.tp_size).unwrap();
    shards.iter().map(|shard| Some(shard.to_f64().unwrap())).collect()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}
