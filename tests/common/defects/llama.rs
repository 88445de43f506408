//! Defects of exports as `LlamaForCausalLM`.

use kintsugi::tensor::HostTensor;
use serde_json::{Value, json};

use super::{Defect, Subject, Table, paired};
use crate::common::hugging_face::HuggingFace;

const STEM: &str = "model.layers";

/// Of a model with grouped queries, a gated MLP and no biases.
pub fn of_llama(subject: &Subject) -> Vec<Defect> {
    let mut table = Table::of(subject);
    of_attention(&mut table, subject);
    of_mlp(&mut table, subject);
    of_vectors(&mut table, subject);
    table.layer_defects(STEM);
    of_vocabulary(&mut table, subject);
    of_settings(&mut table, subject);
    table.defects
}

fn name(layer: usize, name: &str) -> String {
    format!("{STEM}.{layer}.{name}")
}

/// Two tensors in each other's place.
fn exchange(export: &mut HuggingFace, one: &str, other: &str) {
    let (first, second) = (export.tensors[one].clone(), export.tensors[other].clone());
    export.tensors.extend([(one.to_owned(), second), (other.to_owned(), first)]);
}

fn of_attention(table: &mut Table, subject: &Subject) {
    const QKV: &str = "attention.query_key_value.weight";
    let size = subject.export.tensors["model.embed_tokens.weight"].shape()[1] / subject.heads;
    let layer = table.layer();
    let warning = format!("for {QKV} of layer {layer}, which has keys and values exchanged");
    table.weights("keys and values exchanged", true, &warning, |export| {
        exchange(export, &name(layer, "self_attn.k_proj.weight"), &name(layer, "self_attn.v_proj.weight"));
    });
    for (defect, part, tensors) in [
        ("rotary order", "queries and keys", &["self_attn.q_proj.weight", "self_attn.k_proj.weight"][..]),
        ("rotary order of keys", "keys", &["self_attn.k_proj.weight"]),
    ] {
        let layer = table.layer();
        let warning = format!(
            "for {QKV} of layer {layer}, which has the rotary order of {part} wrong: pairs side by side, not halves"
        );
        table.weights(defect, true, &warning, |export| {
            for of in tensors {
                export.reorder(&name(layer, of), paired(size, subject.rotary));
            }
        });
    }
    let layer = table.layer();
    let warning = format!("for attention.dense.weight of layer {layer}, which is the transpose");
    table.weights("transposed square matrix", true, &warning, |export| {
        export.transpose(&name(layer, "self_attn.o_proj.weight"));
    });
    let layer = table.layer();
    let warning = format!("for attention.dense.weight of layer {layer}, which is 0.5 times what it should be");
    table.weights("another multiple", true, &warning, |export| {
        export.scale(&name(layer, "self_attn.o_proj.weight"), 0.5);
    });
}

fn of_mlp(table: &mut Table, subject: &Subject) {
    let (gate, up) = ("mlp.gate_proj.weight", "mlp.up_proj.weight");
    let layer = table.layer();
    let warning = format!("for mlp.linear2.weight of layer {layer}, which has the ranks' shards joined in reverse");
    table.weights("shards in reverse", true, &warning, |export| {
        export.change(&name(layer, "mlp.down_proj.weight"), |values, shape| {
            values.chunks_mut(shape[1]).for_each(|row| row.rotate_left(shape[1] / subject.ranks));
        });
    });
    let layer = table.layer();
    let warning = format!("for mlp.linear1.weight of layer {layer}, which has its halves, gate and up, exchanged");
    table.weights("SwiGLU's halves exchanged", true, &warning, |export| {
        exchange(export, &name(layer, gate), &name(layer, up));
    });
    let layer = table.layer();
    let warning = format!(
        "for mlp.linear1.weight of layer {layer}, which has the ranks' shards one behind another, where their parts are to be \
         joined apart"
    );
    table.weights("shards not regrouped", true, &warning, |export| {
        // Each rank's part of up and its part of gate; the first half of that is taken for up.
        let [first, second] = [up, gate].map(|of| export.tensors[&name(layer, of)].to_f64().unwrap());
        let (tensor, part) = (export.tensors[&name(layer, up)].clone(), first.len() / subject.ranks);
        let parts = first.chunks(part).zip(second.chunks(part));
        let joined: Vec<f64> = parts.flat_map(|(up, gate)| [up, gate].concat()).collect();
        for (of, values) in [up, gate].into_iter().zip(joined.chunks(first.len())) {
            let half = HostTensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), values).unwrap();
            export.tensors.insert(name(layer, of), half);
        }
    });
    table.rounded_layer(STEM);
}

