//! A directory that appears whole or not at all. Everything is written into a directory beside the target, which gets
//! the target's name when it is complete. The remains of an interrupted run are found by their name and removed.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::ExportError;

/// Written last: a directory with this file is a complete merge by this program.
pub const RECIPE_FILE: &str = "kintsugi_recipe.json";

/// A directory in the making. Dropped before it is published, it is removed.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    folder: PathBuf,
    /// The open directory, locked as long as it is being written.
    lock: Option<File>,
}

impl Staging {
    /// Makes the directory beside `target`. The remains of an interrupted run are removed.
    ///
    /// # Errors
    /// The target exists and is not empty (`overwrite` allows an earlier merge), another process is writing it, or the
    /// parent directory cannot be written to.
    pub(super) fn begin(target: &Path, overwrite: bool) -> Result<Self, ExportError> {
        let target = std::path::absolute(target).map_err(ExportError::at(target))?;
        let Some(name) = target.file_name() else {
            return Err(ExportError::Exists { path: target, replaceable: false });
        };
        check_target(&target, overwrite)?;
        let mut hidden = OsString::from(".kintsugi-");
        hidden.push(name);
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(ExportError::at(parent))?;
        let folder = parent.join(hidden);
        if folder.exists() {
            // Only a process that still runs holds the lock.
            if File::open(&folder).is_ok_and(|old| is_locked(&old)) {
                return Err(ExportError::Busy { path: target });
            }
            tracing::info!("{}: removing the remains of an interrupted merge", folder.display());
            fs::remove_dir_all(&folder).map_err(ExportError::at(&folder))?;
        }
        fs::create_dir(&folder).map_err(ExportError::at(&folder))?;
        let lock = File::open(&folder).map_err(ExportError::at(&folder))?;
        if is_locked(&lock) {
            return Err(ExportError::Busy { path: target });
        }
        Ok(Self { target, folder, lock: Some(lock) })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name it will have.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Waits until the disk has everything and gives the directory its name. A directory that had that name is removed
    /// afterwards.
    pub(super) fn publish(mut self) -> Result<(), ExportError> {
        sync_folders(&self.folder).map_err(ExportError::at(&self.folder))?;
        let replaced = self.target.exists();
        if replaced {
            exchange(&self.folder, &self.target).map_err(ExportError::at(&self.target))?;
        } else {
            fs::rename(&self.folder, &self.target).map_err(ExportError::at(&self.target))?;
        }
        if let Some(parent) = self.target.parent() {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(ExportError::at(parent))?;
        }
        self.lock = None;
        if replaced && let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!("{}: the replaced files could not be removed: {error}", self.folder.display());
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.take().is_some() {
            // If this fails, the next run tries again.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Takes the lock, unless another process has it. File systems without locks have nothing locked.
fn is_locked(folder: &File) -> bool {
    matches!(folder.try_lock(), Err(TryLockError::WouldBlock))
}

/// Whether the target may be written: nothing, an empty directory, or with `overwrite` an earlier merge.
fn check_target(target: &Path, overwrite: bool) -> Result<(), ExportError> {
    let empty = target.is_dir() && fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    let replaceable = target.join(RECIPE_FILE).is_file();
    if empty || !target.exists() || (overwrite && replaceable) {
        return Ok(());
    }
    let path = target.to_owned();
    Err(if overwrite { ExportError::NotOurs { path } } else { ExportError::Exists { path, replaceable } })
}

/// Syncs a directory and those in it; the files in them are synced as they are published.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Swaps the names of two directories: at no time is one of them missing.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            exchange_in_steps(one, other)
        }
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    exchange_in_steps(one, other)
}

/// For file systems that cannot swap names: between the steps the target is missing, but complete under another name.
fn exchange_in_steps(one: &Path, other: &Path) -> io::Result<()> {
    let mut aside = one.as_os_str().to_owned();
    aside.push("-old");
    fs::rename(other, &aside)?;
    fs::rename(one, other)?;
    fs::rename(&aside, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(staging: &Staging, name: &str, text: &str) {
        fs::write(staging.folder().join(name), text).unwrap();
    }

    #[test]
    fn nothing_is_there_until_everything_is() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let staging = Staging::begin(&target, false).unwrap();
        write(&staging, RECIPE_FILE, "one");
        assert!(!target.exists());
        assert!(matches!(Staging::begin(&target, false), Err(ExportError::Busy { .. })));
        staging.publish().unwrap();
        assert_eq!(fs::read_to_string(target.join(RECIPE_FILE)).unwrap(), "one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);

        assert!(matches!(Staging::begin(&target, false), Err(ExportError::Exists { .. })));
        let staging = Staging::begin(&target, true).unwrap();
        write(&staging, RECIPE_FILE, "two");
        drop(staging);
        assert_eq!(fs::read_to_string(target.join(RECIPE_FILE)).unwrap(), "one");
        let staging = Staging::begin(&target, true).unwrap();
        write(&staging, RECIPE_FILE, "three");
        staging.publish().unwrap();
        assert_eq!(fs::read_to_string(target.join(RECIPE_FILE)).unwrap(), "three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_wrote_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("precious");
        fs::create_dir(&target).unwrap();
        drop(Staging::begin(&target, false).unwrap());
        fs::write(target.join("thesis.tex"), "years").unwrap();
        assert!(matches!(Staging::begin(&target, false), Err(ExportError::Exists { .. })));
        assert!(matches!(Staging::begin(&target, true), Err(ExportError::NotOurs { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_an_interrupted_run_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let left = folder.path().join(".kintsugi-out");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("half a file"), "").unwrap();
        let staging = Staging::begin(&target, false).unwrap();
        assert_eq!(fs::read_dir(staging.folder()).unwrap().count(), 0);
        drop(staging);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_are_swapped_in_steps_where_they_must_be() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        for path in [&one, &other] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("name"), path.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        exchange_in_steps(&one, &other).unwrap();
        assert_eq!(fs::read_to_string(one.join("name")).unwrap(), "other");
        exchange(&one, &other).unwrap();
        assert_eq!(fs::read_to_string(one.join("name")).unwrap(), "one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
