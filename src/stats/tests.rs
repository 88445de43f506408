//! Against lm-evaluation-harness, exact arithmetic and numpy (`tests/fixtures/statistics/make_statistics.py`), pinned
//! bits, and properties.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use super::mean::stderr_of;
use super::*;

static GOLDENS: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/statistics/statistics.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});

fn cases(name: &str) -> &'static [Value] {
    GOLDENS[name].as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn size(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn confidence(case: &Value) -> Confidence {
    Confidence::new(number(&case["level"])).unwrap()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, tolerance: f64, context: &dyn std::fmt::Debug) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * expected.abs().max(1e-290), "found {found}, expected {expected}: {context:?}");
}

/// `n` outcomes of each of the four kinds.
fn outcomes(both: usize, baseline_only: usize, variant_only: usize, neither: usize) -> (Vec<bool>, Vec<bool>) {
    let kinds =
        [(both, true, true), (baseline_only, true, false), (variant_only, false, true), (neither, false, false)];
    kinds.into_iter().flat_map(|(n, baseline, variant)| std::iter::repeat_n((baseline, variant), n)).unzip()
}

fn counts(both: usize, baseline_only: usize, variant_only: usize, neither: usize) -> PairedCounts {
    let (baseline, variant) = outcomes(both, baseline_only, variant_only, neither);
    PairedCounts::from_outcomes(&baseline, &variant).unwrap()
}

#[test]
fn mean_and_perplexity_agree_with_lm_eval() {
    for case in cases("lm_eval") {
        let values = numbers(&case["loglikelihoods"]);
        assert_close(mean(&values).unwrap(), number(&case["mean"]), 1e-13, &case["name"]);
        assert_close(stderr_of(&values).unwrap(), number(&case["mean_stderr"]), 1e-12, &case["name"]);
        assert_close(perplexity(&values).unwrap(), number(&case["perplexity"]), 1e-13, &case["name"]);
        let expected = number(&case["perplexity"]) * number(&case["mean_stderr"]);
        assert_close(perplexity_stderr(&values).unwrap().unwrap(), expected, 1e-12, &case["name"]);
    }
}

#[test]
fn the_delta_method_agrees_with_the_bootstrap_of_lm_eval() {
    let case = cases("lm_eval").iter().find(|case| case["name"] == "five_hundred").unwrap();
    let stderr = perplexity_stderr(&numbers(&case["loglikelihoods"])).unwrap().unwrap();
    let bootstrap = case["bootstrap"].as_array().unwrap().last().unwrap();
    assert_eq!(size(&bootstrap[0]), 2500);
    assert_close(stderr, number(&bootstrap[1]), 0.03, &"standard error");
}

#[test]
fn normal_quantile_is_exact_to_the_last_digits() {
    for case in cases("normal_quantile") {
        let z = Confidence::new(number(&case[0])).unwrap().normal_quantile();
        assert_close(z, number(&case[1]), 1e-14, case);
    }
}

#[test]
fn wilson_agrees_with_exact_arithmetic() {
    for case in cases("wilson") {
        let (successes, count) = (size(&case["successes"]), size(&case["count"]));
        let outcomes: Vec<bool> = (0..count).map(|k| k < successes).collect();
        let interval = Proportion::from_outcomes(&outcomes).unwrap().wilson(confidence(case));
        assert_close(1.0 + interval.lower, 1.0 + number(&case["lower"]), 1e-14, case);
        assert_close(1.0 + interval.upper, 1.0 + number(&case["upper"]), 1e-14, case);
    }
}

#[test]
fn mcnemar_agrees_with_exact_arithmetic() {
    for case in cases("mcnemar") {
        let counts = counts(1, size(&case["baseline_only"]), size(&case["variant_only"]), 0);
        assert_close(counts.mcnemar_p(), number(&case["p"]), 1e-11, case);
    }
}

