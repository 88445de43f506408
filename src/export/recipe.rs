//! The recipe beside merged weights: the source, the strategy, the program, and the rule of each tensor. Written last, so
//! that its presence shows that the directory is complete.

use serde::Serialize;
use serde_json::{Map, Value};

use super::plan::Plan;
use crate::checkpoint::{FileDigest, ModelSource};
use crate::merge::{Exactness, Strategy, full_name};
use crate::partition::Kind;

/// Who ran the merge and how.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub command: Vec<String>,
    pub strategy_text: String,
    pub version: String,
    /// Commit it was built from, where known.
    pub commit: Option<String>,
    /// The measurements of a report, if one was given.
    pub measured: Option<Measured>,
}

/// The measurements of the strategy in a `report.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub task: String,
    pub passages: usize,
    pub baseline: Scores,
    pub merged: Scores,
    /// Mean Kullback-Leibler divergence from the unmerged model, in nats.
    pub kl_mean: Option<f64>,
}

/// Two numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Scores {
    pub perplexity: f64,
    /// Share of targets that the model predicts.
    pub acc: f64,
}

/// The file [`super::RECIPE_FILE`].
#[derive(Debug, Serialize)]
pub(super) struct Recipe<'a> {
    schema_version: u32,
    tool: Tool<'a>,
    command: &'a [String],
    strategy: StrategyRecord<'a>,
    source: Source,
    output: &'a OutputRecord,
    exact: bool,
    /// Why not, a line a parameter.
    because: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<&'a Measured>,
    inputs: &'a [FileDigest],
    outputs: &'a [FileDigest],
    parameters: Vec<Parameter<'a>>,
}

#[derive(Debug, Serialize)]
struct Tool<'a> {
    name: &'static str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct StrategyRecord<'a> {
    name: &'a str,
    origin: &'a str,
    text: &'a str,
}

#[derive(Debug, Serialize)]
struct Source {
    step: String,
    iteration: u64,
    tp_size: usize,
    dtype: String,
    architecture: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct OutputRecord {
    pub format: &'static str,
    pub tp_size: usize,
    pub dtype: String,
    pub vocab_size: usize,
    pub parameter_count: u64,
    pub bytes: u64,
}

#[derive(Debug, Serialize)]
struct Parameter<'a> {
    name: String,
    kind: Kind,
    shape: &'a [usize],
    rule: &'a str,
    exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'a str>,
}

pub(super) struct RecipeInput<'a> {
    pub source: &'a dyn ModelSource,
    pub plan: &'a Plan,
    pub exactness: &'a Exactness,
    pub strategy: &'a Strategy,
    pub record: &'a Record,
    pub output: &'a OutputRecord,
    pub inputs: &'a [FileDigest],
    pub outputs: &'a [FileDigest],
}

impl<'a> Recipe<'a> {
    pub(super) fn new(input: &RecipeInput<'a>) -> Self {
        let RecipeInput { source, plan, exactness, strategy, record, output, inputs, outputs } = *input;
        let parameters = plan.params.iter().map(|param| {
            let because = exactness.reason(param.stage, &param.name);
            Parameter {
                name: full_name(param.stage, &param.name),
                kind: param.kind,
                shape: &param.shape,
                rule: &param.rule,
                exact: because.is_none(),
                because,
            }
        });
        let folder = source.folder();
        Self {
            schema_version: 1,
            tool: Tool { name: "kintsugi", version: &record.version, commit: record.commit.as_deref() },
            command: &record.command,
            strategy: StrategyRecord { name: &strategy.name, origin: &strategy.origin, text: &record.strategy_text },
            source: Source {
                step: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                iteration: source.iteration().unwrap_or(0),
                tp_size: source.tp_size(),
                dtype: source.dtype().to_string(),
                architecture: source.architecture().summary(),
            },
            output,
            exact: exactness.is_exact(),
            because: exactness.because(),
            measured: record.measured.as_ref(),
            inputs,
            outputs,
            parameters: parameters.collect(),
        }
    }

    pub(super) fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}
