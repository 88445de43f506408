//! `docs/supported.md` against the code: every value has the outcome in its row, and none is left out.

use std::collections::BTreeSet;

use kintsugi::config::{Architecture, NeoxConfig, Observed, QuirkOptions, QuirkSetting, Quirks, Unsupported};
use kintsugi::partition::{PartitionTable, StageKind};
use serde_json::{Map, Value, json};

const PAGE: &str = include_str!("../../docs/supported.md");

/// The cells of the rows under a heading, without back ticks.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = rest.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Vec<String>> = lines
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    assert!(!rows.is_empty(), "no table under {heading}");
    rows
}

fn config(settings: Value) -> NeoxConfig {
    let mut raw: Map<String, Value> = serde_json::from_value(json!({
        "num_layers": 2, "hidden_size": 64, "num_attention_heads": 8, "max_position_embeddings": 32,
    }))
    .unwrap();
    raw.extend(serde_json::from_value::<Map<String, Value>>(settings).unwrap());
    NeoxConfig::from_raw(raw, Vec::new()).unwrap()
}

fn observed() -> Observed {
    Observed { tp_size: 2, mlp_inner_size: Some(96), padded_vocab_size: Some(128), ..Observed::default() }
}

fn resolve(settings: Value) -> Result<Architecture, Unsupported> {
    Architecture::resolve(&config(settings), &observed())
}

/// The words that gpt-neox's key may be, as the complaint about a wrong one lists them.
fn words_of(key: &str) -> BTreeSet<String> {
    let mut raw: Map<String, Value> = serde_json::from_value(json!({
        "num_layers": 2, "hidden_size": 64, "num_attention_heads": 8, "max_position_embeddings": 32,
    }))
    .unwrap();
    raw.insert(key.to_owned(), json!("no such word"));
    let message = NeoxConfig::from_raw(raw, Vec::new()).unwrap_err().to_string();
    let (_, words) = message.split_once("one of ").unwrap();
    words.split(", found").next().unwrap().split(", ").map(str::to_owned).collect()
}

fn first_cells(rows: &[Vec<String>]) -> BTreeSet<String> {
    rows.iter().map(|row| row[0].clone()).collect()
}

/// Names of the parameters of a stage that the model has.
fn parameters(architecture: &Architecture, stage: StageKind) -> BTreeSet<&'static str> {
    PartitionTable::new(architecture).required(stage).map(|row| row.names[0]).collect()
}

#[test]
fn norms_have_the_parameters_that_the_page_says() {
    let rows = rows("Norms");
    assert_eq!(first_cells(&rows), words_of("norm"));
    for row in &rows {
        let architecture = resolve(json!({ "norm": row[0] })).unwrap();
        let expected: BTreeSet<String> = match row[1].as_str() {
            "none" => BTreeSet::new(),
            names => names.split(", ").map(|name| format!("norm.{name}")).collect(),
        };
        let found = parameters(&architecture, StageKind::FinalNorm);
        assert_eq!(found.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected, "{}", row[0]);
        assert_eq!(row[2], "yes");
        assert_eq!(row[3] == "exactly", architecture.norm.has_gain(), "{}", row[0]);
    }
}

#[test]
fn positions_have_the_parameters_that_the_page_says() {
    let rows = rows("Positions");
    assert_eq!(first_cells(&rows), words_of("pos_emb"));
    let plain = resolve(json!({ "pos_emb": "none" })).unwrap();
    for row in &rows {
        let architecture = resolve(json!({ "pos_emb": row[0] })).unwrap();
        let table = PartitionTable::new(&architecture);
        let own: Vec<_> = [StageKind::Embedding, StageKind::Layer]
            .into_iter()
            .flat_map(|stage| {
                let common = parameters(&plain, stage);
                parameters(&architecture, stage).difference(&common).copied().collect::<Vec<_>>()
            })
            .collect();
        match row[3].as_str() {
            "computed anew" => {
                let name = row[1].trim_start_matches("sometimes ");
                let stage = if name.starts_with("attention") { StageKind::Layer } else { StageKind::Embedding };
                assert!(own.is_empty() && table.lookup(stage, name).is_ok(), "{}", row[0]);
            }
            "nothing" => assert!(own.is_empty(), "{}", row[0]),
            merged => {
                assert_eq!(own, [row[1].as_str()], "{}", row[0]);
                let stage = if own[0].starts_with("attention") { StageKind::Layer } else { StageKind::Embedding };
                let kind = table.lookup(stage, own[0]).unwrap().kind;
                assert_eq!(kind.partition_dim().is_some(), merged.starts_with("joined"), "{}", row[0]);
            }
        }
        assert_eq!(row[2], "yes");
    }
}

#[test]
fn activations_are_all_evaluated() {
    let rows = rows("Activations");
    assert_eq!(first_cells(&rows), words_of("activation"));
    for row in &rows {
        let architecture = resolve(json!({ "activation": row[0] })).unwrap();
        assert_eq!(architecture.gated, row[1] == "yes", "{}", row[0]);
        assert_eq!(row[2], "yes");
    }
}

#[test]
fn attention_kinds_are_evaluated_or_refused() {
    let rows = rows("Attention");
    assert_eq!(rows.len(), 11, "the kinds that gpt-neox knows");
    for row in &rows {
        let outcome = resolve(json!({ "attention_config": [[[row[0]], "all"]] }));
        assert_eq!(if outcome.is_ok() { "yes" } else { "refused" }, row[1], "{}", row[0]);
        if let Err(refusal) = outcome {
            assert!(!refusal.reason.contains("kind of attention that is not known"), "{}", row[0]);
        }
    }
}

