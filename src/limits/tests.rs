use super::judge::Finding;
use super::outcomes::Criterion;
use super::{
    Comparison, Comparisons, Gates, Limit, Limits, Noise, PairedOutcomes, Percent, Points, Policy, Reference, judge,
    settled,
};
use crate::stats::{Verdict, smallest_detectable};

#[test]
fn amounts_have_units() {
    let points = |text: &str| text.parse::<Points>().map(Points::fraction);
    assert_eq!(points("0.5pp"), Ok(0.005));
    assert_eq!(points(" 2 pp"), Ok(0.02));
    assert_eq!("1%".parse::<Percent>().map(Percent::fraction), Ok(0.01));
    for wrong in ["0.5", "0.5%", "-1pp", "NaNpp", "infpp", "pp", ""] {
        assert!(points(wrong).unwrap_err().contains("such as 0.5pp"), "{wrong}");
    }
}

#[test]
fn the_built_in_limits_are_read() {
    let gates = Gates::built_in().unwrap();
    assert_eq!(gates.of("any", "zeroth").policy, Some(Policy::Advisory));
    let limit = |model: &str| gates.of("any", model).bound(Criterion::KlDivergence).unwrap().limit;
    assert!(limit("fold") < limit("reduce-aware"));
    let accuracy = gates.of("any", "fold").bound(Criterion::AccuracyLoss).unwrap();
    assert_eq!((accuracy.limit, accuracy.policy), (0.005, Policy::AllowUndecided));
}

#[test]
fn flags_win_over_a_file_and_names_over_the_default() {
    let mut gates = Gates::built_in().unwrap();
    let strict: Limit<Points> = "0pp".parse::<Points>().unwrap().into();
    gates.override_with(Limits { max_acc_loss: Some(strict), ..Limits::default() }).unwrap();
    assert_eq!(gates.of("any", "fold").max_acc_loss, Some(strict));
    assert_eq!(gates.of("any", "never seen").max_acc_loss, Some(strict));
    assert_eq!(gates.of("any", "fold").max_ppl_increase.map(|limit| limit.amount.fraction()), Some(0.001));
}

#[test]
fn limits_are_those_of_task_and_model_then_model_then_task_then_all() {
    let text = "
default: {max-kl: 1, max-ppl-increase: 1%, max-acc-loss: 1pp, min-same-top: 90%}
models: {m: {max-kl: 2, max-ppl-increase: 2%}}
tasks:
  t:
    default: {max-kl: 3nats, max-ppl-increase: 3%, max-acc-loss: {limit: 3pp, policy: advisory}}
    models: {m: {max-kl: 4, policy: allow-undecided}}
";
    let limits = Gates::parse(text, "gates.yml").unwrap().of("t", "m");
    let found = Criterion::ALL.map(|criterion| limits.bound(criterion).unwrap());
    assert_eq!(found.map(|bound| format!("{:.4}", bound.limit)), ["4.0000", "0.0198", "0.1000", "0.0300"]);
    let [kl, .., accuracy] = found.map(|bound| bound.policy);
    assert_eq!((kl, accuracy), (Policy::AllowUndecided, Policy::Advisory));
}

#[test]
fn a_model_of_two_names_has_the_stricter_limits() {
    let text = "
default: {max-kl: 1, min-same-top: 90%, max-acc-loss: {limit: 1pp, policy: allow-undecided}}
models: {mean: {policy: advisory, min-same-top: 95%, skip: true}, reduce-aware: {max-kl: 2, max-ppl-increase: 1%}}
";
    let gates = Gates::parse(text, "gates.yml").unwrap();
    let limits = gates.of_any("t", ["mean", "reduce-aware"].into_iter());
    let found = Criterion::ALL.map(|criterion| limits.bound(criterion).unwrap());
    assert_eq!(found.map(|bound| format!("{:.4}", bound.limit)), ["1.0000", "0.0100", "0.0500", "0.0100"]);
    assert_eq!(found.map(|bound| bound.policy)[..3], [Policy::Critical; 3]);
    assert_eq!((found[3].policy, limits.skip), (Policy::AllowUndecided, false));
    assert_eq!(gates.of_any("t", ["mean"].into_iter()), gates.of("t", "mean"));
}

#[test]
fn files_that_say_something_else_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gates.yml");
    for (text, words) in [
        ("default: {max-acc-los: 1pp}", "max-acc-los"),
        ("default: {max-acc-loss: 1}", "such as 0.5pp"),
        ("default: {max-kl: {limit: 1}}", "policy"),
        ("default: {max-kl: {limit: 1, policy: sometimes}}", "sometimes"),
        ("tasks: {t: {min-same-top: 99%}}", "min-same-top"),
        ("tasks: {t: {default: {min-same-top: 199%}}}", "at most 100%"),
        ("significance: 2", "between 0 and 0.5, found 2"),
        ("- 1", "gates.yml"),
    ] {
        fs_err::write(&path, text).unwrap();
        let error = Gates::read(&path).unwrap_err();
        assert!(error.to_string().contains(words), "{text}: {error}");
        assert!(error.hint().is_some());
    }
}

