//! How often verdicts are false, by simulation: `cargo run --release --no-default-features --example verdict_errors`.
//!
//! Every row is 10,000 streams of passages. At the limit itself *within* and *beyond* should each be rare: 5 % is what they promise
//! (*beyond* is then false only in so far as the loss is not above its limit).

#![allow(clippy::cast_precision_loss, clippy::print_stdout)]

use kintsugi::stats::{Confidence, EarlyLook, Measured, PairedBootstrap, SampledMean, StatsError, Verdict, decide};
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

const STREAMS: u64 = 10_000;
const ALPHA: f64 = 0.05;

/// What a passage loses.
#[derive(Clone, Copy)]
enum Loss {
    /// An answer lost or gained.
    Accuracy { loss: f64, discordant: f64 },
    /// A log-normal divergence of this mean; `sigma` is that of its logarithm.
    Divergence { mean: f64, sigma: f64 },
    /// A fall of the log-likelihood: normal, and in one passage of a hundred ten times as wide.
    Fall { mean: f64, stddev: f64 },
}

impl Loss {
    fn draw(self, random: &mut ChaCha12Rng) -> f64 {
        match self {
            Self::Accuracy { loss, discordant } => {
                let draw = uniform(random);
                let lost = f64::midpoint(discordant, loss);
                if draw < lost {
                    1.0
                } else if draw < discordant {
                    -1.0
                } else {
                    0.0
                }
            }
            Self::Divergence { mean, sigma } => mean * (sigma * normal(random) - sigma * sigma / 2.0).exp(),
            Self::Fall { mean, stddev } => {
                let scale = if uniform(random) < 0.01 { 10.0 } else { 1.0 };
                mean + scale * stddev * normal(random)
            }
        }
    }

    fn at_once(self, drawn: &[f64], limit: f64) -> Result<Verdict, StatsError> {
        let count = drawn.len() as f64;
        let measured = match self {
            Self::Accuracy { .. } => {
                let those = |loss: f64| drawn.iter().filter(|drawn| (**drawn - loss).abs() < 0.5).count() as f64;
                Measured::Paired { lost: those(1.0), gained: those(-1.0), count }
            }
            Self::Divergence { .. } => Measured::Mean(SampledMean::of_divergences(drawn)?),
            Self::Fall { .. } => Measured::Mean(SampledMean::of(drawn)?),
        };
        Ok(decide(&[(measured, limit.into())], ALPHA)[0].verdict)
    }

    /// By the ends of a percentile bootstrap of the mean, of which either leaves out α.
    fn by_bootstrap(drawn: &[f64], limit: f64, seed: u64) -> Result<Verdict, StatsError> {
        let confidence = Confidence::new(1.0 - 2.0 * ALPHA)?;
        let bootstrap = PairedBootstrap { replicate_count: 1000, seed, confidence };
        let fallen: Vec<f64> = drawn.iter().map(|fall| -fall).collect();
        let losses = bootstrap.losses(&vec![0.0; drawn.len()], &fallen)?;
        Ok(match losses.delta_loglikelihood.interval {
            Some(interval) if -interval.upper > limit => Verdict::Beyond,
            Some(interval) if -interval.lower <= limit => Verdict::Within,
            _ => Verdict::Undecided,
        })
    }

    fn early(self, drawn: &[f64], limit: f64, total: usize) -> Result<Verdict, StatsError> {
        let look = EarlyLook { alpha: ALPHA, beyond_alpha: ALPHA };
        match self {
            #[expect(clippy::cast_possible_truncation, reason = "−1, 0 or 1")]
            Self::Accuracy { .. } => {
                let losses: Vec<i8> = drawn.iter().map(|drawn| *drawn as i8).collect();
                Ok(look.accuracy(&losses, limit.into())?.verdict)
            }
            Self::Divergence { .. } => {
                Ok(look.mean(&SampledMean::of_divergences(drawn)?, limit.into(), total as f64).verdict)
            }
            Self::Fall { .. } => Ok(look.mean(&SampledMean::of(drawn)?, limit.into(), total as f64).verdict),
        }
    }
}

fn uniform(random: &mut ChaCha12Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// By G. Box and M. Muller.
fn normal(random: &mut ChaCha12Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(random)).cos()
}

