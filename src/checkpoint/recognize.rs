//! Recognising folders by what is in them.

use std::path::{Path, PathBuf};

use super::huggingface::files::{holds_model_of_neox, is_hugging_face};
use super::other_format::OtherFormat;

impl OtherFormat {
    pub(super) fn at(folder: &Path) -> Option<Self> {
        let names = names(folder);
        let has = |name: &str| names.iter().any(|known| known == name);
        let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
        let steps = names.iter().filter(|name| name.starts_with("iter_") || *name == "release");
        let inside = || steps.clone().map(|name| folder.join(name)).find_map(|step| Self::megatron(&step));
        if has("zero") && folder.join("zero").is_dir() || has("latest_universal") {
            Some(Self::Universal)
        } else if ends(".nemo") || has("model_weights") || has("model_weights.ckpt") {
            Some(Self::Nemo)
        } else if let Some(found) = Self::megatron(folder).or_else(inside) {
            Some(found)
        } else if has("latest_checkpointed_iteration.txt") {
            Some(Self::Megatron)
        } else if !is_hugging_face(folder) {
            None
        } else if is_output_of_zero(folder) {
            Some(Self::ZeroShards)
        } else {
            Some(Self::HuggingFace)
        }
    }

    fn megatron(step: &Path) -> Option<Self> {
        let names = names(step);
        let of_rank =
            |name: &&String| name.starts_with("mp_rank_") && step.join(name).join("model_optim_rng.pt").is_file();
        if names.iter().any(|name| name == ".metadata" || name == "metadata.json" || name.ends_with(".distcp")) {
            Some(Self::Distributed)
        } else {
            names.iter().find(of_rank).map(|_| Self::Megatron)
        }
    }
}

/// Names in a folder; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a folder holds what `zero_to_fp32.py` writes, in any form: names of gpt-neox in files named as transformers does.
pub(super) fn is_output_of_zero(folder: &Path) -> bool {
    !folder.join("config.json").is_file() && holds_model_of_neox(folder)
}

pub(super) fn zero_dictionary(folder: &Path) -> Option<PathBuf> {
    let file = folder.join("pytorch_model.bin");
    (file.is_file() && is_output_of_zero(folder)).then_some(file)
}
