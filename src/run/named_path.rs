//! A directory that may be given a name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `DIR` or `NAME=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    name: Option<String>,
    path: PathBuf,
}

impl FromStr for NamedPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |name: &str| {
            let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
            !name.is_empty() && !name.starts_with('.') && name.bytes().all(inside)
        };
        match text.split_once('=') {
            // A path may hold `=` itself.
            Some((name, path)) if plain(name) && !path.is_empty() && !Path::new(text).exists() => {
                Ok(Self { name: Some(name.to_owned()), path: path.into() })
            }
            _ if text.is_empty() => Err("expected DIR or NAME=DIR".to_owned()),
            _ => Ok(Self { name: None, path: text.into() }),
        }
    }
}

impl fmt::Display for NamedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        write!(f, "{}", self.path.display())
    }
}

impl NamedPath {
    /// A directory and the name of its row.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: Some(name.into()), path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name given, else that of the folder (of the save directory, for a step of a checkpoint).
    pub fn name(&self) -> String {
        let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.name.clone().unwrap_or_else(|| {
            let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
            let own = named(&path).unwrap_or_else(|| "candidate".to_owned());
            if own.starts_with("global_step") { path.parent().and_then(named).unwrap_or(own) } else { own }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_paths() {
        let parsed = |text: &str| text.parse::<NamedPath>().unwrap();
        assert_eq!(parsed("upstream=out/hf"), NamedPath { name: Some("upstream".to_owned()), path: "out/hf".into() });
        for path in ["out/hf", "out/a=b", "=x", "./a=b"] {
            assert_eq!(parsed(path), NamedPath { name: None, path: path.into() }, "{path}");
        }
        assert!("".parse::<NamedPath>().is_err());
        assert_eq!(parsed("runs/merge").name(), "merge");
        assert_eq!(parsed("runs/merged/global_step10").name(), "merged");
    }
}
