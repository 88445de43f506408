//! Files whose dictionaries are nested, in either of torch.save's formats: a zip archive, or before torch 1.6 a stream of
//! pickles with the storages behind them.

use std::collections::HashMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value as Plain};

use super::archive::{Entries, Entry, MAX_PICKLE_BYTES};
use super::pickle::Machine;
use super::plain::plain;
use super::stored::Stored;
use super::value::Value;
use super::window::Window;
use crate::checkpoint::error::CheckpointError;
use crate::files::{self, FileStat};

/// Dictionaries may be shared, so that a small pickle holds any number of names.
const MAX_NAMES: usize = 1 << 20;
const MAX_NAME_BYTES: usize = 64 << 20;
const MAX_DEPTH: usize = 8;

/// What a file before torch 1.6 begins with: the pickle of a number.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The tensors of nested dictionaries by their names, joined by dots, and the plain values of the outermost dictionary.
pub(super) struct Contents {
    pub tensors: HashMap<String, Stored>,
    pub values: Map<String, Plain>,
}

/// Reads the pickle of a file. Of the outermost dictionary's entries, `holds_tensors` tells those whose tensors are listed;
/// all others become plain values where `holds_values` asks for them. What is no tensor among tensors is listed as one of an
/// unknown type, but for Transformer Engine's `_extra_state`.
pub(super) fn read(
    path: &Path,
    identity: &FileStat,
    entries: &Entries,
    holds_tensors: &dyn Fn(&str) -> bool,
    holds_values: &dyn Fn(&str) -> bool,
) -> Result<Contents, CheckpointError> {
    let refused = |reason: &str| CheckpointError::Archive { path: path.to_owned(), reason: reason.to_owned() };
    let wanted = Wanted { path, holds_tensors, holds_values };
    let found = if let Some((_, pickle, folder)) = entries.read_pickle(path) {
        let (machine, root) =
            Machine::run_one(&pickle).ok_or_else(|| refused("its pickle cannot be followed to its end"))?;
        wanted.contents(&machine, &root, |storage| entries.get(&format!("{folder}{storage}")))
    } else {
        let mut head = Vec::new();
        files::open(path)?.take(MAX_PICKLE_BYTES).read_to_end(&mut head)?;
        let (machine, root, storages) = stream(path, &head, identity.bytes()).map_err(refused)?;
        wanted.contents(&machine, &root, |storage| storages.get(storage).copied())
    };
    found.map_err(refused)
}

/// The tensor that an archive in these bytes of a file holds.
pub(super) fn read_item(path: &Path, range: Range<u64>, entries: &Entries) -> Result<Stored, CheckpointError> {
    let refused = |reason: &str| CheckpointError::Archive { path: path.to_owned(), reason: reason.to_owned() };
    let Some((_, pickle, folder)) = entries.read_pickle(path) else {
        let mut head = Vec::new();
        Window::new(files::open(path)?, range).take(HEAD_BYTES).read_to_end(&mut head)?;
        return Err(refused(other_format(&head)));
    };
    match Machine::run_one(&pickle) {
        None => Err(refused("its pickle cannot be followed to its end")),
        Some((_, Value::Tensor(None))) => Ok(Stored::Unknown),
        Some((_, Value::Tensor(Some(place)))) => {
            let entry = entries.get(&format!("{folder}{}", place.storage));
            let entry = entry.ok_or_else(|| refused("the storage of its tensor is missing"))?;
            Ok(Stored::Placed { path: path.to_owned(), entry, place: (*place).clone() })
        }
        Some((machine, Value::Object(object))) => {
            let class = machine.objects.get(object).map_or("", |object| &object.class);
            Err(refused(&format!("it holds an object of `{class}`, not a plain tensor")))
        }
        Some(_) => Err(refused("it does not hold a tensor")),
    }
}

const HEAD_BYTES: u64 = 9;

/// What bytes are that are no archive, by the first of them.
fn other_format(head: &[u8]) -> &'static str {
    match head {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed with zstd, which is not read",
        [_, _, _, _, _, _, 0, 0, b'{', ..] => "it is in the format of safetensors, which is not read here",
        _ => "it is no zip archive as torch.save writes it",
    }
}

type Storages = HashMap<String, Entry>;

