//! The passages of a run, read, tokenized and cut to what the model takes, and those that calibrate.

use std::collections::HashSet;
use std::path::Path;

use super::data_error::DataError;
use super::data_set::{DataSet, Passage, read_passages};
use super::packing::{TokenizedPassage, truncated_count};
use super::rolling;
use super::task::{Splitting, Task};
use super::tokenizer::Tokenizer;
use crate::config::Architecture;
use crate::samples::RollingText;

/// Calibrates unless another text is given: the beginning of Pride and Prejudice, a paragraph a line.
const CALIBRATION_TEXT: &str = include_str!("../../evals/calibration.txt");

/// As much of a calibration text is used: it averages a few thousand tokens, and more would not change it.
const MAX_CALIBRATION_BYTES: usize = 64 << 10;

/// Tokens of a passage that calibrates, about as many as a passage of LAMBADA has.
const CALIBRATION_WINDOW: usize = 96;

/// How passages are read, tokenized and cut.
#[derive(Debug, Clone, Copy)]
pub struct PassageOptions<'a> {
    /// Defines where a passage is split into context and target.
    pub task: &'a Task,
    /// The one that the model was trained with.
    pub tokenizer: &'a Tokenizer,
    /// The longest input, in tokens; longer passages are cut on the left.
    pub max_length: usize,
}

/// The passages that are scored, as texts and as tokens.
#[derive(Debug, Clone)]
pub struct Passages {
    /// Where they come from, and the texts of those that are scored; where whole texts are predicted, the windows' texts.
    pub data: DataSet,
    /// In the order of `data.passages`, whose places are the indices.
    pub tokenized: Vec<TokenizedPassage>,
    /// How many of them lost tokens on the left.
    pub truncated_count: usize,
    /// Where whole texts are predicted: how much there is.
    pub rolling: Option<RollingText>,
}

impl Passages {
    /// Those of a data set.
    ///
    /// # Errors
    /// Passages that the tokenizer refuses or that do not fit the model.
    pub fn new(data: DataSet, options: &PassageOptions<'_>) -> Result<Self, DataError> {
        let Cut { texts, tokenized, truncated_count, rolling } = options.tokenize(data.passages)?;
        let data = DataSet { passages: texts, ..data };
        Ok(Self { data, tokenized, truncated_count, rolling })
    }
}

/// The passages that calibrate: windows of the text in a file (plain text, or a JSON object with `text` a line), or else of
/// the bundled one. Task, limit and longest input asked for do not matter.
///
/// # Errors
/// A file that is no text or has none, or holds one of the passages `scored`; a text that the tokenizer refuses.
pub fn calibration_passages(
    file: Option<&Path>,
    tokenizer: &Tokenizer,
    architecture: &Architecture,
    scored: &[Passage],
) -> Result<Vec<TokenizedPassage>, DataError> {
    let whole_texts = Task::resolve("text_perplexity")?;
    let texts = match file {
        Some(path) => read_passages(path, &whole_texts, None)?.passages,
        None => vec![Passage::new(0, String::new(), CALIBRATION_TEXT.to_owned())],
    };
    let known: HashSet<_> = scored.iter().map(|passage| format!("{}{}", passage.context, passage.target)).collect();
    let window = CALIBRATION_WINDOW.min(architecture.longest_input());
    let (mut passages, mut bytes_left) = (Vec::new(), MAX_CALIBRATION_BYTES);
    for Passage { id, target: mut text, .. } in texts {
        if known.contains(&text) || text.lines().any(|line| known.contains(line)) {
            return Err(DataError::CalibrationScored { id });
        }
        let end = (0..=text.len().min(bytes_left)).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or_default());
        bytes_left -= text.len();
        // The last token of a window is what it predicts; the one after it begins the next.
        for tokens in tokenizer.encode_alone(&text)?.chunks(window + 1).filter(|tokens| tokens.len() > 1) {
            let (context, target) = tokens.split_at(tokens.len() - 1);
            passages.push(TokenizedPassage::new(passages.len(), context, target, window)?);
        }
    }
    match file {
        Some(path) if passages.is_empty() => Err(DataError::NoPassages { path: path.to_owned() }),
        _ => Ok(passages),
    }
}

impl PassageOptions<'_> {
    fn tokenize(&self, texts: Vec<Passage>) -> Result<Cut, DataError> {
        let (texts, pairs, rolling) = match self.task.splitting {
            Splitting::LastSpace => {
                let pairs = self.tokenizer.encode_passages(&texts)?;
                (texts, pairs, None)
            }
            Splitting::RollingWindows => {
                let (windows, pairs, rolling) =
                    rolling::windows_of(&texts, self.task, self.tokenizer, self.max_length)?;
                (windows, pairs, Some(rolling))
            }
        };
        let truncated = |(context, target): &&(Vec<u32>, Vec<u32>)| {
            truncated_count(context.len(), target.len(), self.max_length) > 0
        };
        let truncated_count = pairs.iter().filter(truncated).count();
        let tokenized = pairs
            .iter()
            .enumerate()
            .map(|(index, (context, target))| TokenizedPassage::new(index, context, target, self.max_length));
        Ok(Cut { tokenized: tokenized.collect::<Result<_, _>>()?, texts, truncated_count, rolling })
    }
}

/// Passages, tokenized and cut; the fields of [`Passages`].
struct Cut {
    texts: Vec<Passage>,
    tokenized: Vec<TokenizedPassage>,
    truncated_count: usize,
    rolling: Option<RollingText>,
}

/// The longest input in tokens: the one asked for, else the model's.
///
/// # Errors
/// [`DataError::MaxLength`] where the model takes no input as long as the one asked for.
pub fn max_length(asked: Option<usize>, architecture: &Architecture) -> Result<usize, DataError> {
    let longest = architecture.longest_input();
    match asked {
        Some(asked) if asked > longest => Err(DataError::MaxLength { asked, longest }),
        _ => Ok(asked.unwrap_or(longest)),
    }
}
