//! Finds the libtorch that torch-sys linked against and writes its folder into the RUNPATH of everything we link,
//! so that the binary, the tests and the benches run without `LD_LIBRARY_PATH` (which still wins: RUNPATH, not RPATH).

#[path = "src/run/libtorch_version.rs"]
mod libtorch_version;

use std::path::{Path, PathBuf};

use libtorch_version::libtorch_version;

/// The libtorch that tch 0.24 is made for.
const LIBTORCH_VERSION: &str = "2.11";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/run/libtorch_version.rs");
    commit();
    let features = ["hub", "libtorch"];
    let features = features.into_iter().filter(|name| is_on(name)).collect::<Vec<_>>().join(", ");
    println!("cargo::rustc-env=KINTSUGI_FEATURES={}", if features.is_empty() { "none" } else { &features });
    println!("cargo::rustc-env=KINTSUGI_LIBTORCH_NEEDED={LIBTORCH_VERSION}");
    shared_checkpoints();
    if !is_on("libtorch") {
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
    if version != "unknown" && !version.starts_with(&format!("{LIBTORCH_VERSION}.")) {
        let lib = lib.display();
        println!("cargo::error=expected libtorch {LIBTORCH_VERSION}, found {version} in {lib}; run `make setup`");
    }
    println!("cargo::rustc-env=KINTSUGI_LIBTORCH_VERSION={version}");
    println!("cargo::rustc-link-arg=-Wl,--enable-new-dtags");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

fn is_on(feature: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{}", feature.to_uppercase())).is_some()
}

/// The commit that is built. A release build follows every commit; others would compile everything again for it, and follow
/// only a change of branch.
fn commit() {
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let watched = git(&["rev-parse", "--git-path", if release { "logs/HEAD" } else { "HEAD" }]);
    // A path that is not there would run this, and compile everything, every time.
    if let Some(path) = watched.filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=KINTSUGI_GIT_COMMIT={commit}");
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
