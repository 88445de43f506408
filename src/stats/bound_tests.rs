//! Bounds against scipy and the package `confseq` (`tests/fixtures/statistics/make_bounds.py`), against enumeration of every
//! outcome, and properties.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;
use statrs::distribution::{Binomial, Discrete};

use super::*;

static GOLDENS: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/statistics/bounds.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});

fn cases(name: &str) -> &'static [Value] {
    GOLDENS[name].as_array().unwrap()
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap()
}

#[track_caller]
fn assert_near(found: f64, expected: f64, tolerance: f64, context: &dyn std::fmt::Debug) {
    assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}: {context:?}");
}

/// The fixed scatter of numbers in `[0, 1)` that the fixture's maker uses too.
fn scatter(index: f64) -> f64 {
    (index * 0.618_033_988_749_894_9).rem_euclid(1.0)
}

/// The recorded sequence of this number, and its error.
fn sequence(number: usize) -> (Vec<f64>, f64) {
    let of = number as f64;
    let (lost, gained) = (0.3 * scatter(of), 0.3 * scatter(3.0 * of));
    let value = |step: usize| {
        let draw = scatter(step as f64 * (17.0 + of) + 5.0 * of);
        match number % 2 {
            1 if draw < lost => 1.0,
            1 if draw > 1.0 - gained => 0.0,
            1 => 0.5,
            _ => draw.powi(1 + i32::try_from(number % 5).unwrap()),
        }
    };
    let alpha = [0.05, 0.025, 0.1][number % 3];
    ((1..=5 + (number * 7) % 196).map(value).collect(), alpha)
}

#[test]
fn betting_agrees_with_confseq_on_a_thousand_sequences() {
    assert_eq!(cases("betting").len(), 1000);
    for (number, case) in cases("betting").iter().enumerate() {
        let (values, alpha) = sequence(number);
        let found = Betting::on(&values, alpha).unwrap().bounds();
        assert_near(found.lower, case[0].as_f64().unwrap(), 1e-6, &number);
        assert_near(found.upper, case[1].as_f64().unwrap(), 1e-6, &number);
    }
}

#[test]
fn asymptotic_sequences_agree_with_the_formula_in_numpy() {
    for case in cases("asymptotic") {
        let (values, _) = sequence(usize::try_from(case["sequence"].as_u64().unwrap()).unwrap());
        let sequence = AsymptoticSequence { alpha: number(case, "alpha"), sharpest_at: number(case, "sharpest_at") };
        let found = sequence.bounds(&values).unwrap();
        assert_near(found.lower, number(case, "lower"), 1e-12, case);
        assert_near(found.upper, number(case, "upper"), 1e-12, case);
    }
}

#[test]
fn shares_agree_with_scipy() {
    for case in cases("share") {
        let share = Measured::Share { differing: number(case, "differing"), count: number(case, "count") };
        assert_near(share.upper(number(case, "alpha")), number(case, "upper"), 1e-12, case);
        assert_near(share.lower(number(case, "alpha")), number(case, "lower"), 1e-12, case);
        if share.estimate() > number(case, "limit") {
            assert_near(share.p_beyond(number(case, "limit")), number(case, "p"), 1e-12, case);
        }
    }
}

#[test]
fn means_agree_with_scipy() {
    for case in cases("mean") {
        let (values, _) = sequence(usize::try_from(case["sequence"].as_u64().unwrap()).unwrap());
        let values: Vec<f64> = values.iter().map(|value| value.powi(3) - 0.1).collect();
        let of = if number(case, "reach") > 1.0 { SampledMean::of_divergences } else { SampledMean::of };
        let found = Measured::Mean(of(&values).unwrap());
        let alpha = number(case, "alpha");
        assert_near(found.upper(alpha), number(case, "upper"), 1e-12, case);
        assert_near(found.lower(alpha), number(case, "lower"), 1e-12, case);
        assert_near(found.p_beyond(found.lower(alpha)), alpha, 1e-9, case);
    }
}

/// The chance of a false verdict of a rule, over every outcome of `count` passages.
fn error_rate(count: u64, shares: [f64; 2], wrong: impl Fn(Measured) -> bool) -> f64 {
    let [lost, gained] = shares;
    let mut total = 0.0;
    for b in 0..=count {
        let of_the_others = Binomial::new(gained / (1.0 - lost), count - b).unwrap();
        let chance = Binomial::new(lost, count).unwrap().pmf(b);
        for c in 0..=count - b {
            if wrong(Measured::Paired { lost: b as f64, gained: c as f64, count: count as f64 }) {
                total += chance * of_the_others.pmf(c);
            }
        }
    }
    total
}

