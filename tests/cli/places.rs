//! Something else where a file should be: folders, pipes, devices, links that lead nowhere, files that may not be read.

use std::os::unix::fs::symlink;
#[cfg(feature = "libtorch")]
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use super::*;
use crate::common::delete;

type Place = fn(&Inputs) -> PathBuf;

/// Where files are read: what the message calls it, and the path. The last two are read by `compare` alone.
const PLACES: &[(&str, Place)] = &[
    ("STEP/layer_02-model_01-model_states.pt", |inputs| inputs.files.layer_file(2, 1)),
    ("STEP/mp_rank_00_model_states.pt", |inputs| inputs.files.rank_file(0)),
    ("STEP/configs/synthetic.yml", |inputs| inputs.files.config_file()),
    ("SAVE/latest", |inputs| inputs.files.path().join("latest")),
    ("INPUT/tokenizer.json", |inputs| inputs.path("tokenizer.json")),
    ("INPUT/passages.jsonl", |inputs| inputs.path("passages.jsonl")),
];

/// The places that commands of this build read.
fn places() -> &'static [(&'static str, Place)] {
    if cfg!(feature = "libtorch") { PLACES } else { &PLACES[..4] }
}

/// The error of a command of this build with something wrong in a place; all agree where all read it.
fn refusal(inputs: &Inputs, name: &str) -> String {
    let commands = if name.starts_with("INPUT") { vec![inputs.compare(&[])] } else { inputs.readers(&[]) };
    let error = |command| inputs.without_paths(&failure(&mut with_little_memory(command)));
    agreed(commands.iter().map(error))
}

/// Puts something else in every place in turn; `compare` must name it.
fn in_every_place(put: impl Fn(&Path), expected: &str) {
    for (name, place) in places() {
        let inputs = Inputs::new();
        let path = place(&inputs);
        delete(&path);
        put(&path);
        let complaint = refusal(&inputs, name);
        assert!(complaint.contains(name) && complaint.contains(expected), "{name}: {complaint}");
        let known = complaint.contains("\nhint: ") || expected == "symbolic links" || expected == "no such file";
        assert!(known, "{name}: no hint: {complaint}");
    }
}

#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let make_pipe = |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    in_every_place(make_pipe, "expected a file, found a pipe");
}

#[test]
fn a_device_in_place_of_a_file_is_not_read() {
    in_every_place(|path| symlink("/dev/zero", path).unwrap(), "expected a file, found a device");
}

#[test]
fn a_link_that_leads_to_itself_is_named() {
    in_every_place(|path| symlink(path, path).unwrap(), "symbolic links");
}

#[test]
fn a_link_that_leads_nowhere_is_named() {
    in_every_place(|path| symlink("/no/such/file", path).unwrap(), "no such file");
}

#[test]
fn a_folder_in_place_of_a_file_is_named() {
    for (name, place) in places() {
        let inputs = Inputs::new();
        let path = place(&inputs);
        delete(&path);
        fs::create_dir(&path).unwrap();
        let complaint = refusal(&inputs, name);
        // A folder is no configuration: then there is none.
        let named = complaint.contains(name) && complaint.contains("expected a file, found a directory");
        assert!(named || complaint.contains("no configuration files"), "{name}: {complaint}");
        assert!(complaint.contains("\nhint: "), "{name}: {complaint}");
    }
}

#[test]
fn an_empty_file_is_named() {
    for (name, place) in places() {
        let inputs = Inputs::new();
        fs::write(place(&inputs), "").unwrap();
        let complaint = refusal(&inputs, name);
        assert!(complaint.contains(name) && complaint.contains("\nhint: "), "{name}: {complaint}");
        let expected = match *name {
            "SAVE/latest" => "names ``",
            "INPUT/tokenizer.json" => "not a tokenizer: EOF while parsing a value",
            "INPUT/passages.jsonl" => "no passages in this file",
            "STEP/configs/synthetic.yml" => "key `num_layers` is missing",
            _ => "the file is empty",
        };
        assert!(complaint.contains(expected), "{name}: {complaint}");
    }
}

#[test]
#[cfg(feature = "libtorch")]
fn a_file_that_may_not_be_read_is_named() {
    for (name, place) in places() {
        let inputs = Inputs::new();
        let Some(mut command) = as_somebody(&inputs, &inputs.compare(&[])) else { return };
        fs::set_permissions(place(&inputs), PermissionsExt::from_mode(0o000)).unwrap();
        let complaint = inputs.without_paths(&failure(&mut command));
        assert!(complaint.contains(name) && complaint.contains("Permission denied"), "{name}: {complaint}");
        assert!(complaint.contains("\nhint: the permissions"), "{name}: {complaint}");
    }
}

#[test]
#[cfg(feature = "libtorch")]
fn an_output_folder_that_may_not_be_written_to_is_named_before_anything_is_computed() {
    let inputs = Inputs::new();
    let output = inputs.path("out");
    fs::create_dir(&output).unwrap();
    let Some(mut command) = as_somebody(&inputs, inputs.compare(&["--output-dir"]).arg(&output)) else { return };
    fs::set_permissions(&output, PermissionsExt::from_mode(0o555)).unwrap();
    let complaint = inputs.without_paths(&failure(&mut command));
    assert!(complaint.starts_with("error: INPUT/out"), "{complaint}");
    assert!(complaint.contains("not writable") && complaint.contains("\nhint: "), "{complaint}");
}

#[cfg(feature = "libtorch")]
/// The command as a user whom permissions bind: root asks nobody. Nothing where that cannot be had.
fn as_somebody(inputs: &Inputs, command: &Command) -> Option<Command> {
    if fs::metadata(inputs.folder.path()).unwrap().uid() != 0 {
        let mut same = Command::new(command.get_program());
        same.env("KINTSUGI_NO_CACHE", "1");
        same.args(command.get_args());
        return Some(same);
    }
    for folder in [inputs.folder.path(), inputs.files.path()] {
        fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let other = |arguments: &[&std::ffi::OsStr]| {
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--clear-groups"]).arg(command.get_program()).args(arguments);
        other.env("KINTSUGI_NO_CACHE", "1");
        other
    };
    if !other(&["--version".as_ref()]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no other user can run the program");
        return None;
    }
    Some(other(&command.get_args().collect::<Vec<_>>()))
}
