//! The two linear layers and what stands between them. After gpt-neox `megatron/model/activations.py`.

use tch::Tensor;

use super::parallel::{ColumnParallelLinear, RowParallelLinear};
use super::{ModelError, Uploader};
use crate::config::{Activation, Architecture};
use crate::partition::{Role, StageTensors};

/// The MLP without its output bias's addition.
#[derive(Debug)]
pub(super) struct Mlp {
    input: ColumnParallelLinear,
    /// The second linear layer.
    pub(super) output: RowParallelLinear,
    activation: Activation,
    tanh_gelu: bool,
}

impl Mlp {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
    ) -> Result<Self, ModelError> {
        use Role::{MlpInputBias, MlpInputWeight, MlpOutputBias, MlpOutputWeight};
        Ok(Self {
            input: ColumnParallelLinear::new(stage, architecture, uploader, MlpInputWeight, MlpInputBias)?,
            output: RowParallelLinear::new(stage, architecture, uploader, MlpOutputWeight, MlpOutputBias)?,
            activation: architecture.activation,
            tanh_gelu: architecture.tanh_gelu,
        })
    }

    /// The rank's partial sum `[tokens, hidden]`, without bias.
    pub(super) fn forward(&self, tp_rank: usize, x: &Tensor) -> Result<Tensor, ModelError> {
        let mut parts = self.input.forward(tp_rank, x)?.into_iter();
        let inner = match (parts.next(), parts.next()) {
            (Some(mut up), Some(mut gate)) => {
                self.activate_in_place(&mut gate)?;
                up.f_mul_(&gate)?
            }
            (Some(mut inner), None) => {
                self.activate_in_place(&mut inner)?;
                inner
            }
            (None, _) => return Err(tch::TchError::Kind("the MLP's first layer has no outputs".to_owned()).into()),
        };
        self.output.partial_sum(tp_rank, &inner)
    }

    fn activate_in_place(&self, x: &mut Tensor) -> Result<(), ModelError> {
        let _ = match self.activation {
            Activation::Gelu | Activation::GeGlu => x.f_gelu_(if self.tanh_gelu { "tanh" } else { "none" })?,
            Activation::Relu | Activation::ReGlu => x.f_relu_()?,
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