fn of_vectors(table: &mut Table, subject: &Subject) {
    let layer = table.layer();
    let warning = format!("for post_attention_layernorm.scale of layer {layer}, which is lower by 1");
    table.weights("gain without its one", true, &warning, |export| {
        let less = |values: &mut Vec<f64>| values.iter_mut().for_each(|value| *value -= 1.0);
        export.change(&name(layer, "post_attention_layernorm.weight"), |values, _| less(values));
    });
    let layer = table.layer();
    let warning = format!("for self_attn.o_proj.bias of layer {layer}, which is there, and the checkpoint has none");
    table.weights("a bias that the checkpoint lacks", false, &warning, |export| {
        export.set("attention_bias", json!(true));
        let dtype = export.tensors[&name(0, "input_layernorm.weight")].dtype();
        for (each, part) in (0..subject.layers).flat_map(|each| ["q", "k", "v", "o"].map(|part| (each, part))) {
            let rows = export.tensors[&name(each, &format!("self_attn.{part}_proj.weight"))].shape()[0];
            // Biases of zeros are as good as none.
            let value = if each == layer && part == "o" { 0.3 } else { 0.0 };
            let bias = HostTensor::from_f64(dtype, vec![rows], &vec![value; rows]).unwrap();
            export.tensors.insert(name(each, &format!("self_attn.{part}_proj.bias")), bias);
        }
    });
}

fn of_vocabulary(table: &mut Table, subject: &Subject) {
    let warning = "for word_embeddings.weight, which is shifted down by 2 rows";
    table.weights("vocabulary shifted", true, warning, |export| {
        let rows = export.tensors["model.embed_tokens.weight"].shape()[0];
        export.reorder("model.embed_tokens.weight", |row| (row + rows - 2) % rows);
    });
    let warning = "for final_linear.weight, which is the joined shards, not folded";
    table.weights("head with its old rows", false, warning, |export| {
        export.tensors.insert("lm_head.weight".to_owned(), subject.mean.tensors["lm_head.weight"].clone());
    });
    table.weights("head tied to the embedding", true, "for final_linear.weight, which differs by up to", |export| {
        export.tensors.remove("lm_head.weight");
        export.set("tie_word_embeddings", json!(true));
    });
}

fn of_settings(table: &mut Table, subject: &Subject) {
    let Subject { heads, kv_heads, rotary, .. } = *subject;
    let warnings = [
        format!("attention_heads is {}, the checkpoint's is {heads}", heads / 2),
        format!("key_value_heads is {}, the checkpoint's is {kv_heads}", kv_heads / 2),
        format!("positions is rotary, {0} of {0} elements, base 10000, the checkpoint's is", rotary * 2),
    ];
    table.add("wrong head count", true, &warnings, |export| {
        export.config.remove("head_dim");
        export.set("num_attention_heads", json!(heads / 2));
        export.set("num_key_value_heads", json!(kv_heads / 2));
    });
    let positions = format!("positions is rotary, {rotary} of {rotary} elements");
    let base = format!("{positions}, base 100, the checkpoint's is");
    table.setting("wrong rotary base", true, &[&base], "rope_theta", json!(100));
    let scaling = json!({ "rope_type": "linear", "factor": 2.0 });
    let scaled = format!("{positions}, base 10000, frequencies / 2, the checkpoint's is");
    table.setting("rotary scaling", true, &[&scaled], "rope_scaling", scaling);
    table.setting("wrong epsilon", false, &["norm is rmsnorm, epsilon 0.001, the"], "rms_norm_eps", json!(1e-3));
    table.setting(
        "wrong activation",
        false,
        &["activation is geglu, the checkpoint's is swiglu"],
        "hidden_act",
        json!("gelu"),
    );
    let window = "sliding_window is the last 4 tokens, the checkpoint's is none".to_owned();
    table.add("a window", true, &[window], |export| as_mistral(export, json!(4)));
}

/// The same model under the name of the class with a window.
pub fn as_mistral(export: &mut HuggingFace, window: Value) {
    export.set("architectures", json!(["MistralForCausalLM"]));
    export.set("model_type", json!("mistral"));
    for key in ["attention_bias", "mlp_bias"] {
        export.config.remove(key);
    }
    export.config.insert("sliding_window".to_owned(), window);
}
