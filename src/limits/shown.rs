//! Checks in words and numbers, as the table, JUnit and sentences show them. A bound is rounded away from what it proves.

use super::gates::Policy;
use super::judge::{Check, Finding, Outcome};
use super::outcomes::Criterion;
use crate::stats::{FEWEST_PASSAGES, Verdict};
use crate::words::{self, grouped, minus};

/// Which way a number is rounded.
#[derive(Clone, Copy)]
pub(crate) enum Rounding {
    Down,
    Nearest,
    Up,
}

/// A loss as it is shown: in points, per cent or nats; of top tokens the share that stays the same.
pub(crate) fn loss(criterion: Criterion, loss: f64, rounding: Rounding) -> String {
    match criterion {
        Criterion::AccuracyLoss => format!("{} points", signed(100.0 * loss, 2, rounding)),
        Criterion::PerplexityIncrease => format!("{} %", signed(100.0 * loss.exp_m1(), 3, rounding)),
        Criterion::KlDivergence => format!("{} nats", scientific(loss, rounding)),
        Criterion::TopTokenChange => {
            let turned = match rounding {
                Rounding::Down => Rounding::Up,
                Rounding::Nearest => Rounding::Nearest,
                Rounding::Up => Rounding::Down,
            };
            format!("{:.2} %", rounded(100.0 * (1.0 - loss), 2, turned))
        }
    }
}

/// A limit as it was written.
pub(crate) fn limit(criterion: Criterion, limit: f64) -> String {
    match criterion {
        Criterion::AccuracyLoss => format!("{} points", shortest(100.0 * limit)),
        Criterion::PerplexityIncrease => format!("{} %", shortest(100.0 * limit.exp_m1())),
        Criterion::KlDivergence => format!("{} nats", shortest(limit)),
        Criterion::TopTokenChange => format!("{} %", shortest(100.0 * (1.0 - limit))),
    }
}

/// What was proven of a loss whose one-sided bounds are these.
pub(crate) fn bound(criterion: Criterion, verdict: Verdict, ends: Option<(f64, f64)>) -> String {
    let Some((lower, upper)) = ends else { return format!("none: fewer than {FEWEST_PASSAGES} passages") };
    let (lower, upper) = (loss(criterion, lower, Rounding::Down), loss(criterion, upper, Rounding::Up));
    let same = criterion == Criterion::TopTokenChange;
    match verdict {
        Verdict::Within if same => format!("at least {upper}"),
        Verdict::Within => format!("at most {upper}"),
        Verdict::Beyond if same => format!("at most {lower}"),
        Verdict::Beyond => format!("at least {lower}"),
        Verdict::Undecided if same => format!("{upper} to {lower}"),
        Verdict::Undecided => format!("{lower} to {upper}"),
    }
}

impl Check {
    pub(crate) fn name(&self) -> &'static str {
        match &self.finding {
            Finding::Bounded { criterion, .. } => criterion.name(),
            Finding::Exact { .. } => "changed passages",
        }
    }

    pub(crate) fn found(&self) -> String {
        match &self.finding {
            Finding::Bounded { criterion, measured, .. } => loss(*criterion, measured.estimate(), Rounding::Nearest),
            Finding::Exact { changed, .. } => changed.to_string(),
        }
    }

    pub(crate) fn limit(&self) -> String {
        match &self.finding {
            Finding::Bounded { criterion, threshold, .. } => limit(*criterion, threshold.limit),
            Finding::Exact { .. } => "0".to_owned(),
        }
    }

    /// What was proven of the loss.
    pub(crate) fn bound(&self) -> String {
        let (criterion, decision) = match &self.finding {
            Finding::Bounded { criterion, decision, .. } => (*criterion, decision),
            Finding::Exact { changed: 0, .. } => return "every passage".to_owned(),
            Finding::Exact { changed, first } => {
                let named: Vec<_> = first.iter().map(usize::to_string).collect();
                let more = if *changed > first.len() { ", …" } else { "" };
                return format!("passages {}{more}", named.join(", "));
            }
        };
        let ends =
            Some((decision.lower, decision.upper)).filter(|(lower, upper)| lower.is_finite() && upper.is_finite());
        bound(criterion, decision.verdict, ends)
    }

    pub(crate) fn verdict_words(&self) -> &'static str {
        match (self.verdict(), self.outcome()) {
            (Verdict::Within, _) => "within",
            (Verdict::Beyond, Outcome::Failed) => "BEYOND",
            (Verdict::Beyond, _) => "beyond (advisory)",
            (Verdict::Undecided, Outcome::Undecided) => "UNDECIDED",
            (Verdict::Undecided, _) if self.policy == Policy::Advisory => "undecided (advisory)",
            (Verdict::Undecided, _) => "undecided (allowed)",
        }
    }

    /// How many more passages would decide it, at the rates and the spread seen; empty where it is decided.
    pub(crate) fn more_passages(&self) -> String {
        match &self.finding {
            Finding::Bounded { decision, .. } if decision.verdict == Verdict::Undecided => {
                decision.more_passages.map_or_else(|| "no number".to_owned(), grouped)
            }
            _ => String::new(),
        }
    }

    /// What would decide it, or what keeps it from being decided; empty where it is.
    pub(crate) fn undecided_because(&self) -> String {
        match (&self.finding, self.hidden_by_noise(), self.more_passages()) {
            (Finding::Bounded { criterion, .. }, Some(noise), _) => noise_words(*criterion, noise),
            (.., more) if more.is_empty() => more,
            (.., more) => format!("{more} more passages would decide"),
        }
    }
}

/// Why a loss that exceeds its limit is not beyond it.
pub(crate) fn noise_words(criterion: Criterion, noise: f64) -> String {
    let noise = match criterion {
        _ if noise.is_infinite() => return "an exact merge loses by rounding alone".to_owned(),
        Criterion::TopTokenChange => format!("{:.2} % of top tokens", rounded(100.0 * noise, 2, Rounding::Up)),
        _ => loss(criterion, noise, Rounding::Up),
    };
    format!("rounding alone may make {noise}")
}

fn rounded(value: f64, decimals: i32, rounding: Rounding) -> f64 {
    let scale = 10.0_f64.powi(decimals);
    let scaled = value * scale;
    let whole = match rounding {
        Rounding::Nearest => scaled.round(),
        // What is a decimal but for the last bits stays what it is.
        _ if (scaled - scaled.round()).abs() < 1e-6 => scaled.round(),
        Rounding::Down => scaled.floor(),
        Rounding::Up => scaled.ceil(),
    };
    // Without the sign of zero.
    whole / scale + 0.0
}

fn signed(value: f64, decimals: i32, rounding: Rounding) -> String {
    let value = rounded(value, decimals, rounding);
    let decimals = usize::try_from(decimals).unwrap_or(0);
    minus(&format!("{value:+.decimals$}"))
}

/// Three digits.
fn scientific(value: f64, rounding: Rounding) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    #[expect(clippy::cast_possible_truncation, reason = "an exponent")]
    let exponent = value.abs().log10().floor() as i32;
    let digits = rounded(value * 10.0_f64.powi(-exponent), 2, rounding);
    words::scientific(digits * 10.0_f64.powi(exponent), 2)
}

/// Without the digits that arithmetic added.
fn shortest(value: f64) -> String {
    minus(format!("{value:.9}").trim_end_matches('0').trim_end_matches('.'))
}
