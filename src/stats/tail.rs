//! The tails of the standard normal distribution.

use statrs::function::erf::erfc_inv;

/// `z` with `P(Z > z) = alpha`.
pub(super) fn upper_quantile(alpha: f64) -> f64 {
    std::f64::consts::SQRT_2 * erfc_inv(2.0 * alpha)
}

/// `P(Z > z)`.
pub(super) fn upper_tail(z: f64) -> f64 {
    // `statrs` has ten digits of this one.
    0.5 * libm::erfc(z / std::f64::consts::SQRT_2)
}

/// The level at which a bound decides with `power` what the expected value decides at `alpha`: the two quantiles add up.
///
/// J. Cohen, "Statistical Power Analysis for the Behavioral Sciences" (1988); for evaluations of language models E. Miller,
/// "Adding error bars to evals" (2024), arXiv 2411.00640, §5.
pub(super) fn alpha_with_power(alpha: f64, power: f64) -> f64 {
    upper_tail(upper_quantile(alpha) + upper_quantile(1.0 - power))
}

/// The point of `(below, above)` up to which `holds` is true and beyond which it is not, to neighbouring numbers.
pub(super) fn bisect(below: f64, above: f64, holds: impl Fn(f64) -> bool) -> f64 {
    bisect_to(0.0, below, above, holds)
}

/// As [`bisect`], to within `tolerance`.
pub(super) fn bisect_to(tolerance: f64, mut below: f64, mut above: f64, holds: impl Fn(f64) -> bool) -> f64 {
    loop {
        let middle = f64::midpoint(below, above);
        // Also where an end is not a number.
        if !(below < middle && middle < above) || above - below <= tolerance {
            return middle;
        }
        if holds(middle) {
            below = middle;
        } else {
            above = middle;
        }
    }
}
