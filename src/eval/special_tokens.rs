//! Tokens that a tokenizer's post-processor puts around a text.

use std::fmt;
use std::str::FromStr;

use tokenizers::{Encoding, Token};

/// Which tokens stand before a text. None ever stands behind it: a target would lose its first token to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// What the tokenizer itself puts there: nothing for GPT-NeoX's, BOS for Llama's.
    #[default]
    Auto,
    /// The tokenizer's BOS, whether or not it puts it there itself.
    Yes,
    /// Nothing.
    No,
}

impl FromStr for SpecialTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "yes" => Self::Yes,
            "no" => Self::No,
            _ => return Err("expected auto, yes or no".to_owned()),
        })
    }
}

impl fmt::Display for SpecialTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Yes => "yes",
            Self::No => "no",
        })
    }
}

/// What the post-processor puts before and behind a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub before: Vec<u32>,
    pub behind: Vec<u32>,
}

impl Surroundings {
    /// Found by a token that no tokenizer has.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Self, String> {
        let text = Encoding::from_tokens(vec![Token::new(u32::MAX, "text".to_owned(), (0, 4))], 0);
        let ids = tokenizer.post_process(text, None, true).map_err(|error| error.to_string())?;
        let mut parts = ids.get_ids().split(|&id| id == u32::MAX).map(<[u32]>::to_vec);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(before), Some(behind), None) => Ok(Self { before, behind }),
            _ => Err("its post-processor does not keep a text as it is".to_owned()),
        }
    }
}
