//! Random architectures and options: what `merge` writes opens again and scores as the merge in memory does, or nothing is
//! written and an error says what could be. `PROPTEST_CASES` asks for more of them; `KINTSUGI_WRITTEN=DIR` keeps what was
//! written with its scores, for evals/verify/written_models.py to load as gpt-neox and transformers do.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::copy_folder;
use crate::common::evaluation::{evaluate, hugging_face_models, loglikelihood, merge_by, passages};
use crate::common::merging::Merge;
use kintsugi::checkpoint::{Checkpoint, HuggingFaceModel, Layout, ModelSource, OpenOptions, open_model};
use kintsugi::config::{Activation, Norm, OutputLayerParallelism, PositionEmbedding};
use kintsugi::eval::{EngineOptions, Quiet, Variant};
use kintsugi::export::synth::{Shape, SynthOptions, write_checkpoint};
use kintsugi::export::{ExportError, Format};
use kintsugi::model::Backend;
use kintsugi::partition::Role;
use kintsugi::tensor::DType;
use proptest::prelude::*;
use proptest::sample::select;

/// Rounding of bias shares in 16 bits, and of float32 tables.
const TOLERANCE: f64 = 1e-5;

/// Tokens that all models of [`jobs`] have.
const ROWS: u32 = 96;

prop_compose! {
    fn shapes()(
        (head_count, kv_head_count) in select(vec![
            (4, None), (6, None), (8, None), (12, None), (8, Some(4)), (8, Some(2)), (12, Some(6)), (6, Some(3)), (4, Some(1)),
        ]),
        head_size in select(vec![4, 8]),
        layer_count in 1..=2_usize,
        mlp_inner_size in select(vec![None, None, Some(48), Some(60), Some(64)]),
        make_vocab_size_divisible_by in select(vec![4, 6, 16]),
    ) -> Shape {
        Shape {
            layer_count,
            hidden_size: head_count * head_size,
            head_count,
            kv_head_count,
            mlp_inner_size,
            vocab_size: 110,
            make_vocab_size_divisible_by,
            max_position_embeddings: 32,
        }
    }
}

prop_compose! {
    fn branches()(
        norm in select(vec![
            Norm::LayerNorm, Norm::LayerNorm, Norm::RmsNorm, Norm::RmsNorm, Norm::ScaleNorm, Norm::NonParametricLayerNorm,
        ]),
        activation in select(vec![
            Activation::Gelu, Activation::Relu, Activation::Silu, Activation::Softsign, Activation::SwiGlu,
            Activation::SwiGlu, Activation::GeGlu,
        ]),
        positions in select(vec![
            PositionEmbedding::Rotary, PositionEmbedding::Rotary, PositionEmbedding::Rotary, PositionEmbedding::Learned,
            PositionEmbedding::Alibi, PositionEmbedding::RelativeBuckets,
        ]),
        rotary_pct in select(vec![0.5, 1.0]),
        (gpt_j_residual, gpt_j_tied, tied_embeddings) in any::<(bool, bool, bool)>(),
        (attention_bias, mlp_bias, bias_gelu_fusion) in any::<(bool, bool, bool)>(),
        row_head in any::<bool>(),
    ) -> SynthOptions {
        let head = if row_head { OutputLayerParallelism::Row } else { OutputLayerParallelism::Column };
        SynthOptions {
            norm, activation, positions, rotary_pct, gpt_j_residual, gpt_j_tied, tied_embeddings, attention_bias, mlp_bias,
            bias_gelu_fusion, head, ..SynthOptions::new(Shape::named("14m").unwrap())
        }
    }
}

prop_compose! {
    fn sources()(
        shape in shapes(),
        branches in branches(),
        tp_size in select(vec![1, 2, 2, 3, 4]),
        dtype in select(vec![DType::F32, DType::F16, DType::BF16]),
        drift in select(vec![0.0, 0.02]),
        rank_files in any::<bool>(),
        legacy_names in any::<bool>(),
        seed in 0..1000_u64,
    ) -> SynthOptions {
        let layout = if rank_files { Layout::RankFiles } else { Layout::LayerFiles };
        SynthOptions { shape, tp_size, dtype, drift, layout, legacy_names, seed, ..branches }
    }
}

prop_compose! {
    fn merges()(
        tp_size in select(vec![None, None, None, Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(8), Some(12)]),
        max_shard_bytes in select(vec![4000, 1 << 30]),
        dtype in select(vec![None, None, Some(DType::F32), Some(DType::F16), Some(DType::BF16)]),
        vocab_size in select(vec![None, None, Some(96), Some(101), Some(110), Some(400)]),
    ) -> Merge {
        let format = tp_size.map_or(Format::HuggingFace { max_shard_bytes }, |tp_size| Format::Neox { tp_size });
        Merge { format, dtype, vocab_size, ..Merge::by("fold") }
    }
}