/// The pickles of a stream: a number, the version, properties of the machine, the value, the names of the storages; then each
/// storage behind the number of its elements.
fn stream<'a>(path: &Path, head: &'a [u8], file_bytes: u64) -> Result<(Machine<'a>, Value, Storages), &'static str> {
    const UNREAD: &str = "it is neither a zip archive nor the stream of pickles that torch wrote before 1.6";
    let rest = head.strip_prefix(MAGIC).ok_or(UNREAD)?;
    let (version, number) = Machine::run_one(rest).ok_or(UNREAD)?;
    if !matches!(number, Value::Int(1001)) {
        return Err("its stream of pickles is of an unknown version");
    }
    let (system, _) = Machine::run_one(version.rest()).ok_or(UNREAD)?;
    let (machine, root) =
        Machine::run_one(system.rest()).ok_or("its pickle cannot be followed to its end, or is too large")?;
    let (keys, Value::List(list)) = Machine::run_one(machine.rest()).ok_or(UNREAD)? else { return Err(UNREAD) };
    let mut at = (head.len() - keys.rest().len()) as u64;
    let file = files::open(path).map_err(|_| "it cannot be opened again")?;
    let mut storages = HashMap::new();
    for key in keys.lists.get(list).into_iter().flatten() {
        const SHORT: &str = "it ends before its last storage";
        let Value::Text(key) = key else { return Err(UNREAD) };
        let &(dtype, expected) = machine.storages.get(key).ok_or("it has a storage of an unknown type")?;
        let mut count = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(file.file(), &mut count, at).map_err(|_| SHORT)?;
        let count = u64::from_le_bytes(count);
        if count != expected {
            return Err("a storage has another length than the pickle says");
        }
        let start = at + count.to_le_bytes().len() as u64;
        let bytes = count.checked_mul(dtype.size() as u64).ok_or(SHORT)?;
        at = start.checked_add(bytes).filter(|&end| end <= file_bytes).ok_or(SHORT)?;
        storages.insert(key.to_string(), Entry { start, bytes, crc32: 0 });
    }
    Ok((machine, root, storages))
}

/// What is wanted of a file.
struct Wanted<'a> {
    path: &'a Path,
    holds_tensors: &'a dyn Fn(&str) -> bool,
    holds_values: &'a dyn Fn(&str) -> bool,
}

impl Wanted<'_> {
    /// `entry` tells where a storage is.
    fn contents(
        &self,
        machine: &Machine<'_>,
        root: &Value,
        entry: impl Fn(&str) -> Option<Entry>,
    ) -> Result<Contents, &'static str> {
        let Value::Dict(root) = *root else { return Err("it does not hold a dictionary") };
        let mut found = Contents { tensors: HashMap::new(), values: Map::new() };
        let mut open = Vec::new();
        for (key, value) in machine.dicts.get(root).into_iter().flatten() {
            if (self.holds_tensors)(key) {
                open.push((key.to_string(), value, MAX_DEPTH));
            } else if (self.holds_values)(key) {
                let value = plain(machine, value).ok_or("what it holds beside tensors is too large")?;
                found.values.insert(key.to_string(), value);
            }
        }
        let (mut seen, mut bytes) = (0, 0);
        while let Some((name, value, depth)) = open.pop() {
            seen += 1;
            if seen > MAX_NAMES || depth == 0 {
                return Err("its dictionaries are nested too deeply");
            }
            if name.ends_with("_extra_state") {
                continue;
            }
            let stored = match value {
                Value::Dict(dict) => {
                    for (key, value) in machine.dicts.get(*dict).into_iter().flatten() {
                        bytes += name.len() + key.len();
                        if open.len() >= MAX_NAMES || bytes > MAX_NAME_BYTES {
                            return Err("its dictionaries hold too many entries");
                        }
                        open.push((format!("{name}.{key}"), value, depth - 1));
                    }
                    continue;
                }
                Value::Tensor(Some(place)) => {
                    let entry = entry(&place.storage).ok_or("a storage of its tensors is missing")?;
                    Stored::Placed { path: self.path.to_owned(), entry, place: (**place).clone() }
                }
                _ => Stored::Unknown,
            };
            found.tensors.insert(name, stored);
        }
        Ok(found)
    }
}
