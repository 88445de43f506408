//! The passages of a run: read, tokenized and cut to what the model takes, with some of them set aside for calibration.

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

/// Passages that calibrate, at most: it averages a few thousand tokens, and more would not change it.
pub const MAX_CALIBRATION_PASSAGES: usize = 256;

/// How passages are read, tokenized and cut.
#[derive(Debug, Clone, Copy)]
pub struct PassageOptions<'a> {
    /// Defines where a passage is split into context and target.
    pub task: &'a Task,
    /// The one that the model was trained with.
    pub tokenizer: &'a Tokenizer,
    /// Only the first so many passages of the data set are used.
    pub limit: Option<usize>,
    /// The longest input, in tokens; longer passages are cut on the left.
    pub max_length: usize,
}

/// Where the passages come from that strategies which calibrate may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalibrationSource<'a> {
    /// Nothing calibrates.
    None,
    /// One in five of the data set's passages, which are not scored then.
    SetAside,
    /// A file of their own, whatever the limit; none of its passages may be scored.
    File(&'a Path),
}

/// The passages that are scored, as texts and as tokens, and those that calibrate.
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
    /// Never scored.
    pub calibration: Vec<TokenizedPassage>,
    /// How many passages of the data set were set aside for calibration.
    pub set_aside_count: usize,
}

impl Passages {
    /// Reads a data file and, where it is another one, the calibration file.
    ///
    /// # Errors
    /// Files that are not data sets of this task, passages that the tokenizer refuses or that do not fit the model, and
    /// calibration passages that cannot be had or are to be scored.
    pub fn load(data: &Path, options: &PassageOptions<'_>, source: CalibrationSource<'_>) -> Result<Self, DataError> {
        let mut data = read_passages(data, options.task, options.limit)?;
        let calibrating = match source {
            CalibrationSource::None => Vec::new(),
            CalibrationSource::SetAside => set_aside(&mut data.passages)?,
            CalibrationSource::File(path) => unseen(options.first_of_file(path)?, &data.passages)?,
        };
        let calibration = options.tokenize(calibrating)?.tokenized;
        let set_aside_count = if source == CalibrationSource::SetAside { calibration.len() } else { 0 };
        let Cut { texts, tokenized, truncated_count, rolling } = options.tokenize(data.passages)?;
        let data = DataSet { passages: texts, ..data };
        Ok(Self { data, tokenized, truncated_count, rolling, calibration, set_aside_count })
    }
}

impl PassageOptions<'_> {
    /// The calibration passages of a file of their own, as [`Passages::load`] takes them.
    ///
    /// # Errors
    /// As [`Passages::load`].
    pub fn calibration_of_file(&self, path: &Path) -> Result<Vec<TokenizedPassage>, DataError> {
        Ok(self.tokenize(self.first_of_file(path)?)?.tokenized)
    }

    /// The passages that [`Passages::load`] sets aside of a data file.
    ///
    /// # Errors
    /// As [`Passages::load`].
    pub fn calibration_set_aside(&self, data: &Path) -> Result<Vec<TokenizedPassage>, DataError> {
        let mut data = read_passages(data, self.task, self.limit)?;
        Ok(self.tokenize(set_aside(&mut data.passages)?)?.tokenized)
    }

    fn first_of_file(&self, path: &Path) -> Result<Vec<Passage>, DataError> {
        Ok(read_passages(path, self.task, Some(MAX_CALIBRATION_PASSAGES))?.passages)
    }

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

/// The calibration passages, none of which may be scored.
fn unseen(calibration: Vec<Passage>, scored: &[Passage]) -> Result<Vec<Passage>, DataError> {
    let hashes = |passage: &Passage| (passage.prompt_hash.clone(), passage.target_hash.clone());
    let known: HashSet<_> = scored.iter().map(hashes).collect();
    match calibration.iter().find(|passage| known.contains(&hashes(passage))) {
        Some(seen) => Err(DataError::CalibrationScored { id: seen.id }),
        None => Ok(calibration),
    }
}

/// Takes passages out for calibration: one in five, at most [`MAX_CALIBRATION_PASSAGES`], spread evenly.
fn set_aside(passages: &mut Vec<Passage>) -> Result<Vec<Passage>, DataError> {
    if passages.len() < 2 {
        return Err(DataError::NothingToSetAside);
    }
    let count = (passages.len() / 5).clamp(1, MAX_CALIBRATION_PASSAGES);
    let stride = passages.len() / count;
    let mut place = 0;
    let taken = passages.extract_if(.., |_| {
        let taken = place % stride == stride - 1 && place / stride < count;
        place += 1;
        taken
    });
    Ok(taken.collect())
}
