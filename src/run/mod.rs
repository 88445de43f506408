//! The main job: a [`Request`] in, a report out.
//!
//! [`compare`] evaluates the unmerged model and every merge of it, [`evaluate`] one model alone, [`explain()`] the groups of
//! parameters one by one, and [`combine`] joins the run shards of several processes. Each opens its models, prepares passages,
//! tokenizer and devices, and executes a plan: the passages are cut into *chunks*, which go through a layer together, and the
//! chunks into *slices*, after each of which the results are in a journal. What comes out is [`Finished`], which makes and
//! writes the report. Progress and signals are the [`Caller`]'s: nothing here knows a terminal.

mod bytes;
#[cfg(feature = "libtorch")]
mod calibration;
#[cfg(feature = "libtorch")]
mod caller;
#[cfg(feature = "libtorch")]
mod candidates;
#[cfg(feature = "libtorch")]
mod clock;
mod drift;
mod error;
#[cfg(feature = "libtorch")]
mod execute;
#[cfg(feature = "libtorch")]
mod explain;
mod finished;
#[cfg(feature = "libtorch")]
mod forecast;
#[cfg(feature = "libtorch")]
mod input_files;
#[cfg(feature = "libtorch")]
mod inputs;
#[cfg(feature = "libtorch")]
mod job;
#[doc(hidden)]
pub mod journal;
mod journal_files;
mod judge;
mod key;
mod libtorch_version;
#[cfg(feature = "libtorch")]
mod models;
mod named_path;
#[cfg(feature = "libtorch")]
mod open;
mod provenance;
mod reading;
mod records;
mod request;
mod resolve;
#[cfg(feature = "libtorch")]
mod stopping;
mod strategies;
mod test_checkpoint;
mod text;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::report::prepare_output;

pub use bytes::parse_bytes;
pub use drift::{drift, read_replicated};
pub use error::RunError;
pub use finished::Finished;
pub use judge::judge_strategies;
pub(crate) use libtorch_version::libtorch_version;
pub use named_path::NamedPath;
#[cfg(feature = "libtorch")]
pub(crate) use provenance::loaded_libtorch;
pub use provenance::{checkpoint_info, versions};
pub use reading::ReadingOptions;
pub use request::{CalibrationOptions, OutputOptions, Request, ResourceOptions, StatisticsOptions, TaskOptions};
pub use resolve::{model_path, tokenizer_if_any};
pub use strategies::StrategyOptions;
pub use test_checkpoint::{Numbers, TRUTH_FILE, TestCheckpoint, Truth};

#[cfg(feature = "libtorch")]
pub use {
    calibration::Calibration,
    caller::{Caller, Silent},
    explain::explain,
    forecast::{Forecast, Writing},
};

#[cfg(feature = "libtorch")]
use {clock::Clock, inputs::Inputs, job::Job, models::ModelSet};

/// Evaluates the unmerged model, every merge of it and every candidate on the same passages: open the checkpoint, the
/// strategies (all built-in ones by default) and the candidates; prepare the passages and, where a strategy calibrates and
/// the ranks' streams differ, those that it calibrates with; execute slice by slice. [`Finished::write_report`] does the rest.
///
/// # Errors
/// Whatever keeps the evaluation from finishing; finished slices stay in the journal of the output directory.
#[cfg(feature = "libtorch")]
pub fn compare(request: &Request, caller: &dyn Caller) -> Result<Finished> {
    let clock = Clock::start();
    let output = request.output.output_dir.as_deref().map(prepare_output).transpose()?;
    let opened = open::comparison(request, caller)?;
    let mut inputs = Inputs::prepare(&*opened.checkpoint, request, opened.calibrates, clock, caller)?;
    let job = Job::new(opened.models(request), journal_files::JOURNAL, request);
    let records = execute::execute(&job, &mut inputs, caller)?;
    Ok(Finished::new(records, output))
}

/// Evaluates the unmerged model and the candidates as [`compare`] does, and no strategy; nothing is written.
///
/// # Errors
/// As [`compare`].
#[cfg(feature = "libtorch")]
pub fn compare_candidates(request: &Request, caller: &dyn Caller) -> Result<Finished> {
    let clock = Clock::start();
    let opened = open::candidates_alone(request, caller)?;
    let mut inputs = Inputs::prepare(&*opened.checkpoint, request, opened.calibrates, clock, caller)?;
    let job = Job { folder: None, ..Job::new(opened.models(request), journal_files::JOURNAL, request) };
    Ok(Finished::new(execute::execute(&job, &mut inputs, caller)?, None))
}

/// What [`compare`] would read, compute and write, with the checks that need no journal. Data and tokenizer may be downloaded,
/// and one matrix product is timed; nothing else is computed or written.
///
/// # Errors
/// As [`compare`].
#[cfg(feature = "libtorch")]
pub fn forecast(request: &Request, caller: &dyn Caller) -> Result<Forecast> {
    let opened = open::comparison(request, caller)?;
    let inputs = Inputs::prepare(&*opened.checkpoint, request, opened.calibrates, Clock::start(), caller)?;
    Forecast::new(&opened.models(request), &inputs, request)
}

/// Evaluates the model at [`Request::checkpoint`] alone: an unmerged checkpoint, a merged one, a Hugging Face directory, or a
/// model by its name on the Hub.
/// Strategies and candidates are ignored.
///
/// # Errors
/// As [`compare`].
#[cfg(feature = "libtorch")]
pub fn evaluate(request: &Request, caller: &dyn Caller) -> Result<Finished> {
    let clock = Clock::start();
    let output = request.output.output_dir.as_deref().map(prepare_output).transpose()?;
    let path = model_path(&request.checkpoint, &mut *caller.download())?;
    let model = crate::checkpoint::open_model(&path, &request.reading.open_options())?;
    let mut inputs = Inputs::prepare(&*model, request, false, clock, caller)?;
    let job = Job::new(ModelSet::new(&*model, &request.checkpoint), journal_files::JOURNAL, request);
    let records = execute::execute(&job, &mut inputs, caller)?;
    Ok(Finished::new(records, output))
}

/// Joins the run shards whose journals are in these folders, or in those below them, into one run.
///
/// # Errors
/// Journals that cannot be read, of different runs, or that do not hold every passage once; an output directory that cannot
/// be written.
pub fn combine(journals: &[PathBuf], output_dir: &Path) -> Result<Finished> {
    let mut parts = Vec::new();
    for path in journals.iter().flat_map(|path| journal_files::journals_in(path)) {
        let records = journal_files::read_records(&path)?;
        parts.push((path, records));
    }
    let output = prepare_output(output_dir)?;
    Ok(Finished::new(records::combine(parts)?, Some(output)))
}
