//! Plain perplexity of whole texts, as lm-evaluation-harness's `loglikelihood_rolling` measures it: a text is cut into windows of
//! the model's length, each token is predicted once, and every window but the first begins with the token before it.

use super::data_error::DataError;
use super::data_set::{Passage, is_python_space};
use super::task::Task;
use super::tokenizer::{TokenPair, Tokenizer};
use crate::samples::RollingText;

/// Context and targets of every window of a text: `get_rolling_token_windows` with `context_len` 1, then
/// `make_disjoint_window` (`lm_eval/utils.py`).
fn windows(tokens: &[u32], prefix: u32, max_length: usize) -> Vec<TokenPair> {
    let max_length = max_length.max(1);
    let mut predicted = tokens.len().min(max_length);
    let mut windows = Vec::new();
    if predicted > 0 {
        windows.push((vec![prefix], tokens[..predicted].to_vec()));
    }
    while predicted < tokens.len() {
        let end = (predicted + max_length).min(tokens.len());
        // The last window is as long as the others: what it does not predict is its context.
        windows.push((tokens[end - max_length - 1..predicted].to_vec(), tokens[predicted..end].to_vec()));
        predicted = end;
    }
    windows
}

/// Every window of the texts as a passage of its own, with its tokens, and what the perplexities are divided by.
///
/// # Errors
/// Texts that the tokenizer refuses, and a tokenizer without the token that precedes a text.
pub(super) fn windows_of(
    texts: &[Passage],
    task: &Task,
    tokenizer: &Tokenizer,
    max_length: usize,
) -> Result<(Vec<Passage>, Vec<TokenPair>, RollingText), DataError> {
    let prefix = prefix_token(task, tokenizer)?;
    let (mut passages, mut pairs) = (Vec::new(), Vec::new());
    let mut counts = RollingText { texts: texts.len(), ..RollingText::default() };
    for text in texts {
        counts.words += word_count(&text.target);
        counts.bytes += text.target.len();
        let tokens = tokenizer.encode(&text.target)?;
        counts.tokens += tokens.len();
        for (context, target) in windows(&tokens, prefix, max_length) {
            let id = passages.len();
            passages.push(Passage::new(id, tokenizer.decode(&context), tokenizer.decode(&target)));
            pairs.push((context, target));
        }
    }
    Ok((passages, pairs, counts))
}

/// The token before the first one of a text: the task's own, else the tokenizer's beginning or end of a text, as
/// `prefix_token_id` of `lm_eval/models/huggingface.py`.
fn prefix_token(task: &Task, tokenizer: &Tokenizer) -> Result<u32, DataError> {
    let names = match &task.prefix_token {
        Some(name) => vec![name.clone()],
        None => tokenizer.text_ends(),
    };
    tokenizer.first_id(&names)
}

/// `len(re.split(r"\s+", text))` of Python: one more than there are runs of white space.
fn word_count(text: &str) -> usize {
    let spaces = text.chars().map(is_python_space);
    let before = std::iter::once(false).chain(spaces.clone());
    1 + spaces.zip(before).filter(|&(space, before)| space && !before).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from lm-evaluation-harness 0.4.13: `make_disjoint_window` of `get_rolling_token_windows(range(1, n + 1), 0,
    /// max_seq_len, 1)`.
    #[test]
    fn windows_are_those_of_the_harness() {
        let of = |count: u32, max_length| windows(&(1..=count).collect::<Vec<_>>(), 0, max_length);
        assert_eq!(of(0, 4), []);
        assert_eq!(of(3, 4), [(vec![0], vec![1, 2, 3])]);
        assert_eq!(of(4, 4), [(vec![0], vec![1, 2, 3, 4])]);
        assert_eq!(of(5, 4), [(vec![0], vec![1, 2, 3, 4]), (vec![1, 2, 3, 4], vec![5])]);
        let last = (vec![5, 6, 7, 8], vec![9]);
        assert_eq!(of(9, 4), [(vec![0], vec![1, 2, 3, 4]), (vec![4], vec![5, 6, 7, 8]), last]);
        assert_eq!(of(2, 1), [(vec![0], vec![1]), (vec![1], vec![2])]);
    }

    #[test]
    fn words_are_counted_as_python_splits() {
        for (text, count) in [("", 1), ("one", 1), (" one two ", 4), ("a\n\n b\u{1c}c\u{a0}d", 4), (" ", 2)] {
            assert_eq!(word_count(text), count, "{text:?}");
        }
    }
}
