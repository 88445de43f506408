//! One line of `samples_*.jsonl`, with the harness's hashes.

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::files;
use crate::samples::{PassageText, Sample};

/// One document under one model, field by field as `EvaluationTracker.save_results_samples` writes it.
#[derive(Serialize)]
pub(super) struct LmEvalSample<'a> {
    doc_id: usize,
    doc: Value,
    target: &'a str,
    arguments: Value,
    resps: [[[String; 2]; 1]; 1],
    filtered_resps: [[String; 2]; 1],
    filter: &'static str,
    metrics: [&'static str; 2],
    doc_hash: String,
    prompt_hash: &'a str,
    target_hash: &'a str,
    perplexity: f64,
    acc: u8,
}

impl<'a> LmEvalSample<'a> {
    pub(super) fn new(sample: &'a Sample, text: &'a PassageText) -> Self {
        // Strings in Python's spelling: the harness writes them so.
        let answer =
            || [python_float(sample.loglikelihood), if sample.is_greedy { "True" } else { "False" }.to_owned()];
        let passage = format!("{}{}", text.context, text.target);
        Self {
            doc_id: sample.doc_id,
            doc_hash: doc_hash(&passage),
            doc: json!({ "text": passage }),
            target: &text.target,
            arguments: json!({ "gen_args_0": { "arg_0": text.context, "arg_1": text.target } }),
            resps: [[answer()]],
            filtered_resps: [answer()],
            filter: "none",
            metrics: ["perplexity", "acc"],
            prompt_hash: &sample.prompt_hash,
            target_hash: &sample.target_hash,
            perplexity: sample.loglikelihood,
            acc: u8::from(sample.is_greedy),
        }
    }
}

/// The harness's hash over all documents of a task.
pub(super) fn task_hash(samples: &[LmEvalSample<'_>]) -> String {
    let mut hasher = Sha256::new();
    for sample in samples {
        for hash in [sample.doc_hash.as_str(), sample.prompt_hash, sample.target_hash] {
            hasher.update(hash);
        }
    }
    files::hexadecimal(&hasher.finalize())
}

/// `hash_string(json.dumps(doc, indent=2, ensure_ascii=False))` of a document with nothing but its text; `serde_json`
/// escapes the same characters in the same way.
fn doc_hash(text: &str) -> String {
    files::hexadecimal(&Sha256::digest(format!("{{\n  \"text\": {}\n}}", Value::from(text))))
}

/// A number as Python's `str` writes it.
fn python_float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let Some((digits, exponent)) = text.split_once('e') else { return text };
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = value.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelt_as_python_spells_them() {
        let spelt = [-0.260_492_310_391_959_4, -3.0, 0.0, -1.5e-7, 1e-4, -1e22, -2.5e-300].map(python_float);
        assert_eq!(spelt, ["-0.2604923103919594", "-3.0", "0.0", "-1.5e-07", "0.0001", "-1e+22", "-2.5e-300"]);
    }

    #[test]
    fn documents_are_hashed_as_the_harness_hashes_them() {
        // lm_eval.utils.hash_string(json.dumps({"text": …}, indent=2, ensure_ascii=False)) in Python.
        assert_eq!(doc_hash("He said “a\\b”\n\tto \"her\" \u{7f}\u{1}\u{8}\u{c}\u{2028}é"), EXPECTED_DOC_HASH);
    }

    const EXPECTED_DOC_HASH: &str = "4bc2f2b1924873aaf24837f357e6eb879508626f3699fd497cd79ee6b4a54d07";
}
