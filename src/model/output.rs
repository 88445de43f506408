//! The last stage: final norm and output head, at the target positions only.

use tch::{Device, Kind, Tensor};

use super::backend::wide;
use super::norm::{Norm, NormMeans};
use super::products::LinearWeight;
use super::streams::of_rank;
use super::weights::Owners;
use super::{ModelError, Streams, Uploader};
use crate::config::{Architecture, Head};
use crate::partition::{Role, StageTensors};

#[derive(Debug)]
pub struct OutputStage {
    head: Head,
    norm: Norm,
    weights: Vec<LinearWeight>,
    divisor: f64,
    _owners: Owners,
}

/// The last stage's norm alone.
#[derive(Debug)]
pub struct FinalNorm {
    norm: Norm,
    _owners: Owners,
}

impl FinalNorm {
    pub fn new(stage: &StageTensors, architecture: &Architecture, uploader: &mut Uploader) -> Result<Self, ModelError> {
        let norm = Norm::new(stage, architecture, uploader, Role::FinalNormGain, Role::FinalNormBias)?;
        Ok(Self { norm, _owners: uploader.owners() })
    }

    /// Means of its output over all rows.
    pub fn means(&self, rows: &Streams) -> Result<NormMeans, ModelError> {
        let mut means = NormMeans::default();
        means.add(&self.norm.forward(&rows.0)?)?;
        Ok(means)
    }
}

/// The scores of target tokens under a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetScores {
    /// Natural logarithm of its probability.
    pub logprob: Vec<f64>,
    /// The token of largest logit.
    pub greedy_id: Vec<i64>,
    /// KL(baseline ‖ this model) in nats, where there is a baseline; over the tokens that both know.
    pub kl: Vec<f64>,
    /// The most probable tokens with their log-probabilities, best first; of equal ones the smaller id comes first.
    pub top: Vec<Vec<(i64, f64)>>,
}

/// How many of the most probable tokens are kept.
const TOP_COUNT: i64 = 5;

impl OutputStage {
    pub fn new(stage: &StageTensors, architecture: &Architecture, uploader: &mut Uploader) -> Result<Self, ModelError> {
        let weights = uploader.linear(stage, architecture, Role::HeadWeight)?;
        Ok(Self {
            head: architecture.head,
            norm: Norm::new(stage, architecture, uploader, Role::FinalNormGain, Role::FinalNormBias)?,
            weights: weights.into_iter().flatten().collect(),
            divisor: architecture.multipliers.logit_divisor,
            _owners: uploader.owners(),
        })
    }

    /// Log-probabilities over the padded vocabulary at all rows of the streams, `[rows, vocabulary]`, in float32 (float64 for
    /// float64 models).
    pub fn log_probabilities(&self, rows: &Streams) -> Result<Tensor, ModelError> {
        let logits = self.logits(rows)?;
        Ok(logits.f_log_softmax(-1, wide(logits.kind()))?)
    }

    /// The logits at all rows of the streams, `[rows, vocabulary]`: on a GPU at least in float32, on a CPU in the compute type.
    ///
    /// Each rank's part of the vocabulary comes from that rank's own final norm and stream. A row-parallel head takes
    /// slice r of rank r's normalised stream.
    pub fn logits(&self, rows: &Streams) -> Result<Tensor, ModelError> {
        let mut normed = self.norm.forward(&rows.0)?;
        if self.divisor.total_cmp(&1.0).is_ne() {
            normed = normed.iter().map(|rows| rows.f_div_scalar(self.divisor)).collect::<Result<_, _>>()?;
        }
        match self.head {
            Head::Column | Head::Tied => {
                let parts = self
                    .weights
                    .iter()
                    .enumerate()
                    .map(|(tp_rank, weight)| product(of_rank(&normed, tp_rank), weight))
                    .collect::<Result<Vec<_>, ModelError>>()?;
                Ok(Tensor::f_cat(&parts, -1)?)
            }
            Head::Row | Head::Reward => {
                let (mut total, mut start) = (None::<Tensor>, 0);
                for (tp_rank, weight) in self.weights.iter().enumerate() {
                    let width = weight.inputs()?;
                    let slice = of_rank(&normed, tp_rank).f_narrow(-1, start, width)?;
                    start += width;
                    let partial = product(&slice, weight)?;
                    total = Some(match total {
                        None => partial,
                        Some(mut total) => total.f_add_(&partial)?,
                    });
                }
                total.ok_or_else(|| tch::TchError::Kind("the head has no ranks".to_owned()).into())
            }
        }
    }
}

/// `x Wᵀ`, `[rows, outputs]`. On a GPU the result of 16-bit numbers is float32, as their sums are: logits of 10 and more would
/// lose their third digit, which is half of a 16-bit evaluation's error. A CPU has no such product.
fn product(x: &Tensor, weight: &LinearWeight) -> Result<Tensor, ModelError> {
    match (x.device(), x.kind(), weight) {
        (Device::Cuda(_), Kind::Half | Kind::BFloat16, LinearWeight::Plain(weight)) => {
            Ok(x.f_mm_dtype(&weight.f_transpose(0, 1)?, Kind::Float)?)
        }
        _ => weight.product(x, None),
    }
}

