//! Defects of exports as `GPTNeoXForCausalLM`.

use serde_json::json;

use super::{Defect, Subject, Table, paired};

const STEM: &str = "gpt_neox.layers";
const QKV: [&str; 2] = ["attention.query_key_value.weight", "attention.query_key_value.bias"];

/// Of a model with parallel or sequential residual, its head tied to the embedding or not.
pub fn of_gpt_neox(subject: &Subject, parallel: bool, tied: bool) -> Vec<Defect> {
    let mut table = Table::of(subject);
    of_attention(&mut table, subject);
    of_matrices(&mut table, subject);
    of_vectors(&mut table, subject, parallel);
    table.layer_defects(STEM);
    of_vocabulary(&mut table, subject, tied);
    of_settings(&mut table, subject, parallel);
    table.defects
}

fn name(layer: usize, name: &str) -> String {
    format!("{STEM}.{layer}.{name}")
}

fn hidden(subject: &Subject) -> usize {
    subject.export.tensors["gpt_neox.embed_in.weight"].shape()[1]
}

/// The rows are queries, keys and values head by head.
fn of_attention(table: &mut Table, subject: &Subject) {
    let (heads, rotary, hidden) = (subject.heads, subject.rotary, hidden(subject));
    let size = hidden / heads;
    let [weight, bias] = QKV;
    let mut order = |name_of_defect, words: &str, source: &dyn Fn(usize) -> usize| {
        let layer = table.layer();
        let warning = format!("for {weight} and {bias} of layer {layer}, which have {words}");
        table.weights(name_of_defect, true, &warning, |export| {
            for of in QKV {
                export.reorder(&name(layer, of), source);
            }
        });
    };
    order("queries and keys exchanged", "queries and keys exchanged", &|row| match row / size % 3 {
        0 => row + size,
        1 => row - size,
        _ => row,
    });
    let words = "the rotary order of queries and keys wrong: pairs side by side, not halves";
    let pair = paired(size, rotary);
    order("rotary order", words, &|row| if row / size % 3 == 2 { row } else { pair(row) });
    let words =
        format!("their rows in blocks of queries, keys and values, where they belong head by head, of {heads} heads");
    order("queries, keys and values in blocks", &words, &|row| {
        let (part, head, at) = (row / hidden, row % hidden / size, row % size);
        (head * 3 + part) * size + at
    });
}

fn of_matrices(table: &mut Table, subject: &Subject) {
    let layer = table.layer();
    let warning = format!("for attention.dense.weight of layer {layer}, which is the transpose");
    table.weights("transposed square matrix", true, &warning, |export| {
        export.transpose(&name(layer, "attention.dense.weight"));
    });
    let layer = table.layer();
    let warning = format!("for mlp.linear2.weight of layer {layer}, which has the ranks' shards joined in reverse");
    table.weights("shards in reverse", true, &warning, |export| {
        export.change(&name(layer, "mlp.dense_4h_to_h.weight"), |values, shape| {
            values.chunks_mut(shape[1]).for_each(|row| row.rotate_left(shape[1] / subject.ranks));
        });
    });
    let (layer, element) = (table.layer(), table.draw.below(hidden(subject) * hidden(subject)));
    let warning = format!("for mlp.linear1.weight of layer {layer}, which differs by up to … in 1 of … elements");
    table.weights("one element", false, &warning, |export| {
        export.change(&name(layer, "mlp.dense_h_to_4h.weight"), |values, _| values[element] += 0.01);
    });
    table.rounded_layer(STEM);
}

