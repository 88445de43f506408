//! The merges that are asked for.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::merge::{MergeError, Strategy};

/// Which merges, and whether those that always lose something are made.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Strategies")]
#[serde(default, rename_all = "kebab-case")]
pub struct StrategyOptions {
    /// A built-in strategy or a strategy file (repeatable)
    #[arg(long = "strategy", value_name = "NAME|FILE")]
    #[serde(rename = "strategy")]
    pub strategies: Vec<String>,
    /// Merge even where no one-rank model equals the unmerged one (qk_layernorm); the report says what is lost
    #[arg(long)]
    pub allow_inexact: bool,
}

impl StrategyOptions {
    /// The strategies; all built-in ones if none is named.
    ///
    /// # Errors
    /// A name that is no strategy's, or a file that is none.
    pub fn resolve(&self) -> Result<Vec<Strategy>, MergeError> {
        let mut strategies = Strategy::resolve_all(&self.strategies)?;
        for strategy in &mut strategies {
            strategy.allow_inexact |= self.allow_inexact;
        }
        Ok(strategies)
    }
}
