//! `compare --dry-run`: what would be read, computed and written.

use std::fmt::Write;
use std::path::Path;

use anyhow::bail;

use super::evaluation::Prepared;
use super::output::Screen;
use crate::checkpoint::ModelSource;
use crate::eval::{Models, Plan, Variant};
use crate::files::{free_bytes, probe};
use crate::report::ReportError;

/// Bytes that samples and lm-evaluation-harness's files take for each passage and each further target token of a model, and
/// what page and plots take, about.
const BYTES_PER_SAMPLE: u64 = 2200;
const BYTES_PER_TARGET: u64 = 800;
const BYTES_OF_PAGE: u64 = 2_000_000;

pub(super) fn show(
    (model, path): (&dyn ModelSource, &Path),
    variants: &[Variant],
    (prepared, output_dir): (&Prepared, Option<&Path>),
    screen: &Screen,
) -> anyhow::Result<()> {
    let plan = Plan::new(Models { checkpoint: model, variants }, &prepared.passages.tokenized, &prepared.options)?;
    let (parameters, bytes) = model.size();
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "{name:11} {value}");
    line("checkpoint", format!("{} ({})", path.display(), model.describe()))?;
    line("model", format!("{} parameters in {}, {}", short(parameters), model.dtype(), size(bytes)))?;
    line(
        "task",
        format!("{}, {} ({})", prepared.task.name, prepared.passages.data.path.display(), counts(&plan, prepared)),
    )?;
    line("tokenizer", prepared.tokenizer.path().display().to_string())?;
    let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
    line("evaluates", names.join(", "))?;
    let backends: Vec<String> = prepared.options.backends.iter().map(ToString::to_string).collect();
    line(
        "on",
        format!("{}, {} threads, {} tokens at a time", backends.join(", "), prepared.threads, plan.chunk_tokens),
    )?;
    line("memory", format!("{} for residual streams; {}", size(plan.memory_budget), slices(plan.slices)))?;
    line("reads", format!("{} of weights", size(plan.read_bytes)))?;
    line("computes", format!("at most {} floating-point operations in matrix products", scientific(plan.operations)))?;
    let time = match plan.seconds(model, &prepared.options) {
        Ok(seconds) => format!("about {} at the speed of a matrix product just measured", duration(seconds)),
        Err(error) => format!("unknown: {error}"),
    };
    line("takes", time)?;
    line("writes", written(&plan, variants.len(), output_dir)?)?;
    screen.data(&text)
}

fn counts(plan: &Plan, prepared: &Prepared) -> String {
    let Plan { passages, tokens, targets, .. } = plan;
    let of = if *passages == prepared.passages.data.total_count {
        String::new()
    } else {
        format!(" of {}", prepared.passages.data.total_count)
    };
    format!("{passages}{of} passages, {tokens} tokens, {targets} of them predicted")
}

fn slices(count: usize) -> String {
    if count == 1 {
        "all passages in one pass".to_owned()
    } else {
        format!("{count} slices of passages, one pass each")
    }
}

/// What goes to disk, which must have room for it.
fn written(plan: &Plan, models: usize, output_dir: Option<&Path>) -> anyhow::Result<String> {
    let Some(folder) = output_dir else { return Ok("nothing: no --output-dir".to_owned()) };
    let further = plan.targets.saturating_sub(plan.passages) as u64;
    let samples = (plan.passages as u64 * BYTES_PER_SAMPLE + further * BYTES_PER_TARGET) * models as u64;
    let needed = samples + BYTES_OF_PAGE;
    let shown = folder.display();
    probe(folder).map_err(|source| ReportError::NotWritable { path: folder.to_owned(), source })?;
    Ok(match free_bytes(folder) {
        Some(free) if free < needed => {
            bail!("{shown}: about {} would be written, and {} are free on that disk", size(needed), size(free))
        }
        Some(free) => format!("about {} into {shown} ({} are free)", size(needed), size(free)),
        None => format!("about {} into {shown} (how much is free is unknown)", size(needed)),
    })
}

fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people to read")]
fn short(count: u64) -> String {
    match count {
        1_000_000_000.. => format!("{:.1} billion", count as f64 / 1e9),
        1_000_000.. => format!("{:.1} million", count as f64 / 1e6),
        _ => count.to_string(),
    }
}

fn scientific(number: f64) -> String {
    format!("{number:.1e}")
}

fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        indicatif::HumanDuration(std::time::Duration::from_secs_f64(seconds)).to_string()
    }
}
