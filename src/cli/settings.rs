//! Flags that were not typed: from `KINTSUGI_…` in the environment and from the run file that `--config` names. Both become
//! arguments of the command line, so that clap alone says what is valid. Typed flags win over the environment, which wins over
//! the file.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::builder::ArgAction;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use crate::config::{nearest_name, read_files};

/// The commands whose flags can be given so.
const COMMANDS: [&str; 3] = ["compare", "eval", "explain"];

/// What the names of all variables begin with.
const PREFIX: &str = "KINTSUGI_";

/// Flags that are typed or not given at all.
const TYPED_ONLY: [&str; 3] = ["config", "help", "version"];

/// The arguments that the run was made of, file and environment included.
static COMPLETED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingError {
    /// A key of a run file that is no flag.
    #[error("{place}: `{key}` is no flag of `kintsugi {command}`{}", similar(nearest.as_deref()))]
    UnknownKey { place: String, key: String, command: String, nearest: Option<String> },
    /// A value that the flag does not take.
    #[error("{place}: {message}")]
    Value { place: String, message: String },
}

impl SettingError {
    /// What the user can do about it.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { command, .. } => Some(format!(
                "the keys are the flags of `kintsugi {command} --help` without their dashes, and its argument"
            )),
            Self::Value { .. } => None,
        }
    }
}

fn similar(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
}

/// The variable in the environment of a flag.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('-', "_").to_uppercase())
}

/// The command line that repeats this run.
pub(super) fn command_line() -> Vec<String> {
    let completed = COMPLETED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if completed.is_empty() { std::env::args().collect() } else { completed }
}

/// A command line to be parsed.
pub(super) struct Completed {
    /// What was typed, and what environment and run file add to it.
    pub arguments: Vec<OsString>,
    /// What looks like a mistake and is none for certain, to be said as warnings.
    pub doubts: Vec<String>,
}

/// The arguments with those added that environment and run file give.
pub(super) fn complete(cli: &Command, typed: Vec<OsString>) -> anyhow::Result<Completed> {
    let unchanged = |arguments| Ok(Completed { arguments, doubts: Vec::new() });
    let mut cli = cli.clone();
    cli.build();
    // What is wrong in what was typed is said later, by the whole parse.
    let Ok(matches) = cli.clone().ignore_errors(true).try_get_matches_from(&typed) else { return unchanged(typed) };
    let Some((name, matches)) = matches.subcommand().filter(|(name, _)| COMMANDS.contains(name)) else {
        return unchanged(typed);
    };
    let Some(command) = cli.find_subcommand(name) else { return unchanged(typed) };
    let mut settings = Settings { command, given: given(command, matches), arguments: Vec::new() };
    settings.add_environment(|name| std::env::var(name).ok())?;
    let file = matches.get_one::<PathBuf>("config").cloned();
    if let Some(file) =
        file.or_else(|| std::env::var_os("KINTSUGI_CONFIG").filter(|path| !path.is_empty()).map(Into::into))
    {
        settings.add_file(&file)?;
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let doubts = settings.doubts(names.collect(), &cli);
    let place = typed.iter().position(|argument| argument == name).map_or(typed.len(), |at| at + 1);
    let mut completed = typed;
    completed.splice(place..place, settings.arguments.into_iter().map(OsString::from));
    *COMPLETED.lock().unwrap_or_else(PoisonError::into_inner) = without_config(&completed);
    Ok(Completed { arguments: completed, doubts })
}

/// The arguments that were typed.
fn given(command: &Command, matches: &ArgMatches) -> HashSet<String> {
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    command.get_arguments().map(|argument| argument.get_id().to_string()).filter(|id| typed(id)).collect()
}

/// What a run file said is in the arguments: the file itself is not needed to repeat the run.
fn without_config(arguments: &[OsString]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            arguments.next();
        } else if !argument.starts_with("--config=") {
            kept.push(argument);
        }
    }
    kept
}

/// Arguments on their way to clap.
struct Settings<'a> {
    command: &'a Command,
    /// What has a value already, by clap's id.
    given: HashSet<String>,
    arguments: Vec<String>,
}

