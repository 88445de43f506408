//! Errors of the data side of an evaluation: task, data file, tokenizer, packing.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("unknown task `{name}`: neither built in nor a file")]
    UnknownTask { name: String, known: Vec<String> },
    #[error("{place}: not a task: {message}")]
    InvalidTask { place: String, message: String },
    #[error("{path}: no passages in this file", path = path.display())]
    NoPassages { path: PathBuf },
    #[error("{path}: line {line} is longer than {limit_bytes} bytes", path = path.display())]
    LineTooLong { path: PathBuf, line: usize, limit_bytes: usize },
    #[error("{path}: line {line} is not UTF-8 (first bad byte at {byte})", path = path.display())]
    NotUtf8 { path: PathBuf, line: usize, byte: usize, binary_format: Option<&'static str> },
    #[error("{path}: line {line}, column {column}: not JSON: {message}", path = path.display())]
    NotJson { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{path}: line {line}: expected an object with a string `text`, found {found}", path = path.display())]
    NoText { path: PathBuf, line: usize, found: String },
    #[error("{path}: line {line}: passage has no context before its last word: {text:?}", path = path.display())]
    NoContext { path: PathBuf, line: usize, text: String },
    #[error("{path}: not a tokenizer: {message}", path = path.display())]
    InvalidTokenizer { path: PathBuf, message: String },
    #[error("no data for {task}: there is no {looked}", looked = looked.display())]
    NoData { task: String, looked: PathBuf, url: String },
    #[error("no data for {task}: there is no {looked}, and {source}", looked = looked.display())]
    Hub { task: String, looked: PathBuf, source: crate::hub::HubError },
    #[error("{path}: tokenizing failed: {message}", path = path.display())]
    Tokenizing { path: PathBuf, message: String },
    #[error("{path}: the tokenizer defines no BOS or EOS token (looked for {})", names.join(", "), path = path.display())]
    NoPrefixToken { path: PathBuf, names: Vec<String> },
    #[error("the {part} {text:?} has no tokens of its own")]
    NoTokens { part: &'static str, text: String },
    #[error(
        "{path}: tokenizer of another vocabulary: its largest id is {largest_id}, \
         expected less than {padded_vocab_size}, the checkpoint's padded vocabulary",
        path = path.display()
    )]
    WrongVocabulary { path: PathBuf, largest_id: u32, padded_vocab_size: usize },
    #[error(
        "{path}: tokenizer of another vocabulary: it needs {rows} rows, the checkpoint has {padded_vocab_size}, \
         more than padding to a multiple of {multiple} adds",
        path = path.display()
    )]
    SmallVocabulary { path: PathBuf, rows: usize, padded_vocab_size: usize, multiple: usize },
    #[error("the target has {target_count} tokens, expected at most {max_length}, the model's longest input")]
    TargetTooLong { target_count: usize, max_length: usize },
    #[error("--max-length {asked} is more than the model's {longest} positions")]
    MaxLength { asked: usize, longest: usize },
    #[error("--calibration: text {id} is, or has, one of the passages to be scored")]
    CalibrationScored { id: usize },
    #[error("passage {id}: {source}")]
    Passage { id: usize, source: Box<Self> },
}

impl DataError {
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownTask { name, known } => {
                let meant = crate::config::did_you_mean(name, known.iter().map(String::as_str));
                let known = known.join(", ");
                return Some(format!(
                    "{meant}built in are {known}; or give the path of a task file (evals/lambada_openai.yml shows one)"
                ));
            }
            Self::InvalidTask { .. } => "evals/lambada_openai.yml of the source shows every key",
            Self::NotUtf8 { binary_format: Some(format), .. } => {
                return Some(format!(
                    "this looks like {format}; unpack or convert it to JSONL with one {{\"text\": …}} a line"
                ));
            }
            Self::NotUtf8 { .. } => "the passages must be UTF-8; convert the file, for example with iconv",
            Self::NoText { .. } | Self::NotJson { .. } | Self::LineTooLong { .. } | Self::NoPassages { .. } => {
                "expected one passage a line, as {\"text\": …} objects or as plain text"
            }
            Self::NoContext { .. } => "every line must be a whole passage: context, one space, last word",
            Self::InvalidTokenizer { .. } => {
                "expected the tokenizer.json of Hugging Face tokenizers, such as 20B_tokenizer.json; \
                 or a vocab.json with its merges.txt beside it"
            }
            Self::NoData { url, .. } => return Some(format!("give it with --data FILE; it is at {url}")),
            Self::Hub { source, .. } => return source.hint(),
            Self::WrongVocabulary { .. } | Self::SmallVocabulary { .. } => {
                "pass the tokenizer the checkpoint was trained with"
            }
            Self::NoPrefixToken { .. } => {
                "name one of its tokens as `bos_token` in a tokenizer_config.json beside it, or for whole texts as \
                 `prefix_token` in a task file (see evals/text_perplexity.yml)"
            }
            Self::CalibrationScored { .. } => {
                "give another text, or leave it out: a bundled text calibrates by default"
            }
            Self::Passage { source, .. } => return source.hint(),
            Self::Io(error) => return crate::files::hint(error),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
