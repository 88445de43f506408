//! Small file systems, to fill up or to make read-only.

use std::path::Path;
use std::process::{Command, Stdio};

/// A file system of so many bytes, unmounted when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where the test may not mount one.
    pub fn mount(bytes: u64) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        if disk.mounted(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]) {
            return Some(disk);
        }
        eprintln!("skipped: mounting a small file system is not allowed here");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Whether nothing can be written to it from now on.
    pub fn read_only(&self) -> bool {
        self.mounted(&["-o", "remount,ro"])
    }

    /// Whether it has so many bytes from now on.
    pub fn grow(&self, bytes: u64) -> bool {
        self.mounted(&["-o", &format!("remount,size={bytes}")])
    }

    fn mounted(&self, options: &[&str]) -> bool {
        let mut mount = Command::new("mount");
        mount.args(options).arg(self.path()).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
