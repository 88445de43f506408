//! A Hugging Face directory divided among ranks of gpt-neox, and back: every bit is as it was.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::merging::Merge;
use kintsugi::checkpoint::{Checkpoint, HuggingFaceModel, ModelSource as _};
use kintsugi::config::{Activation, Norm};
use kintsugi::export::ExportError;
use kintsugi::export::synth::{Shape, SynthOptions, write_checkpoint};
use kintsugi::partition::{Role, StageId};
use kintsugi::tensor::DType;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

/// Files larger than any model here.
const ONE_FILE: u64 = 1 << 30;

prop_compose! {
    fn shapes()(
        (head_count, kv_head_count) in select(vec![(8, None), (16, None), (8, Some(8)), (16, Some(8))]),
        head_size in select(vec![4, 8]),
        layer_count in 1..=3_usize,
        mlp_inner_size in select(vec![24, 40, 64]),
        vocab_size in select(vec![96, 100, 104, 128]),
    ) -> Shape {
        Shape {
            layer_count,
            hidden_size: head_count * head_size,
            head_count,
            kv_head_count,
            mlp_inner_size: Some(mlp_inner_size),
            vocab_size,
            make_vocab_size_divisible_by: 4,
            max_position_embeddings: 32,
        }
    }
}

prop_compose! {
    fn models()(
        shape in shapes(),
        llama in any::<bool>(),
        (gpt_j_residual, tied_embeddings, attention_bias, mlp_bias, bias_gelu_fusion) in any::<(bool, bool, bool, bool, bool)>(),
        rotary_pct in select(vec![0.5, 1.0]),
        dtype in select(vec![DType::F32, DType::F16, DType::BF16]),
        seed in 0..1000_u64,
    ) -> SynthOptions {
        let options = SynthOptions {
            tied_embeddings, attention_bias, dtype, seed, gpt_j_residual, bias_gelu_fusion, rotary_pct,
            ..SynthOptions::new(shape)
        };
        if llama {
            let (norm, activation) = (Norm::RmsNorm, Activation::SwiGlu);
            SynthOptions { norm, activation, mlp_bias, gpt_j_residual: false, rotary_pct: 1.0, ..options }
        } else {
            SynthOptions { shape: Shape { kv_head_count: None, ..options.shape.clone() }, ..options }
        }
    }
}

/// Every tensor's bytes, and the configuration.
fn contents(folder: &Path) -> (BTreeMap<String, Vec<u8>>, Value) {
    let bytes = fs_err::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec()));
    let config = serde_json::from_slice(&fs_err::read(folder.join("config.json")).unwrap()).unwrap();
    (tensors.collect(), config)
}

/// Writes a model for transformers, made of a random checkpoint of one rank.
fn hugging_face(options: &SynthOptions, folder: &Path) -> HuggingFaceModel {
    let step = write_checkpoint(options, &folder.join("source")).unwrap();
    let checkpoint = Checkpoint::open(&step, &[]).unwrap();
    let directory = folder.join("hf");
    Merge::by("fold").hf(ONE_FILE).write(&checkpoint, &directory).unwrap();
    HuggingFaceModel::open(&directory).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn there_and_back_every_bit_is_the_same(options in models(), padded in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let model = hugging_face(&options, folder.path());
        let expected = contents(model.folder());
        let rows = model.architecture().padded_vocab_size;
        for tp_size in [1, 2, 4, 8] {
            let vocab_multiple = Some(if padded { 128 } else { 1 });
            let directory = folder.path().join(format!("ranks-{tp_size}"));
            let divided = Merge { vocab_multiple, ..Merge::by("fold") }.ranks(tp_size).reopen(&model, &directory);
            let multiple = if padded { 128 * tp_size } else { tp_size };
            prop_assert_eq!(divided.architecture().padded_vocab_size, rows.next_multiple_of(multiple));
            let back = folder.path().join(format!("back-{tp_size}"));
            Merge { vocab_size: Some(rows), ..Merge::by("fold") }.hf(ONE_FILE).write(&divided, &back).unwrap();
            let found = contents(&back);
            prop_assert_eq!(&found.1, &expected.1);
            prop_assert!(found.0 == expected.0, "{} ranks: {:?}", tp_size, differing(&expected.0, &found.0));
        }
    }
}

