//! Finds the libtorch that torch-sys linked against and writes its folder into the RUNPATH of everything we link,
//! so that the binary, the tests and the benches run without `LD_LIBRARY_PATH` (which still wins: RUNPATH, not RPATH).

use std::path::{Path, PathBuf};

/// The libtorch that tch 0.24 is made for.
const LIBTORCH_VERSION: &str = "2.11.";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A path that is not there would run this, and compile everything, every time.
    if let Some(head) = git(&["rev-parse", "--git-path", "HEAD"]).filter(|head| Path::new(head).exists()) {
        println!("cargo::rerun-if-changed={head}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    println!("cargo::rustc-env=KINTSUGI_GIT_COMMIT={}", commit.unwrap_or_default());
    shared_checkpoints();
    if std::env::var_os("CARGO_FEATURE_LIBTORCH").is_none() {
        println!("cargo::rustc-env=KINTSUGI_LIBTORCH_VERSION=none");
        return;
    }
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo::error=torch-sys did not say where libtorch is; run `make setup` first");
        return;
    };
    let lib = lib.canonicalize().unwrap_or(lib);
    let version = libtorch_version(&lib).unwrap_or_else(|| "unknown".to_owned());
    if version != "unknown" && !version.starts_with(LIBTORCH_VERSION) {
        let lib = lib.display();
        println!("cargo::error=expected libtorch {LIBTORCH_VERSION}*, found {version} in {lib}; run `make setup`");
    }
    println!("cargo::rustc-env=KINTSUGI_LIBTORCH_VERSION={version}");
    println!("cargo::rustc-link-arg=-Wl,--enable-new-dtags");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// Reads the version from the files that a libtorch archive (`build-version`) or a wheel (`version.py`) carries.
fn libtorch_version(lib: &Path) -> Option<String> {
    let root = lib.parent()?;
    if let Ok(text) = std::fs::read_to_string(root.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string(root.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split('\'').nth(1).map(str::to_owned)
}

/// Sets `kintsugi_shared`, and `kintsugi_shared_megatron`, where the reference checkpoints are that are too large for the
/// repository: the tests that need them are ignored elsewhere.
fn shared_checkpoints() {
    for (name, folder) in
        [("kintsugi_shared", "../shared/checkpoints"), ("kintsugi_shared_megatron", "../shared/megatron")]
    {
        println!("cargo::rustc-check-cfg=cfg({name})");
        if Path::new(folder).is_dir() {
            println!("cargo::rerun-if-changed={folder}");
            println!("cargo::rustc-cfg={name}");
        }
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
