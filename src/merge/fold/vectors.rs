//! Arithmetic on gains and biases in float64.

/// A gain of zero cannot be divided by; any other value serves, since the ratio γ_r/γ makes up for it.
pub(super) fn nonzero(gain: f64) -> f64 {
    if gain == 0.0 { 1.0 } else { gain }
}

/// A gain far below its replicas, as where their signs differ, would blow the weights up: then the largest of them.
pub(super) fn not_far_below(gain: f64, largest: f64) -> f64 {
    if gain.abs() < largest.abs() / 2.0 { largest } else { gain }
}

/// Of each element, the vector's value that is largest in magnitude.
pub(super) fn largest(vectors: &[Vec<f64>]) -> Vec<f64> {
    let length = vectors.first().map_or(0, Vec::len);
    let larger = |one: f64, other: f64| if other.abs() > one.abs() { other } else { one };
    (0..length).map(|at| vectors.iter().map(|vector| vector[at]).fold(0.0, larger)).collect()
}

pub(super) fn mean_of(vectors: &[Vec<f64>]) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let count = vectors.len() as f64;
    let length = vectors.first().map_or(0, Vec::len);
    (0..length).map(|at| vectors.iter().map(|vector| vector[at]).sum::<f64>() / count).collect()
}

pub(super) fn mean_magnitude(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let count = values.len().max(1) as f64;
    values.iter().map(|value| value.abs()).sum::<f64>() / count
}

pub(super) fn ratio(numerators: &[f64], denominators: &[f64]) -> Vec<f64> {
    numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator).collect()
}

/// In eight running sums, which one addition need not wait for the other in.
pub(in crate::merge) fn dot(left: &[f64], right: &[f64]) -> f64 {
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (left, right) in left.iter().zip(right) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f64>() + rest
}

/// Σ(numerator/denominator).
pub(in crate::merge) fn dot_ratio(numerators: &[f64], denominators: &[f64]) -> f64 {
    numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator).sum()
}
