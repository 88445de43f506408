//! `kintsugi doctor`: what this machine can do.

use clap::Args;

use super::screen::Screen;
use crate::error::Result;

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

fn facts() -> Vec<(&'static str, String)> {
    let mut facts = vec![("kintsugi", env!("CARGO_PKG_VERSION").to_owned())];
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
        facts.push(("libtorch", crate::run::versions().libtorch));
        facts.push((
            "cuda",
            match crate::model::cuda_device_count() {
                Ok(0) => "libtorch finds no device".to_owned(),
                Ok(count) => format!("{count} device(s)"),
                Err(reason) => format!("none: {}", reason.lines().next().unwrap_or_default()),
            },
        ));
    }
    #[cfg(not(feature = "libtorch"))]
    facts.push(("libtorch", "built without: compare, eval and demo are missing".to_owned()));
    facts
}
