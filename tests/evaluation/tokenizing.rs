//! Splitting and tokenizing against lm-evaluation-harness: a recorded set of tricky passages, the whole LAMBADA test
//! set, and the ids that gpt-neox itself evaluated. Tests over `../shared` are ignored where it is missing.

use std::path::Path;

use kintsugi::eval::chunk_plan::ChunkPlan;
use kintsugi::eval::data_error::DataError;
use kintsugi::eval::data_set::{DataSet, Passage, read_passages};
use kintsugi::eval::packing::TokenizedPassage;
use kintsugi::eval::task::{DataIdentity, Task};
use kintsugi::eval::tokenizer::{TokenPair, Tokenizer};
use kintsugi::options::SpecialTokens;
use serde_json::Value;

use crate::common::evaluation::{ids, in_repository, json};

fn demo_tokenizer() -> Tokenizer {
    Tokenizer::from_file(&in_repository("evals/demo/tokenizer.json")).unwrap()
}

fn lambada() -> Task {
    Task::resolve("lambada_openai").unwrap()
}

#[test]
fn tricky_passages_tokenize_as_in_the_harness() {
    let tokenizer = demo_tokenizer();
    let cases = json(&in_repository("tests/fixtures/tokenizing/pairs.json"));
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let (context, target) = lambada().splitting.split(text);
        assert_eq!(
            (context.as_str(), target.as_str()),
            (case["context"].as_str().unwrap(), case["target"].as_str().unwrap())
        );
        let pair = tokenizer.encode_pair(&context, &target);
        if case.get("error").is_some() {
            assert!(matches!(pair, Err(DataError::NoTokens { .. })), "{text:?}: {pair:?}");
            continue;
        }
        let (context_ids, target_ids) = pair.unwrap();
        assert_eq!((&context_ids, &target_ids), (&ids(&case["context_ids"]), &ids(&case["target_ids"])), "{text:?}");
        for max_length in [4, 16, 2048] {
            let passage = TokenizedPassage::new(0, &context_ids, &target_ids, max_length);
            match case["input_ids"].get(max_length.to_string()) {
                Some(input_ids) => assert_eq!(Value::from(passage.unwrap().input_ids), *input_ids, "{text:?}"),
                None => assert!(matches!(passage, Err(DataError::TargetTooLong { .. })), "{text:?}"),
            }
        }
    }
}

#[test]
fn documents_tokenize_as_pairs_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let cases = json(&in_repository("tests/fixtures/tokenizing/pairs.json"));
    let usable: Vec<&Value> = cases.as_array().unwrap().iter().filter(|case| case.get("error").is_none()).collect();
    let lines = usable.iter().map(|case| serde_json::json!({"text": case["text"]}).to_string() + "\n");
    fs_err::write(&path, lines.collect::<String>()).unwrap();
    let passages = read_passages(&path, &lambada(), None).unwrap().passages;
    let pairs = demo_tokenizer().encode_passages(&passages).unwrap();
    let expected: Vec<TokenPair> =
        usable.iter().map(|case| (ids(&case["context_ids"]), ids(&case["target_ids"]))).collect();
    assert_eq!(pairs, expected);
}

/// The demo's tokenizer with another post-processor; `$A` of a template is the text.
fn with_post_processor(post_processor: &Value) -> Tokenizer {
    let path = in_repository("evals/demo/tokenizer.json");
    let mut tokenizer = json(&path);
    tokenizer["post_processor"] = post_processor.clone();
    Tokenizer::from_bytes(tokenizer.to_string().as_bytes(), &path).unwrap()
}

fn template(before: usize, behind: usize) -> Value {
    let end = serde_json::json!({ "SpecialToken": { "id": "<|endoftext|>", "type_id": 0 } });
    let text = |id: &str| serde_json::json!({ "Sequence": { "id": id, "type_id": 0 } });
    let single = [vec![end.clone(); before], vec![text("A")], vec![end; behind]].concat();
    let id = demo_tokenizer().id_of("<|endoftext|>");
    let special = serde_json::json!({ "id": "<|endoftext|>", "ids": [id], "tokens": ["<|endoftext|>"] });
    serde_json::json!({
        "type": "TemplateProcessing", "single": single, "pair": [text("A"), text("B")],
        "special_tokens": { "<|endoftext|>": special },
    })
}