prop_compose! {
    /// Half of the cases are made such that the merge can be written. The last: tokens that flash attention looks back.
    fn jobs()(
        mut source in sources(),
        mut merge in merges(),
        mut window in select(vec![None, Some(2), Some(4), Some(31)]),
        possible in any::<bool>(),
    ) -> (SynthOptions, Merge, Option<usize>) {
        match merge.format {
            _ if !possible => {}
            Format::HuggingFace { .. } => {
                source.positions = match (source.norm, source.gpt_j_residual) {
                    (Norm::LayerNorm, false) if source.positions == PositionEmbedding::Learned => source.positions,
                    _ => PositionEmbedding::Rotary,
                };
                if source.norm == Norm::RmsNorm {
                    (source.gpt_j_residual, source.rotary_pct, source.activation) = (false, 1.0, Activation::SwiGlu);
                    source.legacy_names &= source.shape.kv_head_count.is_none();
                    if window.is_some() {
                        (source.attention_bias, source.mlp_bias) = (false, false);
                    }
                } else {
                    (source.shape.kv_head_count, window) = (None, None);
                    source.norm = if source.norm == Norm::ScaleNorm { Norm::LayerNorm } else { source.norm };
                    if [Activation::SwiGlu, Activation::GeGlu, Activation::Softsign].contains(&source.activation) {
                        source.activation = Activation::Gelu;
                    }
                }
            }
            Format::Neox { ref mut tp_size } => {
                *tp_size = [1, 2, 4][*tp_size % 3];
                source.shape.head_count = source.shape.hidden_size / 4;
                source.shape.kv_head_count = source.shape.kv_head_count.map(|_| 4).filter(|_| source.shape.hidden_size % 16 == 0);
            }
        }
        if possible {
            merge.vocab_size = merge.vocab_size.filter(|&rows| rows == 96);
        }
        (source, merge, window)
    }
}

