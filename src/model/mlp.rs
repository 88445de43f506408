//! The two linear layers and the activation between them. After gpt-neox `megatron/model/activations.py`.

use tch::Tensor;

use super::parallel::{ColumnParallelLinear, RowParallelLinear};
use super::{ModelError, Uploader, kernels};
use crate::config::{Activation, Architecture, MlpMatrices};
use crate::partition::{Role, StageTensors};

/// √2 as gpt-neox's `onnx_safe` GELU has it.
#[expect(clippy::approx_constant, reason = "gpt-neox rounds it so")]
const ONNX_SAFE_SQRT_2: f64 = 1.41421;

/// The MLP without its output bias's addition.
#[derive(Debug)]
pub(super) struct Mlp {
    input: Input,
    pub(super) output: RowParallelLinear,
    activation: Activation,
    tanh_gelu: bool,
    onnx_gelu: bool,
}

#[derive(Debug)]
enum Input {
    /// One matrix: `[up | gate]` where it is gated.
    UpGate(ColumnParallelLinear),
    /// One matrix: `[gate | up]` where it is gated.
    GateUp(ColumnParallelLinear),
    /// Two.
    Separate { gate: ColumnParallelLinear, up: ColumnParallelLinear },
}

impl Mlp {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
    ) -> Result<Self, ModelError> {
        use Role::{MlpGateWeight, MlpInputBias, MlpInputWeight, MlpOutputBias, MlpOutputWeight, MlpUpWeight};
        let mut linear = |weight| ColumnParallelLinear::new(stage, architecture, uploader, weight, MlpInputBias);
        let input = match architecture.mlp_matrices {
            MlpMatrices::UpGate => Input::UpGate(linear(MlpInputWeight)?),
            MlpMatrices::TransformerEngine => Input::GateUp(linear(MlpInputWeight)?),
            MlpMatrices::Separate => Input::Separate { gate: linear(MlpGateWeight)?, up: linear(MlpUpWeight)? },
        };
        Ok(Self {
            input,
            output: RowParallelLinear::new(stage, architecture, uploader, MlpOutputWeight, MlpOutputBias)?,
            activation: architecture.activation,
            tanh_gelu: architecture.tanh_gelu,
            onnx_gelu: architecture.onnx_gelu,
        })
    }

    /// The input of the rank's second linear layer, `[tokens, inner size / ranks]`.
    pub(super) fn forward(&self, tp_rank: usize, x: &Tensor) -> Result<Tensor, ModelError> {
        let (up, gate) = match &self.input {
            Input::UpGate(linear) => two_of(linear.forward(tp_rank, x)?)?,
            Input::GateUp(linear) => match two_of(linear.forward(tp_rank, x)?)? {
                (gate, Some(up)) => (up, Some(gate)),
                ungated => ungated,
            },
            Input::Separate { gate, up } => {
                (two_of(up.forward(tp_rank, x)?)?.0, Some(two_of(gate.forward(tp_rank, x)?)?.0))
            }
        };
        match (up, gate) {
            (mut up, Some(mut gate)) => {
                self.activate_in_place(&mut gate)?;
                Ok(up.f_mul_(&gate)?)
            }
            (mut inner, None) => {
                self.activate_in_place(&mut inner)?;
                Ok(inner)
            }
        }
    }

    fn activate_in_place(&self, x: &mut Tensor) -> Result<(), ModelError> {
        let _ = match self.activation {
            Activation::Gelu if self.onnx_gelu => {
                let share = x.f_div_scalar(ONNX_SAFE_SQRT_2)?.f_erf_()?.f_add_scalar_(1)?.f_mul_scalar_(0.5)?;
                x.f_mul_(&share)?
            }
            Activation::Gelu | Activation::GeGlu if self.tanh_gelu && kernels::gelu_tanh(x) => return Ok(()),
            Activation::Gelu | Activation::GeGlu => x.f_gelu_(if self.tanh_gelu { "tanh" } else { "none" })?,
            Activation::Relu | Activation::ReGlu => x.f_relu_()?,
            Activation::SquaredRelu => x.f_relu_()?.f_square_()?,
            Activation::Softsign => {
                let denominator = x.f_abs()?.f_add_scalar(1)?;
                x.f_div_(&denominator)?
            }
            Activation::Swish | Activation::Silu | Activation::SwiGlu => x.f_silu_()?,
            Activation::Mish => x.f_mish_()?,
            Activation::Glu => x.f_sigmoid_()?,
            Activation::Bilinear => return Ok(()),
        };
        Ok(())
    }
}

/// The first part and, where there is one, the second.
fn two_of(parts: Vec<Tensor>) -> Result<(Tensor, Option<Tensor>), ModelError> {
    let mut parts = parts.into_iter();
    match parts.next() {
        Some(first) => Ok((first, parts.next())),
        None => Err(tch::TchError::Kind("the MLP's first layer has no outputs".to_owned()).into()),
    }
}