impl Settings<'_> {
    /// The arguments that can be set: clap's own description and the key.
    fn keys(&self) -> impl Iterator<Item = (&Arg, String)> {
        let key = |argument: &Arg| argument.get_long().map_or_else(|| argument.get_id().to_string(), str::to_owned);
        let all = self.command.get_arguments().map(move |argument| (argument, key(argument)));
        all.filter(|(_, key)| !TYPED_ONLY.contains(&key.as_str()))
    }

    /// Variables that are named much like a flag, and like none of another command.
    fn doubts(&self, mut names: Vec<String>, cli: &Command) -> Vec<String> {
        names.sort();
        let commands = COMMANDS.iter().filter_map(|name| cli.find_subcommand(name));
        let flags = commands.flat_map(Command::get_arguments).filter_map(Arg::get_long);
        let known: HashSet<String> = flags.map(variable).collect();
        let ours: Vec<_> = self.keys().map(|(_, key)| variable(&key)).collect();
        let doubt = |name: &String| {
            let nearest = nearest_name(name, ours.iter().map(String::as_str))?;
            let command = self.command.get_name();
            Some(format!("{name} is no flag of `kintsugi {command}` and is not used; did you mean {nearest}?"))
        };
        names.iter().filter(|name| name.starts_with(PREFIX) && !known.contains(*name)).filter_map(doubt).collect()
    }

    fn add_environment(&mut self, value_of: impl Fn(&str) -> Option<String>) -> Result<(), SettingError> {
        let found: Vec<_> = self
            .keys()
            .filter_map(|(argument, key)| {
                let name = variable(&key);
                let value = value_of(&name).filter(|value| !value.is_empty())?;
                Some((argument.clone(), key, name, value))
            })
            .collect();
        for (argument, key, name, value) in found {
            let value = match argument.get_action() {
                ArgAction::Append => Value::from(value.split(',').map(str::trim).collect::<Vec<_>>()),
                ArgAction::SetTrue => match value.to_ascii_lowercase().as_str() {
                    "1" | "true" | "yes" | "on" => Value::Bool(true),
                    "0" | "false" | "no" | "off" => Value::Bool(false),
                    _ => Value::String(value),
                },
                _ => Value::String(value),
            };
            self.add(&argument, &key, &value, &name)?;
        }
        Ok(())
    }

    fn add_file(&mut self, file: &Path) -> anyhow::Result<()> {
        let (values, sources) = read_files(&[file.to_owned()])?;
        for (written, value) in &values {
            let line = sources.line_of(written).unwrap_or_default();
            let place = format!("{}, line {line}", file.display());
            let asked = written.replace('_', "-");
            let known = self.keys().find(|(_, key)| *key == asked).map(|(argument, key)| (argument.clone(), key));
            let Some((argument, key)) = known else {
                let nearest = self.nearest(&asked);
                let command = self.command.get_name().to_owned();
                return Err(SettingError::UnknownKey { place, key: asked, command, nearest }.into());
            };
            self.add(&argument, &key, value, &place)?;
        }
        Ok(())
    }

    /// The key that was perhaps meant.
    fn nearest(&self, asked: &str) -> Option<String> {
        let keys: Vec<_> = self.keys().map(|(_, key)| key).collect();
        nearest_name(asked, keys.iter().map(String::as_str)).map(str::to_owned)
    }

    /// Adds one setting, unless something stronger has set it.
    fn add(&mut self, argument: &Arg, key: &str, value: &Value, place: &str) -> Result<(), SettingError> {
        let wrong = |message: String| SettingError::Value { place: place.to_owned(), message };
        let arguments = words(argument, key, value).map_err(wrong)?;
        let alone = self.command.clone().no_binary_name(true).mut_args(|argument| argument.required(false));
        if let Err(error) = alone.try_get_matches_from(&arguments) {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            return Err(wrong(first.strip_prefix("error: ").unwrap_or(first).to_owned()));
        }
        if self.given.insert(argument.get_id().to_string()) {
            self.arguments.extend(arguments);
        }
        Ok(())
    }
}

/// A value as it would be typed.
fn words(argument: &Arg, key: &str, value: &Value) -> Result<Vec<String>, String> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("`{key}` takes a word or a number, found {other}")),
    };
    let typed =
        |value: &Value| one(value).map(|text| if argument.is_positional() { text } else { format!("--{key}={text}") });
    match (argument.get_action(), value) {
        (ArgAction::SetTrue, Value::Bool(on)) => Ok(on.then(|| format!("--{key}")).into_iter().collect()),
        (ArgAction::SetTrue, other) => Err(format!("`{key}` takes true or false, found {other}")),
        (ArgAction::Count, Value::Bool(on)) => Ok(on.then(|| format!("--{key}")).into_iter().collect()),
        (ArgAction::Count, other) => {
            let count =
                one(other)?.parse::<u8>().map_err(|_| format!("`{key}` takes a small number, found {other}"))?;
            Ok(vec![format!("--{key}"); usize::from(count)])
        }
        (ArgAction::Append, Value::Array(values)) => values.iter().map(typed).collect(),
        (_, value) => Ok(vec![typed(value)?]),
    }
}
