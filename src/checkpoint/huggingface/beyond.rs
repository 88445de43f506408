//! What a model has that no setting of gpt-neox says.

use crate::config::{Activation, Architecture, Positions, QueryKeyNorm, RotaryScaling};

#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties of a model")]
pub(super) struct Beyond {
    /// Where it is not the number of heads times their size, which gpt-neox's setting then is.
    pub hidden_size: Option<usize>,
    /// Whether queries, keys and values have biases, and the attention's output has none.
    pub qkv_bias: bool,
    pub per_head_norms: bool,
    pub scaling: Option<RotaryScaling>,
    pub squared_relu: bool,
    /// Whether GELU of the gate is the tanh form.
    pub tanh_gate: bool,
}

impl Beyond {
    pub(super) fn apply(self, architecture: &mut Architecture) {
        if let Some(hidden_size) = self.hidden_size {
            architecture.hidden_size = hidden_size;
        }
        if self.qkv_bias {
            (architecture.qkv_bias, architecture.attention_output_bias) = (true, false);
        }
        if self.per_head_norms {
            architecture.query_key_norm = Some(QueryKeyNorm::PerHead);
        }
        if let Positions::Rotary { scaling, .. } = &mut architecture.positions {
            *scaling = self.scaling;
        }
        if self.squared_relu {
            architecture.activation = Activation::SquaredRelu;
        }
        architecture.tanh_gelu |= self.tanh_gate;
    }
}
