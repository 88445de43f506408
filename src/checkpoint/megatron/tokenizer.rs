//! The tokenizer that Megatron's arguments name.

use super::args::Args;
use super::error::MegatronError;
use crate::hub::ConfiguredTokenizer;

/// What the arguments say of the tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer {
    kind: Option<String>,
    vocab_file: Option<String>,
    merge_file: Option<String>,
}

impl Tokenizer {
    pub(super) fn read(args: &Args) -> Result<Self, MegatronError> {
        let text = |field: &str| Ok::<_, MegatronError>(args.word(field)?.map(str::to_owned));
        let kind = text("tokenizer_type")?;
        let model = text("tokenizer_model")?;
        Ok(match (kind, model) {
            // A folder, or a name on the Hub.
            (Some(kind), Some(model)) if kind == "HuggingFaceTokenizer" => {
                Self { kind: None, vocab_file: Some(format!("{model}/tokenizer.json")), merge_file: None }
            }
            (kind, model) => Self { kind, vocab_file: text("vocab_file")?.or(model), merge_file: text("merge_file")? },
        })
    }

    pub(super) fn configured(&self) -> ConfiguredTokenizer<'_> {
        ConfiguredTokenizer {
            kind: self.kind.as_deref(),
            vocab_file: self.vocab_file.as_deref(),
            merge_file: self.merge_file.as_deref(),
        }
    }
}
