//! The numbers of layer files. gpt-neox numbers its modules, functions without parameters included: the embedding is 0, a
//! trained prompt 1 (and all after it one more), layers begin at 2, the final norm is two behind the last layer and the head
//! one behind that (`megatron/model/gpt2_model.py`, `GPT2ModelPipe.init_specs`).

use std::path::Path;

use super::error::CheckpointError;
use super::inventory::FileStage;
use crate::config::Architecture;
use crate::partition::StageKind;

/// Compares the numbers with gpt-neox's. A note where they differ but leave no doubt about the order.
pub(super) fn check(folder: &Path, stages: &[FileStage]) -> Result<Option<String>, CheckpointError> {
    let numbered: Vec<_> = stages.iter().map(|stage| (stage.kind, stage.index)).collect();
    match compare(&numbered) {
        Numbers::Standard => Ok(None),
        Numbers::Shifted(note) => Ok(Some(note)),
        Numbers::Unclear(found) => Err(CheckpointError::LayerNumbers { folder: folder.to_owned(), found }),
    }
}

/// The number that gpt-neox gives a stage; `nth` says which of the layers.
pub fn stage_number(architecture: &Architecture, kind: StageKind, nth: usize) -> usize {
    number(kind, nth, architecture.layer_count, usize::from(architecture.soft_prompt_length > 0))
}

fn number(kind: StageKind, nth: usize, layer_count: usize, prompt: usize) -> usize {
    match kind {
        StageKind::Embedding => 0,
        StageKind::SoftPrompt => 1,
        StageKind::Layer => 2 + prompt + nth,
        StageKind::FinalNorm => layer_count + 3 + prompt,
        StageKind::Head => layer_count + 4 + prompt,
    }
}

#[derive(Debug, PartialEq)]
enum Numbers {
    Standard,
    Shifted(String),
    Unclear(String),
}

fn compare(stages: &[(StageKind, usize)]) -> Numbers {
    let of = |kind: StageKind| stages.iter().filter(move |stage| stage.0 == kind).map(|stage| stage.1);
    let first_of = |kind| of(kind).next();
    let layers: Vec<usize> = of(StageKind::Layer).collect();
    let (Some(&first), Some(&last)) = (layers.first(), layers.last()) else { return Numbers::Standard };
    let prompt = usize::from(first_of(StageKind::SoftPrompt).is_some());
    let expected = |kind| number(kind, 0, layers.len(), prompt);
    if layers.windows(2).any(|pair| pair[0] + 1 != pair[1]) {
        let numbers: Vec<_> = layers.iter().map(usize::to_string).collect();
        return Numbers::Unclear(format!("layers are numbered {}, with a gap between them", numbers.join(", ")));
    }
    let order = [
        ("the embedding", first_of(StageKind::Embedding)),
        ("the trained prompt", first_of(StageKind::SoftPrompt)),
        ("the first layer", Some(first)),
        ("the last layer", Some(last)),
        ("the final norm", first_of(StageKind::FinalNorm)),
        ("the head", first_of(StageKind::Head)),
    ];
    let present: Vec<_> = order.into_iter().filter_map(|(name, number)| Some((name, number?))).collect();
    if let Some(pair) = present.windows(2).find(|pair| pair[0].1 > pair[1].1) {
        let [(before, number), (after, less)] = [pair[0], pair[1]];
        return Numbers::Unclear(format!("{before} has number {number}, {after} {less}"));
    }
    let kinds = [StageKind::Embedding, StageKind::SoftPrompt, StageKind::Layer, StageKind::FinalNorm, StageKind::Head];
    let standard = kinds.into_iter().all(|kind| first_of(kind).is_none_or(|number| number == expected(kind)));
    if standard {
        return Numbers::Standard;
    }
    let numbers: Vec<_> = present.iter().map(|(name, number)| format!("{name} {number:02}")).collect();
    Numbers::Shifted(format!(
        "the files are numbered {}; gpt-neox numbers layers from {:02}, the final norm {:02} and the head {:02}, and does not \
         load these",
        numbers.join(", "),
        expected(StageKind::Layer),
        expected(StageKind::FinalNorm),
        expected(StageKind::Head),
    ))
}

#[cfg(test)]
mod tests {
    use StageKind::{Embedding, FinalNorm, Head, Layer, SoftPrompt};

    use super::*;

    #[test]
    fn numbers_of_gpt_neox_are_standard() {
        for stages in [
            &[(Embedding, 0), (Layer, 2), (Layer, 3), (FinalNorm, 5), (Head, 6)][..],
            // Tied; a norm without parameters; a trained prompt.
            &[(Embedding, 0), (Layer, 2), (FinalNorm, 4)],
            &[(Embedding, 0), (Layer, 2), (Layer, 3), (Head, 6)],
            &[(Embedding, 0), (SoftPrompt, 1), (Layer, 3), (Layer, 4), (FinalNorm, 6), (Head, 7)],
        ] {
            assert_eq!(compare(stages), Numbers::Standard, "{stages:?}");
        }
    }

    #[test]
    fn other_numbers_in_a_clear_order_are_noted() {
        for stages in [
            &[(Embedding, 0), (Layer, 4), (Layer, 5), (FinalNorm, 7), (Head, 8)][..],
            &[(Embedding, 0), (Layer, 1), (Layer, 2), (FinalNorm, 3), (Head, 4)],
            &[(Embedding, 0), (Layer, 3), (Layer, 4), (FinalNorm, 6), (Head, 7)],
            &[(Embedding, 1), (Layer, 2), (Layer, 3), (FinalNorm, 5), (Head, 6)],
            &[(Embedding, 0), (Layer, 2), (Layer, 3), (FinalNorm, 5), (Head, 9)],
        ] {
            assert!(matches!(compare(stages), Numbers::Shifted(_)), "{stages:?}");
        }
    }

    #[test]
    fn an_order_that_no_numbering_explains_is_refused() {
        for stages in [
            // A file renamed behind the others, a gap, and a norm before the last layer.
            &[(Embedding, 0), (Layer, 3), (FinalNorm, 5), (Layer, 6), (Head, 7)][..],
            &[(Embedding, 0), (Layer, 2), (Layer, 4), (FinalNorm, 6), (Head, 7)],
            &[(Embedding, 0), (Layer, 2), (FinalNorm, 3), (Layer, 4), (Head, 6)],
            &[(Layer, 2), (Layer, 3), (Embedding, 4), (FinalNorm, 5), (Head, 6)],
            &[(Embedding, 0), (Layer, 2), (Layer, 3), (Head, 5), (FinalNorm, 6)],
        ] {
            assert!(matches!(compare(stages), Numbers::Unclear(_)), "{stages:?}");
        }
    }
}
