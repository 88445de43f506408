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
    /// KL(baseline ‖ this model) in nats, where there is a baseline.
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
        self.log_probabilities_of(&streams.select(rows)?)
    }

    /// As [`OutputStage::log_probabilities`], at all rows of the streams.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn log_probabilities_of(&self, rows: &Streams) -> Result<Tensor, ModelError> {
        let logits = self.logits_of(rows)?;
        let wide = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        Ok(logits.f_log_softmax(-1, wide)?)
    }

    /// Means over the given packed rows of what the final norm puts out.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn norm_means(&self, streams: &Streams, rows: &Tensor) -> Result<NormMeans, ModelError> {
        let mut means = NormMeans::default();
        means.add(&self.norm.forward(streams.select(rows)?.tensors())?)?;
        Ok(means)
    }

    /// The logits `[rows, vocabulary]` at the given packed rows, in the compute type.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn logits(&self, streams: &Streams, rows: &Tensor) -> Result<Tensor, ModelError> {
        self.logits_of(&streams.select(rows)?)
    }

    /// The logits at all rows of the streams, `[rows, vocabulary]`, in the compute type.
    fn logits_of(&self, rows: &Streams) -> Result<Tensor, ModelError> {
        let mut normed = self.norm.forward(rows.tensors())?;
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

/// The unmerged model's distributions, which those of others are compared with; `[rows, vocabulary]` both.
#[derive(Debug)]
pub struct Reference {
    log_probabilities: Tensor,
    probabilities: Tensor,
}

impl Reference {
    /// From log-probabilities `[rows, vocabulary]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn new(log_probabilities: Tensor) -> Result<Self, ModelError> {
        Ok(Self { probabilities: log_probabilities.f_exp()?, log_probabilities })
    }
}

/// Scores of some targets where they were computed: reading them would make a GPU wait.
#[derive(Debug)]
pub struct DeviceScores {
    logprob: Tensor,
    greedy_id: Tensor,
    kl: Option<Tensor>,
}

impl DeviceScores {
    /// Scores targets `[rows]` by log-probabilities `[rows, vocabulary]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn new(
        log_probabilities: &Tensor,
        targets: &Tensor,
        reference: Option<&Reference>,
    ) -> Result<Self, ModelError> {
        let logprob = log_probabilities.f_gather(-1, &targets.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
        let greedy_id = log_probabilities.f_argmax(-1, false)?;
        let kl = match reference {
            None => None,
            Some(Reference { log_probabilities: baseline, probabilities }) => {
                let divergence = baseline.f_sub(log_probabilities)?.f_mul_(probabilities)?;
                Some(divergence.f_sum_dim_intlist(-1, false, Kind::Double)?)
            }
        };
        Ok(Self { logprob, greedy_id, kl })
    }
}

impl TargetScores {
    /// The scores of all parts, in order.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn read(parts: &[DeviceScores]) -> Result<Self, ModelError> {
        if parts.is_empty() {
            return Ok(Self::default());
        }
        let joined = |tensors: Vec<&Tensor>| Tensor::f_cat(&tensors, 0);
        let kl: Vec<_> = parts.iter().filter_map(|part| part.kl.as_ref()).collect();
        Ok(Self {
            logprob: to_vec_f64(&joined(parts.iter().map(|part| &part.logprob).collect())?)?,
            greedy_id: Vec::<i64>::try_from(&joined(parts.iter().map(|part| &part.greedy_id).collect())?)?,
            kl: if kl.is_empty() { Vec::new() } else { to_vec_f64(&joined(kl)?)? },
        })
    }
}

fn to_vec_f64(tensor: &Tensor) -> Result<Vec<f64>, ModelError> {
    Ok(Vec::<f64>::try_from(&tensor.f_to_kind(Kind::Double)?)?)
}
