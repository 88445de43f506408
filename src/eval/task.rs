//! Tasks: a data set, how a passage is split, and the metrics. A task is a small YAML file; the built-in
//! ones are `evals/*.yml`, compiled in.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::data_error::DataError;
use crate::files;
use crate::hub::HubFile;

/// The built-in tasks: name and YAML text.
macro_rules! built_in {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../../evals/", $name, ".yml")))),*] };
}
const BUILT_IN: [(&str, &str); 8] = built_in![
    "lambada_openai",
    "lambada_standard",
    "lambada_openai_mt_en",
    "lambada_openai_mt_de",
    "lambada_openai_mt_es",
    "lambada_openai_mt_fr",
    "lambada_openai_mt_it",
    "text_perplexity",
];

/// The largest task file that is read; ours have a few hundred bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One evaluation: its data set, its splitting rule and its metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The name that reports carry, the same as in lm-evaluation-harness where it has the task.
    pub name: String,
    /// Version of the task's definition, as lm-evaluation-harness counts it (`metadata.version`).
    pub version: f64,
    /// One line for people.
    pub description: String,
    pub data: DataDescription,
    /// How a passage becomes context and target.
    pub splitting: Splitting,
    pub metrics: Vec<Metric>,
    /// The token before the first one of a text (rolling windows only); default: the tokenizer's own beginning or end of
    /// a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_token: Option<String>,
    /// The folder that the data file's name is relative to: the task file's, or for a built-in task the working directory.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Which file a task is defined on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataDescription {
    /// The file's usual name.
    pub file: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits; absent where none is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// How many passages the file holds; absent where any file will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage_count: Option<usize>,
    /// Where a user gets the file. Text for people.
    pub url: String,
    /// Where it is fetched from when it is not on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubFile>,
}

/// How a passage becomes context and target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Splitting {
    /// At the last space (U+0020): lm-evaluation-harness' `text.split(' ')[:-1]|join(' ')` and `' '+text.split(' ')[-1]`.
    LastSpace,
    /// Not at all: every token of the text is predicted, in windows of the model's length; lm-evaluation-harness'
    /// `loglikelihood_rolling`. A text file is one text, a line of JSONL another.
    RollingWindows,
}

/// A number that a task reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// exp(−mean over passages of the target's log-likelihood); smaller is better.
    Perplexity,
    /// The fraction of passages whose target is the greedy continuation; larger is better.
    Acc,
    /// exp(−log-likelihood of all texts / their words); smaller is better.
    WordPerplexity,
    /// exp(−log-likelihood of all texts / their bytes); smaller is better.
    BytePerplexity,
    /// −log₂-likelihood of all texts / their bytes; smaller is better.
    BitsPerByte,
}

/// Whether a data file is the one a task names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "identity")]
pub enum DataIdentity {
    /// The file has the SHA-256 that the task pins.
    Same,
    /// The file is another one: results must not be set beside published ones.
    Different {
        /// Which value differs: `sha256` or `passage_count`.
        what: &'static str,
        /// The task's value.
        expected: String,
        /// The file's value.
        found: String,
    },
    /// The task pins no SHA-256, and the number of passages is right.
    Unpinned,
}

impl Task {
    /// The names of the built-in tasks; the first is the default.
    pub fn built_in_names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// A built-in task by its name, or else a task file by its path.
    ///
    /// # Errors
    /// [`DataError::UnknownTask`] lists the built-in names where neither is found; [`DataError::InvalidTask`] names
    /// the mistake in the file.
    pub fn resolve(name_or_path: &str) -> Result<Self, DataError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::from_yaml(text, name);
        }
        let path = Path::new(name_or_path);
        if !path.is_file() {
            return Err(DataError::UnknownTask {
                name: name_or_path.to_owned(),
                known: Self::built_in_names().into_iter().map(str::to_owned).collect(),
            });
        }
        let task = Self::from_yaml(&files::read_to_string(path, MAX_FILE_BYTES)?, name_or_path)?;
        Ok(Self { folder: path.parent().map(Path::to_owned).unwrap_or_default(), ..task })
    }

    /// Reads and validates the YAML text of a task; `place` is named in errors.
    ///
    /// # Errors
    /// [`DataError::InvalidTask`].
    pub fn from_yaml(text: &str, place: &str) -> Result<Self, DataError> {
        let invalid = |message: String| DataError::InvalidTask { place: place.to_owned(), message };
        let task: Self = serde_saphyr::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if let Some(sha256) = &task.data.sha256
            && !(sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        {
            return Err(invalid(format!("`data.sha256` must be 64 lower-case hexadecimal digits, found `{sha256}`")));
        }
        if let Some(file) = &task.data.hub {
            file.check().map_err(|error| invalid(format!("`data.hub`: {error}")))?;
        }
        if task.metrics.is_empty() {
            return Err(invalid("`metrics` is empty".to_owned()));
        }
        Ok(task)
    }
}

