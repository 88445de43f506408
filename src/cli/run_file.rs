//! Options from variables `KINTSUGI_…` and from the run file that `--config` names. Both become arguments of the command
//! line, so that clap alone decides what is valid. Typed options win over the environment, which wins over the file.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use crate::config::{nearest_name, read_files};
use crate::error::{Error, Result};

/// The commands whose options can be given this way.
const COMMANDS: [&str; 3] = ["compare", "eval", "explain"];

const PREFIX: &str = "KINTSUGI_";

const TYPED_ONLY: [&str; 3] = ["config", "help", "version"];

/// Where further options come from.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RunFileArgs {
    /// Read options from a run file: YAML in which every option is a key, without its dashes
    ///
    /// Options that are typed win over KINTSUGI_OPTION in the environment, which wins over the file.
    #[arg(long, value_name = "FILE", help_heading = "Output", display_order = 800)]
    config: Option<PathBuf>,
}

#[cfg(feature = "libtorch")]
impl RunFileArgs {
    pub(super) fn announce(&self) {
        if let Some(file) = &self.config {
            tracing::info!("run file: {}", file.display());
        }
    }
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('-', "_").to_uppercase())
}

/// A command line to be parsed.
pub(super) struct ExpandedArgs {
    /// The arguments typed, with those of environment and run file.
    pub arguments: Vec<OsString>,
    /// The command line that repeats the run without either.
    pub command_line: Vec<String>,
    /// Variables that are probably misspelled.
    pub warnings: Vec<String>,
}

pub(super) fn expand(cli: &Command, typed: Vec<OsString>) -> Result<ExpandedArgs> {
    let unchanged = |arguments: Vec<OsString>| {
        let command_line = without_config(&arguments);
        Ok(ExpandedArgs { arguments, command_line, warnings: Vec::new() })
    };
    let mut cli = cli.clone();
    cli.build();
    // Errors in the arguments typed are reported by the whole parse, later.
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
    let warnings = settings.warnings(names.collect(), &cli);
    let place = typed.iter().position(|argument| argument == name).map_or(typed.len(), |at| at + 1);
    let mut arguments = typed;
    arguments.splice(place..place, settings.arguments.into_iter().map(OsString::from));
    let command_line = without_config(&arguments);
    Ok(ExpandedArgs { arguments, command_line, warnings })
}

fn given(command: &Command, matches: &ArgMatches) -> HashSet<String> {
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    command.get_arguments().map(|argument| argument.get_id().to_string()).filter(|id| typed(id)).collect()
}

/// The arguments without `--config`: the run file's options are among them.
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

struct Settings<'a> {
    command: &'a Command,
    /// Ids, by clap, of the arguments that have a value already.
    given: HashSet<String>,
    arguments: Vec<String>,
}

impl Settings<'_> {
    /// The arguments that can be set, with their keys.
    fn keys(&self) -> impl Iterator<Item = (&Arg, String)> {
        let key = |argument: &Arg| argument.get_long().map_or_else(|| argument.get_id().to_string(), str::to_owned);
        let all = self.command.get_arguments().map(move |argument| (argument, key(argument)));
        all.filter(|(_, key)| !TYPED_ONLY.contains(&key.as_str()))
    }

    /// Warns of variables whose names resemble an option's, and no option's of another command.
    fn warnings(&self, mut names: Vec<String>, cli: &Command) -> Vec<String> {
        names.sort();
        let commands = COMMANDS.iter().filter_map(|name| cli.find_subcommand(name));
        let flags = commands.flat_map(Command::get_arguments).filter_map(Arg::get_long);
        let known: HashSet<String> = flags.map(variable).collect();
        let ours: Vec<_> = self.keys().map(|(_, key)| variable(&key)).collect();
        let warning = |name: &String| {
            let nearest = nearest_name(name, ours.iter().map(String::as_str))?;
            let command = self.command.get_name();
            Some(format!("{name} is not an option of `kintsugi {command}` and is ignored; did you mean {nearest}?"))
        };
        names.iter().filter(|name| name.starts_with(PREFIX) && !known.contains(*name)).filter_map(warning).collect()
    }

    fn add_environment(&mut self, value_of: impl Fn(&str) -> Option<String>) -> Result<()> {
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

    fn add_file(&mut self, file: &Path) -> Result<()> {
        let (values, sources) = read_files(&[file.to_owned()])?;
        for (written, value) in &values {
            let line = sources.line_of(written).unwrap_or_default();
            let place = format!("{}, line {line}", file.display());
            let wanted = written.replace('_', "-");
            let known = self.keys().find(|(_, key)| *key == wanted).map(|(argument, key)| (argument.clone(), key));
            let Some((argument, key)) = known else { return Err(self.unknown_key(&place, &wanted)) };
            self.add(&argument, &key, value, &place)?;
        }
        Ok(())
    }

    fn unknown_key(&self, place: &str, key: &str) -> Error {
        let keys: Vec<_> = self.keys().map(|(_, key)| key).collect();
        let nearest = nearest_name(key, keys.iter().map(String::as_str));
        let similar = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
        let command = self.command.get_name();
        Error::usage(format!("{place}: `{key}` is not an option of `kintsugi {command}`{similar}")).with_hint(format!(
            "the keys are the options of `kintsugi {command} --help` without their dashes, and its argument"
        ))
    }

    /// Adds one option, unless a source that wins over this one has set it.
    fn add(&mut self, argument: &Arg, key: &str, value: &Value, place: &str) -> Result<()> {
        let wrong = |message: String| Error::usage(format!("{place}: {message}"));
        let arguments = to_argv(argument, key, value).map_err(wrong)?;
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
fn to_argv(argument: &Arg, key: &str, value: &Value) -> Result<Vec<String>, String> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("`{key}` takes a string or a number, found {other}")),
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
