//! Errors of finding files by name, with hints.

use std::path::PathBuf;

use super::file::HubFile;

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No repository, revision or file can have this name.
    #[error("no {what} of the Hugging Face Hub can be named `{name}`")]
    InvalidName {
        /// `repository`, `revision` or `file`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A file of the cache cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not the ones that the Hub named.
    #[error("{path}: the file's checksum is {found}, expected {expected}", path = path.display())]
    Checksum {
        /// The file in the cache.
        path: PathBuf,
        /// The Hub's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// Not in the cache, and nothing may be downloaded.
    #[error("{file} is not in the Hugging Face cache {cache}, and HF_HUB_OFFLINE is set", cache = cache.display())]
    Offline {
        /// The file asked for.
        file: HubFile,
        /// Where.
        cache: PathBuf,
    },
    /// Not in the cache, and this build has no downloads.
    #[error("{file} is not in the Hugging Face cache {cache}, and this build downloads nothing (feature hub)", cache = cache.display())]
    BuiltWithout {
        /// The file asked for.
        file: HubFile,
        /// Where.
        cache: PathBuf,
    },
    /// The Hub knows no such repository, revision or file.
    #[error("{endpoint} has no {file}")]
    NotThere {
        /// The file asked for.
        file: HubFile,
        /// Where.
        endpoint: String,
    },
    /// Access is denied.
    #[error("{endpoint} refuses {file}{}", if *with_token { " to the token given" } else { "" })]
    Refused {
        /// The file asked for.
        file: HubFile,
        /// Where.
        endpoint: String,
        /// Whether a token went along.
        with_token: bool,
    },
    /// The connection failed.
    #[error("{file} could not be downloaded from {endpoint}: {message}")]
    Download {
        /// The file asked for.
        file: HubFile,
        /// Where.
        endpoint: String,
        /// The library's message.
        message: String,
    },
    /// There is no tokenizer anywhere.
    #[error("no tokenizer: looked for {}", places(looked))]
    NoTokenizer {
        /// The files that are not there.
        looked: Vec<PathBuf>,
    },
}

fn places(looked: &[PathBuf]) -> String {
    looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl HubError {
    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::InvalidName { .. } => {
                "names are NAME, OWNER/NAME or OWNER/NAME@REVISION; files are given by their path"
            }
            Self::Checksum { .. } => "delete this file if it is still there, and run this again",
            Self::Offline { .. } => "unset HF_HUB_OFFLINE, or give the file itself",
            Self::BuiltWithout { .. } => "fetch it with `hf download`, or give the file itself",
            Self::NotThere { .. } => "check the name; a file on this machine is given by its path",
            Self::Refused { with_token: false, .. } => {
                "the repository is private, gated or does not exist: set HF_TOKEN, or give the file itself"
            }
            Self::Refused { with_token: true, .. } => {
                "the repository is gated or does not exist, or the token (HF_TOKEN) may not read it"
            }
            Self::Download { .. } => {
                "without a connection, fetch the file elsewhere and give its path; HF_ENDPOINT names a mirror, \
                 HTTPS_PROXY a proxy"
            }
            Self::NoTokenizer { .. } => {
                "give one with --tokenizer: a tokenizer.json, or a name on the Hugging Face Hub such as \
                 EleutherAI/gpt-neox-20b"
            }
            Self::Read { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
