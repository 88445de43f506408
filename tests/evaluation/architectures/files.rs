//! Files as gpt-neox has written them, and what is refused in them.

use super::*;

#[test]
fn a_configuration_may_be_json_and_layers_may_be_numbered_otherwise() {
    let expected = scores(&tiny(|_| {}));
    let files = tiny(|_| {});
    set(&files, &[]);
    fs::rename(files.config_file(), files.config_file().with_extension("json")).unwrap();
    assert_same(&scores(&files), &expected);
    // Where a module was put in, everything after it has moved on by one; what a file is, its content says.
    for stage in [6, 5, 3, 2] {
        for tp_rank in RANKS {
            fs::rename(files.layer_file(stage, tp_rank), files.layer_file(stage + 1, tp_rank)).unwrap();
        }
    }
    assert_same(&scores(&files), &expected);
}

#[test]
fn sequence_parallel_is_evaluated_without_and_says_so() {
    let files = tiny(|options| options.gpt_j_residual = false);
    let expected = scores(&files);
    set(&files, &[("sequence_parallel", json!(true))]);
    assert_same(&scores(&files), &expected);
    assert_eq!(
        files.open().warnings(),
        ["sequence_parallel: in training each rank's norms and row-parallel biases acted on its own stretch of the \
          sequence; it is evaluated without, as gpt-neox does at inference: each rank uses its own everywhere"]
    );
    let parallel = tiny(|_| {});
    set(&parallel, &[("sequence_parallel", json!(true))]);
    assert!(parallel.open().warnings()[0].contains("each rank's norms acted"));
}

#[test]
fn what_stands_in_the_files_is_refused_by_name() {
    let refused = |stage: usize, name: &str, reason: &str, needed: &str| {
        let files = tiny(|_| {});
        for tp_rank in RANKS {
            edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
                let tensor = HostTensor::from_f64(DType::F32, vec![1, 32], &[0.0; 32]).unwrap();
                *tensors = [(name.to_owned(), tensor)].into();
            });
        }
        let error = Checkpoint::open(files.path(), &[]).unwrap_err();
        assert!(error.hint().unwrap().starts_with(needed), "{:?}", error.hint());
        let error = error.to_string();
        assert!(error.starts_with("this model is refused: "), "{error}");
        assert!(error.ends_with(&format!(": tensor `{name}`: {reason}")), "{error}");
    };
    let gpt_neox = "evaluate it with gpt-neox itself";
    refused(2, "mlp.experts.mlp.w1", "routing tokens to experts is not implemented", gpt_neox);
    refused(2, "mlp.router.layer.weight", "routing tokens to experts is not implemented", gpt_neox);
    refused(2, "sgu.norm.weight", "gMLP and aMLP blocks are not implemented", gpt_neox);
    refused(
        2,
        "mixer.in_proj.weight",
        "state-space blocks are not implemented",
        "gpt-neox's tools/ckpts/convert_neox_to_mamba_ssm.py",
    );
    refused(2, "attention.sparse_attn.master_layout", "block-sparse attention is not implemented", gpt_neox);
    let another = "gpt-neox's GPT has no token types: this is another model";
    refused(0, "tokentype_embeddings.weight", another, "evaluate it with the program that wrote it");
}

#[test]
fn masks_that_only_transformers_has_are_passed_over() {
    let files = tiny(|_| {});
    let expected = scores(&files);
    for tp_rank in RANKS {
        edit_layer_file(&files.layer_file(2, tp_rank), |tensors| {
            let mask = HostTensor::new(DType::U8, vec![1, 1, 4, 4], vec![1; 16]).unwrap();
            tensors.insert("attention.bias".to_owned(), mask.clone());
            tensors.insert("attention.masked_bias".to_owned(), mask);
        });
    }
    assert_same(&scores(&files), &expected);
}

#[test]
fn saved_buffers_must_have_their_shape() {
    let files = tiny(|options| options.positions = PositionEmbedding::Alibi);
    for tp_rank in RANKS {
        edit_layer_file(&files.layer_file(2, tp_rank), |tensors| {
            tensors.remove("attention.alibi_embed.slopes");
        });
    }
    let error = Checkpoint::open(files.path(), &[]).unwrap_err().to_string();
    assert!(error.ends_with("rank 0: missing tensor `attention.alibi_embed.slopes`"), "{error}");
}