/// A tokenizer that ends texts would leave the target without its first token: lm-evaluation-harness issue 1017.
#[test]
fn tokens_behind_a_text_are_left_away_and_those_before_it_are_chosen() {
    let (context, target) = ("The cat sat on the", " mat");
    let plain = demo_tokenizer();
    let end = plain.id_of("<|endoftext|>").unwrap();
    let (context_ids, target_ids) = plain.encode_pair(context, target).unwrap();
    let roberta = serde_json::json!({
        "type": "RobertaProcessing", "sep": ["<|endoftext|>", end], "cls": ["<|endoftext|>", end],
        "trim_offsets": true, "add_prefix_space": false,
    });
    let byte_level =
        serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let sequence = serde_json::json!({ "type": "Sequence", "processors": [byte_level, template(1, 1)] });
    let cases = [
        (Value::Null, 0, "none", None),
        (template(0, 0), 0, "none", None),
        (template(0, 1), 0, "none, eos at the end ignored", Some("<|endoftext|>")),
        (template(0, 2), 0, "none, eos at the end ignored", Some("<|endoftext|><|endoftext|>")),
        (template(1, 0), 1, "bos", None),
        (template(2, 0), 2, "bos", None),
        (template(1, 1), 1, "bos, eos at the end ignored", Some("<|endoftext|>")),
        (sequence, 1, "bos, eos at the end ignored", Some("<|endoftext|>")),
        (roberta, 1, "bos, eos at the end ignored", Some("<|endoftext|>")),
    ];
    for (post_processor, before, words, ignored) in cases {
        let tokenizer = with_post_processor(&post_processor);
        assert_eq!((tokenizer.special_tokens().as_str(), tokenizer.ignored_end().as_deref()), (words, ignored));
        for (choice, count) in
            [(SpecialTokens::Auto, before), (SpecialTokens::Yes, before.max(1)), (SpecialTokens::No, 0)]
        {
            let tokenizer = tokenizer.clone().with_special_tokens(choice).unwrap();
            let expected = ([vec![end; count], context_ids.clone()].concat(), target_ids.clone());
            assert_eq!(tokenizer.encode_pair(context, target).unwrap(), expected, "{post_processor} {choice}");
            let passage = Passage::new(0, context.to_owned(), target.to_owned());
            assert_eq!(tokenizer.encode_passages(&[passage]).unwrap(), [expected], "{post_processor} {choice}");
            let begun = ([vec![end], context_ids.clone()].concat(), target_ids.clone());
            let context = format!("<|endoftext|>{context}");
            assert_eq!(tokenizer.encode_pair(&context, target).unwrap(), begun, "{post_processor} {choice}: one BOS");
        }
    }
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused() {
    let tokenizer = demo_tokenizer();
    tokenizer.check_vocabulary(768).unwrap();
    tokenizer.check_vocabulary(700).unwrap();
    let error = tokenizer.check_vocabulary(699).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("largest id is 699, expected less than 699"), "{message}");
    assert!(error.hint().is_some());
}

#[test]
fn a_file_that_is_no_tokenizer_is_refused() {
    let path = in_repository("tests/fixtures/tokenizing/pairs.json");
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(error.to_string().contains("pairs.json: not a tokenizer: "), "{error}");
    assert!(error.hint().unwrap().contains("tokenizer.json"));
    let missing = Tokenizer::from_file(Path::new("no/such/tokenizer.json")).unwrap_err();
    assert!(missing.to_string().contains("no/such/tokenizer.json"), "{missing}");
}

