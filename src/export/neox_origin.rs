//! What a written gpt-neox checkpoint takes over from its source beside the weights.

use serde_json::{Map, Value, json};

use super::ExportError;
use crate::checkpoint::{Layout, ModelSource};
use crate::config::{GQA_LAYOUT, NeoxConfig, Observed, QuirkLine, QuirkOptions, QuirkSetting, Quirks};
use crate::tensor::DType;

/// gpt-neox's default of `make_vocab_size_divisible_by`.
pub(super) const VOCABULARY_MULTIPLE: usize = 128;

/// The source's own settings where it is gpt-neox's, else those from which gpt-neox builds the same model.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub settings: Map<String, Value>,
    pub layout: Layout,
    pub tokenizer_type: Option<String>,
    /// The number of rows that gpt-neox padded the vocabulary to a multiple of; none where it was not gpt-neox.
    pub vocabulary_multiple: Option<usize>,
    /// What was decided about gpt-neox's version.
    pub quirks: Vec<QuirkLine>,
}

impl Origin {
    /// # Errors
    /// A model that gpt-neox cannot express.
    pub(super) fn of(source: &dyn ModelSource) -> Result<Self, ExportError> {
        let Some(checkpoint) = source.as_neox() else { return Self::elsewhere(source) };
        let (config, args) = (checkpoint.config(), &checkpoint.client().args);
        Ok(Self {
            settings: config.raw.clone(),
            layout: checkpoint.layout(),
            tokenizer_type: args.tokenizer_type.clone().or_else(|| config.tokenizer_type.clone()),
            vocabulary_multiple: Some(config.make_vocab_size_divisible_by * source.tp_size()),
            quirks: checkpoint.quirks().list(),
        })
    }

    fn elsewhere(source: &dyn ModelSource) -> Result<Self, ExportError> {
        let mut settings = source.architecture().neox_settings().map_err(|refusal| ExportError::Inexpressible {
            format: "gpt-neox",
            reason: refusal.reason,
            instead: refusal.needed,
        })?;
        settings.insert("precision".to_owned(), json!(precision(source.dtype())));
        let config = NeoxConfig::from_raw(settings.clone(), Vec::new())?;
        let quirks = Quirks::decide(&config, &Observed::default(), &QuirkOptions::default()).list();
        let layout = Layout::LayerFiles;
        Ok(Self { settings, layout, tokenizer_type: None, vocabulary_multiple: None, quirks })
    }

    /// What the files say of it: what was not merely assumed of the source, and the order of grouped queries, which is that in
    /// which they are written.
    pub(super) fn stated(&self) -> Vec<QuirkSetting> {
        let is_stated = |line: &&QuirkLine| !line.assumed || (line.matters && line.name == GQA_LAYOUT);
        self.quirks.iter().filter(is_stated).map(QuirkLine::setting).collect()
    }
}

/// gpt-neox's word for a type.
pub(super) fn precision(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "fp16",
        DType::BF16 => "bfloat16",
        _ => "fp32",
    }
}