fn differing(expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names = expected.keys().chain(found.keys());
    names.filter(|name| expected.get(*name) != found.get(*name)).cloned().collect()
}

#[test]
fn biases_are_divided_where_they_are_added_up_and_repeated_where_they_are_not() {
    for (gpt_j_residual, share) in [(true, 0.5), (false, 1.0)] {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape { layer_count: 1, vocab_size: 100, ..Shape::named("14m").unwrap() };
        let options = SynthOptions { gpt_j_residual, dtype: DType::F32, ..SynthOptions::new(shape) };
        let model = hugging_face(&options, folder.path());
        let padded = Merge { vocab_multiple: Some(128), ..Merge::by("fold") };
        let divided = padded.ranks(2).reopen(&model, &folder.path().join("divided"));
        let (whole, ranks) =
            (model.read_stage(StageId::Layer(0)).unwrap(), divided.read_stage(StageId::Layer(0)).unwrap());
        for role in [Role::AttentionOutputBias, Role::MlpOutputBias] {
            let bias = whole.replicas(role)[0].to_f64().unwrap();
            for replica in ranks.replicas(role) {
                let expected: Vec<f64> = bias.iter().map(|value| value * share).collect();
                assert_eq!(replica.to_f64().unwrap(), expected, "{role:?}");
            }
        }
        // Rows that only pad are zeros.
        let embedding = divided.read_stage(StageId::Embedding).unwrap();
        let rows = embedding.params[&Role::WordEmbedding].value.tensors()[0].to_f64().unwrap();
        let (width, kept) = (model.architecture().hidden_size, model.architecture().padded_vocab_size);
        assert_eq!(rows.len(), 256 * width);
        assert!(rows[kept * width..].iter().all(|&value| value == 0.0));
        assert!(rows[..kept * width].iter().any(|&value| value != 0.0));
    }
}

#[test]
fn shares_of_zeros_and_of_the_smallest_numbers_add_up_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let shape =
        Shape { layer_count: 1, hidden_size: 48, head_count: 12, vocab_size: 96, ..Shape::named("14m").unwrap() };
    let shape = Shape { mlp_inner_size: Some(96), make_vocab_size_divisible_by: 4, ..shape };
    let model = hugging_face(&SynthOptions { rotary_pct: 0.5, ..SynthOptions::new(shape) }, folder.path());
    let path = model.folder().join("model.safetensors");
    let mut bytes = fs_err::read(&path).unwrap();
    let values: Vec<u16> =
        vec![0x8000, 0, 1, 2, 3, 5, 0x8001, 0x03ff, 0x0400, 0x0401, 0x3bff, 0x3c00, 0x3c01, 0x7bff, 0xfbff];
    let at = {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let bias = file.tensor("gpt_neox.layers.0.attention.dense.bias").unwrap();
        bias.data().as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[at..at + 2 * values.len()]
        .copy_from_slice(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    fs_err::write(&path, bytes).unwrap();
    let model = HuggingFaceModel::open(model.folder()).unwrap();
    let expected = contents(model.folder());
    for tp_size in [2, 3, 4, 6, 12] {
        let divided = Merge::by("fold").ranks(tp_size).reopen(&model, &folder.path().join(format!("ranks-{tp_size}")));
        let back = folder.path().join(format!("back-{tp_size}"));
        Merge::by("fold").hf(ONE_FILE).write(&divided, &back).unwrap();
        assert!(contents(&back) == expected, "{tp_size} ranks: {:?}", differing(&expected.0, &contents(&back).0));
    }
}

#[test]
fn ranks_that_do_not_divide_the_heads_are_refused_with_those_that_do() {
    let folder = tempfile::tempdir().unwrap();
    let shape = Shape { layer_count: 1, vocab_size: 100, ..Shape::named("14m").unwrap() };
    let model = hugging_face(&SynthOptions::new(shape), folder.path());
    let padded = Merge { vocab_multiple: Some(128), ..Merge::by("fold") };
    let error = padded.ranks(3).write(&model, &folder.path().join("divided")).unwrap_err();
    assert!(matches!(&error, ExportError::Ranks { tp_size: 3, possible, .. } if *possible == [1, 2, 4]), "{error:?}");
    assert!(!folder.path().join("divided").exists());
}
