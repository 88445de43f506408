//! The contents of `mp_rank_*` files.

use super::Value;
use crate::checkpoint::QUIRKS;
use crate::config::{ClientArgs, QuirkSetting};

/// The values that gpt-neox and DeepSpeed require on loading, without optimizer and random states. `module` is the model,
/// or `None` where layers have files of their own.
pub(super) fn client_state(module: Value, iteration: u64, tp_size: usize, args: &ClientArgs) -> Value {
    let int = |value: usize| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let iteration = Value::Int(i64::try_from(iteration).unwrap_or(i64::MAX));
    let size = |value: Option<usize>| value.map_or(Value::None, int);
    let keyed = |entries: &[(&str, Value)]| {
        Value::Dict(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    };
    let compared = keyed(&[
        ("num_layers", size(args.num_layers)),
        ("hidden_size", size(args.hidden_size)),
        ("num_attention_heads", size(args.num_attention_heads)),
        ("max_position_embeddings", size(args.max_position_embeddings)),
        ("make_vocab_size_divisible_by", size(args.make_vocab_size_divisible_by)),
        ("padded_vocab_size", size(args.padded_vocab_size)),
        ("tokenizer_type", args.tokenizer_type.clone().map_or(Value::None, Value::Str)),
        ("model_parallel_size", size(args.model_parallel_size)),
    ]);
    let mut state = vec![
        ("module", module),
        ("optimizer", Value::None),
        ("lr_scheduler", Value::None),
        // DeeperSpeed of 2021 requires the first, DeepSpeed since then the second.
        ("csr_tensor_module_names", Value::List(Vec::new())),
        ("sparse_tensor_module_names", Value::List(Vec::new())),
        ("skipped_steps", Value::Int(0)),
        ("global_steps", iteration.clone()),
        ("global_samples", Value::Int(0)),
        ("dp_world_size", Value::Int(1)),
        ("mp_world_size", int(tp_size)),
        ("iteration", iteration),
        ("args", compared),
    ];
    if !args.quirks.is_empty() {
        state.push((QUIRKS, Value::Str(QuirkSetting::line(&args.quirks))));
    }
    keyed(&state)
}
