//! What this executable, built without libtorch, cannot do, the wheel's other one does: `kintsugi-libtorch`, beside it. It is
//! loaded with the torch of the Python environment that both are in. Which torch that is, and that it fits, is found out
//! before: the loader would name a missing symbol.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::run::libtorch_version;

const OTHER: &str = "kintsugi-libtorch";

/// The torch that it is built for.
const NEEDED: &str = env!("KINTSUGI_LIBTORCH_NEEDED");

/// Where torch's libraries can be, seen from the folder above that of the executables. `make wheel` makes the RUNPATH of the
/// other one of the same list.
const FOLDERS: &str = include_str!("../../packaging/torch-folders.txt");

/// Becomes the other executable, with the same arguments. Returns only where it cannot.
pub(super) fn exec(what: &str) -> Error {
    let library_path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let other = match other(what, std::env::current_exe().ok().as_deref(), &library_path) {
        Ok(other) => other,
        Err(error) => return error,
    };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(&other);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).exec();
    Error::new(ErrorKind::Io, format!("{}: {error}", other.display()))
}

/// The other executable, if it is beside this one and the torch that the loader will give it fits.
fn other(what: &str, own: Option<&Path>, library_path: &OsStr) -> Result<PathBuf> {
    let Some(other) = own.map(|own| own.with_file_name(OTHER)).filter(|other| other.is_file()) else {
        return Err(Error::usage(format!("{what} needs libtorch, and this executable is built without")).with_hint(
            "pip install the wheel kintsugi-merge, which uses the torch of its environment, or build from source with libtorch",
        ));
    };
    let install = format!("pip install 'torch=={NEEDED}.*' in the environment of {}", other.display());
    let Some(libraries) = libraries(&other, library_path) else {
        return Err(Error::usage(format!("{what} needs torch {NEEDED}, and none is installed")).with_hint(install));
    };
    match libtorch_version(&libraries) {
        Some(version) if !version.starts_with(&format!("{NEEDED}.")) => {
            let libraries = libraries.display();
            Err(Error::usage(format!("{what} needs torch {NEEDED}, and {libraries} is of {version}"))
                .with_hint(install))
        }
        _ => Ok(other),
    }
}

/// The folder from which the loader will take libtorch: the first that has it.
fn libraries(executable: &Path, library_path: &OsStr) -> Option<PathBuf> {
    let prefix = executable.parent()?.parent()?;
    let given = (!library_path.is_empty()).then(|| std::env::split_paths(library_path));
    let runpath = FOLDERS.lines().map(|folder| prefix.join(folder));
    given.into_iter().flatten().chain(runpath).find(|folder| folder.join("libtorch_cpu.so").is_file())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fs_err as fs;
    use tempfile::TempDir;

    use super::*;

    /// An environment with both executables in its folder of scripts.
    struct Environment(TempDir);

    impl Environment {
        fn new() -> Self {
            let environment = Self(tempfile::tempdir().unwrap());
            environment.write(&format!("bin/{OTHER}"), "");
            environment
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// As a wheel of torch is installed, in this folder of packages.
        fn install_torch(&self, packages: &str, version: &str) {
            self.write(&format!("{packages}/torch/lib/libtorch_cpu.so"), "");
            self.write(&format!("{packages}/torch/version.py"), &format!("__version__ = '{version}'\ndebug = False\n"));
        }

        fn other(&self) -> Result<PathBuf> {
            other("this command", Some(&self.path("bin/kintsugi")), OsStr::new(""))
        }

        #[track_caller]
        fn refusal(&self) -> String {
            format!("{:?}", self.other().unwrap_err()).replace(&self.0.path().display().to_string(), "PREFIX")
        }
    }

    #[test]
    fn torch_is_found_where_pip_conda_and_debian_install_it() {
        for python in ["3.10", "3.11", "3.12", "3.13", "3.14"] {
            for packages in [format!("lib/python{python}/site-packages"), format!("lib/python{python}/dist-packages")] {
                let environment = Environment::new();
                environment.install_torch(&packages, "2.11.0+cpu");
                assert_eq!(environment.other().unwrap(), environment.path("bin").join(OTHER), "{packages}");
            }
        }
        let environment = Environment::new();
        environment.install_torch("lib/python3/dist-packages", "2.11.1");
        environment.other().unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let environment = Environment::new();
        assert_eq!(
            environment.refusal(),
            "this command needs torch 2.11, and none is installed\n\
             hint: pip install 'torch==2.11.*' in the environment of PREFIX/bin/kintsugi-libtorch"
        );
        environment.install_torch("lib/python3.12/site-packages", "2.9.1+cu128");
        assert_eq!(
            environment.refusal(),
            "this command needs torch 2.11, and PREFIX/lib/python3.12/site-packages/torch/lib is of 2.9.1+cu128\n\
             hint: pip install 'torch==2.11.*' in the environment of PREFIX/bin/kintsugi-libtorch"
        );
        environment.install_torch("lib/python3.12/site-packages", "2.110.0");
        assert!(environment.other().is_err());
        fs::remove_file(environment.path("bin").join(OTHER)).unwrap();
        assert!(
            environment.refusal().starts_with("this command needs libtorch, and this executable is built without\n")
        );
    }

    /// The loader takes the first, whether it fits or not.
    #[test]
    fn of_several_the_one_is_checked_that_the_loader_takes() {
        let environment = Environment::new();
        environment.install_torch("lib/python3.13/site-packages", "2.11.0");
        environment.install_torch("lib/python3.12/site-packages", "2.10.0");
        assert!(environment.refusal().contains("lib/python3.12/site-packages/torch/lib is of 2.10.0"));
        environment.install_torch("elsewhere", "2.11.0");
        let elsewhere = environment.path("elsewhere/torch/lib");
        other("this command", Some(&environment.path("bin/kintsugi")), elsewhere.as_os_str()).unwrap();
    }
}
