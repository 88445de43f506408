//! The check that a checkpoint brings along: with `checkpoint_validation_with_forward_pass` gpt-neox stores the
//! model's outputs for tokens 0, 1, 2, … at the time it was saved. The unmerged forward pass must reproduce them.
//!
//! Despite its name `checkpoint_validation_logits` mostly holds no logits: the loss works in place, so after a training
//! step it is this rank's slice of the softmax over the whole vocabulary; saved from an engine that gathers first, it
//! is the gathered softmax divided by the number of ranks. Shape and sums show which one it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::EvalError;
use super::budget::default_chunk_tokens;
use super::chunk_plan::ChunkPlan;
use super::device_run::{DeviceRun, StageInput};
use super::packing::TokenizedPassage;
use crate::checkpoint::{Checkpoint, ModelSource};
use crate::model::{Backend, ModelError, Uploader, to_i64};
use crate::partition::StageId;
use crate::tensor::{DType, HostTensor};

/// The form of the stored values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StoredForm {
    /// The rank's slice of the softmax over the whole padded vocabulary.
    SoftmaxSlice,
    /// The softmax over the whole padded vocabulary, divided by the number of ranks; the same on every rank.
    GatheredSoftmax,
    /// The rank's slice of the logits.
    LogitSlice,
    /// All logits, the same on every rank.
    GatheredLogits,
}

impl std::fmt::Display for StoredForm {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::SoftmaxSlice => "each rank's slice of the softmax",
            Self::GatheredSoftmax => "the gathered softmax, divided by the number of ranks",
            Self::LogitSlice => "each rank's slice of the logits",
            Self::GatheredLogits => "the gathered logits",
        })
    }
}

/// How the forward pass compares with what the checkpoint stores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SelfCheck {
    /// The form of the stored values.
    pub form: StoredForm,
    /// Positions compared.
    pub positions: usize,
    /// Largest absolute difference of a probability (of a logit, where logits are stored).
    pub max_abs_difference: f64,
    /// The largest difference that rounding in the type that gpt-neox computed in can explain.
    pub tolerance: f64,
}

impl SelfCheck {
    /// Whether the forward pass does what gpt-neox did: to 1e-5, or to a step of the type that gpt-neox computed in.
    pub fn agrees(&self) -> bool {
        self.max_abs_difference <= self.tolerance
    }
}

/// Runs the unmerged model on tokens 0, 1, 2, … and compares; `None` if the checkpoint stores nothing to compare with.
pub fn self_check(checkpoint: &Checkpoint, backend: Backend) -> Result<Option<SelfCheck>, EvalError> {
    let stored = checkpoint.validation_logits()?;
    let Some(first) = stored.first() else { return Ok(None) };
    checkpoint.check_evaluation()?;
    let architecture = checkpoint.architecture();
    if architecture.soft_prompt_length > 0 {
        // It is not known where the prompt went in that pass.
        return Ok(None);
    }
    let &[positions, width] = first.shape() else { return Ok(None) };
    let failed = |source| EvalError::Model { stage: StageId::Output, source };
    let form = form_of(&stored, width, architecture.padded_vocab_size).map_err(failed)?;
    let _no_grad = tch::no_grad_guard();
    let input_ids = (0_i64..).take(positions).collect();
    let passage = TokenizedPassage { index: 0, input_ids, target_ids: vec![0] };
    let plan = ChunkPlan::new(vec![passage], default_chunk_tokens(backend));
    let mut run = DeviceRun::new(architecture, backend, &plan.everything()).map_err(EvalError::Device)?;
    let mut stream = None;
    let mut logits = None;
    for id in checkpoint.stage_ids() {
        let stage = checkpoint.read_stage(id)?;
        let failed = |source| EvalError::Model { stage: id, source };
        if let (StageId::Output, Some(stream)) = (id, stream) {
            logits = Some(run.all_logits(architecture, &stage, stream).map_err(failed)?);
        } else {
            let mut uploader = Uploader::new(backend);
            let input = StageInput { stream, last_use: true, targets_only: false };
            let stage = run.build(architecture, &stage, &mut uploader, false).map_err(failed)?;
            stream = Some(run.run(&stage, input, None, &|_| {}).map_err(failed)?);
        }
    }
    let Some(logits) = logits else { return Ok(None) };
    let max_abs_difference = difference(&logits, &stored, form).map_err(failed)?;
    // A step of the type at 1, at least 1e-5.
    let tolerance = match checkpoint.dtype() {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => 1e-5,
    };
    Ok(Some(SelfCheck { form, positions, max_abs_difference, tolerance }))
}

fn form_of(stored: &[HostTensor], width: usize, vocabulary: usize) -> Result<StoredForm, ModelError> {
    let values = stored.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
    let gathered = width == vocabulary;
    let ranks = if gathered { &values[..1] } else { &values[..] };
    let (mut sum, mut least) = (0.0, f64::INFINITY);
    for rank in ranks {
        sum += rank.f_select(0, 0)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        least = least.min(rank.f_min()?.f_double_value(&[])?);
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let expected = if gathered { 1.0 / stored.len() as f64 } else { 1.0 };
    let softmax = least >= 0.0 && (sum - expected).abs() < 1e-2;
    Ok(match (softmax, gathered) {
        (true, false) => StoredForm::SoftmaxSlice,
        (true, true) => StoredForm::GatheredSoftmax,
        (false, false) => StoredForm::LogitSlice,
        (false, true) => StoredForm::GatheredLogits,
    })
}

/// Largest absolute difference between the outputs and the stored values, rank by rank.
fn difference(logits: &Tensor, stored: &[HostTensor], form: StoredForm) -> Result<f64, ModelError> {
    let logits = logits.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double)?;
    let probabilities = logits.f_softmax(-1, Kind::Double)?;
    let mut worst = 0.0_f64;
    let mut start = 0;
    for stored in stored {
        let stored = tensor(stored)?;
        let width = stored.size()[1];
        let expected = match form {
            StoredForm::SoftmaxSlice => probabilities.f_narrow(1, start, width)?,
            StoredForm::LogitSlice => logits.f_narrow(1, start, width)?,
            StoredForm::GatheredSoftmax => probabilities.shallow_clone(),
            StoredForm::GatheredLogits => logits.shallow_clone(),
        };
        // Gathered probabilities are stored divided by the number of ranks; by how much follows from their sum.
        let scale = match form {
            StoredForm::GatheredSoftmax => stored.f_select(0, 0)?.f_sum(Kind::Double)?.f_double_value(&[])?,
            _ => 1.0,
        };
        let difference = stored.f_sub(&expected.f_mul_scalar(scale)?)?.f_abs()?.f_max()?.f_double_value(&[])?;
        // `max` would pass over a NaN, which is no agreement.
        worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
        start += width;
    }
    Ok(worst)
}

fn tensor(host: &HostTensor) -> Result<Tensor, ModelError> {
    let shape = host.shape().iter().map(|&extent| to_i64(extent)).collect::<Vec<_>>();
    let values = host.to_f64().map_err(|error| tch::TchError::Kind(error.to_string()))?;
    Ok(Tensor::f_from_slice(&values)?.f_reshape(shape)?)
}