#[test]
fn verdicts_of_accuracy_err_as_often_as_the_score_test_does() {
    for (count, limit) in [(30, 0.05), (60, 0.01), (120, 0.005)] {
        for gained in [0.0, 0.01, 0.05, 0.1] {
            let at_limit = |wrong: &dyn Fn(Measured) -> bool| error_rate(count, [gained + limit, gained], wrong);
            let within = at_limit(&|loss| loss.upper(0.05) <= limit);
            let beyond = at_limit(&|loss| loss.p_beyond(limit) <= 0.05);
            // A score test's error is 5 % in the limit of many passages; the largest found by enumeration is 9 %.
            assert!(within <= 0.065 && beyond <= 0.09, "{count} passages, limit {limit}: {within} {beyond}");
        }
    }
}

#[test]
fn a_share_errs_at_most_as_often_as_it_says() {
    let outcomes = |count: usize, share: f64| {
        let binomial = Binomial::new(share, count as u64).unwrap();
        (0..=count).map(move |differing| (Measured::share(differing, count), binomial.pmf(differing as u64)))
    };
    for (count, limit) in [(20, 0.1), (90, 0.05), (200, 0.01)] {
        let chance = |wrong: &dyn Fn(Measured) -> bool| -> f64 {
            outcomes(count, limit).filter(|(share, _)| wrong(*share)).map(|(_, chance)| chance).sum()
        };
        assert!(chance(&|share| share.upper(0.05) < limit) <= 0.05);
        assert!(chance(&|share| share.p_beyond(limit) <= 0.05) <= 0.05);
    }
}

#[test]
fn three_verdicts() {
    let verdict = |loss, limit: f64| decide(&[(loss, limit.into())], 0.05)[0];
    let accuracy = |lost, gained, count| Measured::Paired { lost, gained, count };
    // 200 passages without a change do not prove half a point; 339 more would.
    let unproven = verdict(accuracy(0.0, 0.0, 200.0), 0.005);
    assert_eq!((unproven.verdict, unproven.more_passages), (Verdict::Undecided, Some(339)));
    assert_eq!(verdict(accuracy(0.0, 0.0, 539.0), 0.005).verdict, Verdict::Within);
    assert_eq!(verdict(accuracy(0.0, 0.0, 538.0), 0.005).verdict, Verdict::Undecided);
    assert_eq!(verdict(accuracy(40.0, 2.0, 1000.0), 0.005).verdict, Verdict::Beyond);
    // A loss as large as its limit is never decided.
    assert_eq!(verdict(accuracy(5.0, 0.0, 1000.0), 0.005).more_passages, None);
    // Few passages say nothing of a mean, however alike they are.
    let few = Measured::Mean(SampledMean::of(&[0.0; 29]).unwrap());
    assert_eq!((verdict(few, 0.01).verdict, verdict(few, 0.01).more_passages), (Verdict::Undecided, Some(1)));
    let enough = Measured::Mean(SampledMean::of(&[0.0; 30]).unwrap());
    assert_eq!(verdict(enough, 0.0).verdict, Verdict::Within);
    assert_eq!(verdict(Measured::share(0, 300), 0.01).verdict, Verdict::Within);
    assert_eq!(verdict(Measured::share(9, 200), 0.01).verdict, Verdict::Beyond);
}

/// A divergence that is never negative exceeds any limit where rounding alone does.
#[test]
fn what_rounding_explains_is_neither_proven_nor_exceeded() {
    let values: Vec<f64> = (0..300).map(|passage| 0.0013 * (0.5 + scatter(f64::from(passage)))).collect();
    let mean = SampledMean::of_divergences(&values).unwrap();
    let differing: Vec<bool> = (0..300).map(|passage| scatter(f64::from(passage)) < 0.1).collect();
    let share = Measured::share(differing.iter().filter(|differs| **differs).count(), 300);
    let early = EarlyLook { alpha: 0.05, beyond_alpha: 0.05 };
    for (noise, expected) in [(0.0, Verdict::Beyond), (0.5, Verdict::Beyond), (1.2, Verdict::Undecided)] {
        let of = |limit: f64, typical: f64| Threshold { limit, noise: noise * typical };
        for (decision, threshold) in [
            (decide(&[(Measured::Mean(mean), of(1e-4, 0.0013))], 0.05)[0], of(1e-4, 0.0013)),
            (decide(&[(share, of(0.01, 0.1))], 0.05)[0], of(0.01, 0.1)),
            (early.mean(&mean, of(1e-4, 0.0013), 5000.0), of(1e-4, 0.0013)),
            (early.share(&differing, of(0.01, 0.1)).unwrap(), of(0.01, 0.1)),
        ] {
            assert_eq!(decision.verdict, expected, "{noise}: {decision:?}");
            assert_eq!(decision.p_beyond <= 0.05, expected == Verdict::Beyond);
            assert_eq!(
                decision.hidden_by_noise(threshold),
                (expected == Verdict::Undecided).then_some(threshold.noise)
            );
            // No number of passages like these would tell.
            assert_eq!(decision.more_passages, None);
        }
        // Within is proven as ever.
        let wide = Threshold { limit: 0.01, noise };
        assert_eq!(decide(&[(Measured::Mean(mean), wide)], 0.05)[0].verdict, Verdict::Within);
    }
}