/// Passages whose log-likelihood falls by `fall`, of `total` in a random order; of the first `lost` the answer is lost.
fn seen(model: &str, gates: &Gates, (count, total): (usize, usize), fall: f64, lost: usize) -> Comparisons {
    let answers: Vec<_> = (0..count).map(|passage| (true, passage >= lost)).collect();
    let falls = (0..count).map(|passage| fall + 1e-6 * f64::from(u8::from(passage % 2 == 0)));
    let comparison = Comparison {
        task: "t".to_owned(),
        model: model.to_owned(),
        reference: Reference::Baseline,
        limits: gates.of("t", model),
        outcomes: PairedOutcomes::of_answers(&answers).with_falls(falls.collect(), None),
        noise: Noise::default(),
        doc_ids: (0..count).collect(),
    };
    Comparisons { comparisons: vec![comparison], seen_of: Some(total), ..Comparisons::default() }
}

#[test]
fn a_model_is_settled_by_one_limit_beyond_or_by_all_that_must_be_within() {
    let text = "
default: {max-ppl-increase: 1%, max-acc-loss: {limit: 0.5pp, policy: allow-undecided}}
models:
  advised: {policy: advisory}
  strict: {max-acc-loss: 0.5pp}
  exact: {expect-exact: true}
";
    let gates = Gates::parse(text, "gates.yml").unwrap();
    let is_settled = |model, counts, fall, lost| {
        let (settled, all) = settled(seen(model, &gates, counts, fall, lost), gates.significance).unwrap();
        assert_eq!(all, 1);
        settled == 1
    };
    let look = (64, 5000);
    // The accuracy stays undecided in all of these.
    assert!(is_settled("any", look, 1e-5, 0) && is_settled("advised", look, 1e-5, 0));
    assert!(!is_settled("strict", look, 1e-5, 0));
    assert!(!is_settled("any", (20, 5000), 1e-5, 0), "too few passages for a bound");
    // One limit beyond, perplexity or accuracy, settles whatever the others are.
    assert!(is_settled("strict", look, 0.1, 0) && is_settled("advised", look, 0.1, 0));
    assert!(is_settled("strict", (600, 5000), 1e-5, 200));
    // That none changes is known at the end, that one does at once.
    assert!(!is_settled("exact", look, 1e-5, 0) && is_settled("exact", (64, 64), 1e-5, 0));
    assert!(is_settled("exact", look, 1e-5, 1));
}

#[test]
fn what_may_stay_undecided_is_asked_for_where_nothing_else_is_limited() {
    let gates = Gates::parse("default: {max-acc-loss: {limit: 5pp, policy: allow-undecided}}", "gates.yml").unwrap();
    let settled = |count| settled(seen("any", &gates, (count, 5000), 0.0, 0), gates.significance).unwrap().0;
    assert_eq!([settled(64), settled(2000)], [0, 1]);
}

#[test]
fn early_verdicts_need_more_passages_than_those_of_a_fixed_number() {
    let gates = Gates::parse("default: {max-acc-loss: 1pp}", "gates.yml").unwrap();
    let verdict = |seen_of| {
        let compared = Comparisons { seen_of, ..seen("any", &gates, (300, 5000), 0.0, 0) };
        judge(compared, gates.significance, &[]).unwrap().checks.first().map(super::Check::verdict)
    };
    assert_eq!(verdict(None), Some(Verdict::Within));
    assert_eq!(verdict(Some(5000)), Some(Verdict::Undecided));
}

/// Whatever it seems to lose there is rounding; in float32 a loss is one.
#[test]
fn an_exact_merge_is_never_beyond_in_16_bits() {
    let gates = Gates::parse("default: {max-ppl-increase: 1%, max-acc-loss: 1pp}", "gates.yml").unwrap();
    for seen_of in [None, Some(5000)] {
        for (is_exact, dtype, expected) in [
            (true, "bf16", Verdict::Undecided),
            (true, "f16", Verdict::Undecided),
            (true, "f32", Verdict::Beyond),
            (false, "bf16", Verdict::Beyond),
        ] {
            let mut compared = Comparisons { seen_of, ..seen("any", &gates, (600, 5000), 0.1, 200) };
            compared.comparisons[0].noise = Noise::default().of_model(is_exact, dtype);
            let judgement = judge(compared, gates.significance, &[]).unwrap();
            assert_eq!(judgement.checks.len(), 2);
            for check in &judgement.checks {
                assert_eq!(check.verdict(), expected, "{is_exact} {dtype}");
                let Finding::Bounded { measured, threshold, .. } = &check.finding else { panic!("a bound") };
                let detectable = smallest_detectable(*measured, *threshold, gates.significance);
                assert_eq!(detectable.is_none(), expected == Verdict::Undecided);
                let because = check.undecided_because();
                assert_eq!(
                    because == "an exact merge loses by rounding alone",
                    expected == Verdict::Undecided,
                    "{because}"
                );
            }
        }
    }
}
