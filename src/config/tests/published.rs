//! The configuration files of gpt-neox, of the Pythia suite and of forks: `tests/fixtures/published_configs.tsv`.

use super::*;

const TABLE: &str = "tests/fixtures/published_configs.tsv";

/// `read`, what it is refused for, and the keys that are named because nothing reads them.
fn outcome(settings: &str) -> String {
    let written: Map<String, Value> = serde_json::from_str(settings).unwrap();
    let mut raw: Map<String, Value> = written.into_iter().map(|(key, value)| (key.replace('-', "_"), value)).collect();
    // Some files have the sizes in another one.
    for (key, value) in [("num_layers", 12), ("num_attention_heads", 12), ("max_position_embeddings", 2048)] {
        raw.entry(key).or_insert(json!(value));
    }
    let heads = raw["num_attention_heads"].as_u64().unwrap();
    raw.entry("hidden_size").or_insert(json!(heads * 64));
    let config = match NeoxConfig::from_raw(raw, vec![PathBuf::from("a.yml")]) {
        Ok(config) => config,
        Err(error) => return format!("error: {error}"),
    };
    let ranks = config.model_parallel_size.unwrap_or(1);
    let observed = Observed { tp_size: ranks, ..Observed::default() };
    let verdict = match Architecture::check_settings(&config, &observed, &QuirkOptions::default()) {
        Ok(()) => "read".to_owned(),
        Err(refusal) => format!("refused: {refusal}"),
    };
    let sentences = config.unknown_keys();
    let unknown: Vec<_> = sentences.iter().map(|sentence| sentence.split('`').nth(1).unwrap()).collect();
    if unknown.is_empty() { verdict } else { format!("{verdict}; named: {}", unknown.join(" ")) }
}

/// The line with the outcome that its settings have now.
fn line_of_today(line: &str) -> String {
    let [_, repository, file, commit, settings] = line.split('\t').collect::<Vec<_>>()[..] else {
        assert!(line.starts_with('#'), "{line}");
        return line.to_owned();
    };
    let outcome = outcome(settings);
    if repository.starts_with("EleutherAI/") {
        assert!(outcome == "read" || outcome.starts_with("refused: "), "{file}: {outcome}");
        assert!(!outcome.contains("; named: "), "{file}: {outcome}");
    }
    [&outcome, repository, file, commit, settings].join("\t")
}

#[test]
fn published_configurations_have_the_outcome_in_their_row() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    let table = fs_err::read_to_string(&path).unwrap();
    assert!(table.lines().count() > 200);
    let today: Vec<String> = table.lines().map(line_of_today).collect();
    if std::env::var_os("KINTSUGI_BLESS").is_some() {
        fs_err::write(&path, today.join("\n") + "\n").unwrap();
        return;
    }
    for (line, today) in table.lines().zip(today) {
        assert_eq!(line, today);
    }
}
