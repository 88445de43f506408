//! The same function under other names and in other layouts scores the same.

use super::*;

#[test]
fn names_of_every_era_are_the_same_model() {
    let expected = scores(&tiny(|_| {}));
    let files = tiny(|_| {});
    rename(&files, LAYERS, &[("input_layernorm", "ln1"), ("post_attention_layernorm", "ln2")]);
    assert_same(&scores(&files), &expected);
    let files = tiny(|_| {});
    rename(&files, LAYERS, &[("mlp.linear1", "mlp.dense_h_to_4h"), ("mlp.linear2", "mlp.dense_4h_to_h")]);
    assert_same(&scores(&files), &expected);
    // Transformer Engine's layer norm is one level deeper.
    let files = tiny(|_| {});
    let deeper = [
        ("input_layernorm.", "input_layernorm.norm."),
        ("post_attention_layernorm.", "post_attention_layernorm.norm."),
    ];
    rename(&files, LAYERS, &deeper);
    rename(&files, 5..6, &[("norm.", "norm.norm.")]);
    set(&files, &[("norm", json!("te_layernorm"))]);
    assert_same(&scores(&files), &expected);
}

#[test]
fn transformer_engines_modules_are_the_same_model_under_other_names() {
    let sequential = |activation| {
        tiny(move |options| {
            options.gpt_j_residual = false;
            options.bias_gelu_fusion = activation == Activation::Gelu;
            options.activation = activation;
        })
    };
    // Its GELU is the tanh form, its gate comes first.
    for activation in [Activation::Gelu, Activation::Relu, Activation::SwiGlu] {
        let expected = scores(&sequential(activation));
        let files = sequential(activation);
        rename(
            &files,
            LAYERS,
            &[
                ("attention.query_key_value", "attention.qkv"),
                ("attention.dense", "attention.proj"),
                ("post_attention_layernorm.", "mlp.layer_norm_"),
                ("mlp.linear1.", "mlp.fc1_"),
                ("mlp.linear2.", "mlp.fc2_"),
            ],
        );
        for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
            edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
                let state = HostTensor::new(DType::U8, vec![3], vec![1, 2, 3]).unwrap();
                tensors.insert("attention.qkv._extra_state".to_owned(), state.clone());
                tensors.insert("mlp._extra_state".to_owned(), state);
                if activation.is_gated() {
                    for name in ["mlp.fc1_weight", "mlp.fc1_bias"] {
                        let swapped = halves_swapped(&tensors[name]);
                        tensors.insert(name.to_owned(), swapped);
                    }
                }
            });
        }
        set(&files, &[("te_mha", json!(true)), ("te_layernorm_mlp", json!(true)), ("bias_gelu_fusion", json!(false))]);
        assert_same(&scores(&files), &expected);
    }
}

fn halves_swapped(tensor: &HostTensor) -> HostTensor {
    let half = tensor.shape()[0] / 2;
    concatenate(0, &[Piece { tensor, range: half..2 * half }, Piece { tensor, range: 0..half }]).unwrap()
}

#[test]
fn three_matrices_are_a_gated_mlp() {
    let gated = || {
        tiny(|options| {
            options.activation = Activation::SwiGlu;
            options.mlp_bias = false;
            options.gpt_j_residual = false;
        })
    };
    let expected = scores(&gated());
    let files = gated();
    for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
        edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
            let joined = tensors.remove("mlp.linear1.weight").unwrap();
            let half = joined.shape()[0] / 2;
            let part = |range| concatenate(0, &[Piece { tensor: &joined, range }]).unwrap();
            tensors.insert("mlp.w3.weight".to_owned(), part(0..half));
            tensors.insert("mlp.w1.weight".to_owned(), part(half..2 * half));
            let out = tensors.remove("mlp.linear2.weight").unwrap();
            tensors.insert("mlp.w2.weight".to_owned(), out);
        });
    }
    // `use_bias_in_mlp` means nothing to it.
    let settings = [("mlp_type", json!("llama")), ("activation", json!("silu")), ("use_bias_in_mlp", json!(true))];
    set(&files, &settings);
    assert_same(&scores(&files), &expected);
}

#[test]
fn grouped_queries_lie_in_blocks_or_head_by_head() {
    let grouped = || tiny(|options| options.shape.kv_head_count = Some(4));
    let expected = scores(&grouped());
    let files = grouped();
    for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
        edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
            for name in ["attention.query_key_value.weight", "attention.query_key_value.bias"] {
                // A rank has 4 query heads and 2 key heads of 8: head by head [8 | 4 | 4].
                let tensor = tensors[name].clone();
                let piece = |range| Piece { tensor: &tensor, range };
                let pieces: Vec<_> = (0..4)
                    .flat_map(|head| {
                        [
                            piece(head * 8..head * 8 + 8),
                            piece(32 + head * 4..32 + head * 4 + 4),
                            piece(48 + head * 4..48 + head * 4 + 4),
                        ]
                    })
                    .collect();
                tensors.insert(name.to_owned(), concatenate(0, &pieces).unwrap());
            }
        });
    }
    assert_same(&scores_with(&files, &["gqa-layout=interleaved"]), &expected);
    assert_other(&scores(&files), &expected);
    // The names of the time date the layout.
    rename(&files, LAYERS, &[("mlp.linear1", "mlp.dense_h_to_4h"), ("mlp.linear2", "mlp.dense_4h_to_h")]);
    assert_same(&scores(&files), &expected);
}
