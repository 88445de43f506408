//! How the files of a checkpoint are read, where they do not show it themselves.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::text::{as_list, as_option};
use crate::checkpoint::OpenOptions;
use crate::config::{Era, QuirkOptions, QuirkSetting};

/// How to read what gpt-neox or Megatron-LM wrote.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Model")]
#[serde(default, rename_all = "kebab-case")]
pub struct ReadingOptions {
    /// Use this configuration instead of the one saved with the checkpoint (repeatable: files are combined)
    #[arg(long, value_name = "FILE")]
    pub neox_config: Vec<PathBuf>,
    /// When gpt-neox wrote the checkpoint: a date (2022-12-10) or the name of an era
    ///
    /// Needed only where the files do not show it. Eras: branch-2021, norm-of-norm, 20b, tied-inverted, pythia,
    /// gqa-interleaved, head. `inspect` shows what follows from it.
    #[arg(long, value_name = "NAME|DATE")]
    #[serde(with = "as_option")]
    pub era: Option<Era>,
    /// Override one property that depends on gpt-neox's version (repeatable); `inspect` lists them
    #[arg(long = "quirk", value_name = "NAME=VALUE")]
    #[serde(with = "as_list", rename = "quirk")]
    pub quirks: Vec<QuirkSetting>,
    /// Fields of Megatron-LM's arguments as JSON or YAML, used before those in the checkpoint (repeatable)
    #[arg(long, value_name = "FILE")]
    pub megatron_args: Vec<PathBuf>,
}

impl ReadingOptions {
    pub(crate) fn open_options(&self) -> OpenOptions {
        let quirks = QuirkOptions { era: self.era.clone(), settings: self.quirks.clone() };
        OpenOptions { config_files: self.neox_config.clone(), quirks, megatron_args: self.megatron_args.clone() }
    }
}
