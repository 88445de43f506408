//! `compare --dry-run`: what would be read, computed and written.

use super::screen::Screen;
use crate::error::{Error, Result};
use crate::run::{Forecast, Writing};

pub(super) fn show(forecast: &Forecast, screen: &Screen) -> Result<()> {
    let Forecast { work, threads, .. } = forecast;
    let slices = match work.slices {
        1 => "all passages in one pass".to_owned(),
        count => format!("{count} slices of passages, one pass each"),
    };
    let on_gpu = work.device_bytes.map_or_else(String::new, |bytes| format!(", at most {} of each GPU", size(bytes)));
    let seconds = match &forecast.seconds {
        Ok(seconds) => format!("about {} at the speed of a matrix product just measured", duration(*seconds)),
        Err(error) => format!("unknown: {error}"),
    };
    let lines = [
        ("checkpoint", forecast.checkpoint.clone()),
        (
            "model",
            format!("{} parameters in {}, {}", short(forecast.parameter_count), forecast.dtype, size(forecast.bytes)),
        ),
        ("task", format!("{}, {} ({})", forecast.task, forecast.data.display(), counts(forecast))),
        ("tokenizer", forecast.tokenizer.display().to_string()),
        ("evaluates", forecast.models.join(", ")),
        ("on", format!("{}, {threads} threads, {} tokens at a time", forecast.devices.join(", "), work.chunk_tokens)),
        ("memory", format!("{} for residual streams; {slices}{on_gpu}", size(work.memory_budget))),
        ("reads", format!("{} of weights", size(work.read_bytes))),
        ("computes", format!("at most {:.1e} floating-point operations in matrix products", work.operations)),
        ("takes", seconds),
        ("writes", writes(forecast.writes.as_ref())?),
    ];
    let lines = lines.into_iter().chain(stops(&forecast.looks).map(|stops| ("stops", stops)));
    let lines: Vec<_> = lines.map(|(name, value)| format!("{name:11} {value}\n")).collect();
    screen.data(&lines.concat())
}

fn counts(forecast: &Forecast) -> String {
    let (work, all) = (&forecast.work, forecast.passage_count);
    let of = if work.passages == all { String::new() } else { format!(" of {all}") };
    format!("{}{of} passages, {} tokens, {} of them predicted", work.passages, work.tokens, work.targets)
}

fn stops(looks: &[usize]) -> Option<String> {
    let (last, others) = looks.split_last()?;
    let others: Vec<_> = others.iter().map(usize::to_string).collect();
    let and = if others.is_empty() { "" } else { " and " };
    Some(format!("when every model is decided; looks after {}{and}{last} passages", others.join(", ")))
}

/// The disk must have room for it.
fn writes(writing: Option<&Writing>) -> Result<String> {
    let Some(Writing { folder, bytes, free }) = writing else { return Ok("nothing: no --output-dir".to_owned()) };
    let (folder, needed) = (folder.display(), size(*bytes));
    let free = match *free {
        Some(free) if free < *bytes => {
            let free = size(free);
            return Err(Error::usage(format!(
                "{folder}: about {needed} would be written, and {free} are free on that disk"
            )));
        }
        Some(free) => format!("{} are free", size(free)),
        None => "how much is free is unknown".to_owned(),
    };
    Ok(format!("about {needed} into {folder} ({free})"))
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

fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        indicatif::HumanDuration(std::time::Duration::from_secs_f64(seconds)).to_string()
    }
}