/// The unmerged model's distributions, which those of others are compared with; `[rows, vocabulary]` both.
#[derive(Debug)]
pub struct Reference {
    log_probabilities: Tensor,
    probabilities: Tensor,
}

impl Reference {
    pub fn new(log_probabilities: Tensor) -> Result<Self, ModelError> {
        Ok(Self { probabilities: log_probabilities.f_exp()?, log_probabilities })
    }

    /// KL(reference ‖ other) of every row, in nats, float64.
    ///
    /// A candidate may have fewer or more padding rows than the baseline. Its probabilities are over its own
    /// vocabulary; the divergence is that of both distributions given one of the tokens that both know.
    fn divergence_of(&self, other: &Tensor) -> Result<Tensor, ModelError> {
        let (known, others) = (self.log_probabilities.size()[1], other.size()[1]);
        let weighted = if known == others {
            self.log_probabilities.f_sub(other)?.f_mul_(&self.probabilities)?
        } else {
            let common = known.min(others);
            let (ours, theirs) = (given_first(&self.log_probabilities, common)?, given_first(other, common)?);
            ours.f_sub(&theirs)?.f_mul_(&ours.f_exp()?)?
        };
        Ok(weighted.f_sum_dim_intlist(-1, false, Kind::Double)?)
    }
}

/// Scores of some targets where they were computed: reading them would make a GPU wait.
#[derive(Debug)]
pub struct DeviceScores {
    logprob: Tensor,
    // `None` where it is the first of the most probable.
    greedy_id: Option<Tensor>,
    kl: Option<Tensor>,
    // `[rows, kept]` both.
    top_logprobs: Tensor,
    top_ids: Tensor,
}

impl DeviceScores {
    /// Scores targets `[rows]` by log-probabilities `[rows, vocabulary]`.
    pub fn new(
        log_probabilities: &Tensor,
        targets: &Tensor,
        reference: Option<&Reference>,
    ) -> Result<Self, ModelError> {
        let logprob = log_probabilities.f_gather(-1, &targets.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
        let (top_logprobs, top_ids) =
            log_probabilities.f_topk(TOP_COUNT.min(log_probabilities.size()[1]), -1, true, true)?;
        // The first of several that are equally likely may not be among those kept. Asking would make a GPU wait.
        let settled = log_probabilities.device() == Device::Cpu && is_settled(&top_logprobs)?;
        let greedy_id = if settled { None } else { Some(log_probabilities.f_argmax(-1, false)?) };
        let kl = match reference {
            None => None,
            Some(reference) => Some(reference.divergence_of(log_probabilities)?),
        };
        Ok(Self { logprob, greedy_id, kl, top_logprobs, top_ids })
    }
}

impl TargetScores {
    pub fn read(parts: &[DeviceScores]) -> Result<Self, ModelError> {
        let mut scores = Self::default();
        for part in parts {
            scores.logprob.extend(to_vec_f64(&part.logprob)?);
            let top = top_tokens(&part.top_logprobs, &part.top_ids)?;
            match &part.greedy_id {
                Some(ids) => scores.greedy_id.extend(Vec::<i64>::try_from(ids)?),
                None => scores.greedy_id.extend(top.iter().filter_map(|row| row.first()).map(|&(id, _)| id)),
            }
            if let Some(kl) = &part.kl {
                scores.kl.extend(to_vec_f64(kl)?);
            }
            scores.top.extend(top);
        }
        Ok(scores)
    }
}

/// Log-probabilities `[rows, vocabulary]` given that it is one of the first `count` tokens, `[rows, count]`.
fn given_first(log_probabilities: &Tensor, count: i64) -> Result<Tensor, ModelError> {
    if log_probabilities.size()[1] == count {
        return Ok(log_probabilities.shallow_clone());
    }
    Ok(log_probabilities.f_narrow(-1, 0, count)?.f_log_softmax(-1, log_probabilities.kind())?)
}

/// Tokens with their log-probabilities `[rows, kept]`, most probable first, then by id.
fn top_tokens(logprobs: &Tensor, ids: &Tensor) -> Result<Vec<Vec<(i64, f64)>>, ModelError> {
    let width = usize::try_from(ids.size()[1]).unwrap_or(1).max(1);
    let (values, ids) = (to_vec_f64(&logprobs.f_flatten(0, -1)?)?, Vec::<i64>::try_from(&ids.f_flatten(0, -1)?)?);
    let rows = ids.chunks(width).zip(values.chunks(width)).map(|(ids, values)| {
        let mut row: Vec<_> = ids.iter().copied().zip(values.iter().copied()).collect();
        row.sort_by(|(one, first), (other, second)| second.total_cmp(first).then(one.cmp(other)));
        row
    });
    Ok(rows.collect())
}

/// Whether in every row the most probable token is more probable than the last of those kept: then no token of the same
/// probability was left out, and the first by id is among them.
fn is_settled(logprobs: &Tensor) -> Result<bool, ModelError> {
    let ahead = logprobs.f_select(-1, 0)?.f_gt_tensor(&logprobs.f_select(-1, -1)?)?;
    Ok(ahead.f_all()?.f_int64_value(&[])? != 0)
}

fn to_vec_f64(tensor: &Tensor) -> Result<Vec<f64>, ModelError> {
    Ok(Vec::<f64>::try_from(&tensor.f_to_kind(Kind::Double)?)?)
}