fn of_vectors(table: &mut Table, subject: &Subject, parallel: bool) {
    let layer = table.layer();
    let warning = format!("for input_layernorm.weight of layer {layer}, which is lower by 1");
    table.weights("gain without its one", true, &warning, |export| {
        let less = |values: &mut Vec<f64>| values.iter_mut().for_each(|value| *value -= 1.0);
        export.change(&name(layer, "input_layernorm.weight"), |values, _| less(values));
    });
    let layer = table.layer();
    let warning = format!("for mlp.linear1.bias of layer {layer}, which is all zero");
    table.weights("missing bias", false, &warning, |export| export.scale(&name(layer, "mlp.dense_h_to_4h.bias"), 0.0));
    let (place, factor, what) = if parallel {
        ("every rank adds its own before the all-reduce", 1.0 / subject.ranks as f64, "mean")
    } else {
        ("the model adds them once, after the all-reduce", subject.ranks as f64, "sum")
    };
    let of = |places: &str| {
        format!(
            "its row-parallel biases are the {what} of the ranks', although {place}: {places} {factor} times what the \
             model has"
        )
    };
    let all = of("attention.dense.bias and mlp.linear2.bias");
    table.add("biases another multiple", true, &[all], |export| {
        for layer in 0..subject.layers {
            export.scale(&name(layer, "attention.dense.bias"), factor);
            export.scale(&name(layer, "mlp.dense_4h_to_h.bias"), factor);
        }
    });
    let layer = table.layer();
    let one = of(&format!("mlp.linear2.bias of layer {layer}"));
    table.add("biases of one layer another multiple", false, &[one], |export| {
        export.scale(&name(layer, "mlp.dense_4h_to_h.bias"), factor);
    });
}

fn of_vocabulary(table: &mut Table, subject: &Subject, tied: bool) {
    let head_name = if tied { "the output head (word_embeddings.weight)" } else { "final_linear.weight" };
    let warning = "for word_embeddings.weight, which is shifted up by 1 row";
    table.weights("vocabulary shifted", true, warning, |export| {
        let rows = export.tensors["gpt_neox.embed_in.weight"].shape()[0];
        export.reorder("gpt_neox.embed_in.weight", |row| (row + 1) % rows);
    });
    let old = subject.mean.tensors.get("embed_out.weight").or(subject.mean.tensors.get("gpt_neox.embed_in.weight"));
    let warning = format!("for {head_name}, which is the joined shards, not folded");
    table.weights("head with its old rows", false, &warning, |export| {
        export.tensors.insert("embed_out.weight".to_owned(), old.unwrap().clone());
    });
    // Folding unties a tied head: left tied, it has its old rows.
    let warning = if tied { warning } else { format!("for {head_name}, which differs by up to") };
    table.weights("head tied to the embedding", !tied, &warning, |export| {
        export.tensors.remove("embed_out.weight");
        export.set("tie_word_embeddings", json!(true));
    });
}

fn of_settings(table: &mut Table, subject: &Subject, parallel: bool) {
    let (heads, other) = (subject.heads, subject.heads / 2);
    let (turned, size) = (subject.rotary * 2, hidden(subject) / other);
    let positions = |turned: usize, size: usize| format!("positions is rotary, {turned} of {size} elements");
    table.setting(
        "wrong head count",
        true,
        &[
            &format!("attention_heads is {other}, the checkpoint's is {heads}"),
            &format!("key_value_heads is {other}, the checkpoint's is {heads}"),
            &positions(turned, size),
        ],
        "num_attention_heads",
        json!(other),
    );
    let positions = positions(subject.rotary, size / 2);
    let base = format!("{positions}, base 100, the checkpoint's is");
    table.setting("wrong rotary base", true, &[&base], "rotary_emb_base", json!(100));
    let scaling = json!({ "rope_type": "linear", "factor": 2.0 });
    let scaled = format!("{positions}, base 10000, frequencies / 2, the checkpoint's is");
    table.setting("rotary scaling", true, &[&scaled], "rope_scaling", scaling);
    table.setting("wrong epsilon", false, &["norm is layernorm, epsilon 0.001, the"], "layer_norm_eps", json!(1e-3));
    let residual = if parallel { "residual is sequential" } else { "residual is parallel" };
    table.setting("wrong residual", true, &[residual], "use_parallel_residual", json!(!parallel));
    table.setting(
        "wrong activation",
        true,
        &["activation is relu, the checkpoint's is gelu"],
        "hidden_act",
        json!("relu"),
    );
}
