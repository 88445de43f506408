//! A recipe read back, to check what lies beside it.

use std::path::Path;

use serde::Deserialize;
use serde::de::Error as _;

use super::ExportError;
use super::staging::RECIPE_FILE;
use crate::checkpoint::FileDigest;
use crate::files;

/// The largest recipe that is read; that of a model of 20 billion parameters has a few hundred kB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What a recipe says of the files, of the strategy, and of the form of what was written.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeFile {
    schema_version: u32,
    pub strategy: RecipeStrategy,
    pub output: RecipeOutput,
    /// Whether the merge is the unmerged model in exact arithmetic.
    pub exact: bool,
    /// Files read.
    pub inputs: Vec<FileDigest>,
    /// Files written, named by their paths below the directory.
    pub outputs: Vec<FileDigest>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RecipeStrategy {
    pub name: String,
    /// Its text.
    pub text: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RecipeOutput {
    pub tp_size: usize,
    pub dtype: String,
    pub vocab_size: usize,
}

impl RecipeFile {
    /// The recipe of the merge in a directory.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn read(directory: &Path) -> Result<Self, ExportError> {
        let path = directory.join(RECIPE_FILE);
        let bytes = files::read(&path, MAX_FILE_BYTES).map_err(|source| ExportError::Read { source })?;
        Self::parse(&bytes, &path)
    }

    /// The same of bytes; `path` is named in errors.
    ///
    /// # Errors
    /// It is no recipe, or one of a version that this program does not know.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ExportError> {
        let wrong = |source| ExportError::NotARecipe { path: path.to_owned(), source };
        let recipe: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        if recipe.schema_version != 1 {
            let found = recipe.schema_version;
            return Err(wrong(serde_json::Error::custom(format!("schema_version is {found}, this program reads 1"))));
        }
        Ok(recipe)
    }
}
