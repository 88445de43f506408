//! Strategies as files.

use super::*;
use crate::tensor::Arithmetic;

fn parse(text: &str) -> Result<Strategy, String> {
    Strategy::parse(text, "mine.yml").map_err(|error| error.to_string())
}

fn problem(text: &str) -> String {
    let message = parse(text).unwrap_err();
    assert!(message.starts_with("mine.yml: "), "{message}");
    message
}

const PARAMETERS: [(StageId, &str, Kind); 5] = [
    (StageId::Embedding, "position_embeddings.weight", Kind::LearnedPositions),
    (StageId::Layer(0), "input_layernorm.weight", Kind::NormGain),
    (StageId::Layer(0), "attention.dense.bias", Kind::RowParallelBias),
    (StageId::Layer(1), "attention.dense.bias", Kind::RowParallelBias),
    (StageId::Output, "norm.weight", Kind::NormGain),
];

const RULES: &str = "name: mine\nrules:\n  norm-gain: mean\n  row-parallel-bias: sum\n  learned-positions: rank0\n";

fn check(text: &str, tp_size: usize) -> Result<(), String> {
    parse(text).unwrap().check(PARAMETERS.into_iter(), tp_size).map_err(|error| error.to_string())
}

#[test]
fn built_in_strategies_are_whole_and_in_order() {
    let built_in = Strategy::built_in().unwrap();
    let names: Vec<_> = built_in.iter().map(|strategy| strategy.name.as_str()).collect();
    assert_eq!(names, ["zeroth", "mean", "merge20b", "reduce-aware", "fold", "fold-calibrated"]);
    for strategy in &built_in {
        for kind in [Kind::NormGain, Kind::NormBias, Kind::RowParallelBias, Kind::LearnedPositions] {
            assert!(strategy.rules.contains_key(&kind), "{}: {kind}", strategy.name);
        }
        assert!(!strategy.description.is_empty() && !strategy.source.is_empty(), "{}", strategy.name);
        assert_eq!(strategy.arithmetic == Arithmetic::Storage, strategy.name == "merge20b");
        assert_eq!(strategy.calibrate, strategy.name == "fold-calibrated");
        assert_eq!(*strategy, Strategy::resolve(&strategy.name).unwrap());
        assert!(strategy.check(PARAMETERS.into_iter(), 2).is_ok(), "{}", strategy.name);
    }
}

#[test]
fn a_file_says_all_there_is_to_say() {
    let strategy = parse(
        "name: half-sum.2\ndescription: half\nsource: nowhere\narithmetic: checkpoint\ncalibrate: true\nrules:\n  \
         row-parallel-bias: {scale: 0.5}\n  norm-gain: geometric-mean\n  norm-bias: {rank: 3}\n  \
         learned-positions: median\noverrides:\n  - parameters: output.*\n    rule: fold\n",
    )
    .unwrap();
    assert_eq!((strategy.name.as_str(), strategy.description.as_str()), ("half-sum.2", "half"));
    assert_eq!((strategy.source.as_str(), strategy.origin.as_str()), ("nowhere", "mine.yml"));
    assert!(strategy.calibrate && strategy.arithmetic == Arithmetic::Storage);
    let rules = [
        (Kind::RowParallelBias, Rule::Scale(0.5)),
        (Kind::NormGain, Rule::GeometricMean),
        (Kind::NormBias, Rule::Rank(3)),
        (Kind::LearnedPositions, Rule::Median),
    ];
    assert_eq!(strategy.rules, rules.into());
    assert_eq!(strategy.overrides, [Override { pattern: "output.*".to_owned(), rule: Rule::Fold, line: 12 }]);
    let plain = parse("name: plain\nrules: {norm-gain: mean}").unwrap();
    assert!(!plain.calibrate && plain.arithmetic == Arithmetic::Float64 && plain.overrides.is_empty());
}

#[test]
fn what_is_no_strategy_is_told_with_its_line() {
    for (text, words) in [
        ("name: mine\nrules:\n  norm-gain: meen\n", ["line 3", "unknown rule `meen`, expected rank0"]),
        ("name: mine\nrules:\n  norm-gain: rankx\n", ["line 3", "unknown rule `rankx`"]),
        ("name: mine\nrules:\n  norm-gain: {rank: -1}\n", ["line 3", "-1"]),
        ("name: mine\nrules:\n  norm-gain: {scale: .inf}\n", ["line 3", ""]),
        (
            "name: mine\nrules:\n  norm-gain: {rank: 1, scale: 2}\n",
            ["line 3", "a rule has one key, found also `scale`"],
        ),
        ("name: mine\nrules:\n  norm-gain: {ranks: 1}\n", ["line 3", "unknown rule `ranks`"]),
        ("name: mine\nrules:\n  norm: mean\n", ["line 3", "norm"]),
        ("name: mine\nrules:\n  norm-gain: mean\n  norm-gain: sum\n", ["line 4", "norm-gain"]),
        ("name: mine\nrulez:\n  norm-gain: mean\n", ["line 2", "rulez"]),
        ("name: mine\n", ["line 1", "rules"]),
        ("rules: {norm-gain: mean}\n", ["line 1", "name"]),
        ("name: mine\nrules:\n  norm-gain: [mean\n", ["line", ""]),
        ("", ["", ""]),
        (
            "name: mine\nrules:\n  norm-gain: mean\n  row-parallel-bias: fold\n",
            ["line 4: `row-parallel-bias: fold`", "only norms can be folded"],
        ),
        (
            "name: mine\nrules:\n  norm-bias: geometric-mean\n",
            ["line 3: `norm-bias: geometric-mean`", "a geometric mean needs values of one sign"],
        ),
        (
            "name: mine\nrules:\n  column-parallel: mean\n",
            ["line 3: `column-parallel: mean`", "these parameters have no replicas"],
        ),
        ("name: mine\nrules:\n  buffer: mean\n", ["line 3: `buffer: mean`", "these parameters have no replicas"]),
        ("name: mine\narithmetic: float16\nrules: {norm-gain: mean}\n", ["line 2", "float16"]),
    ] {
        let message = problem(text);
        assert!(words.iter().all(|&words| message.contains(words)), "{text:?}: {message}");
    }
}

