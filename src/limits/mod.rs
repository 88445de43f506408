//! Limits for what a model may lose, and what was proven of them: within, beyond or undecided. A verdict claims no more than it has
//! proven. `gates.rs` reads limits (`amounts.rs` their units), `outcomes.rs` pairs samples, `noise.rs` says what rounding makes of them,
//! `judge.rs` decides, `early.rs` before all
//! passages are seen, `settled.rs` says when to stop, `shown.rs` puts a check into words and numbers.

mod amounts;
mod comparison;
mod early;
mod error;
mod gates;
mod judge;
mod noise;
mod outcomes;
mod settled;
mod shown;
#[cfg(test)]
mod tests;

pub use amounts::{Nats, Percent, Points};
pub(crate) use comparison::{Comparison, Comparisons, Reference};
pub use error::LimitsError;
pub use gates::{Gates, Limit, Limits, Policy};
pub use judge::Outcome;
pub(crate) use judge::{Check, Finding, Judgement, judge};
pub(crate) use noise::Noise;
pub use outcomes::Criterion;
pub(crate) use outcomes::PairedOutcomes;
pub(crate) use settled::{settled, stopping_rule};
pub(crate) use shown::{Rounding, bound, limit, loss, noise_words};
