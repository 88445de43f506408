//! `kintsugi demo`: the main job on the bundled checkpoint, which the binary carries, or on a model of the Hub.

mod of_model;

use std::path::Path;

use fs_err as fs;

use super::forward_args::DemoArgs;
use super::screen::Screen;
use super::show::show_finished;
use crate::error::{Error, Result};
use crate::run::{self, OutputOptions, Request, ResourceOptions, TaskOptions};

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

pub(super) fn run(args: DemoArgs, screen: &Screen) -> Result<()> {
    let DemoArgs { output_dir, device, of_model } = args;
    // Results of an earlier version of the program, or of another model, cannot be continued.
    let output = OutputOptions { output_dir: Some(output_dir), restart: true, shard: None };
    let resources = ResourceOptions { device, ..ResourceOptions::default() };
    match &of_model.model {
        Some(model) => of_model::run(model, &of_model, output, resources, screen),
        None => bundled(output, resources, screen),
    }
}

fn bundled(output: OutputOptions, resources: ResourceOptions, screen: &Screen) -> Result<()> {
    let temporary = tempfile::tempdir()
        .map_err(|error| Error::from(error).context("could not make a temporary folder for the bundled checkpoint"))?;
    let folder = temporary.path();
    for (name, bytes) in CHECKPOINT {
        write(&folder.join("demo").join(name), bytes)?;
    }
    let (tokenizer, data, task) =
        (folder.join("tokenizer.json"), folder.join("passages.jsonl"), folder.join("task.yml"));
    write(&tokenizer, TOKENIZER)?;
    write(&data, PASSAGES)?;
    write(&task, TASK)?;
    let mut request = Request {
        checkpoint: folder.join("demo"),
        task: TaskOptions {
            task: task.display().to_string(),
            data: Some(data),
            tokenizer: Some(tokenizer),
            ..TaskOptions::default()
        },
        output,
        resources,
        ..Request::default()
    };
    let caller = screen.caller(&mut request.output)?;
    show_finished(&run::compare(&request, &caller)?, screen)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)?;
    Ok(())
}
