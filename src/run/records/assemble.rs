//! From records to what a report is built from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{ModelScores, Records};
use crate::limits::Gates;
use crate::merge::FoldSummary;
use crate::report::{DivergenceCurve, ModelRecord, ModelRole, ReportInput, RunInfo, StageSeconds, TaskInfo};
use crate::run::error::RunError;
use crate::samples::{PassageText, RollingText, Sample};
use crate::stats::PairedBootstrap;
use crate::words::scientific;

impl Records {
    /// What the report is built from. A variant whose numbers overflow is left out, and the findings say so.
    pub(crate) fn report_input(&self) -> Result<ReportInput, RunError> {
        let recorded = self.models.as_ref().ok_or(RunError::NothingComputed)?;
        let mut findings = models_findings(&recorded.models);
        let (mut models, mut samples, mut curves) = (Vec::new(), Vec::new(), Vec::new());
        let divergence = self.divergence();
        for (at, model) in recorded.models.iter().enumerate() {
            let curve = divergence.get(at).filter(|_| model.role == ModelRole::Variant);
            let curve =
                curve.map(|relative| DivergenceCurve { strategy: model.name.clone(), relative: relative.clone() });
            if let Some(first) = recorded.same_as.get(at).copied().flatten() {
                let is_shown = models.iter().any(|shown: &ModelRecord| shown.name == recorded.models[first].name);
                curves.extend(curve.filter(|_| is_shown));
                continue;
            }
            match (self.samples(at), model.role) {
                (Err(message), ModelRole::Variant) => {
                    tracing::warn!("left out of the report: {message}");
                    findings.insert(0, format!("WARNING: {} is left out: {message}", model.name));
                    continue;
                }
                (of_model, _) => samples.push(of_model.map_err(|message| RunError::Overflow { message })?),
            }
            let also = recorded.also(at).map(|other| other.name.clone()).collect();
            let others = recorded.also(at).flat_map(|other| &other.strategies);
            let strategies = model.strategies.iter().chain(others).cloned().collect();
            curves.extend(curve);
            models.push(ModelRecord { also, strategies, ..model.clone() });
        }
        let (replicate_count, seed) = self.run.bootstrap;
        findings.extend(self.run.task.rolling.map(|text| per_word(text, &models, &samples)));
        Ok(ReportInput {
            run: RunInfo { until_decided: self.until_decided()?, ..self.run_info() },
            checkpoint: recorded.checkpoint.clone(),
            task: self.task_info(),
            models,
            samples,
            divergence: curves,
            drift: recorded.drift.clone(),
            findings,
            bootstrap: PairedBootstrap { replicate_count, seed, ..PairedBootstrap::default() },
            limits: match &self.run.stopping {
                Some(rule) => (rule.limits.clone(), rule.gates()?),
                None => ("built-in".to_owned(), Gates::built_in()?),
            },
        })
    }

    /// The samples of a model by its place, in the order of the passages, or why there are none.
    pub(crate) fn samples(&self, model: usize) -> Result<Vec<Sample>, String> {
        let (mut samples, mut overflow) = (Vec::new(), None::<(usize, &String)>);
        for scores in self.slices.iter().filter_map(|slice| slice.scores.get(model)) {
            match scores {
                ModelScores::Samples(of_slice) => samples.extend(of_slice.iter().cloned()),
                ModelScores::NotFinite { doc_id, message } => {
                    overflow = overflow.filter(|(first, _)| first < doc_id).or(Some((*doc_id, message)));
                }
            }
        }
        if let Some((_, message)) = overflow {
            return Err(message.clone());
        }
        samples.sort_by_key(|sample| sample.doc_id);
        Ok(samples)
    }

    pub(crate) fn texts(&self) -> Vec<PassageText> {
        let mut texts: Vec<_> = self.slices.iter().flat_map(|slice| slice.passages.clone()).collect();
        texts.sort_by_key(|text| text.doc_id);
        texts
    }

    /// `[models][stages but the last]`: √(Σ‖x − x_baseline‖² / Σ‖x_baseline‖²) over all tokens. Empty where not measured.
    pub(crate) fn divergence(&self) -> Vec<Vec<f64>> {
        let chunks = self.slices.iter().flat_map(|slice| &slice.chunks);
        // In the chunks' order, so that sums are the same however the chunks were divided.
        let in_order: BTreeMap<_, _> = chunks.map(|chunk| (chunk.number, &chunk.divergence)).collect();
        let mut total: Vec<Vec<(f64, f64)>> = Vec::new();
        for of_chunk in in_order.into_values() {
            if total.is_empty() {
                total = of_chunk.iter().map(|steps| vec![(0.0, 0.0); steps.len()]).collect();
            }
            for (total, (distance, norm)) in total.iter_mut().flatten().zip(of_chunk.iter().flatten()) {
                total.0 += distance.0;
                total.1 += norm.0;
            }
        }
        let relative = |&(distance, norm): &(f64, f64)| if norm > 0.0 { (distance / norm).sqrt() } else { 0.0 };
        total.iter().map(|steps| steps.iter().map(relative).collect()).collect()
    }

