//! Statistics: plain numbers in, estimates with their uncertainty out. Knows nothing of samples, files or models.
//!
//! | Question | Default method | File |
//! | --- | --- | --- |
//! | accuracy of one model | lm-eval's standard error, Wilson interval | `proportion.rs` |
//! | perplexity of one model | delta-method standard error | `perplexity.rs` |
//! | accuracy lost to a merge | exact `McNemar` test, Tango's paired score interval | `paired.rs` |
//! | likelihood or perplexity lost to a merge | seeded paired bootstrap over passages | `bootstrap.rs` |
//! | several strategies at once | Holm's correction | `multiple.rs` |
//! | is a loss within a limit | one-sided bounds: Tango, Clopper and Pearson, a mean without its skewness | `verdict.rs`, `measured.rs`, `mean_bound.rs` |
//! | how many passages that takes | the same bounds at the rates seen | `plan.rs` |
//! | the same at any number of passages | confidence sequences by betting, asymptotic ones | `early.rs`, `betting.rs`, `asymptotic.rs` |
//! | distance per token | the list of llama.cpp `--kl-divergence` | `fidelity.rs` |
//!
//! Every function refuses empty input, NaN and infinities with a [`StatsError`], and gives `None` where a single
//! observation leaves no spread to estimate. `report` decides which of them are computed and shown.

mod asymptotic;
mod betting;
mod bootstrap;
mod confidence;
mod early;
mod error;
mod fidelity;
mod mean;
mod mean_bound;
mod measured;
mod multiple;
mod paired;
mod perplexity;
mod plan;
mod proportion;
mod quantile;
mod tail;
mod threshold;
mod verdict;

#[cfg(test)]
mod bound_tests;
#[cfg(test)]
mod tests;

pub use asymptotic::AsymptoticSequence;
pub use betting::Betting;
pub use bootstrap::{Estimate, PairedBootstrap, PairedLosses};
pub use confidence::{Confidence, Interval};
pub use early::EarlyLook;
pub use error::StatsError;
pub use fidelity::{Fidelity, TokenPairs};
pub use mean::mean;
pub use mean_bound::{FEWEST_PASSAGES, SampledMean};
pub use measured::Measured;
pub(crate) use multiple::holm;
pub use paired::PairedCounts;
pub use perplexity::{perplexity, perplexity_stderr};
pub use plan::{POWER, assumed_mean, passages_to_prove, smallest_detectable};
pub(crate) use proportion::Proportion;
pub(crate) use quantile::quantile;
pub use threshold::Threshold;
pub use verdict::{Decision, Verdict, decide};
