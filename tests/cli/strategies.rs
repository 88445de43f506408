//! Strategies that do not exist, do not parse, or do not fit the checkpoint.

use super::*;

const RULES: &str = "rules:\n  norm-gain: mean\n  norm-bias: mean\n  row-parallel-bias: sum\n";

#[test]
fn strategies_that_cannot_be_used_are_refused_with_place_and_cure() {
    let cases = [
        ("an unknown rule", "name: mine\nrules:\n  norm-gain: meen\n".to_owned()),
        ("an unknown field", format!("name: mine\narithmetics: float64\n{RULES}")),
        ("no name", RULES.to_owned()),
        ("the baseline's name", format!("name: baseline\n{RULES}")),
        ("a rule that does not suit", "name: mine\nrules:\n  row-parallel-bias: fold\n".to_owned()),
        ("a rank that is not there", format!("name: mine\n{}", RULES.replace("sum", "rank2"))),
        ("a kind without a rule", format!("name: mine\n{}", RULES.replace("  norm-bias: mean\n", ""))),
        (
            "a pattern that matches nothing",
            format!("name: mine\n{RULES}overrides:\n  - parameters: layer.2.*\n    rule: mean\n"),
        ),
        (
            "an override that does not suit",
            format!("name: mine\n{RULES}overrides:\n  - parameters: '*.attention.dense.bias'\n    rule: fold\n"),
        ),
        ("half a norm folded", format!("name: mine\n{}", RULES.replace("norm-gain: mean", "norm-gain: fold"))),
        ("no YAML", "name: [mine\n".to_owned()),
        ("an empty file", String::new()),
    ];
    let inputs = Inputs::of(&TinyModel::new().with(|options| options.drift = 0.01));
    let mut all = Complaints::default();
    for (name, strategy) in cases {
        let path = inputs.write("mine.yml", strategy);
        all.add(name, &inputs.complaint_of_all(&["--strategy", path.to_str().unwrap()]));
    }
    insta::assert_snapshot!("unusable_strategies", all.0);
}

#[test]
fn an_unknown_strategy_lists_the_known_ones() {
    insta::assert_snapshot!(Inputs::new().complaint_of_all(&["--strategy", "reduceaware"]), @r"
    error: unknown strategy `reduceaware`: neither built in nor a file
    hint: did you mean `reduce-aware`? built in are zeroth, mean, merge20b, reduce-aware, fold, fold-calibrated; or give the path of a strategy file
    ");
}

#[test]
#[cfg(feature = "libtorch")]
fn two_strategies_of_one_name_are_refused_before_anything_is_computed() {
    let inputs = Inputs::new();
    let complaint = inputs.complaint(&["--strategy", "mean", "--strategy", "mean"]);
    insta::assert_snapshot!(complaint, @r"
    error: two strategies are called `mean` (built-in strategy and built-in strategy)
    hint: leave one out, or give it a `name:` of its own
    ");
}

#[test]
#[cfg(feature = "libtorch")]
fn a_strategy_file_is_a_strategy_like_any_other() {
    let inputs = Inputs::new();
    let path = inputs.write("mine.yml", format!("name: mine\ndescription: My own.\n{RULES}"));
    let output = run(&mut inputs.compare(&["--strategy", path.to_str().unwrap(), "--strategy", "reduce-aware"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    // The same rules under another name make the same model.
    assert!(stdout.lines().any(|line| line.starts_with("mine, reduce-aware ")), "{stdout}");
}