#[test]
fn tango_agrees_with_exact_arithmetic() {
    for case in cases("tango") {
        let cell = |k: usize| size(&case["counts"][k]);
        let counts = counts(cell(0), cell(1), cell(2), cell(3));
        let interval = counts.accuracy_loss_interval(confidence(case));
        assert_close(counts.accuracy_loss(), number(&case["loss"]), 1e-15, case);
        assert_close(2.0 + interval.lower, 2.0 + number(&case["lower"]), 1e-14, case);
        assert_close(2.0 + interval.upper, 2.0 + number(&case["upper"]), 1e-14, case);
    }
}

/// Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), airway hyper-responsiveness: −0.517 to −0.026.
#[test]
fn tango_agrees_with_a_published_example() {
    let interval = counts(1, 1, 7, 12).accuracy_loss_interval(Confidence::P95);
    assert_eq!(format!("{:.3} {:.3}", interval.lower, interval.upper), "-0.517 -0.026");
}

#[test]
fn holm_agrees_with_a_worked_example() {
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005, 0.9]).unwrap();
    for (found, expected) in adjusted.into_iter().zip([0.04, 0.09, 0.09, 0.025, 0.9]) {
        assert_close(found, expected, 1e-15, &expected);
    }
    assert_eq!(holm(&[]).unwrap(), Vec::<f64>::new());
    assert!(matches!(holm(&[0.5, f64::NAN]), Err(StatsError::OutOfRange { .. })));
}

#[test]
fn quantile_agrees_with_numpy() {
    for case in cases("quantile") {
        let found = quantile(&numbers(&case["values"]), number(&case["fraction"])).unwrap();
        assert_close(found, number(&case["quantile"]), 1e-13, case);
    }
}

#[test]
fn fidelity_agrees_with_numpy() {
    let case = &GOLDENS["fidelity"];
    let same_top1: Vec<bool> =
        case["same_top1"].as_array().unwrap().iter().map(|flag| flag.as_bool().unwrap()).collect();
    let fidelity = Fidelity::from_tokens(&TokenPairs {
        baseline_logprob: &numbers(&case["baseline_logprob"]),
        variant_logprob: &numbers(&case["variant_logprob"]),
        kl: &numbers(&case["kl"]),
        same_top1: &same_top1,
    })
    .unwrap();
    let found = serde_json::to_value(&fidelity).unwrap();
    let expected = case["expected"].as_object().unwrap();
    assert_eq!(found.as_object().unwrap().len(), expected.len());
    for (name, value) in expected {
        // The golden subtracts squares as llama.cpp does and so has fewer digits than what it checks.
        assert_close(number(&found[name]), number(value), 1e-9, name);
    }
    assert_eq!(serde_json::from_value::<Fidelity>(found).unwrap(), fidelity);
}

#[test]
fn fidelity_of_a_model_to_itself_is_perfect() {
    let logprob = [-0.5, -1.25, -3.0];
    let tokens =
        TokenPairs { baseline_logprob: &logprob, variant_logprob: &logprob, kl: &[0.0; 3], same_top1: &[true; 3] };
    let fidelity = Fidelity::from_tokens(&tokens).unwrap();
    assert_eq!((fidelity.kl_max, fidelity.delta_p_rms, fidelity.delta_p_rms_stderr), (0.0, 0.0, Some(0.0)));
    assert_eq!((fidelity.ln_ppl_ratio.to_bits(), fidelity.ln_ppl_ratio_stderr), (0, Some(0.0)));
    assert_eq!((fidelity.same_top1_pct, fidelity.same_top1_pct_stderr), (100.0, Some(0.0)));
    assert_close(fidelity.ln_ppl_correlation.unwrap(), 1.0, 1e-15, &"correlation");
}

/// Log-likelihoods without a generator: a fixed irrational walk.
fn walk(count: u32, step: f64) -> Vec<f64> {
    (1..=count).map(|k| -4.0 * (f64::from(k) * step).fract()).collect()
}

fn losses(threads: usize, seed: u64) -> PairedLosses {
    let (baseline, variant) = (walk(300, 0.618_033_988_75), walk(300, 0.618_133_988_75));
    let bootstrap = PairedBootstrap { replicate_count: 1000, seed, ..PairedBootstrap::default() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| bootstrap.losses(&baseline, &variant)).unwrap()
}

