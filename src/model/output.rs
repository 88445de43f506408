//! The last stage: final norm and output head, at the target positions only.

use tch::{Kind, Tensor};

use super::norm::{Norm, NormMeans};
use super::parallel::reduce_into;
use super::streams::of_rank;
use super::{ModelError, Streams, Uploader};
use crate::config::{Architecture, Head};
use crate::partition::{Role, StageTensors};
use crate::tensor::HostTensor;

/// Final norm and output head.
#[derive(Debug)]
pub struct OutputStage {
    head: Head,
    norm: Norm,
    weights: Vec<Tensor>,
    divisor: f64,
    // On the CPU weights may be views of these.
    _owners: Vec<HostTensor>,
}

/// What a model says of each target token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetScores {
    /// Natural logarithm of its probability.
    pub logprob: Vec<f64>,
    /// The token of largest logit.
    pub greedy_id: Vec<i64>,
    /// KL(baseline ‖ this model) in nats, where there is a baseline; over the tokens that both know.
    pub kl: Vec<f64>,
}

impl OutputStage {
    /// From the tensors of the output stage.
    ///
    /// # Errors
    /// The stage lacks a parameter, or libtorch fails.
    pub fn new(stage: &StageTensors, architecture: &Architecture, uploader: &mut Uploader) -> Result<Self, ModelError> {
        let weights = uploader.per_rank(stage, architecture, Role::HeadWeight)?;
        Ok(Self {
            head: architecture.head,
            norm: Norm::new(stage, architecture, uploader, Role::FinalNormGain, Role::FinalNormBias)?,
            weights: weights.into_iter().flatten().collect(),
            divisor: architecture.multipliers.logit_divisor,
            _owners: uploader.owners(),
        })
    }

    /// Log-probabilities over the padded vocabulary at the given packed rows, `[rows, vocabulary]`, in float32 (float64
    /// for float64 models).
    ///
    /// Each rank's share of the vocabulary comes from that rank's own final norm and stream. A row-parallel head takes
    /// slice r of rank r's normalised stream.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn log_probabilities(&self, streams: &Streams, rows: &Tensor) -> Result<Tensor, ModelError> {
        let logits = self.logits(streams, rows)?;
        let wide = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        Ok(logits.f_log_softmax(-1, wide)?)
    }

    /// Means over the given packed rows of what the final norm puts out.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn norm_means(&self, streams: &Streams, rows: &Tensor) -> Result<NormMeans, ModelError> {
        let mut means = NormMeans::default();
        means.add(&self.normed(streams, rows)?)?;
        Ok(means)
    }

    fn normed(&self, streams: &Streams, rows: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        let picked = (0..streams.count())
            .map(|tp_rank| Ok(streams.of_rank(tp_rank).f_index_select(0, rows)?))
            .collect::<Result<Vec<_>, ModelError>>()?;
        self.norm.forward(&picked)
    }

    /// The logits `[rows, vocabulary]` at the given packed rows, in the compute type.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn logits(&self, streams: &Streams, rows: &Tensor) -> Result<Tensor, ModelError> {
        let mut normed = self.normed(streams, rows)?;
        if self.divisor.total_cmp(&1.0).is_ne() {
            normed = normed.iter().map(|rows| rows.f_div_scalar(self.divisor)).collect::<Result<_, _>>()?;
        }
        match self.head {
            Head::Column | Head::Tied => {
                let shares = self
                    .weights
                    .iter()
                    .enumerate()
                    .map(|(tp_rank, weight)| Ok(of_rank(&normed, tp_rank).f_linear(weight, None::<&Tensor>)?))
                    .collect::<Result<Vec<_>, ModelError>>()?;
                Ok(Tensor::f_cat(&shares, -1)?)
            }
            Head::Row | Head::Reward => {
                let (mut total, mut start) = (None, 0);
                for (tp_rank, weight) in self.weights.iter().enumerate() {
                    let width = weight.size()[1];
                    let slice = of_rank(&normed, tp_rank).f_narrow(-1, start, width)?;
                    start += width;
                    total = Some(reduce_into(total, slice.f_linear(weight, None::<&Tensor>)?)?);
                }
                total.ok_or_else(|| tch::TchError::Kind("the head has no ranks".to_owned()).into())
            }
        }
    }
}

impl TargetScores {
    /// Scores targets `[rows]` by log-probabilities `[rows, vocabulary]`; `baseline` are the unmerged model's.
    ///
    /// A model made elsewhere may have fewer or more padding rows than the baseline. Its probabilities are over its own
    /// vocabulary; the divergence is that of both distributions given one of the tokens that both know.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn new(log_probabilities: &Tensor, targets: &Tensor, baseline: Option<&Tensor>) -> Result<Self, ModelError> {
        let logprob = log_probabilities.f_gather(-1, &targets.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
        let greedy = log_probabilities.f_argmax(-1, false)?;
        let kl = match baseline {
            None => Vec::new(),
            Some(baseline) => {
                let common = baseline.size()[1].min(log_probabilities.size()[1]);
                let (baseline, own) = (given_first(baseline, common)?, given_first(log_probabilities, common)?);
                let difference = baseline.f_sub(&own)?;
                let kl = baseline.f_exp()?.f_mul_(&difference)?.f_sum_dim_intlist(-1, false, Kind::Double)?;
                to_vec_f64(&kl)?
            }
        };
        Ok(Self { logprob: to_vec_f64(&logprob)?, greedy_id: Vec::<i64>::try_from(&greedy)?, kl })
    }

    /// Adds the scores of further targets.
    pub fn extend(&mut self, other: Self) {
        self.logprob.extend(other.logprob);
        self.greedy_id.extend(other.greedy_id);
        self.kl.extend(other.kl);
    }
}

/// Log-probabilities `[rows, vocabulary]` given that it is one of the first `count` tokens, `[rows, count]`.
fn given_first(log_probabilities: &Tensor, count: i64) -> Result<Tensor, ModelError> {
    if log_probabilities.size()[1] == count {
        return Ok(log_probabilities.shallow_clone());
    }
    Ok(log_probabilities.f_narrow(-1, 0, count)?.f_log_softmax(-1, log_probabilities.kind())?)
}

fn to_vec_f64(tensor: &Tensor) -> Result<Vec<f64>, ModelError> {
    Ok(Vec::<f64>::try_from(&tensor.f_to_kind(Kind::Double)?)?)
}
