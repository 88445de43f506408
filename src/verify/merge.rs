//! The files of a merge against its certificate, without the checkpoint.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::check::{Check, Outcome, files};
use super::digests::{difference, differences};
use crate::checkpoint::{Checkpoint, FileDigest, OpenOptions, digest_file, open_model};
use crate::config::Architecture;
use crate::export::RecipeFile;
use crate::merge::Strategy;
use crate::report::{Certificate, CertifiedCandidate, Standing};
use crate::stats::Verdict;

/// Checks the files in a directory. A merge of this program is known by its recipe, whose word is taken for what it was made
/// of; a candidate by the digests of its weights, for which it is opened with `options`. `measured`: whether the merge itself is
/// measured again, so that it makes no difference what a strategy was calibrated with.
pub fn check_merge(certificate: &Certificate, directory: &Path, options: &OpenOptions, measured: bool) -> Vec<Check> {
    let mut checks = vec![verdicts(certificate)];
    if let Some(candidate) = &certificate.model.candidate {
        checks.extend(candidate_checks(certificate, candidate, directory, options));
        return checks;
    }
    match RecipeFile::read(directory) {
        Ok(recipe) => checks.extend(recipe_checks(certificate, &recipe, directory, measured)),
        Err(error) => checks.push(Check::new("recipe", Outcome::Unknown, error.to_string())),
    }
    checks
}

/// Whether verdicts and bounds in the certificate agree.
fn verdicts(certificate: &Certificate) -> Check {
    let mut wrong = Vec::new();
    for proven in &certificate.limits {
        let follows = match proven.verdict {
            Verdict::Within => proven.upper.is_some_and(|upper| upper <= proven.limit),
            Verdict::Beyond => proven.lower.is_some_and(|lower| lower > proven.limit),
            Verdict::Undecided => true,
        };
        if !follows {
            let (criterion, verdict) = (proven.criterion.name(), proven.verdict.word());
            wrong.push(format!("{criterion}: `{verdict}` does not follow from its bounds"));
        }
    }
    let standing = Standing::of(&certificate.limits);
    if standing != certificate.standing {
        wrong.push(format!("it says `{}`, its limits `{}`", certificate.standing.word(), standing.word()));
    }
    let limits = format!("{}: {} at α = {}", certificate.model.name, standing.words(), certificate.significance);
    Check::unless("certificate", &wrong, limits)
}

fn recipe_checks(certificate: &Certificate, recipe: &RecipeFile, directory: &Path, measured: bool) -> Vec<Check> {
    let strategy = &recipe.strategy;
    let blake3 = blake3::hash(strategy.text.as_bytes()).to_hex();
    let certified = &certificate.model.strategies;
    let known = certified.iter().any(|known| known.blake3 == blake3.as_str());
    let names: Vec<_> = certified.iter().map(|known| known.name.as_str()).collect();
    let other = || format!("made by `{}` (BLAKE3 {blake3}), certified is {}", strategy.name, names.join(" = "));
    let other_strategy: Vec<_> = (!known).then(other).into_iter().collect();
    let other_inputs = differences(&recipe.inputs, &certificate.checkpoint.files);
    let inputs = format!("made of what was compared ({}), says its recipe", files(recipe.inputs.len()));
    let mut checks = vec![
        written(recipe, directory),
        others(recipe, directory),
        Check::unless("checkpoint", &other_inputs, inputs),
        Check::unless("strategy", &other_strategy, format!("{}, whose text is the certified one", strategy.name)),
        form(certificate, recipe),
    ];
    // The text that it was calibrated with is in neither file.
    let calibrates = || Strategy::parse(&strategy.text, "recipe").is_ok_and(|strategy| strategy.calibrate);
    if known && !measured && !recipe.exact && calibrates() {
        let found = format!("`{}` measures on a text that neither file names: --checkpoint tells", strategy.name);
        checks.push(Check::new("calibration", Outcome::Unknown, found));
    }
    checks
}

/// Whether every file is what was written.
fn written<'a>(recipe: &'a RecipeFile, directory: &Path) -> Check {
    let mut named = HashSet::new();
    let check = |file: &'a FileDigest| {
        if named.insert(Path::new(&file.file)) {
            difference(directory, file)
        } else {
            Ok(Some(format!("{} is named twice", file.file)))
        }
    };
    let found: io::Result<Vec<_>> = recipe.outputs.iter().map(check).collect();
    match found {
        Err(error) => Check::new("files", Outcome::Unknown, error.to_string()),
        Ok(_) if recipe.outputs.is_empty() => Check::new("files", Outcome::Failed, "the recipe names none"),
        Ok(found) => {
            let wrong: Vec<_> = found.into_iter().flatten().collect();
            Check::unless("files", &wrong, format!("as they were written ({})", files(recipe.outputs.len())))
        }
    }
}

