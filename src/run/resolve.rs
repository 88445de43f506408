//! Models, data and tokenizers by name. What is used without having been given by its path is logged.

use std::path::{Path, PathBuf};

use crate::checkpoint::ModelSource;
use crate::hub::{Hub, HubError, Progress, TokenizerPlace, TokenizerRequest};

/// Where a model is: at the path given, else in the cache of the Hugging Face Hub if the path is a name there.
///
/// # Errors
/// As [`Hub::model_at`].
pub fn model_path(given: &Path, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
    let Some(found) = Hub::from_environment().model_at(given, progress)? else { return Ok(given.to_owned()) };
    tracing::info!("model: {} ({})", found.path.display(), found.described(&given.display().to_string()));
    Ok(found.path)
}

/// The tokenizer of a model: the one given, else the model's own.
#[cfg(feature = "libtorch")]
pub(super) fn tokenizer(
    given: Option<&Path>,
    model: &dyn ModelSource,
    progress: &mut dyn Progress,
) -> Result<TokenizerPlace, HubError> {
    find(given, model, progress).map(|place| logged(given, place))
}

/// The same for a command that can do without one.
///
/// # Errors
/// A tokenizer that is given and not found, or one that cannot be fetched.
pub fn tokenizer_if_any(
    given: Option<&Path>,
    model: &dyn ModelSource,
    progress: &mut dyn Progress,
) -> Result<Option<TokenizerPlace>, HubError> {
    match find(given, model, progress) {
        Err(HubError::NoTokenizer { .. }) if given.is_none() => Ok(None),
        found => found.map(|place| Some(logged(given, place))),
    }
}

fn find(
    given: Option<&Path>,
    model: &dyn ModelSource,
    progress: &mut dyn Progress,
) -> Result<TokenizerPlace, HubError> {
    let request = TokenizerRequest { given, folder: model.folder(), configured: model.tokenizer() };
    request.find(&Hub::from_environment(), progress)
}

fn logged(given: Option<&Path>, place: TokenizerPlace) -> TokenizerPlace {
    for warning in &place.warnings {
        tracing::warn!("{warning}");
    }
    if given != Some(&place.path) {
        tracing::info!("tokenizer: {place}");
    }
    place
}

/// The passages of a task: the file given, else the task's own.
#[cfg(feature = "libtorch")]
pub(super) fn data(
    given: Option<&Path>,
    task: &crate::eval::task::Task,
    progress: &mut dyn Progress,
) -> Result<PathBuf, crate::eval::data_error::DataError> {
    let hub = Hub::from_environment();
    let place = crate::eval::data_place::DataPlace::find(given, task, &hub, progress)?;
    if given.is_none() {
        tracing::info!("data: {place}");
    }
    Ok(place.path)
}
