//! The main job for callers from Rust.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::cli::compare::{Asked, compare_quietly};
use crate::cli::failure;
use crate::model::DeviceChoice;
use crate::report::Report;

/// Evaluates the unmerged model in a checkpoint and its merges by these strategies (none: all built-in ones) on a task, which
/// finds its data and the checkpoint its tokenizer as on the command line. For more see [`Comparison`].
///
/// ```no_run
/// let report = kintsugi::compare("path/to/checkpoint", "lambada_openai", ["reduce-aware", "fold"])?;
/// for row in &report.variants {
///     println!("{}: perplexity times {:.4}", row.model.name, row.loss.perplexity_ratio);
/// }
/// # Ok::<(), kintsugi::Error>(())
/// ```
///
/// # Errors
/// Whatever keeps the evaluation from finishing; [`Error::hint`] says what can be done about it.
pub fn compare<S: Into<String>>(
    checkpoint: impl AsRef<Path>,
    task: impl Into<String>,
    strategies: impl IntoIterator<Item = S>,
) -> Result<Report, Error> {
    Comparison::of(checkpoint).task(task).strategies(strategies).run()
}

/// A comparison that is to be made, everything at its default but what is said. Nothing is printed; progress is logged with
/// `tracing`.
#[derive(Debug, Clone)]
pub struct Comparison {
    checkpoint: PathBuf,
    task: String,
    data: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    strategies: Vec<String>,
    device: DeviceChoice,
    limit: Option<u64>,
    output_dir: Option<PathBuf>,
}

impl Comparison {
    /// Of the checkpoint in this directory: all built-in strategies on `lambada_openai`.
    #[must_use]
    pub fn of(checkpoint: impl AsRef<Path>) -> Self {
        Self {
            checkpoint: checkpoint.as_ref().to_owned(),
            task: "lambada_openai".to_owned(),
            data: None,
            tokenizer: None,
            strategies: Vec::new(),
            device: DeviceChoice::default(),
            limit: None,
            output_dir: None,
        }
    }

    /// A built-in task, or the path of a task file.
    #[must_use]
    pub fn task(self, name_or_file: impl Into<String>) -> Self {
        Self { task: name_or_file.into(), ..self }
    }

    /// The passages, instead of the task's own.
    #[must_use]
    pub fn data(self, file: impl AsRef<Path>) -> Self {
        Self { data: Some(file.as_ref().to_owned()), ..self }
    }

    /// The tokenizer: a file, or a name on the Hugging Face Hub.
    #[must_use]
    pub fn tokenizer(self, file_or_name: impl AsRef<Path>) -> Self {
        Self { tokenizer: Some(file_or_name.as_ref().to_owned()), ..self }
    }

    /// Built-in strategies, or paths of strategy files, instead of all built-in ones.
    #[must_use]
    pub fn strategies<S: Into<String>>(self, names_or_files: impl IntoIterator<Item = S>) -> Self {
        Self { strategies: names_or_files.into_iter().map(Into::into).collect(), ..self }
    }

    /// `auto`, `cpu`, `cuda` or `cuda:N[,N…]`.
    ///
    /// # Errors
    /// Any other word.
    pub fn device(self, device: &str) -> Result<Self, Error> {
        let device = device.parse::<DeviceChoice>().map_err(|error| Error(anyhow::anyhow!("device: {error}")))?;
        Ok(Self { device, ..self })
    }

    /// Only the first passages, for trying things out.
    #[must_use]
    pub fn limit(self, passages: u64) -> Self {
        Self { limit: Some(passages), ..self }
    }

    /// Where report, page, plots and samples go; otherwise nothing is written.
    #[must_use]
    pub fn output_dir(self, folder: impl AsRef<Path>) -> Self {
        Self { output_dir: Some(folder.as_ref().to_owned()), ..self }
    }

    /// Makes it.
    ///
    /// # Errors
    /// As [`compare`].
    pub fn run(self) -> Result<Report, Error> {
        let Self { checkpoint, task, data, tokenizer, strategies, device, limit, output_dir } = self;
        compare_quietly(Asked { checkpoint, task, data, tokenizer, strategies, device, limit, output_dir })
            .map_err(Error)
    }
}

/// Why a comparison could not be made. As the error of a `main` it says what the command line says.
pub struct Error(anyhow::Error);

impl Error {
    /// What can be done about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        failure::hint(&self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&failure::message(&self.0))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.hint().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::Comparison;

    #[test]
    fn the_error_of_a_main_is_a_message_with_its_hint() {
        let error = Comparison::of("nowhere").run().map(|_| ()).unwrap_err();
        let shown = format!("{error:?}");
        assert!(shown.starts_with("nowhere: expected a checkpoint directory, found nothing\nhint: give"), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
}
