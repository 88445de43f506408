//! A value typed behind an option that takes one after `=` only: it is taken for another argument, and the command fails over that.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Error;

/// `300` of `--trim-vocab 300`.
pub(super) struct DetachedValue {
    option: String,
    value: String,
}

impl DetachedValue {
    /// The first one that the option could have taken.
    pub(super) fn find(cli: &Command, typed: &[OsString]) -> Option<Self> {
        let command = typed.iter().find_map(|argument| cli.find_subcommand(argument))?;
        let alone = command.clone().no_binary_name(true).mut_args(|argument| argument.required(false));
        typed.windows(2).find_map(|pair| {
            let (option, value) = (pair[0].to_str()?, pair[1].to_str()?);
            let name = option.strip_prefix("--")?;
            let argument = command.get_arguments().find(|argument| argument.get_long() == Some(name))?;
            let fits = argument.is_require_equals_set()
                && alone.clone().try_get_matches_from([format!("{option}={value}")]).is_ok();
            fits.then(|| Self { option: option.to_owned(), value: value.to_owned() })
        })
    }

    fn advice(&self) -> String {
        let Self { option, value } = self;
        format!("to give '{option}' a value, use '{option}={value}'")
    }

    /// An error of the parse, with the advice where it is about an argument too many.
    pub(super) fn explain_parse(&self, mut error: clap::Error) -> clap::Error {
        let is_value =
            |context: &ContextValue| matches!(context, ContextValue::String(found) if !found.starts_with('-'));
        if error.kind() == ErrorKind::UnknownArgument && error.get(ContextKind::InvalidArg).is_some_and(is_value) {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![self.advice().into()]));
        }
        error
    }

    /// An error of the command, with the advice where it is about the value, taken for a file.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.to_string().starts_with(&format!("{}: ", self.value)) { error.with_hint(self.advice()) } else { error }
    }
}