/// The whole test set: its checksum, its 418,644 tokens, and every id where `KINTSUGI_LM_EVAL_PAIRS` names a file that
/// `tests/fixtures/tokenizing/make_fixtures.py` wrote for it.
#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared")]
fn the_lambada_test_set_is_as_in_the_harness() {
    let data = in_repository("../shared/data/lambada/lambada_test.jsonl");
    let tokenizer = in_repository("../shared/data/tokenizers/20B_tokenizer.json");
    let DataSet { passages, identity, total_count, .. } = read_passages(&data, &lambada(), None).unwrap();
    assert_eq!((passages.len(), total_count, identity), (5153, 5153, DataIdentity::Same));
    let tokenizer = Tokenizer::from_file(&tokenizer).unwrap();
    tokenizer.check_vocabulary(50432).unwrap();
    let pairs = tokenizer.encode_passages(&passages).unwrap();
    assert_eq!(pairs.iter().map(|(context, target)| context.len() + target.len()).sum::<usize>(), 418_644);

    let passages =
        pairs.iter().enumerate().map(|(index, (c, t))| TokenizedPassage::new(index, c, t, 2048).unwrap()).collect();
    let plan = ChunkPlan::new(passages, 1024);
    let everything = plan.whole().chunks;
    assert_eq!(plan.tokens(&everything), 418_644 - 5153);
    let slices = plan.slices(&everything, 100_000);
    assert_eq!(slices.len(), 5);
    assert_eq!(slices.concat(), everything);

    if let Some(path) = std::env::var_os("KINTSUGI_LM_EVAL_PAIRS") {
        let expected: Vec<TokenPair> = serde_json::from_value(json(Path::new(&path))).unwrap();
        assert!(pairs == expected, "ids differ from those of the harness");
        eprintln!("compared {} pairs with the harness", expected.len());
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared")]
fn ids_are_those_that_gpt_neox_evaluated() {
    for entry in fs_err::read_dir(in_repository("../shared/checkpoints")).unwrap() {
        let folder = entry.unwrap().path();
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap();
        let data = read_passages(&folder.join("lambada_style.jsonl"), &lambada(), None).unwrap();
        let pairs = tokenizer.encode_passages(&data.passages).unwrap();
        let reference = json(&folder.join("reference.json"));
        let references = reference["passages"].as_array().unwrap();
        assert_eq!(references.len(), pairs.len());
        for ((reference, passage), (context_ids, target_ids)) in references.iter().zip(&data.passages).zip(&pairs) {
            assert_eq!(reference["target"].as_str().unwrap(), passage.target);
            assert_eq!(ids(&reference["ctx_ids"]), *context_ids, "{}: {}", folder.display(), passage.id);
            assert_eq!(ids(&reference["target_ids"]), *target_ids, "{}: {}", folder.display(), passage.id);
        }
    }
}

/// GPT2BPETokenizer's files give the ids of the tokenizer.json that has the same vocabulary.
#[test]
fn a_vocabulary_with_merges_is_a_tokenizer() {
    let whole = json(&in_repository("evals/demo/tokenizer.json"));
    let folder = tempfile::tempdir().unwrap();
    let (vocabulary, merges) = (folder.path().join("gpt2-vocab.json"), folder.path().join("gpt2-merges.txt"));
    let mut lines = vec!["#version: 0.2".to_owned()];
    lines.extend(whole["model"]["merges"].as_array().unwrap().iter().map(|pair| match pair {
        Value::String(pair) => pair.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    }));
    fs_err::write(&merges, lines.join("\n") + "\n").unwrap();
    fs_err::write(&vocabulary, whole["model"]["vocab"].to_string()).unwrap();
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary, &merges).unwrap();
    for text in ["The cat sat on the mat", "  two  spaces\n\nand lines", "it's 1,234.5 é 漢字"] {
        assert_eq!(tokenizer.encode(text).unwrap(), demo_tokenizer().encode(text).unwrap(), "{text:?}");
    }
    let vocabulary = |tokens: &[&str]| {
        let vocab: serde_json::Map<String, Value> =
            tokens.iter().zip(0..).map(|(&token, id)| (token.into(), Value::from(id))).collect();
        let json = serde_json::json!({ "model": { "type": "BPE", "vocab": vocab, "merges": [] } });
        Tokenizer::from_bytes(json.to_string().as_bytes(), Path::new("other.json")).unwrap()
    };
    let (pieces, letters) = (vocabulary(&["▁", "a"]), vocabulary(&["a", "b"]));
    for (tokenizer, kind, found) in [
        (&tokenizer, "GPT2BPETokenizer", None),
        (&tokenizer, "HFTokenizer", None),
        (&tokenizer, "SPMTokenizer", Some("a byte-level BPE")),
        (&tokenizer, "CharLevelTokenizer", Some("not one of bytes")),
        (&pieces, "SPMTokenizer", None),
        (&pieces, "GPT2BPETokenizer", Some("SentencePiece's")),
        (&pieces, "HFGPT2TokenizerFast", Some("SentencePiece's")),
        (&letters, "CharLevelTokenizer", None),
        // Nothing tells.
        (&letters, "SPMTokenizer", None),
    ] {
        let ending = found.map(|found| format!("the model was trained with {kind}; this tokenizer is {found}"));
        let said = tokenizer.of_another_family(kind);
        assert_eq!(said.is_some(), ending.is_some(), "{kind}: {said:?}");
        assert!(said.unwrap_or_default().ends_with(&ending.unwrap_or_default()), "{kind}");
    }
}
