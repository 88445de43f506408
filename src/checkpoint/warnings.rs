//! Warnings about models that may have been trained with other arithmetic than they are evaluated with.

use crate::config::{Architecture, NeoxConfig, QkvLayout, Quirks, Why};

pub(super) fn of(config: &NeoxConfig, architecture: &Architecture, quirks: &Quirks, tp_size: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.sequence_parallel && tp_size > 1 {
        let biases =
            architecture.biases_after_reduction() && (architecture.attention_output_bias || architecture.mlp_bias);
        let what = if biases { "norms and row-parallel biases" } else { "norms" };
        warnings.push(format!(
            "sequence_parallel: in training each rank's {what} acted on its own stretch of the sequence; it is evaluated \
             without, as gpt-neox does at inference: each rank uses its own everywhere"
        ));
    }
    if architecture.attention_dropped {
        warnings.push(
            "gpt_j_residual with use_bias_in_mlp: false: gpt-neox loses the attention branch since 2024-09-10, and so does \
             this evaluation; --quirk attention-branch=kept for a model trained before"
                .to_owned(),
        );
    }
    let grouped = architecture.qkv != QkvLayout::Interleaved;
    if grouped && quirks.gqa_layout.why == Why::Default {
        warnings.push(
            "num_kv_heads: taken to lie in blocks of Q, K and V, as since 2024-11-14; --quirk gqa-layout=interleaved for a \
             checkpoint written before"
                .to_owned(),
        );
    }
    warnings
}
