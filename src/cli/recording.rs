//! Evaluating with a journal: every slice is on disk before the next begins, and a run that was stopped goes on where it
//! was. Without an output directory the same records are kept in memory.

use std::path::{Path, PathBuf};

use anyhow::bail;
use fs_err as fs;

use super::args::{EvaluationArgs, Shard};
use super::cache::Cache;
use super::evaluation::{self, Prepared, peak_rss_bytes, versions};
use super::files_read::FilesRead;
use super::job::Job;
use super::output::Screen;
use super::{drift, identity, interrupt, provenance, settings};
use crate::eval::budget::kept_slice_tokens;
use crate::eval::chunk_plan::{Assignment, ChunkPlan};
use crate::eval::{EvalError, Models, SliceOutcome, evaluate_chunks, plan_chunks, samples};
use crate::report::{
    self, ChunkRecord, ModelRole, ModelScores, ModelsRecord, Number, RECORDS_VERSION, Record, Records, RunRecord,
    SliceRecord, StageSeconds,
};
use crate::samples::{Differences, DocumentText, Identity, Journal, Sample, SampleError};

pub(super) use super::combine::JOURNAL;

/// Where a run or a shard of it keeps its journal.
pub(super) fn journal_folder(output_dir: &Path, shard: Option<Shard>) -> PathBuf {
    match shard {
        None => output_dir.to_owned(),
        Some(Shard { index, count }) => output_dir.join("shards").join(format!("{index}-of-{count}")),
    }
}

/// Evaluates what is left to evaluate; gives everything that there is then.
pub(super) fn evaluate(
    job: &Job<'_>,
    prepared: &mut Prepared,
    args: &EvaluationArgs,
    output_dir: Option<&Path>,
    screen: &Screen,
) -> anyhow::Result<Records> {
    let models = Models { checkpoint: job.model, variants: job.variants };
    let plan = plan_chunks(models, &prepared.passages.tokenized, &prepared.options)?;
    let files = FilesRead::new(job.model, job.variants)?;
    let slice_tokens = prepared.slice_tokens(job, args, &plan, output_dir.is_some());
    let passages = identity::of_passages(job, prepared, args, &plan);
    let run =
        run_record(job, prepared, args, &plan, &files, (identity::with_models(passages.clone(), job), slice_tokens));
    let cache = Cache::of(&args.cache, &run, &passages).filter(|_| prepared.shard.is_none());
    let (mut journal, mut records) = match output_dir {
        None => (None, Records::new(run)),
        Some(output_dir) => {
            let folder = journal_folder(output_dir, prepared.shard);
            fs::create_dir_all(&folder)?;
            interrupt::listen()?;
            let (journal, records) = open(&folder.join(job.journal), run, args.restart, &files)?;
            (Some(journal), records)
        }
    };
    let resumed = !records.slices.is_empty();
    if !resumed
        && !args.restart
        && let Some(found) = cache.as_ref().and_then(|cache| cache.find(job, &records.run, &files))
    {
        if let Some(journal) = &mut journal {
            found.after_the_run().try_for_each(|record| journal.append(&record))?;
        }
        records = found;
    }
    prepared.options.slice_tokens = Some(records.run.slice_tokens);
    let whole = match prepared.shard {
        None => plan.whole(),
        Some(Shard { index, count }) => plan.shard(index, count),
    };
    if let (Some(Shard { index, count }), true) = (prepared.shard, whole.chunks.is_empty()) {
        if output_dir.is_none() {
            bail!("shard {index}/{count} holds no passage");
        }
        tracing::warn!("shard {index}/{count} holds no passage: there are {} chunks to share out", plan.chunk_count());
    }
    let part = Assignment { done: records.done(), ..whole };
    let mut keeper = Keeper { job, prepared, plan: &plan, part: &part, journal, records, drift: None };
    if resumed {
        keeper.announce();
    }
    if part.done.len() < part.chunks.len() {
        if keeper.records.models.is_none() {
            keeper.drift = Some(drift::of_model(job.model)?);
        }
        let bar = screen.evaluation_bar();
        let mut keep = |slice| keeper.keep(slice);
        let evaluated = evaluate_chunks(models, &plan, &part, &prepared.options, &bar, &mut keep);
        bar.finish();
        evaluated?;
        if let Some(cache) = &cache {
            cache.store(job, &keeper.records);
        }
    }
    Ok(keeper.records)
}

impl Prepared {
    /// Tokens of a slice: as asked for, or little enough that little is lost, or whatever memory holds.
    fn slice_tokens(&self, job: &Job<'_>, args: &EvaluationArgs, plan: &ChunkPlan, journal: bool) -> usize {
        let asked = args.slice_tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX));
        let kept = || {
            let models = Models { checkpoint: job.model, variants: job.variants };
            kept_slice_tokens(models, &self.options.backends, self.threads, plan.chunk_tokens())
        };
        asked.unwrap_or_else(|| if journal { kept() } else { usize::MAX })
    }
}

fn run_record(
    job: &Job<'_>,
    prepared: &Prepared,
    args: &EvaluationArgs,
    plan: &ChunkPlan,
    files: &FilesRead<'_>,
    (identity, slice_tokens): (Identity, usize),
) -> RunRecord {
    let doc_ids = |chunk| {
        let passages = plan.passages(chunk).iter();
        passages.map(|passage| prepared.passages.data.passages[passage.index].id).collect()
    };
    RunRecord {
        version: RECORDS_VERSION,
        identity,
        shard: prepared.shard.map(|Shard { index, count }| report::Shard { index, count }),
        started: prepared.started(),
        argv: settings::command_line(),
        versions: versions(),
        dtype: prepared.dtype_name().to_owned(),
        limit: args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        chunk_tokens: plan.chunk_tokens(),
        slice_tokens,
        task: prepared.task_info(),
        chunks: (0..plan.chunk_count()).map(doc_ids).collect(),
        files: files.stamps().to_vec(),
        bootstrap: (job.bootstrap.replicate_count, job.bootstrap.seed),
    }
}

