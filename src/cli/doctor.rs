//! `kintsugi doctor`: what this machine can do.

use clap::Args;

use super::screen::Screen;
use crate::error::Result;
#[cfg(feature = "libtorch")]
use crate::run::{libtorch_version, loaded_libtorch};

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: DoctorArgs, screen: &Screen) -> Result<()> {
    let facts = facts();
    if args.json {
        let map: serde_json::Map<_, _> =
            facts.into_iter().map(|(key, value)| (key.replace(' ', "_"), value.into())).collect();
        return screen.json(&map);
    }
    let lines: Vec<_> = facts.into_iter().map(|(key, value)| format!("{key:16} {value}\n")).collect();
    screen.data(&lines.concat())
}

fn facts() -> Vec<(String, String)> {
    // An executable that computes knows more.
    #[cfg(not(feature = "libtorch"))]
    let libtorch = super::hand_over::exec("a forward pass").to_string();
    let mut facts = vec![
        ("kintsugi", env!("CARGO_PKG_VERSION").to_owned()),
        ("executable", executable()),
        ("commit", env!("KINTSUGI_GIT_COMMIT").to_owned()),
        ("features", env!("KINTSUGI_FEATURES").to_owned()),
    ];
    let threads = std::thread::available_parallelism().map_or_else(|_| "unknown".to_owned(), |count| count.to_string());
    facts.push(("cpu threads", threads));
    #[cfg(target_arch = "x86_64")]
    {
        let bf16 = std::is_x86_feature_detected!("avx512bf16");
        facts.push(("cpu bf16", if bf16 { "avx512_bf16: --dtype bf16 is fast" } else { "emulated: slow" }.to_owned()));
    }
    #[cfg(feature = "libtorch")]
    {
        let tiles =
            if crate::model::has_tiles() { "AMX: f32 products twice as fast" } else { "none: products by libtorch" };
        facts.push(("cpu tiles", tiles.to_owned()));
        facts.push(("libtorch", env!("KINTSUGI_LIBTORCH_VERSION").to_owned()));
        facts.push(("libtorch loaded", loaded()));
    }
    #[cfg(not(feature = "libtorch"))]
    facts.push(("libtorch", format!("none: {libtorch}")));
    let facts = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact));
    #[cfg(feature = "libtorch")]
    let facts = facts.chain(gpus());
    facts.collect()
}

fn executable() -> String {
    std::env::current_exe().map_or_else(|error| format!("unknown: {error}"), |path| path.display().to_string())
}

/// The libtorch that the loader has found for this process.
#[cfg(feature = "libtorch")]
fn loaded() -> String {
    let Some(libraries) = loaded_libtorch() else { return "unknown".to_owned() };
    let version = libtorch_version(&libraries).unwrap_or_else(|| "an unknown version".to_owned());
    format!("{version} from {}", libraries.display())
}

/// What is known of CUDA, and every GPU after a trial.
#[cfg(feature = "libtorch")]
fn gpus() -> Vec<(String, String)> {
    use crate::model;
    let gpus = match model::gpus() {
        Ok(gpus) => gpus,
        Err(error) => return vec![("cuda".to_owned(), format!("none: {error}"))],
    };
    let versions =
        model::cuda_versions().into_iter().filter_map(|(name, version)| Some(format!("{name} {}", version?)));
    let mut facts = vec![("cuda".to_owned(), versions.collect::<Vec<_>>().join(", "))];
    facts.extend(gpus.iter().map(|gpu| {
        let memory = model::gpu_memory(gpu.index).map_or_else(|error| error.to_string(), |memory| memory.to_string());
        let works = match model::probe(model::Device::Cuda(gpu.index)) {
            Ok(()) => "product and attention work".to_owned(),
            Err(error) => format!("DOES NOT WORK: {error}"),
        };
        (format!("cuda:{}", gpu.index), format!("{gpu}, {memory}; {works}"))
    }));
    facts
}
