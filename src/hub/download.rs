//! Downloads, by the library that reads the cache too.

use std::path::PathBuf;

use fs_err as fs;
use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiError};

use super::checksum;
use super::error::HubError;
use super::fetch::{Progress, repo};
use super::file::{HubFile, RepoKind};
use super::settings::Hub;

/// Connections that break off are taken up again this often.
const RETRIES: usize = 3;

/// How often another process is waited for that downloads the same file; the library waits 5 seconds each time.
const WAITS: usize = 120;

impl Hub {
    pub(super) fn download(
        &self,
        kind: RepoKind,
        file: &HubFile,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let repo = repo(kind, file);
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_retries(RETRIES)
            .with_progress(false)
            .with_user_agent("kintsugi", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.failed(file, &error))?;
        let api = api.repo(repo);
        let mut waits = 0;
        let path = loop {
            match api.download_with_progress(&file.file, Watched(progress)) {
                Ok(path) => break path,
                Err(ApiError::LockAcquisition(_)) if waits < WAITS => waits += 1,
                Err(error) => return Err(self.failed(file, &error)),
            }
        };
        if let Err(error) = checksum::check(&path) {
            // Removed, so that the next run does not find them in the cache.
            for path in [path.canonicalize().ok(), Some(path)].into_iter().flatten() {
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        Ok(path)
    }

    fn failed(&self, file: &HubFile, error: &ApiError) -> HubError {
        let (file, endpoint) = (file.clone(), self.endpoint.clone());
        let status = match error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status) => Some(status),
                _ => None,
            },
            _ => None,
        };
        match status {
            Some(404) => HubError::NotThere { file, endpoint },
            Some(401 | 403) => HubError::Refused { file, endpoint, with_token: self.token.is_some() },
            _ => HubError::Download { file, endpoint, message: error.to_string() },
        }
    }
}

/// Forwards the library's progress to ours.
struct Watched<'a>(&'a mut dyn Progress);

impl hf_hub::api::Progress for Watched<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.start(size as u64);
    }

    fn update(&mut self, size: usize) {
        self.0.advance(size as u64);
    }

    fn finish(&mut self) {}
}