/// How a stream is judged.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// All its passages, by the bounds of a gate.
    AtOnce,
    /// All its passages, by a percentile bootstrap, for comparison.
    Bootstrap,
    /// In slices, until it is decided.
    Early,
}

/// A stream's verdict, and the passages that it took.
fn run(loss: Loss, limit: f64, total: usize, way: Way, seed: u64) -> Result<(Verdict, usize), StatsError> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let drawn: Vec<f64> = (0..total).map(|_| loss.draw(&mut random)).collect();
    match way {
        Way::AtOnce => return Ok((loss.at_once(&drawn, limit)?, total)),
        Way::Bootstrap => return Ok((Loss::by_bootstrap(&drawn, limit, seed)?, total)),
        Way::Early => {}
    }
    for slice in EarlyLook::slices(total) {
        let verdict = loss.early(&drawn[..slice], limit, total)?;
        if verdict != Verdict::Undecided {
            return Ok((verdict, slice));
        }
    }
    Ok((Verdict::Undecided, total))
}

fn row(name: &str, loss: Loss, limit: f64, total: usize, way: Way) -> Result<(), StatsError> {
    let streams = 0..STREAMS;
    let mut found: Vec<(Verdict, usize)> =
        streams.into_par_iter().map(|seed| run(loss, limit, total, way, seed)).collect::<Result<_, _>>()?;
    let share = |verdict| 100.0 * found.iter().filter(|(found, _)| *found == verdict).count() as f64 / STREAMS as f64;
    let shares = [Verdict::Within, Verdict::Beyond, Verdict::Undecided].map(share);
    found.sort_by_key(|(_, passages)| *passages);
    let median = found[found.len() / 2].1;
    let when = match way {
        Way::AtOnce => format!("all {total}"),
        Way::Bootstrap => format!("all {total}, by bootstrap"),
        Way::Early => format!("early, of {total}"),
    };
    let [within, beyond, undecided] = shares;
    println!("| {name} | {when} | {within:.2} | {beyond:.2} | {undecided:.2} | {median} |");
    Ok(())
}

fn main() -> Result<(), StatsError> {
    println!("| loss of a passage | seen | within % | beyond % | undecided % | median passages |");
    println!("|---|---|---|---|---|---|");
    // GPT-NeoX-20B of pull request 466: accuracy 0.6955 to 0.6751, perplexity 4.843 to 5.400.
    let (accuracy, fall) = (0.6955 - 0.6751, (5.400_f64 / 4.843).ln());
    let accuracies = [
        ("accuracy, at the limit of 0.5 points", 0.005, 0.04),
        ("accuracy, at the limit, few discordant", 0.005, 0.008),
        ("accuracy, no loss", 0.0, 0.04),
        ("accuracy, no loss, few discordant", 0.0, 0.002),
        ("accuracy, pull request 466", accuracy, 0.08),
    ];
    let divergences = [
        ("KL, at the limit of 0.001 nats", 0.001, 1.2),
        ("KL, at the limit, long tail", 0.001, 1.5),
        ("KL, a thousandth of the limit", 1e-6, 1.2),
        ("KL, three times the limit (the demo's `mean`)", 0.003, 1.2),
    ];
    let limit = 1.01_f64.ln();
    let falls = [
        ("perplexity, at the limit of 1 %", limit, 0.1),
        ("perplexity, no loss", 0.0, 0.1),
        ("perplexity, pull request 466", fall, 0.4),
    ];
    let ways = [(Way::AtOnce, &[200, 1000, 5153][..]), (Way::Bootstrap, &[200]), (Way::Early, &[5153])];
    for (way, totals) in ways {
        for total in totals {
            for (name, loss, discordant) in accuracies.into_iter().filter(|_| way != Way::Bootstrap) {
                row(name, Loss::Accuracy { loss, discordant }, 0.005, *total, way)?;
            }
            for (name, mean, sigma) in divergences {
                row(name, Loss::Divergence { mean, sigma }, 0.001, *total, way)?;
            }
            for (name, mean, stddev) in falls {
                row(name, Loss::Fall { mean, stddev }, limit, *total, way)?;
            }
        }
    }
    Ok(())
}
