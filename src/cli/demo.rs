//! `kintsugi demo`: the main job on the bundled checkpoint, which the binary carries.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use fs_err as fs;

use super::args::{CacheArgs, EvaluationArgs, ModelArgs};
use super::compare::{self, CompareArgs};
use super::output::Screen;

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    /// Where the report goes.
    #[arg(long, value_name = "DIR", default_value = "kintsugi-out/demo")]
    output_dir: PathBuf,
    /// auto, cpu, cuda, or cuda:N[,N…].
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: crate::model::DeviceChoice,
}

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../evals/demo/checkpoint/", $name)).as_slice())
    };
}

const CHECKPOINT: &[(&str, &[u8])] = &[
    file!("global_step1600/configs/M1.yml"),
    file!("global_step1600/layer_00-model_00-model_states.pt"),
    file!("global_step1600/layer_00-model_01-model_states.pt"),
    file!("global_step1600/layer_02-model_00-model_states.pt"),
    file!("global_step1600/layer_02-model_01-model_states.pt"),
    file!("global_step1600/layer_03-model_00-model_states.pt"),
    file!("global_step1600/layer_03-model_01-model_states.pt"),
    file!("global_step1600/layer_04-model_00-model_states.pt"),
    file!("global_step1600/layer_04-model_01-model_states.pt"),
    file!("global_step1600/layer_05-model_00-model_states.pt"),
    file!("global_step1600/layer_05-model_01-model_states.pt"),
    file!("global_step1600/layer_07-model_00-model_states.pt"),
    file!("global_step1600/layer_07-model_01-model_states.pt"),
    file!("global_step1600/layer_08-model_00-model_states.pt"),
    file!("global_step1600/layer_08-model_01-model_states.pt"),
    file!("global_step1600/mp_rank_00_model_states.pt"),
    file!("global_step1600/mp_rank_01_model_states.pt"),
    file!("latest"),
];

const TOKENIZER: &[u8] = include_bytes!("../../evals/demo/tokenizer.json");
const TASK: &[u8] = include_bytes!("../../evals/demo/task.yml");
const PASSAGES: &[u8] = include_bytes!("../../evals/demo/passages.jsonl");

pub(super) fn run(args: &DemoArgs, screen: &Screen) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder for the bundled checkpoint")?;
    let checkpoint = folder.path().join("demo");
    for (name, bytes) in CHECKPOINT {
        write(&checkpoint.join(name), bytes)?;
    }
    let (tokenizer, data) = (folder.path().join("tokenizer.json"), folder.path().join("passages.jsonl"));
    write(&tokenizer, TOKENIZER)?;
    write(&data, PASSAGES)?;
    let task = folder.path().join("task.yml");
    write(&task, TASK)?;
    let evaluation = EvaluationArgs {
        tokenizer: Some(tokenizer),
        device: args.device.clone(),
        data: Some(data),
        // What an earlier version of the program has left there is of no use.
        restart: true,
        cache: CacheArgs { no_cache: true, ..CacheArgs::default() },
        ..EvaluationArgs::for_task(task.display().to_string())
    };
    let model = ModelArgs::at(checkpoint);
    compare::run(&CompareArgs::new(model, evaluation, Some(args.output_dir.clone())), screen)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)?;
    Ok(())
}
