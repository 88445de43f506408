//! Evaluating with a journal: every slice is on disk before the next begins, and a run that was stopped goes on where it
//! was. Without an output directory the same records are kept in memory.

use std::path::Path;

use fs_err as fs;

use super::caller::Caller;
use super::clock::peak_rss_bytes;
use super::drift::drift_of_model;
use super::error::RunError;
use super::input_files::InputFiles;
use super::inputs::Inputs;
use super::job::Job;
use super::journal::Journal;
use super::journal_files::journal_folder;
use super::key::{Differences, RunKey};
use super::provenance::{checkpoint_info, digests, versions};
use super::records::{ChunkRecord, ModelScores, ModelsRecord, Number, Record, Records, RunRecord, SliceRecord};
use crate::error::{Error, Result};
use crate::eval::budget::kept_slice_tokens;
use crate::eval::chunk_plan::{Assignment, ChunkPlan};
use crate::eval::{EvalError, SliceOutcome, evaluate_chunks, plan_chunks, samples};
use crate::merge::ParamDrift;
use crate::report::{ModelRole, RunShard, StageSeconds};
use crate::samples::{PassageText, Sample};

pub(super) fn execute(job: &Job<'_>, inputs: &mut Inputs, caller: &dyn Caller) -> Result<Records> {
    let models = &job.models;
    if let Some(rule) = &inputs.stopping {
        rule.check(&inputs.task.name, models.judged())?;
    }
    let plan = plan_chunks(models.evaluated(), &inputs.passages.tokenized, &inputs.options)?;
    let files = InputFiles::new(models.source, &models.variants)?;
    let run = run_record(job, inputs, &plan, &files, caller);
    let (journal, records) = match job.folder {
        None => (None, Records::new(run)),
        Some(folder) => {
            let folder = journal_folder(folder, inputs.shard);
            fs::create_dir_all(&folder)?;
            caller.watch_signals()?;
            let (journal, records) = open(&folder.join(job.journal), run, job.restart, &files)?;
            (Some(journal), records)
        }
    };
    inputs.options.slice_tokens = Some(records.run.slice_tokens);
    let assigned = assignment(&plan, inputs.shard, job.folder.is_some())?;
    let assignment = Assignment { done: records.done(), ..assigned };
    let mut recorder =
        Recorder { job, inputs, plan: &plan, assignment: &assignment, caller, journal, records, drift: None };
    let mut ended = assignment.done.len() == assignment.chunks.len() || recorder.is_decided()?;
    if !recorder.records.slices.is_empty() {
        recorder.announce(ended);
    }
    if !ended && recorder.records.models.is_none() {
        recorder.drift = Some(drift_of_model(models.source)?);
    }
    for block in plan.blocks() {
        let chunks = assignment.chunks.iter().copied().filter(|chunk| block.contains(chunk)).collect();
        let left = Assignment { chunks, done: assignment.done.clone() };
        if ended || left.chunks.iter().all(|chunk| left.done.contains(chunk)) {
            continue;
        }
        let observer = caller.evaluation();
        let mut keep = |slice| recorder.keep(slice);
        evaluate_chunks(models.evaluated(), &plan, &left, &inputs.options, &*observer, &mut keep)?;
        ended = recorder.is_decided()?;
    }
    Ok(recorder.records)
}

fn assignment(plan: &ChunkPlan, shard: Option<RunShard>, has_folder: bool) -> Result<Assignment> {
    let Some(RunShard { index, count }) = shard else { return Ok(plan.whole()) };
    let assigned = plan.shard(index, count);
    if assigned.chunks.is_empty() {
        if !has_folder {
            return Err(Error::usage(format!("shard {index}/{count} holds no passage")));
        }
        tracing::warn!("shard {index}/{count} holds no passage: there are {} chunks to divide", plan.chunk_count());
    }
    Ok(assigned)
}

