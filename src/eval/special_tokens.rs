//! Tokens that a tokenizer's post-processor puts around a text.

use tokenizers::{Encoding, Token};

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
