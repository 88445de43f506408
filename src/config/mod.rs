//! The model's settings: gpt-neox configuration files as one typed, validated value ([`NeoxConfig`]). [`Architecture`]
//! combines it with what the tensors show ([`Observed`]) and what depends on gpt-neox's version ([`Quirks`]). Nothing here
//! reads weights: that is `checkpoint`, one level up.

mod architecture;
mod choices;
mod client_args;
mod era;
mod error;
mod forms;
mod keys;
mod nearest;
mod neox;
mod neox_settings;
mod observed;
mod parse;
mod quirk_setting;
mod quirk_values;
mod quirks;
pub(crate) mod refusals;
mod summary;
mod unknown_keys;
mod unsupported;
mod values;
mod yaml;

#[cfg(test)]
mod tests;

pub use architecture::Architecture;
pub use choices::{Activation, AttentionKind, MlpType, Norm, OutputLayerParallelism, PositionEmbedding, Precision};
pub use client_args::ClientArgs;
pub use era::{Date, Era};
pub use error::{ConfigError, KeyPlace};
pub use forms::{
    Head, MlpInput, MlpMatrices, Multipliers, NormForm, Positions, QkvLayout, QueryKeyNorm, Residual, RotaryScaling,
};
pub use nearest::{did_you_mean, nearest_name};
pub use neox::{Mup, NeoxConfig, TransformerEngine};
pub(crate) use neox_settings::share_of;
pub use observed::Observed;
pub(crate) use quirk_setting::GQA_LAYOUT;
pub use quirk_setting::QuirkSetting;
pub use quirk_values::{
    AttentionBranch, EpsilonPlacement, GqaLayout, MaskValue, MlpNormInput, NormTying, Reduction, RotaryTables,
};
pub use quirks::{Decision, QuirkLine, QuirkOptions, Quirks, Why};
pub use unsupported::Unsupported;
pub use yaml::{Sources, read_files};