fn run_record(
    job: &Job<'_>,
    inputs: &Inputs,
    plan: &ChunkPlan,
    files: &InputFiles<'_>,
    caller: &dyn Caller,
) -> RunRecord {
    let models = &job.models;
    // With a folder about a minute's work, so that little is lost; else limited by memory alone.
    let kept = || kept_slice_tokens(models.evaluated(), &inputs.options.backends, inputs.threads, plan.chunk_tokens());
    let by_default = || if job.folder.is_some() { kept() } else { usize::MAX };
    let passage_ids = |chunk| {
        let passages = plan.passages(chunk).iter();
        passages.map(|passage| inputs.passages.data.passages[passage.index].id).collect()
    };
    RunRecord {
        key: job.key(inputs, plan.chunk_tokens()),
        shard: inputs.shard,
        started: inputs.clock.started,
        argv: caller.command_line(),
        versions: versions(),
        dtype: inputs.dtype_name().to_owned(),
        limit: inputs.limit,
        chunk_tokens: plan.chunk_tokens(),
        slice_tokens: job.slice_tokens.unwrap_or_else(by_default),
        task: inputs.task_info(),
        chunks: (0..plan.chunk_count()).map(passage_ids).collect(),
        files: files.stamps.clone(),
        bootstrap: (job.bootstrap.replicate_count, job.bootstrap.seed),
        stopping: inputs.stopping.clone(),
    }
}

fn open(path: &Path, run: RunRecord, restart: bool, files: &InputFiles<'_>) -> Result<(Journal, Records), RunError> {
    let begin = |mut journal: Journal, run: RunRecord| {
        journal.append(&Record::Run(Box::new(run.clone())))?;
        Ok((journal, Records::new(run)))
    };
    if restart {
        return begin(Journal::restart(path)?, run);
    }
    let (mut journal, contents) = Journal::open(path)?;
    if contents.torn {
        tracing::info!("{}: the last record was not finished and is dropped", path.display());
    }
    if contents.records.is_empty() {
        return begin(journal, run);
    }
    let records = Records::read(path, contents.records)?;
    let Some(models) = records.models.as_ref().filter(|_| !records.slices.is_empty()) else {
        // No slice is done, whatever run this is of: nothing is lost.
        journal.clear()?;
        return begin(journal, run);
    };
    let shard = |run: &RunRecord| run.shard.map_or("1/1".to_owned(), |shard| shard.to_string());
    let differences = RunKey::differences(&records.run.key, &run.key)
        .or_else(|| {
            (records.run.shard != run.shard).then(|| Differences::of("shard", shard(&records.run), shard(&run)))
        })
        .or_else(|| (records.run.chunks != run.chunks).then(|| Differences::of("plan", "another", "this one")))
        .map_or_else(|| files.differences(&records.run.files, models), |found| Ok(Some(found)))?;
    match differences {
        Some(differences) => Err(RunError::DifferentRun { path: path.to_owned(), differences }),
        None => Ok((journal, records)),
    }
}

struct Recorder<'a> {
    job: &'a Job<'a>,
    inputs: &'a Inputs,
    plan: &'a ChunkPlan,
    assignment: &'a Assignment,
    caller: &'a dyn Caller,
    journal: Option<Journal>,
    records: Records,
    /// Drift of the replicated parameters, until it is recorded.
    drift: Option<Vec<ParamDrift>>,
}

