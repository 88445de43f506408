//! Where a task's data file is.

use std::fmt;
use std::path::{Path, PathBuf};

use super::data_error::DataError;
use super::task::Task;
use crate::hub::{Hub, Progress, RepoKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPlace {
    pub path: PathBuf,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Given,
    Named,
    /// In the words of [`crate::hub::Found::described`].
    Hub(String),
}

impl fmt::Display for DataPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.origin {
            Origin::Given => Ok(()),
            Origin::Named => f.write_str(" (the file that the task names)"),
            Origin::Hub(described) => write!(f, " ({described})"),
        }
    }
}

impl DataPlace {
    /// The file given; else the one that the task names, beside the task file (of a built-in task: in the working
    /// directory), else the one that it names on the Hub.
    pub fn find(given: Option<&Path>, task: &Task, hub: &Hub, progress: &mut dyn Progress) -> Result<Self, DataError> {
        if let Some(given) = given {
            return Ok(Self { path: given.to_owned(), origin: Origin::Given });
        }
        let named = task.folder.join(&task.data.file);
        if named.is_file() {
            return Ok(Self { path: named, origin: Origin::Named });
        }
        let Some(file) = &task.data.hub else {
            let (task, url) = (task.name.clone(), task.data.url.clone());
            return Err(DataError::NoData { task, looked: named, url });
        };
        let found = hub.fetch(RepoKind::Dataset, file, progress).map_err(|source| DataError::Hub {
            task: task.name.clone(),
            looked: named,
            source,
        })?;
        let origin = Origin::Hub(found.described(&file.to_string()));
        Ok(Self { path: found.path, origin })
    }
}
