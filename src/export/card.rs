//! The model card: what the directory holds and how it came to be, for people.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::recipe::{OutputRecord, RecipeInput, Record};
use crate::checkpoint::STORED_ONCE;
use crate::words::scientific;

/// The card; those of the Hugging Face hub begin with YAML.
pub(super) fn text(input: &RecipeInput<'_>, title: &str) -> String {
    let mut text = String::new();
    if input.output.format == "hf" {
        text.push_str(
            "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- gpt-neox\n- kintsugi\n---\n\n",
        );
    }
    let RecipeInput { source, exactness, strategy, record, output, inputs, outputs, .. } = input;
    let version = &record.version;
    let _ = match source.tp_size() {
        1 => write!(text, "# {title}\n\nWritten by kintsugi {version} from one model ({}).\n\n", source.describe()),
        ranks => write!(
            text,
            "# {title}\n\nMerged by kintsugi {version} from the {ranks} tensor-parallel ranks of a checkpoint ({format}, step \
             {step}) with the strategy `{name}`.\n\n{description}\n\n",
            format = source.describe(),
            step = source.iteration().unwrap_or(0),
            name = strategy.name,
            description = strategy.description,
        ),
    };
    model(&mut text, &source.architecture().summary(), output);
    text.push_str("## Is it the same model?\n\n");
    if source.stored_once() {
        let _ = writeln!(
            text,
            "It is the checkpoint as it was saved, up to the rounding of stored weights. The checkpoint itself is {STORED_ONCE}."
        );
    } else if exactness.is_exact() {
        text.push_str("Yes: the merge computes what the unmerged ranks compute, up to the rounding of stored weights");
        match exactness.folding() {
            Some(folding) => {
                let _ = writeln!(text, " (largest change of a weight {}).", scientific(folding.max_weight_change, 2));
            }
            None => text.push_str(".\n"),
        }
    } else {
        text.push_str("Not exactly:\n\n");
        for line in exactness.because() {
            let _ = writeln!(text, "- {line}");
        }
    }
    text.push('\n');
    measured(&mut text, record);
    let _ = write!(
        text,
        "## How it was made\n\n```\n{command}\n```\n\n`{recipe}` contains the strategy's text, the rule of every tensor, and \
         the BLAKE3 digests of the {inputs} files read and the {outputs} files written.\n",
        command = record.command.join(" "),
        recipe = super::RECIPE_FILE,
        inputs = inputs.len(),
        outputs = outputs.len(),
    );
    text
}

fn model(text: &mut String, summary: &Map<String, Value>, output: &OutputRecord) {
    text.push_str("## Model\n\n");
    for (setting, value) in summary {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(text, "- {}: {value}", setting.replace('_', " "));
    }
    let ranks = if output.tp_size == 1 { "one rank".to_owned() } else { format!("{} ranks", output.tp_size) };
    let _ = writeln!(
        text,
        "- {} parameters, {}, {} rows of vocabulary, {ranks}\n",
        output.parameter_count, output.dtype, output.vocab_size
    );
}

fn measured(text: &mut String, record: &Record) {
    let Some(measured) = &record.measured else { return };
    let _ = write!(
        text,
        "## What the merge costs\n\n{task}, {passages} passages, against the unmerged model:\n\n\
         | model | perplexity | acc |\n|---|---|---|\n| unmerged | {:.4} | {:.4} |\n| this merge | {:.4} | {:.4} |\n\n",
        measured.baseline.perplexity,
        measured.baseline.acc,
        measured.merged.perplexity,
        measured.merged.acc,
        task = measured.task,
        passages = measured.passages,
    );
    if let Some(kl_mean) = measured.kl_mean {
        let _ = writeln!(text, "Mean KL divergence from the unmerged model: {} nats.\n", scientific(kl_mean, 3));
    }
}
