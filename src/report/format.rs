//! Numbers and names as people read them; shared by every rendering.

use crate::stats::Interval;
use crate::words::{self, minus};
pub(super) use crate::words::{grouped, list};

/// A cell without a value.
pub(super) const NOTHING: &str = "–";

/// A fraction in percentage points, two decimals.
pub(super) fn points(fraction: f64) -> String {
    plain(100.0 * fraction, 2)
}

/// A difference of fractions in percentage points, with its sign.
pub(super) fn signed_points(fraction: f64) -> String {
    signed(100.0 * fraction, 2)
}

/// An interval of such differences.
pub(super) fn points_interval(interval: Interval) -> String {
    format!("[{}, {}]", signed_points(interval.lower), signed_points(interval.upper))
}

/// A perplexity, with about four digits.
pub(super) fn perplexity(value: f64) -> String {
    scaled(value, value, 0, false)
}

/// A standard error with as many decimals as `perplexity`.
pub(super) fn perplexity_stderr(stderr: f64, perplexity: f64) -> String {
    scaled(stderr, perplexity, 0, false)
}

/// A difference of perplexities, with its sign.
pub(super) fn signed_perplexity(value: f64) -> String {
    scaled(value, value, 0, true)
}

/// An interval of such differences.
pub(super) fn perplexity_interval(interval: Interval) -> String {
    let size = interval.lower.abs().max(interval.upper.abs());
    format!("[{}, {}]", scaled(interval.lower, size, 0, true), scaled(interval.upper, size, 0, true))
}

/// A ratio of perplexities; one decimal more, because 1.0002 is news.
pub(super) fn ratio(value: f64) -> String {
    scaled(value, value, 1, false)
}

pub(super) fn ratio_interval(interval: Interval) -> String {
    format!("[{}, {}]", scaled(interval.lower, interval.upper, 1, false), ratio(interval.upper))
}

pub(super) fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "< 0.001".to_owned(),
        p if p < 0.1 => plain(p, 3),
        p => plain(p, 2),
    }
}

/// A confidence level as a percentage, without needless decimals.
pub(super) fn level(confidence: f64) -> String {
    // Rounded, because 100 · 0.997 is 99.70000000000000-something.
    format!("{} %", (100_000.0 * confidence).round() / 1000.0)
}

/// A positive number that may be tiny, in nats.
pub(super) fn scientific(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { words::scientific(value, 2) }
}

/// A mean divergence in nats. Float32 sums over the vocabulary carry about this much rounding, of either sign.
pub(super) fn divergence(kl: f64) -> String {
    const ROUNDING: f64 = 1e-8;
    if kl != 0.0 && kl.abs() < ROUNDING { "< 1e−8".to_owned() } else { scientific(kl) }
}

/// A fraction that may be tiny, in per cent, with about three digits.
pub(super) fn percent(fraction: f64) -> String {
    let percent = 100.0 * fraction;
    let text = match percent {
        0.0 => "0".to_owned(),
        percent if percent < 0.001 => format!("{percent:.1e}"),
        percent if percent < 0.1 => format!("{percent:.4}"),
        percent if percent < 10.0 => format!("{percent:.2}"),
        percent => format!("{percent:.1}"),
    };
    minus(&format!("{text} %"))
}

/// A size in decimal units, as disks count.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(count: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.into_iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", count as f64 / size as f64),
        None => format!("{count} bytes"),
    }
}

/// `1 rank`, `2 ranks`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// With fewer decimals the larger `size` is: about four digits of it are shown, and `more` besides.
fn scaled(value: f64, size: f64, more: usize, with_sign: bool) -> String {
    let decimals = match size.abs() {
        size if size >= 1e6 => {
            let sign = if with_sign && value > 0.0 { "+" } else { "" };
            return minus(&format!("{sign}{value:.2e}"));
        }
        size if size >= 1000.0 => more,
        size if size >= 100.0 => 1 + more,
        size if size >= 10.0 => 2 + more,
        _ => 3 + more,
    };
    if with_sign { signed(value, decimals) } else { plain(value, decimals) }
}

pub(super) fn plain(value: f64, decimals: usize) -> String {
    minus(&without_sign_of_zero(format!("{value:.decimals$}")))
}

pub(super) fn signed(value: f64, decimals: usize) -> String {
    minus(&without_sign_of_zero(format!("{value:+.decimals$}")))
}

/// A number that rounds to zero has no sign.
fn without_sign_of_zero(text: String) -> String {
    if text.contains(|c: char| ('1'..='9').contains(&c)) { text } else { text.replace(['+', '-'], "") }
}
