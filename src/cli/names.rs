//! Data and tokenizers by name. What is taken without having been asked for by its path is said on stderr.

use std::path::{Path, PathBuf};

use super::output::Screen;
use crate::checkpoint::ModelSource;
use crate::hub::{Hub, HubError, TokenizerPlace, TokenizerRequest};

/// The tokenizer of a model: the one given, else the model's own.
#[cfg(feature = "libtorch")]
pub(super) fn tokenizer(given: Option<&Path>, model: &dyn ModelSource, screen: &Screen) -> Result<PathBuf, HubError> {
    find(given, model, screen).map(|place| say_tokenizer(given, place))
}

/// The same for whoever can do without one.
pub(super) fn tokenizer_if_any(
    given: Option<&Path>,
    model: &dyn ModelSource,
    screen: &Screen,
) -> Result<Option<PathBuf>, HubError> {
    match find(given, model, screen) {
        Err(HubError::NoTokenizer { .. }) if given.is_none() => Ok(None),
        found => found.map(|place| Some(say_tokenizer(given, place))),
    }
}

fn find(given: Option<&Path>, model: &dyn ModelSource, screen: &Screen) -> Result<TokenizerPlace, HubError> {
    let request = TokenizerRequest { given, folder: model.folder(), configured: model.tokenizer_file() };
    request.find(&Hub::from_environment(), &mut screen.download_bar())
}

fn say_tokenizer(given: Option<&Path>, place: TokenizerPlace) -> PathBuf {
    if given != Some(&place.path) {
        tracing::info!("tokenizer: {place}");
    }
    place.path
}

/// The passages of a task: the file given, else the task's own.
#[cfg(feature = "libtorch")]
pub(super) fn data(
    given: Option<&Path>,
    task: &crate::eval::task::Task,
    screen: &Screen,
) -> Result<PathBuf, crate::eval::data_error::DataError> {
    let hub = Hub::from_environment();
    let place = crate::eval::data_place::DataPlace::find(given, task, &hub, &mut screen.download_bar())?;
    if given.is_none() {
        tracing::info!("data: {place}");
    }
    Ok(place.path)
}