#[test]
fn bootstrap_repeats_bit_for_bit_on_any_number_of_threads() {
    let found = losses(1, 7);
    assert_eq!(found, losses(2, 7));
    assert_eq!(found, losses(5, 7));
    assert_ne!(found, losses(1, 8));
    let estimate = found.delta_loglikelihood;
    let interval = estimate.interval.unwrap();
    let bits = [estimate.value, estimate.stderr.unwrap(), interval.lower, interval.upper].map(f64::to_bits);
    // Seed, stream layout, draw and order of summation are part of what a report states: these bits must not move.
    let pinned =
        [13_797_938_786_673_418_796, 4_583_517_275_435_614_382, 13_810_689_757_441_764_721, 4_587_315_405_136_302_089];
    assert_eq!(bits, pinned);
}

#[test]
fn bootstrap_agrees_with_the_delta_method() {
    let (baseline, variant) = (walk(2000, 0.618_033_988_75), walk(2000, 0.414_213_562_37));
    let resamples = PairedBootstrap::default().resample([&baseline, &variant]).unwrap();
    let estimate = resamples.estimate(|[_, variant]| (-variant).exp());
    assert_close(estimate.value, perplexity(&variant).unwrap(), 1e-13, &"perplexity");
    let stderr = perplexity_stderr(&variant).unwrap().unwrap();
    assert_close(estimate.stderr.unwrap(), stderr, 0.03, &"standard error");
    let interval = estimate.interval.unwrap();
    assert_close(interval.upper - interval.lower, 2.0 * 1.96 * stderr, 0.05, &"width");
}

#[test]
fn one_passage_has_no_spread() {
    assert_eq!(stderr_of(&[-1.0]), None);
    assert_eq!(perplexity_stderr(&[-1.0]).unwrap(), None);
    assert_eq!(Proportion::from_outcomes(&[true]).unwrap().stderr(), None);
    let estimate = PairedBootstrap::default().resample([&[-1.0]]).unwrap().estimate(|[mean]| *mean);
    assert_eq!(estimate, Estimate { value: -1.0, stderr: None, interval: None });
    let tokens = TokenPairs { baseline_logprob: &[-1.0], variant_logprob: &[-1.5], kl: &[0.1], same_top1: &[true] };
    let json = serde_json::to_value(Fidelity::from_tokens(&tokens).unwrap()).unwrap();
    assert!(json.as_object().unwrap().iter().all(|(name, value)| !name.ends_with("_stderr") && value.is_number()));
}

#[test]
fn a_ruined_model_still_gives_finite_numbers() {
    let (baseline, ruined) = ([-1.0, -2.0, -3.0], [-9000.0, -20000.0, -7.0]);
    assert_eq!(perplexity(&ruined).unwrap(), f64::MAX);
    assert_eq!(perplexity_stderr(&ruined).unwrap(), None);
    let losses = PairedBootstrap::default().losses(&baseline, &ruined).unwrap();
    assert_eq!(losses.perplexity_ratio.value, f64::MAX);
    assert_eq!(losses.perplexity_ratio.stderr, None);
    let json = serde_json::to_string(&losses).unwrap();
    assert!(!json.contains("null"), "{json}");
    let tokens =
        TokenPairs { baseline_logprob: &baseline, variant_logprob: &ruined, kl: &[1e4; 3], same_top1: &[false; 3] };
    let json = serde_json::to_string(&Fidelity::from_tokens(&tokens).unwrap()).unwrap();
    assert!(!json.contains("null"), "{json}");
}

#[test]
fn impossible_input_is_a_named_error() {
    assert_eq!(mean(&[]).unwrap_err().to_string(), "mean: no values, expected at least one");
    assert_eq!(
        perplexity(&[-1.0, f64::NEG_INFINITY]).unwrap_err().to_string(),
        "log-likelihoods: value 1 is -inf, expected a finite number"
    );
    assert_eq!(
        PairedCounts::from_outcomes(&[true, false], &[true]).unwrap_err().to_string(),
        "variant outcomes: 1 values, expected 2 as in the series it is paired with"
    );
    assert_eq!(Confidence::new(95.0).unwrap_err().to_string(), "confidence level is 95, expected between 0 and 1");
    assert!(Confidence::new(f64::NAN).is_err());
    assert!(quantile(&[1.0], 1.5).is_err());
    assert!(Proportion::from_outcomes(&[]).is_err());
    assert!(PairedCounts::from_outcomes(&[], &[]).is_err());
    assert!(PairedBootstrap::default().resample::<0>([]).is_err());
    assert!(PairedBootstrap::default().resample([&[1.0, 2.0][..], &[1.0][..]]).is_err());
    assert!(PairedBootstrap { replicate_count: 0, ..PairedBootstrap::default() }.resample([&[1.0]]).is_err());
}