#[test]
fn quirks_take_the_words_that_the_page_says() {
    let rows = rows("Quirks");
    let unknown = "no-such-quirk=1".parse::<QuirkSetting>().unwrap_err();
    let known: BTreeSet<_> = unknown.split_once("there are ").unwrap().1.split(", ").map(str::to_owned).collect();
    assert_eq!(first_cells(&rows), known);
    let listed = Quirks::decide(&config(json!({})), &observed(), &QuirkOptions::default()).list();
    for row in &rows {
        if row[1] == "a number" {
            assert!(format!("{}=2.5", row[0]).parse::<QuirkSetting>().is_ok());
            continue;
        }
        let wrong = format!("{}=no-such-word", row[0]).parse::<QuirkSetting>().unwrap_err();
        assert!(wrong.ends_with(&format!("is one of {}", row[1])), "{wrong}");
        // The first word is today's.
        let line = listed.iter().find(|line| line.name == row[0]).unwrap();
        let today = if row[0] == "attention-branch" { "dropped" } else { row[1].split(", ").next().unwrap() };
        assert_eq!(line.value, today, "{}", row[0]);
    }
}

/// `key: value, key: value` as settings; a kind of attention stands for all layers.
fn settings_of(cell: &str) -> Value {
    let entry = |part: &str| {
        let (key, value) = part.split_once(": ").unwrap();
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        let value = if key == "attention_config" { json!([[[value], "all"]]) } else { value };
        (key.to_owned(), value)
    };
    Value::Object(cell.split(", ").map(entry).collect())
}

#[test]
fn refusals_have_the_reasons_and_needs_that_the_page_gives() {
    let rows = rows("Refused");
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let outcome = resolve(settings_of(&row[0]));
            let (refusal, merged) = match outcome {
                Err(refusal) => (refusal, "no"),
                Ok(architecture) => (architecture.not_evaluated.unwrap(), "yes"),
            };
            let expected = [&row[0], &refusal.reason, &refusal.needed, merged].map(|cell| cell.replace('`', ""));
            (expected[..] != row[..]).then(|| format!("| `{}` | {} |", expected[0], expected[1..].join(" | ")))
        })
        .collect();
    assert!(wrong.is_empty(), "rows should be:\n{}", wrong.join("\n"));
    let kinds: BTreeSet<_> = self::rows("Attention").into_iter().filter(|row| row[1] == "refused").collect();
    for kind in kinds {
        let row = format!("attention_config: {}", kind[0]);
        assert!(rows.iter().any(|known| known[0] == row), "{row} has no row");
    }
}

/// The rows of `src/config/keys.tsv`: key, whose, first, last, effect, harmless values, meaning.
fn keys() -> Vec<[&'static str; 7]> {
    let rows = include_str!("../../src/config/keys.tsv").lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let cells: Vec<_> = line.split('\t').collect();
        std::array::from_fn(|cell| cells.get(cell).copied().unwrap_or_default())
    })
    .collect()
}

#[test]
fn settings_are_read_by_version() {
    let page: BTreeSet<_> = rows("Settings that are read").into_iter().collect();
    let read = keys().into_iter().filter(|key| key[4] == "read");
    assert_eq!(page, read.map(|key| [key[0], key[2], key[3]].map(str::to_owned).to_vec()).collect());
}

#[test]
fn settings_of_other_models_are_refused_with_the_reason_on_the_page() {
    let page = rows("Settings of other models");
    let other: Vec<_> = keys().into_iter().filter(|key| key[4] == "other").collect();
    assert_eq!(page.len(), other.len());
    for row in page {
        let key = other.iter().find(|key| key[0] == row[0]).unwrap();
        assert_eq!((row[1].as_str(), row[2].as_str()), (key[1], key[6]));
        let refusal = resolve(json!({ &row[0]: "a value of another model" })).unwrap_err();
        assert!(refusal.reason.starts_with(&row[2]), "{refusal}");
        let harmless: Vec<Value> = serde_json::from_str(&format!("[{}]", row[3])).unwrap();
        for value in harmless.into_iter().chain([Value::Null]) {
            assert!(resolve(json!({ &row[0]: value })).is_ok(), "{}: {value}", row[0]);
        }
    }
}

#[test]
fn settings_on_the_page_that_are_ignored_are_ignored_and_no_others() {
    let plain = NeoxConfig { raw: Map::new(), ..config(json!({})) };
    let mut page = BTreeSet::new();
    for row in rows("Settings that are ignored") {
        for key in row[2].split(", ") {
            let with_it = config(json!({ key: "anything" }));
            assert!(with_it.unknown_keys().is_empty(), "{key}");
            assert_eq!(NeoxConfig { raw: Map::new(), ..with_it }, plain, "{key}");
            page.insert(key.to_owned());
        }
    }
    let ignored = keys().into_iter().filter(|key| key[4] == "none").map(|key| key[0].to_owned());
    assert_eq!(page, ignored.collect());
}

#[test]
fn other_spellings_are_read_as_the_page_says() {
    for row in rows("Other spellings") {
        let read = |cell: &str| NeoxConfig { raw: Map::new(), ..config(settings_of(cell)) };
        assert_eq!(read(&row[0]), read(&row[3]), "{}", row[0]);
    }
}