/// Writes the checkpoint; with a window if it says so. Whether there is such a model.
fn write(options: &SynthOptions, window: Option<usize>, folder: &Path) -> bool {
    let Ok(step) = write_checkpoint(options, folder) else { return false };
    if let Some(width) = window {
        let path = step.join("configs/synthetic.yml");
        let text = fs_err::read_to_string(&path).unwrap();
        let windowed = text
            .replace(r#"[[["global"],"all"]]"#, &format!(r#"[[["flash"], "all"]], "sliding-window-width": {width}"#));
        assert_ne!(windowed, text);
        fs_err::write(&path, windowed).unwrap();
    }
    true
}

/// Contexts and targets of a vocabulary.
fn pairs(rows: u32) -> Vec<(Vec<u32>, Vec<u32>)> {
    let ids = |seed: u32, length: u32| (0..length).map(|at| (seed * 37 + at * at * 11 + at * 5) % rows).collect();
    (0..4).map(|seed| (ids(seed, 5 + seed), ids(seed + 7, 1 + seed % 3))).collect()
}

/// Log-likelihoods of the last variant, computed in float64.
fn scores(model: &dyn ModelSource, variants: &[Variant], pairs: &[(Vec<u32>, Vec<u32>)]) -> Vec<f64> {
    let double = EngineOptions::on(vec![Backend { device: tch::Device::Cpu, kind: tch::Kind::Double }]);
    let mut found = evaluate(model, variants, passages(pairs, 32), &double, &Quiet).unwrap().scores;
    found.pop().unwrap().iter().map(|tokens| loglikelihood(tokens)).collect()
}

fn written(directory: &Path, pairs: &[(Vec<u32>, Vec<u32>)]) -> Vec<f64> {
    scores(&*open_model(directory, &OpenOptions::default()).unwrap(), &[Variant::baseline()], pairs)
}

/// What the output must score: the merge in memory, or where type or vocabulary are others, the same for one rank.
fn expected(source: &Checkpoint, merge: &Merge, folder: &Path) -> Vec<f64> {
    if merge.dtype.is_none_or(|dtype| dtype == source.dtype()) && merge.vocab_size.is_none() {
        return scores(source, &[Variant::baseline(), merge_by("fold")], &pairs(ROWS));
    }
    let one_rank = folder.join("one-rank");
    merge.clone().ranks(1).write(source, &one_rank).unwrap();
    written(&one_rank, &pairs(ROWS))
}

/// Copies the directory and what is known of it into a folder of its own where `KINTSUGI_WRITTEN` names one for all.
fn keep(output: &Path, pairs: &[(Vec<u32>, Vec<u32>)], scores: &[f64]) {
    static KEPT: AtomicUsize = AtomicUsize::new(0);
    let Some(folder) = std::env::var_os("KINTSUGI_WRITTEN") else { return };
    let case = Path::new(&folder).join(format!("{:04}", KEPT.fetch_add(1, Ordering::Relaxed)));
    copy_folder(output, &case.join("model"));
    let known = serde_json::json!({ "pairs": pairs, "loglikelihoods": scores });
    fs_err::write(case.join("scores.json"), known.to_string()).unwrap();
}

fn refused(error: &ExportError, preview: Option<ExportError>, folder: &Path) -> Result<(), TestCaseError> {
    prop_assert_eq!(preview.map(|preview| preview.to_string()), Some(error.to_string()), "a dry run says the same");
    prop_assert!(error.hint().is_some(), "{error}");
    let refusal =
        matches!(error, ExportError::Ranks { .. } | ExportError::Inexpressible { .. } | ExportError::Vocabulary { .. });
    prop_assert!(refusal, "{error}");
    prop_assert_eq!(fs_err::read_dir(folder).unwrap().count(), 0, "{}", error);
    Ok(())
}

/// From transformers to transformers, whatever class is the same function.
#[test]
fn models_of_transformers_are_written_as_the_same_function() {
    let pairs = pairs(40);
    for folder in hugging_face_models() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let target = tempfile::tempdir().unwrap();
        let (model, output) = (HuggingFaceModel::open(&folder).unwrap(), target.path().join("written"));
        match Merge::by("fold").hf(1 << 30).write(&model, &output) {
            Err(ExportError::Inexpressible { reason, .. }) => {
                let kinds = &model.architecture().attention;
                assert!(kinds.iter().any(|kind| *kind != kinds[0]), "{name}: {reason}");
                continue;
            }
            result => drop(result.unwrap()),
        }
        let again = HuggingFaceModel::open(&output).unwrap();
        for id in model.stage_ids() {
            let (ours, theirs) = (model.read_stage(id).unwrap(), again.read_stage(id).unwrap());
            let added = theirs.params.keys().filter(|role| !ours.params.contains_key(role));
            assert!(added.into_iter().all(|role| *role == Role::AttentionOutputBias), "{name}");
            for (role, param) in &ours.params {
                let (ours, theirs) = (param.value.tensors(), theirs.params[role].value.tensors());
                assert!(ours.iter().zip(theirs).all(|(ours, theirs)| ours.same_bits(theirs)), "{name}: {role:?}");
            }
        }
        let [expected, found] = [&model, &again].map(|model| scores(model, &[Variant::baseline()], &pairs));
        for (expected, found) in expected.iter().zip(&found) {
            assert!((expected - found).abs() <= 1e-12 * expected.abs().max(1.0), "{name}: {expected} {found}");
        }
        keep(&output, &pairs, &expected);
        let output = target.path().join("neox");
        match Merge::by("fold").ranks(1).write(&model, &output) {
            // Windows of some layers, tanh gates and all that gpt-neox has no setting for.
            Err(ExportError::Inexpressible { format, .. }) => assert_eq!(format, "gpt-neox", "{name}"),
            result => {
                result.unwrap();
                for (expected, found) in expected.iter().zip(&written(&output, &pairs)) {
                    assert!((expected - found).abs() <= 1e-12 * expected.abs().max(1.0), "{name}: {expected} {found}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn what_is_written_is_the_merge_or_nothing_is_written((options, merge, window) in jobs()) {
        let [source, target, beside] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        if !write(&options, window, source.path()) {
            return Err(TestCaseError::reject("sizes that do not divide"));
        }
        let source = Checkpoint::open(source.path(), &[]).unwrap();
        let output = target.path().join("merged");
        let preview = merge.with(&source, &output, |job| job.preview().err());
        if let Err(error) = merge.write(&source, &output) {
            refused(&error, preview, target.path())?;
            let possible = if let ExportError::Ranks { possible, .. } = error { possible } else { Vec::new() };
            for ranks in possible {
                let other = merge.clone().ranks(ranks).with(&source, &output, |job| job.preview().map(drop));
                prop_assert!(other.is_ok(), "the hint names {ranks} ranks: {other:?}");
            }
            return Ok(());
        }
        let (expected, found) = (expected(&source, &merge, beside.path()), written(&output, &pairs(ROWS)));
        for (expected, found) in expected.iter().zip(&found) {
            prop_assert!((expected - found).abs() <= TOLERANCE * expected.abs().max(1.0), "{expected} {found}");
        }
        keep(&output, &pairs(ROWS), &expected);
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(24, |cases| cases.parse().unwrap())
}
