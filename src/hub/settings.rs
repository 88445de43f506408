//! The environment that `huggingface_hub` documents:
//! <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where files come from.
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    /// The cache's folder: `models--…` and `datasets--…` lie in it.
    pub cache: PathBuf,
    /// Address of the Hub, or of a mirror, without a slash at the end.
    pub endpoint: String,
    /// Access token, for repositories that are not public.
    pub token: Option<String>,
    pub offline: bool,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cache, endpoint, token, offline } = self;
        // A token has no business in a log.
        let token = token.as_ref().map(|_| "…");
        let mut text = f.debug_struct("Hub");
        text.field("cache", cache).field("endpoint", endpoint).field("token", &token).field("offline", offline).finish()
    }
}

impl Hub {
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// From these variables. Empty ones count as absent.
    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text =
            |name: &str| Some(variable(name)?.to_string_lossy().trim().to_owned()).filter(|text| !text.is_empty());
        let is_on = |name: &str| {
            text(name).is_some_and(|text| ["1", "on", "yes", "true"].contains(&text.to_ascii_lowercase().as_str()))
        };
        let cache_home =
            path("XDG_CACHE_HOME").or_else(|| Some(path("HOME").or_else(std::env::home_dir)?.join(".cache")));
        let home = path("HF_HOME").unwrap_or_else(|| cache_home.unwrap_or_default().join("huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let stored_token = || {
            let token = fs_err::read_to_string(token_file).ok()?.trim().to_owned();
            Some(token).filter(|token| !token.is_empty())
        };
        Self {
            cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub")),
            endpoint: text("HF_ENDPOINT").map_or_else(
                || "https://huggingface.co".to_owned(),
                |endpoint| endpoint.trim_end_matches('/').to_owned(),
            ),
            token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(stored_token),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
        }
    }
}
