//! From a run to its report.

use std::collections::HashSet;

use super::contents::{Report, SCHEMA_VERSION, Statistics};
use super::error::ReportError;
use super::explanation::DivergenceCurve;
use super::info::{CheckpointInfo, RunInfo, TaskInfo, Tool};
use super::json;
use super::judged::LimitsInfo;
use super::model::{ModelRecord, ModelRole};
use super::output_dir::SampleFiles;
use super::rows::{Baseline, VariantRow};
use super::standing::judge_rows;
use crate::limits::{Gates, Noise};
use crate::merge::ParamDrift;
use crate::samples::Sample;
use crate::stats::{self, PairedBootstrap};

/// Everything that a report is computed from.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportInput {
    /// How the evaluation ran.
    pub run: RunInfo,
    /// The checkpoint that was merged.
    pub checkpoint: CheckpointInfo,
    /// The task, its data and tokenizer.
    pub task: TaskInfo,
    /// Every model evaluated: one baseline, the merges and candidates, at most one noise floor.
    pub models: Vec<ModelRecord>,
    /// `[models][passages]`: the same passages in the same order for every model.
    pub samples: Vec<Vec<Sample>>,
    /// How far each variant's residual stream strays from the baseline's; empty where not measured.
    pub divergence: Vec<DivergenceCurve>,
    /// Drift of every replicated parameter of every stage; empty where not measured.
    pub drift: Vec<ParamDrift>,
    /// Other findings, a sentence each.
    pub findings: Vec<String>,
    /// How intervals are computed.
    pub bootstrap: PairedBootstrap,
    /// The limits in force, and where they come from.
    pub limits: (String, Gates),
}

impl ReportInput {
    pub(super) fn evaluated(&self) -> impl Iterator<Item = (&ModelRecord, &[Sample])> {
        let samples = self.samples.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
        self.models.iter().zip(samples)
    }

    fn of_role(&self, role: ModelRole) -> impl Iterator<Item = (&ModelRecord, &[Sample])> {
        self.evaluated().filter(move |(model, _)| model.role == role)
    }
}

impl Report {
    /// Computes every row.
    ///
    /// # Errors
    /// No baseline; models whose samples are not of the same passages in the same order, with the same texts and target
    /// tokens; a number of samples other than `task.passages.effective`; two models of one name; a number that is not
    /// finite.
    pub fn new(input: &ReportInput) -> Result<Self, ReportError> {
        check_names(&input.models)?;
        let (baseline, samples) = input.of_role(ModelRole::Baseline).next().ok_or(ReportError::NothingComputed)?;
        let passages = input.task.passages;
        let (expected, found) = (passages.effective, samples.len());
        if found == 0 || found != expected {
            return Err(ReportError::PassageCount { name: baseline.name.clone(), expected, found });
        }
        let rows = Baseline::new(samples, input.bootstrap, input.task.rolling);
        let mut files = SampleFiles::default();
        let baseline = rows.model_row(baseline, samples, files.baseline())?;
        let row = |(model, samples): (&ModelRecord, _)| rows.variant_row(model, samples, files.variant(&model.name));
        let mut variants = input.of_role(ModelRole::Variant).map(row).collect::<Result<Vec<_>, _>>()?;
        let noise_floor = noise_floor(input, samples, &mut files)?;
        correct_for_multiplicity(&mut variants, &baseline.name)?;
        let of_variants: Vec<_> = input.of_role(ModelRole::Variant).map(|(_, samples)| samples).collect();
        let (origin, gates) = &input.limits;
        let task = (input.task.name.as_str(), input.task.rolling);
        let noise = noise(input, samples)?;
        judge_rows(
            &mut variants,
            (samples, &of_variants),
            task,
            (noise, &input.run.dtype),
            gates,
            input.run.until_decided.as_ref(),
        )?;
        let report = Self {
            schema_version: SCHEMA_VERSION.to_owned(),
            tool: Tool { name: "kintsugi".to_owned(), version: input.run.versions.kintsugi.clone() },
            partial: passages.effective < passages.original,
            checkpoint: input.checkpoint.clone(),
            task: input.task.clone(),
            run: input.run.clone(),
            statistics: Statistics {
                confidence: input.bootstrap.confidence.level(),
                bootstrap_replicates: input.bootstrap.replicate_count,
                bootstrap_seed: input.bootstrap.seed,
            },
            limits: LimitsInfo { origin: origin.clone(), significance: gates.significance },
            baseline,
            variants,
            noise_floor,
            divergence: input.divergence.clone(),
            drift: input.drift.clone(),
            findings: input.findings.clone(),
        };
        json::check_finite(&report)?;
        Ok(report)
    }
}

/// What rounding makes of a loss, by the noise floor.
fn noise(input: &ReportInput, baseline: &[Sample]) -> Result<Noise, ReportError> {
    let again = input.of_role(ModelRole::NoiseFloor).flat_map(|(_, samples)| samples);
    Ok(Noise::measured(baseline, again, input.task.rolling, input.limits.1.significance)?)
}

/// The noise floor is measured on some of the passages.
fn noise_floor(
    input: &ReportInput,
    baseline: &[Sample],
    files: &mut SampleFiles,
) -> Result<Option<VariantRow>, ReportError> {
    let Some((model, samples)) = input.of_role(ModelRole::NoiseFloor).find(|(_, samples)| !samples.is_empty()) else {
        return Ok(None);
    };
    let measured: HashSet<usize> = samples.iter().map(|sample| sample.doc_id).collect();
    let same: Vec<_> = baseline.iter().filter(|sample| measured.contains(&sample.doc_id)).cloned().collect();
    let rows = Baseline::new(&same, input.bootstrap, input.task.rolling);
    rows.variant_row(model, samples, files.variant(&model.name)).map(Some)
}

fn check_names(models: &[ModelRecord]) -> Result<(), ReportError> {
    let mut seen = HashSet::new();
    match models.iter().find(|model| !seen.insert(model.name.as_str())) {
        Some(model) => Err(ReportError::DuplicateName { name: model.name.clone() }),
        None => Ok(()),
    }
}

/// Holm's correction over the variants, which all share one baseline.
fn correct_for_multiplicity(variants: &mut [VariantRow], baseline: &str) -> Result<(), ReportError> {
    let p_values: Vec<f64> = variants.iter().map(|row| row.loss.mcnemar_p).collect();
    let corrected =
        stats::holm(&p_values).map_err(|source| ReportError::Stats { name: baseline.to_owned(), source })?;
    for (row, p_value) in variants.iter_mut().zip(corrected) {
        row.loss.mcnemar_p_holm = p_value;
    }
    Ok(())
}
