use fs_err as fs;
use proptest::prelude::*;

use super::*;

fn sample(doc_id: usize) -> Sample {
    Sample {
        doc_id,
        target: " \"wörd\"\n".to_owned(),
        loglikelihood: -1.0 / 3.0,
        is_greedy: true,
        tokens: vec![
            TokenScore { id: 7, greedy_id: 7, logprob: -0.1, kl: None, top: Vec::new() },
            TokenScore { id: 50_431, greedy_id: 0, logprob: -1e-300, kl: Some(2.5e-17), top: Vec::new() },
        ],
        prompt_hash: "ab".repeat(32),
        target_hash: "cd".repeat(32),
    }
}

fn round_trip(samples: &[Sample]) -> Vec<Sample> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mean.jsonl");
    write_jsonl(&path, samples).unwrap();
    // Nothing but the file is left behind.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    read_jsonl::<Sample>(&path).unwrap()
}

#[test]
fn one_object_a_line_with_the_names_that_are_documented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mean.jsonl");
    write_jsonl(&path, &[sample(0), sample(3)]).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(text.ends_with('\n') && lines.len() == 2, "{text}");
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(lines[1]).unwrap();
    let names: Vec<_> = object.keys().map(String::as_str).collect();
    assert_eq!(names, ["doc_id", "target", "loglikelihood", "is_greedy", "tokens", "prompt_hash", "target_hash"]);
    // The baseline's tokens have no divergence from themselves: the field is absent, not null.
    assert_eq!(object["tokens"][0].as_object().unwrap().len(), 3);
    assert_eq!(object["tokens"][1]["kl"], 2.5e-17);
}

#[test]
fn writing_replaces_the_file_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mean.jsonl");
    write_jsonl(&path, &[sample(0), sample(1), sample(2)]).unwrap();
    write_jsonl(&path, &[sample(5)]).unwrap();
    assert_eq!(read_jsonl::<Sample>(&path).unwrap(), [sample(5)]);
    write_jsonl::<Sample>(&path, &[]).unwrap();
    assert_eq!(read_jsonl::<Sample>(&path).unwrap(), []);
}

#[test]
fn a_line_that_is_no_sample_is_named_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mean.jsonl");
    let good = serde_json::to_string(&sample(0)).unwrap();
    // Empty lines are passed over but counted.
    for (bad, expected) in [("{\"doc_id\": 1}", "missing field"), ("{", "EOF"), ("[]", "")] {
        fs::write(&path, format!("{good}\n\n{bad}\n{good}\n")).unwrap();
        let message = read_jsonl::<Sample>(&path).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: line 3 is not a sample or passage: ", path.display())), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let missing = read_jsonl::<Sample>(&folder.path().join("no.jsonl")).unwrap_err().to_string();
    assert!(missing.contains("no.jsonl"), "{missing}");
    let nowhere = write_jsonl::<Sample>(&folder.path().join("no/mean.jsonl"), &[]).unwrap_err();
    assert!(matches!(nowhere, SampleError::Write { .. }), "{nowhere}");
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has no infinities", |value| value.is_finite())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_bit_comes_back(
        numbers in prop::collection::vec((any::<u32>(), any::<u32>(), finite(), prop::option::of(finite())), 0..4),
        (doc_id, target, loglikelihood, is_greedy) in (any::<usize>(), any::<String>(), finite(), any::<bool>()),
    ) {
        let tokens = numbers.into_iter().map(|(id, greedy_id, logprob, kl)| TokenScore { id, greedy_id, logprob, kl, top: Vec::new() });
        let tokens = tokens.collect();
        let sample = Sample { doc_id, target, loglikelihood, is_greedy, tokens, ..sample(0) };
        let [back] = &round_trip(std::slice::from_ref(&sample))[..] else { unreachable!() };
        prop_assert_eq!(back, &sample);
        prop_assert_eq!(back.loglikelihood.to_bits(), sample.loglikelihood.to_bits());
    }
}