impl DataDescription {
    /// Whether a file with this SHA-256 (lower-case hexadecimal) and this many passages is the data set described here.
    pub fn identify(&self, sha256: &str, passage_count: usize) -> DataIdentity {
        match &self.sha256 {
            Some(expected) if expected == sha256 => DataIdentity::Same,
            Some(expected) => {
                DataIdentity::Different { what: "sha256", expected: expected.clone(), found: sha256.to_owned() }
            }
            None => match self.passage_count {
                Some(expected) if expected != passage_count => DataIdentity::Different {
                    what: "passage_count",
                    expected: expected.to_string(),
                    found: passage_count.to_string(),
                },
                _ => DataIdentity::Unpinned,
            },
        }
    }
}

impl Splitting {
    /// The rule's name in task files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastSpace => "last-space",
            Self::RollingWindows => "rolling-windows",
        }
    }

    /// Context and target of a passage. The target starts with a space; the context is empty where the text has none.
    ///
    /// A trailing space leaves the target `" "`, a trailing line break stays in the target: lm-evaluation-harness
    /// strips neither.
    pub fn split(self, text: &str) -> (String, String) {
        match self {
            Self::LastSpace => {
                let (context, word) = text.rsplit_once(' ').unwrap_or(("", text));
                (context.to_owned(), format!(" {word}"))
            }
            Self::RollingWindows => (String::new(), text.to_owned()),
        }
    }
}

impl Metric {
    /// The metric's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::Acc => "acc",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fs_err as fs;

    use super::*;

    #[test]
    fn built_in_tasks_resolve_under_their_own_name() {
        for name in Task::built_in_names() {
            let task = Task::resolve(name).unwrap();
            assert_eq!(task.name, name);
            if task.splitting == Splitting::LastSpace {
                assert_eq!(task.data.passage_count, Some(5153));
                assert_eq!(task.metrics, [Metric::Perplexity, Metric::Acc]);
            }
        }
    }

    #[test]
    fn an_unknown_task_lists_the_known_ones() {
        let error = Task::resolve("lambda").unwrap_err();
        assert_eq!(error.to_string(), "unknown task `lambda`: neither built in nor a file");
        assert!(error.hint().unwrap().contains(&Task::built_in_names().join(", ")));
    }

    #[test]
    fn a_task_file_resolves_by_path_and_an_unknown_field_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.yml");
        let text = BUILT_IN[0].1.replace("name: lambada_openai", "name: mine");
        fs::write(&path, &text).unwrap();
        assert_eq!(Task::resolve(path.to_str().unwrap()).unwrap().name, "mine");

        fs::write(&path, format!("{text}\nshuffle: true\n")).unwrap();
        let message = Task::resolve(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("mine.yml") && message.contains("shuffle"), "{message}");

        fs::write(&path, text.replace("sha256: 4aa8", "sha256: XYZ8")).unwrap();
        let message = Task::resolve(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("64 lower-case hexadecimal digits"), "{message}");
    }

    /// Recorded from lm-evaluation-harness 0.4.13: a `ConfigurableTask` with the templates of `lambada_openai.yaml`.
    #[test]
    fn splitting_is_that_of_the_harness() {
        for (text, context, target) in [
            ("one two three ", "one two three", " "),
            ("one two  three", "one two ", " three"),
            (" one two", " one", " two"),
            ("two\nlines here\nlast word\n", "two\nlines here\nlast", " word\n"),
            ("  foo", " ", " foo"),
            ("one", "", " one"),
            ("He said \"no.\" [1]", "He said \"no.\"", " [1]"),
            ("non\u{a0}breaking space\u{a0}stays", "non\u{a0}breaking", " space\u{a0}stays"),
        ] {
            assert_eq!(Splitting::LastSpace.split(text), (context.to_owned(), target.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn a_data_file_is_identified_by_checksum_or_else_by_count() {
        let pinned = Task::resolve("lambada_openai").unwrap().data;
        assert_eq!(pinned.identify(pinned.sha256.as_deref().unwrap(), 5153), DataIdentity::Same);
        assert!(matches!(pinned.identify("00", 5153), DataIdentity::Different { what: "sha256", .. }));
        let unpinned = Task::resolve("lambada_standard").unwrap().data;
        assert_eq!(unpinned.identify("00", 5153), DataIdentity::Unpinned);
        assert!(matches!(unpinned.identify("00", 200), DataIdentity::Different { what: "passage_count", .. }));
    }
}