    /// The task, with the number of passages that were evaluated.
    pub(crate) fn task_info(&self) -> TaskInfo {
        TaskInfo { passages: self.passage_counts(), ..self.run.task.clone() }
    }

    pub(crate) fn run_info(&self) -> RunInfo {
        let run = &self.run;
        let mut devices: Vec<&str> = Vec::new();
        let mut stages = StageSeconds::default();
        for slice in &self.slices {
            if !devices.contains(&slice.device.as_str()) {
                devices.push(&slice.device);
            }
            stages.read_seconds += slice.stages.read_seconds;
            stages.merge_seconds += slice.stages.merge_seconds;
            stages.compute_seconds += slice.stages.compute_seconds;
            stages.copy_seconds += slice.stages.copy_seconds;
            stages.divergence_seconds += slice.stages.divergence_seconds;
        }
        let tokens: u64 = self.slices.iter().map(|slice| slice.tokens).sum();
        #[expect(clippy::cast_precision_loss, reason = "a speed for people to read")]
        let tokens_per_second = tokens as f64 / stages.compute_seconds.max(1e-9);
        RunInfo {
            argv: run.argv.clone(),
            started: run.started,
            seconds: self.seconds,
            device: devices.join(" and "),
            dtype: run.dtype.clone(),
            threads: self.slices.iter().map(|slice| slice.threads).max().unwrap_or(0),
            versions: run.versions.clone(),
            limit: run.limit,
            run_shard: run.shard,
            run_shards: self.joined,
            until_decided: None,
            chunk_tokens: run.chunk_tokens,
            slices: self.slices.len(),
            peak_rss_bytes: self.slices.iter().filter_map(|slice| slice.peak_rss_bytes).max(),
            stages: Some(stages),
            tokens,
            tokens_per_second,
        }
    }
}

/// Wrong rules, loudly, then what folding did to the weights, then what whoever made a candidate did.
fn models_findings(models: &[ModelRecord]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut folds: Vec<(Vec<&str>, String)> = Vec::new();
    for model in models {
        findings.extend(model.miscounts.iter().map(|miscount| format!("WARNING: {} makes {miscount}", model.name)));
        let Some(folding) = model.folding else { continue };
        let text = folding_text(&folding);
        match folds.iter_mut().find(|(_, other)| *other == text) {
            Some((names, _)) => names.push(&model.name),
            None => folds.push((vec![&model.name], text)),
        }
    }
    findings.extend(folds.into_iter().map(|(names, text)| format!("{}: norms folded; {text}", names.join(" and "))));
    findings.extend(models.iter().flat_map(|model| model.findings.clone()));
    findings.sort_by_key(|finding| !finding.starts_with("WARNING"));
    findings
}

/// The divisors of the perplexities of whole texts, and the models' bits per byte.
fn per_word(text: RollingText, models: &[ModelRecord], samples: &[Vec<Sample>]) -> String {
    let RollingText { texts, words, bytes, tokens } = text;
    let count = if texts == 1 { "one text".to_owned() } else { format!("{texts} texts") };
    let windows = samples.first().map_or(0, Vec::len);
    let mut line = format!(
        "{count} of {words} words, {bytes} bytes and {tokens} tokens in {windows} windows, which count as passages: perplexity is \
         per word, accuracy per token; bits per byte:"
    );
    let compared = models.iter().zip(samples).filter(|(model, _)| model.role != ModelRole::NoiseFloor);
    for (at, (model, samples)) in compared.enumerate() {
        let loglikelihood: f64 = samples.iter().map(|sample| sample.loglikelihood).sum();
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(line, "{comma} {} {:.6}", model.name, text.bits_per_byte(loglikelihood));
    }
    line
}

fn folding_text(folding: &FoldSummary) -> String {
    let mut text = format!("largest change of a weight {}", scientific(folding.max_weight_change, 2));
    if folding.max_rank_one > 0.0 {
        let _ = write!(text, ", largest element of a rank-one term {}", scientific(folding.max_rank_one, 2));
    }
    if folding.unties_head {
        text.push_str("; the tied head becomes a matrix of its own");
    }
    text
}