/// Files that were not written and that a program might load: transformers prefers a `model.safetensors` to several parts.
fn others(recipe: &RecipeFile, directory: &Path) -> Check {
    const LOADED: [&str; 9] = ["safetensors", "bin", "pt", "pth", "py", "yml", "yaml", "index.json", "config.json"];
    let known: HashSet<_> = recipe.outputs.iter().map(|file| directory.join(&file.file)).collect();
    match files_below(directory) {
        Err(error) => Check::new("other files", Outcome::Unknown, error.to_string()),
        Ok(files) => {
            let is_loaded = |path: &&PathBuf| {
                let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
                LOADED.iter().any(|ending| name.ends_with(ending))
            };
            let more = files.iter().filter(|path| !known.contains(*path)).filter(is_loaded);
            let wrong: Vec<_> = more.map(|path| format!("{} was not written by the merge", path.display())).collect();
            Check::unless("other files", &wrong, "no weights or settings beside them")
        }
    }
}

/// Every file, links to folders not followed.
fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![directory.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    Ok(files)
}

/// Whether it is stored as it was evaluated. Cut for several ranks it is the same model.
fn form(certificate: &Certificate, recipe: &RecipeFile) -> Check {
    let (checkpoint, output) = (&certificate.checkpoint, &recipe.output);
    let mut wrong = Vec::new();
    if output.dtype != checkpoint.dtype {
        wrong.push(format!(
            "stored as {}, evaluated as {}: its weights are rounded otherwise",
            output.dtype, checkpoint.dtype
        ));
    }
    let rows = checkpoint.architecture.get("padded_vocab_size").and_then(serde_json::Value::as_u64);
    if rows.is_some_and(|rows| rows != output.vocab_size as u64) {
        let rows = rows.unwrap_or_default();
        let found = output.vocab_size;
        wrong.push(format!(
            "{found} rows of vocabulary, evaluated were {rows}: its probabilities are over other tokens"
        ));
    }
    if output.tp_size != 1 && checkpoint.architecture.contains_key("qk_layernorm") {
        let ranks = output.tp_size;
        wrong.push(format!(
            "cut for {ranks} ranks, evaluated as one: qk_layernorm takes its statistics over a rank's heads"
        ));
    }
    if certificate.model.exact == Some(true) && !recipe.exact {
        wrong.push("not exact, as its recipe says; what was evaluated is".to_owned());
    }
    if !wrong.is_empty() {
        wrong.push("what was measured is not this merge; `compare --candidate` measures it".to_owned());
    }
    let ranks = if output.tp_size == 1 { String::new() } else { format!(", cut for {} ranks", output.tp_size) };
    Check::unless("form", &wrong, format!("{}, {} rows of vocabulary{ranks}", output.dtype, output.vocab_size))
}

fn candidate_checks(
    certificate: &Certificate,
    candidate: &CertifiedCandidate,
    directory: &Path,
    options: &OpenOptions,
) -> Vec<Check> {
    let default = OpenOptions::default();
    // They are gpt-neox's; its configuration lies beside the candidate.
    let options = if Checkpoint::is_at(directory) { options } else { &default };
    let options = OpenOptions { quirks: options.quirks.clone(), ..OpenOptions::default() };
    let model = match open_model(directory, &options) {
        Ok(model) => model,
        Err(error) => return vec![Check::new("model", Outcome::Unknown, error.to_string())],
    };
    let paths: BTreeSet<_> = model.stage_ids().into_iter().flat_map(|id| model.stage_files(id)).collect();
    let found: io::Result<Vec<_>> = paths.iter().map(|path| digest_file(path)).collect();
    let files = match found {
        Err(error) => Check::new("files", Outcome::Unknown, error.to_string()),
        Ok(found) => {
            let right = format!("the weights are those that were compared ({})", files(found.len()));
            Check::unless("files", &differences(&found, &candidate.files), right)
        }
    };
    let found =
        Architecture::summary_differences(&certificate.checkpoint.architecture, &model.architecture().summary());
    let certified = candidate.settings.iter();
    let certified: Vec<_> = certified.map(|one| (&one.setting, &one.checkpoint, &one.candidate)).collect();
    let new = found.iter().filter(|(name, ours, theirs)| !certified.contains(&(name, ours, theirs)));
    let mut wrong: Vec<_> =
        new.map(|(name, ours, theirs)| format!("{name} is {theirs}, the checkpoint's {ours}")).collect();
    let gone = certified.iter().filter(|(name, ..)| !found.iter().any(|(other, ..)| other == *name));
    wrong.extend(gone.map(|(name, _, candidate)| format!("{name} is no longer {candidate}")));
    vec![files, Check::unless("settings", &wrong, "those that were compared")]
}