#[test]
fn names_must_do_as_file_names() {
    for name in ["baseline", "a/b", "../up", ".hidden", "two words", "ümlaut", "''"] {
        let message = problem(&format!("# a comment\nname: {name}\nrules: {{norm-gain: mean}}\n"));
        assert!(message.contains("line 2: `name: "), "{name}: {message}");
    }
}

#[test]
fn the_last_override_that_matches_wins() {
    let text = format!(
        "{RULES}overrides:\n  - {{parameters: 'layer.*.attention.dense.bias', rule: mean}}\n  \
         - {{parameters: layer.1.*, rule: rank1}}\n  - {{parameters: 'output.norm.?eight', rule: median}}\n"
    );
    let strategy = parse(&text).unwrap();
    let rules = PARAMETERS.map(|(stage, name, kind)| strategy.rule(stage, name, kind).unwrap());
    assert_eq!(rules, [Rule::Rank(0), Rule::Mean, Rule::Mean, Rule::Rank(1), Rule::Median]);
    assert_eq!(check(&text, 2), Ok(()));
}

#[test]
fn overrides_are_checked_against_the_checkpoint() {
    let with = |entry: &str| format!("{RULES}overrides:\n  - parameters: output.*\n    rule: mean\n  - {entry}\n");
    assert_eq!(
        check(&with("{parameters: layer.2.*, rule: mean}"), 2).unwrap_err(),
        "mine.yml: line 9: `layer.2.*` matches no replicated parameter of this checkpoint"
    );
    assert_eq!(
        check(&with("{parameters: attention.dense.bias, rule: mean}"), 2).unwrap_err(),
        "mine.yml: line 9: `attention.dense.bias` matches no replicated parameter of this checkpoint"
    );
    // The pattern meets a norm first and a bias after it.
    assert_eq!(
        check(&with("{parameters: layer.0.*, rule: fold}"), 2).unwrap_err(),
        "mine.yml: line 9: `fold`: only norms can be folded"
    );
    assert_eq!(
        check(&with("{parameters: output.norm.weight, rule: rank2}"), 2).unwrap_err(),
        "mine.yml: line 9: strategy `mine` asks for rank 2, but the checkpoint has ranks 0 to 1"
    );
    assert_eq!(check(&with("{parameters: output.norm.weight, rule: rank2}"), 3), Ok(()));
}

#[test]
fn kinds_without_a_rule_are_noticed_before_anything_is_read() {
    assert_eq!(
        check("name: mine\nrules: {norm-gain: mean, learned-positions: mean}", 2).unwrap_err(),
        "strategy `mine` has no rule for row-parallel-bias parameters"
    );
    // An override does as well as a rule.
    let overridden = "name: mine\nrules: {norm-gain: mean, learned-positions: mean}\noverrides:\n  \
                      - {parameters: '*.attention.dense.bias', rule: sum}\n";
    assert_eq!(check(overridden, 2), Ok(()));
}

#[test]
fn strategies_are_found_by_name_or_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.yml");
    fs_err::write(&path, RULES).unwrap();
    let strategy = Strategy::resolve(path.to_str().unwrap()).unwrap();
    assert_eq!((strategy.name.as_str(), strategy.origin.as_str()), ("mine", path.to_str().unwrap()));
    let error = Strategy::resolve("foldd").unwrap_err();
    assert_eq!(error.to_string(), "unknown strategy `foldd`: neither built in nor a file");
    assert!(error.hint().unwrap().starts_with("did you mean `fold`? built in are zeroth, mean, "));
}

#[test]
fn full_names_tell_the_stage() {
    assert_eq!(full_name(StageId::Embedding, "word_embeddings.weight"), "embedding.word_embeddings.weight");
    assert_eq!(full_name(StageId::Layer(12), "mlp.linear2.bias"), "layer.12.mlp.linear2.bias");
    assert_eq!(full_name(StageId::Output, "norm.weight"), "output.norm.weight");
}