#[test]
fn what_is_judged_together_is_corrected_and_nothing_passes_by_it() {
    let weak = (Measured::Paired { lost: 12.0, gained: 1.0, count: 400.0 }, Threshold::from(0.01));
    let alone = decide(&[weak], 0.05)[0];
    assert_eq!(alone.verdict, Verdict::Beyond);
    let among = decide(&[weak; 50], 0.05);
    assert!(among.iter().all(|decision| decision.verdict == Verdict::Undecided), "{among:?}");
    let strong = (Measured::Paired { lost: 60.0, gained: 1.0, count: 400.0 }, Threshold::from(0.01));
    let mixed = decide(&[weak, strong], 0.05);
    assert_eq!(mixed[1].verdict, Verdict::Beyond);
    assert!(mixed[1].lower > strong.1.limit && mixed[1].beyond_alpha < mixed[0].beyond_alpha);
}

#[test]
fn plans_give_the_passages_at_which_four_of_five_runs_decide() {
    // (z₀.₉₅ + z₀.₈)²·s²/limit².
    let needed = passages_to_prove(assumed_mean(100.0, 0.5), 0.01, 0.05).unwrap();
    assert!((15_450..15_470).contains(&needed), "{needed}");
    let detectable = smallest_detectable(assumed_mean(5153.0, 0.5), 0.01.into(), 0.05).unwrap();
    assert_near(detectable, 0.01 + 2.486_475 * 0.5 / 5153.0_f64.sqrt(), 1e-6, &"mean");
    let accuracy = Measured::Paired { lost: 100.0, gained: 100.0, count: 5153.0 };
    let detectable = smallest_detectable(accuracy, 0.0.into(), 0.05).unwrap();
    assert_near(detectable, 2.486 * (200.0_f64).sqrt() / 5153.0, 2e-4, &"accuracy");
}

#[test]
fn an_early_look_decides_what_is_plain_and_nothing_else() {
    let slices = EarlyLook::slices(5153);
    assert_eq!((slices[0], slices[1], *slices.last().unwrap(), slices.len()), (64, 96, 5153, 12));
    assert_eq!(EarlyLook::slices(20), [20]);
    let look = EarlyLook { alpha: 0.05, beyond_alpha: 0.01 };
    let lost = |share: f64, count: usize| -> Vec<i8> {
        (0..count).map(|passage| i8::from(scatter(passage as f64) < share)).collect()
    };
    assert_eq!(look.accuracy(&lost(0.2, 300), 0.01.into()).unwrap().verdict, Verdict::Beyond);
    assert_eq!(look.accuracy(&lost(0.0, 2000), 0.01.into()).unwrap().verdict, Verdict::Within);
    assert_eq!(look.accuracy(&lost(0.01, 300), 0.01.into()).unwrap().verdict, Verdict::Undecided);
    let divergences = |scale: f64, count: usize| -> SampledMean {
        let values: Vec<f64> = (0..count).map(|passage| scale * scatter(passage as f64)).collect();
        SampledMean::of_divergences(&values).unwrap()
    };
    assert_eq!(look.mean(&divergences(0.008, 64), 0.001.into(), 5153.0).verdict, Verdict::Beyond);
    assert_eq!(look.mean(&divergences(1e-5, 64), 0.001.into(), 5153.0).verdict, Verdict::Within);
    assert_eq!(look.mean(&divergences(0.002, 64), 0.001.into(), 5153.0).verdict, Verdict::Undecided);
    assert_eq!(look.mean(&divergences(1e-5, 29), 0.001.into(), 5153.0).verdict, Verdict::Undecided);
}

