//! What a candidate is: which way of merging each of its tensors follows, which strategy that makes of the whole, and, by
//! name, what is otherwise. Inferred from the values alone, a stage at a time; of earlier stages only fingerprints are kept.

mod analysis;
mod conclusion;
mod diagnosis;
mod fingerprint;
mod order;
mod orders;
mod parameter;
mod qkv_orders;
mod reference;
mod sentences;
mod settings;
mod way;
mod words;

pub use analysis::CandidateAnalysis;
pub use conclusion::Conclusion;
pub use reference::Reference;
pub use settings::effective_differences;
pub use words::CandidateException;