proptest! {
    #[test]
    fn wilson_contains_the_proportion(outcomes in prop::collection::vec(any::<bool>(), 1..200), level in 0.01..0.9999) {
        let proportion = Proportion::from_outcomes(&outcomes).unwrap();
        let interval = proportion.wilson(Confidence::new(level).unwrap());
        prop_assert!(0.0 <= interval.lower && interval.upper <= 1.0);
        prop_assert!(interval.lower <= proportion.value() && proportion.value() <= interval.upper);
    }

    #[test]
    fn swapping_the_models_mirrors_the_loss(
        both in 0..60_usize, b in 0..60_usize, c in 0..60_usize, neither in 1..60_usize,
    ) {
        let (forward, backward) = (counts(both, b, c, neither), counts(both, c, b, neither));
        prop_assert_eq!(forward.mcnemar_p(), backward.mcnemar_p());
        prop_assert_eq!(forward.accuracy_loss(), -backward.accuracy_loss());
        let here = forward.accuracy_loss_interval(Confidence::P95);
        let there = backward.accuracy_loss_interval(Confidence::P95);
        prop_assert_eq!((here.lower, here.upper), (-there.upper, -there.lower));
        prop_assert!(-1.0 <= here.lower && here.lower <= forward.accuracy_loss());
        prop_assert!(forward.accuracy_loss() <= here.upper && here.upper <= 1.0);
    }

    #[test]
    fn holm_never_lowers_a_p_value_and_keeps_the_order(p_values in prop::collection::vec(0.0..=1.0, 0..12)) {
        let adjusted = holm(&p_values).unwrap();
        for (i, p) in p_values.iter().enumerate() {
            prop_assert!(*p <= adjusted[i] && adjusted[i] <= 1.0);
            for (j, other) in p_values.iter().enumerate() {
                prop_assert!(p > other || adjusted[i] <= adjusted[j]);
            }
        }
    }

    #[test]
    fn quantiles_rise_from_smallest_to_largest(
        values in prop::collection::vec(-1e6..1e6, 1..50), low in 0.0..=1.0, high in 0.0..=1.0_f64,
    ) {
        let (low, high) = if low <= high { (low, high) } else { (high, low) };
        let at = |fraction| quantile(&values, fraction).unwrap();
        prop_assert!(at(0.0) <= at(low) && at(high) <= at(1.0) + 1e-9);
        prop_assert!(at(low) <= at(high) + 1e-9);
    }

    #[test]
    fn bootstrap_of_a_constant_is_the_constant(value in -100.0..100.0, count in 2..40_usize, seed: u64) {
        let settings = PairedBootstrap { replicate_count: 70, seed, ..PairedBootstrap::default() };
        let estimate = settings.resample([&vec![value; count]]).unwrap().estimate(|[mean]| *mean);
        let interval = estimate.interval.unwrap();
        prop_assert_eq!((interval.lower, interval.upper), (estimate.value, estimate.value));
        prop_assert!(estimate.stderr.unwrap() < 1e-12);
    }

    #[test]
    fn no_input_panics(values in prop::collection::vec(any::<f64>(), 0..12), fraction: f64) {
        let flags = vec![true; values.len()];
        let _ = (mean(&values), perplexity_stderr(&values), quantile(&values, fraction), holm(&values));
        let tokens = TokenPairs { baseline_logprob: &values, variant_logprob: &values, kl: &values, same_top1: &flags };
        let _ = Fidelity::from_tokens(&tokens);
        let settings = PairedBootstrap { replicate_count: 3, ..PairedBootstrap::default() };
        let _ = settings.losses(&values, &values);
    }
}