#[test]
fn an_early_decision_is_that_of_its_bounds_and_says_when_it_would_decide() {
    let look = EarlyLook { alpha: 0.05, beyond_alpha: 0.01 };
    let differing =
        |share: f64, count: usize| -> Vec<bool> { (0..count).map(|passage| scatter(passage as f64) < share).collect() };
    let mut seen = Vec::new();
    for share in [0.0, 0.004, 0.03, 0.3] {
        for count in [40, 200, 1500] {
            let differing = differing(share, count);
            let losses: Vec<i8> = differing.iter().map(|differs| i8::from(*differs)).collect();
            let values: Vec<f64> = losses.iter().map(|loss| 0.01 * f64::from(*loss)).collect();
            let mean = SampledMean::of_divergences(&values).unwrap();
            for (decision, limit) in [
                (look.share(&differing, 0.02.into()).unwrap(), 0.02),
                (look.accuracy(&losses, 0.02.into()).unwrap(), 0.02),
                (look.mean(&mean, 2e-4.into(), 5153.0), 2e-4),
            ] {
                let expected = match decision {
                    _ if decision.lower > limit => Verdict::Beyond,
                    _ if decision.upper <= limit => Verdict::Within,
                    _ => Verdict::Undecided,
                };
                assert_eq!(decision.verdict, expected, "{share} {count} {decision:?}");
                assert_eq!(
                    decision.verdict == Verdict::Beyond,
                    decision.p_beyond <= 0.01,
                    "{share} {count} {decision:?}"
                );
                assert!(decision.verdict == Verdict::Undecided || decision.more_passages.is_none());
                seen.push(decision.verdict);
            }
        }
    }
    for verdict in [Verdict::Within, Verdict::Beyond, Verdict::Undecided] {
        assert!(seen.iter().filter(|seen| **seen == verdict).count() > 3, "{seen:?}");
    }
    // As many more passages as it says decide it.
    let few = look.share(&differing(0.0, 40), 0.02.into()).unwrap().more_passages.unwrap();
    let enough = |count| look.share(&differing(0.0, count), 0.02.into()).unwrap().verdict == Verdict::Within;
    let needed = 40 + usize::try_from(few).unwrap();
    assert!(enough(needed) && !enough(needed - 1));
}

#[test]
fn a_random_order_has_every_number_once_and_follows_the_seed() {
    let order = |seed, count| PairedBootstrap { seed, ..PairedBootstrap::default() }.permutation(count);
    for count in [0, 1, 2, 200] {
        let mut sorted = order(1, count);
        assert_eq!(sorted, order(1, count));
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..count));
    }
    assert_ne!(order(1, 200), order(2, 200));
    // Every number comes first about equally often: 1,000 each, with a standard deviation of 27.
    let mut first = [0; 4];
    for seed in 0..4000 {
        first[order(seed, 4)[0]] += 1;
    }
    assert!(first.iter().all(|count| (890..1110).contains(count)), "{first:?}");
}

#[test]
fn bets_are_refused_on_what_is_not_between_0_and_1() {
    assert!(Betting::on(&[0.5, 1.5], 0.05).is_err());
    assert!(Betting::on(&[], 0.05).is_err());
    assert!(SampledMean::of(&[f64::NAN]).is_err());
    assert!(SampledMean::of_ratio(&[1.0], &[0], true).is_err());
}

proptest! {
    #[test]
    fn bounds_enclose_what_was_seen_and_agree_with_p_values(
        (lost, gained, neither) in (0..40_usize, 0..40_usize, 1..400_usize), limit in 0.0..0.2_f64, alpha in 1e-6..0.4_f64,
    ) {
        let count = lost + gained + neither;
        let losses = [
            Measured::Paired { lost: lost as f64, gained: gained as f64, count: count as f64 },
            Measured::share(lost, count),
        ];
        for loss in losses {
            prop_assert!(loss.lower(alpha) <= loss.estimate() && loss.estimate() <= loss.upper(alpha));
            let p = loss.p_beyond(limit);
            if (p - alpha).abs() > 1e-9 {
                prop_assert_eq!(loss.lower(alpha) > limit, p < alpha, "{:?} {}", loss, p);
            }
            prop_assert!(loss.upper(alpha) > limit || p > alpha);
        }
    }

    #[test]
    fn no_value_panics(values in prop::collection::vec(any::<f64>(), 0..40), limit in 0.0..1.0_f64) {
        for mean in [SampledMean::of(&values), SampledMean::of_divergences(&values)].into_iter().flatten() {
            let decision = decide(&[(Measured::Mean(mean), limit.into())], 0.05)[0];
            prop_assert!(decision.verdict != Verdict::Within || decision.upper <= limit);
            let _ = (passages_to_prove(Measured::Mean(mean), limit, 0.05), smallest_detectable(Measured::Mean(mean), limit.into(), 0.05));
        }
        let _ = Betting::on(&values, 0.05).map(|betting| betting.bounds());
        let _ = AsymptoticSequence { alpha: 0.05, sharpest_at: 100.0 }.bounds(&values);
    }
}