impl Recorder<'_> {
    /// How many slices are done, and how many there are.
    fn progress(&self) -> (usize, usize) {
        let slices = self.plan.slices(&self.assignment.chunks, self.records.run.slice_tokens);
        let done = self.records.done();
        let finished = slices.iter().filter(|slice| slice.iter().all(|chunk| done.contains(chunk))).count();
        (finished, slices.len())
    }

    /// Logs what an earlier process has computed.
    fn announce(&self, ended: bool) {
        let Some(journal) = &self.journal else { return };
        let (done, total) = self.progress();
        if ended {
            tracing::info!(
                "nothing is left to compute: every slice of this run is in {} (--restart computes all anew)",
                journal.path().display()
            );
        } else {
            tracing::info!("continuing: {done} of {total} slices are done ({})", journal.path().display());
        }
    }

    /// Whether the run stops here, though passages are left.
    fn is_decided(&self) -> Result<bool, RunError> {
        let Some(looks) = self.records.looks()? else { return Ok(false) };
        if let Some(passages) = looks.after.last() {
            let ((settled, models), all) = (looks.settled, self.inputs.passages.tokenized.len());
            tracing::info!("after {passages} of {all} passages {settled} of {models} models are decided");
        }
        Ok(looks.decided())
    }

    fn keep(&mut self, slice: SliceOutcome) -> Result<(), RunError> {
        if self.records.models.is_none() {
            let models = &self.job.models;
            let record = ModelsRecord {
                checkpoint: checkpoint_info(models.source, models.path, Some(digests(&slice.digests))),
                drift: self.drift.take().unwrap_or_default(),
                models: models.completed(&slice),
                same_as: models.same_as(&slice),
            };
            self.append(&Record::Models(Box::new(record.clone())))?;
            self.records.models = Some(record);
        }
        let record = self.slice_record(slice)?;
        self.append(&Record::Slice(Box::new(record.clone())))?;
        self.records.add(record);
        let (done, total) = self.progress();
        match (self.caller.received_signal(), &self.journal) {
            (Some(signal), Some(journal)) if done < total => {
                Err(RunError::Interrupted { signal, done, total, journal: journal.path().to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, record: &Record) -> Result<(), RunError> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(record))
    }

    fn slice_record(&self, slice: SliceOutcome) -> Result<SliceRecord, EvalError> {
        let SliceOutcome { chunks, token_count, scores, mut divergence, timings, .. } = slice;
        let passages = &self.inputs.passages;
        let found = samples::samples(&scores, &self.job.models.variants, passages);
        let roles = self.records.models.iter().flat_map(|models| &models.models).map(|model| model.role);
        let scores = found.into_iter().zip(roles).map(|(samples, role)| self.model_scores(samples, role));
        let chunk = |number| {
            let steps = |steps: Vec<crate::eval::Divergence>| {
                steps.into_iter().map(|step| (Number(step.squared_distance), Number(step.squared_norm))).collect()
            };
            let divergence = divergence.remove(&number).unwrap_or_default().into_iter().map(steps).collect();
            ChunkRecord { number, divergence }
        };
        let mut places: Vec<_> = chunks.iter().flat_map(|&chunk| self.plan.passages(chunk)).map(|p| p.index).collect();
        places.sort_unstable();
        let text = |place: usize| PassageText {
            doc_id: passages.data.passages[place].id,
            context: passages.data.passages[place].context.clone(),
            target: passages.data.passages[place].target.clone(),
        };
        let backends = &self.inputs.options.backends;
        Ok(SliceRecord {
            scores: scores.collect::<Result<_, _>>()?,
            chunks: chunks.into_iter().map(chunk).collect(),
            passages: places.into_iter().map(text).collect(),
            tokens: token_count as u64,
            device: backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            threads: self.inputs.threads,
            seconds: self.inputs.clock.lap(),
            stages: StageSeconds {
                read_seconds: timings.read.as_secs_f64(),
                merge_seconds: timings.merge.as_secs_f64(),
                compute_seconds: timings.compute.as_secs_f64(),
                copy_seconds: timings.copy.as_secs_f64(),
                divergence_seconds: timings.divergence.as_secs_f64(),
            },
            peak_rss_bytes: peak_rss_bytes(),
        })
    }

    /// A variant may overflow; the model that it is compared with may not.
    fn model_scores(&self, samples: Result<Vec<Sample>, EvalError>, role: ModelRole) -> Result<ModelScores, EvalError> {
        match samples {
            Ok(mut samples) => {
                self.inputs.tokenizer.fill_top_token_texts(&mut samples);
                Ok(ModelScores::Samples(samples))
            }
            Err(error @ EvalError::NotFinite { passage: doc_id, .. }) if role == ModelRole::Variant => {
                Ok(ModelScores::NotFinite { doc_id, message: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }
}