/// Opens the journal of a run, and reads what is there of it.
fn open(path: &Path, run: RunRecord, restart: bool, files: &FilesRead<'_>) -> Result<(Journal, Records), SampleError> {
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
    let reason = || "it does not begin with a run".to_owned();
    let records = Records::read(contents.records)
        .ok_or_else(|| SampleError::JournalForm { path: path.to_owned(), reason: reason() })?;
    let Some(models) = records.models.as_ref().filter(|_| !records.slices.is_empty()) else {
        // There is nothing to go on from, and nothing to lose.
        journal.clear()?;
        return begin(journal, run);
    };
    let shard =
        |run: &RunRecord| run.shard.map_or("1/1".to_owned(), |shard| format!("{}/{}", shard.index, shard.count));
    let differences = Identity::differences(&records.run.identity, &run.identity)
        .or_else(|| {
            (records.run.shard != run.shard).then(|| Differences::of("shard", shard(&records.run), shard(&run)))
        })
        .or_else(|| (records.run.chunks != run.chunks).then(|| Differences::of("plan", "another", "this one")))
        .map_or_else(|| files.differences(&records.run.files, models), |found| Ok(Some(found)))?;
    match differences {
        Some(differences) => Err(SampleError::AnotherRun { path: path.to_owned(), differences }),
        None => Ok((journal, records)),
    }
}

/// Keeps every slice.
struct Keeper<'a> {
    job: &'a Job<'a>,
    prepared: &'a Prepared,
    plan: &'a ChunkPlan,
    part: &'a Assignment,
    journal: Option<Journal>,
    records: Records,
    /// Drift of the replicated parameters, until it is recorded.
    drift: Option<Vec<crate::merge::ParamDrift>>,
}

impl Keeper<'_> {
    /// How many slices are done, and how many there are.
    fn progress(&self) -> (usize, usize) {
        let slices = self.plan.slices(&self.part.chunks, self.records.run.slice_tokens);
        let done = self.records.done();
        let finished = slices.iter().filter(|slice| slice.iter().all(|chunk| done.contains(chunk))).count();
        (finished, slices.len())
    }

    /// Says what is there already.
    fn announce(&self) {
        let Some(journal) = &self.journal else { return };
        match self.progress() {
            (done, total) if done == total => tracing::info!(
                "nothing is left to compute: every slice of this run is in {} (--restart computes all anew)",
                journal.path().display()
            ),
            (done, total) => {
                tracing::info!("continuing: {done} of {total} slices are done ({})", journal.path().display());
            }
        }
    }

    fn keep(&mut self, slice: SliceOutcome) -> Result<(), EvalError> {
        if self.records.models.is_none() {
            let models = ModelsRecord {
                checkpoint: provenance::checkpoint_info(
                    self.job.model,
                    self.job.given,
                    Some(evaluation::digests(&slice.digests)),
                ),
                drift: self.drift.take().unwrap_or_default(),
                models: (self.job.describe)(&slice),
            };
            self.append(&Record::Models(Box::new(models.clone())))?;
            self.records.models = Some(models);
        }
        let record = self.slice_record(slice)?;
        self.append(&Record::Slice(Box::new(record.clone())))?;
        self.records.add(record);
        let (done, total) = self.progress();
        match (interrupt::received(), &self.journal) {
            (Some(signal), Some(journal)) if done < total => {
                Err(EvalError::Interrupted { signal, done, total, journal: journal.path().to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, record: &Record) -> Result<(), SampleError> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(record))
    }

    fn slice_record(&self, slice: SliceOutcome) -> Result<SliceRecord, EvalError> {
        let SliceOutcome { chunks, token_count, scores, mut divergence, timings, .. } = slice;
        let passages = &self.prepared.passages;
        let documents = &passages.data.passages;
        let found = samples::samples(&scores, self.job.variants, passages);
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
        let text = |place: usize| DocumentText {
            doc_id: documents[place].id,
            context: documents[place].context.clone(),
            target: documents[place].target.clone(),
        };
        let backends = &self.prepared.options.backends;
        Ok(SliceRecord {
            scores: scores.collect::<Result<_, _>>()?,
            chunks: chunks.into_iter().map(chunk).collect(),
            documents: places.into_iter().map(text).collect(),
            tokens: token_count as u64,
            device: backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            threads: self.prepared.threads,
            seconds: self.prepared.lap(),
            stages: StageSeconds {
                read_seconds: timings.read.as_secs_f64(),
                merge_seconds: timings.merge.as_secs_f64(),
                compute_seconds: timings.compute.as_secs_f64(),
            },
            peak_rss_bytes: peak_rss_bytes(),
        })
    }

    /// A variant may overflow; what it is compared with may not.
    fn model_scores(&self, samples: Result<Vec<Sample>, EvalError>, role: ModelRole) -> Result<ModelScores, EvalError> {
        match samples {
            Ok(mut samples) => {
                self.prepared.tokenizer.fill_top_token_texts(&mut samples);
                Ok(ModelScores::Samples(samples))
            }
            Err(error @ EvalError::NotFinite { passage: doc_id, .. }) if role == ModelRole::Variant => {
                Ok(ModelScores::NotFinite { doc_id, message: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }
}
