//! Rooms import only from lower levels, and only `model/` and `eval/` name libtorch.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

/// The rooms by level; a room may import from lower levels only.
const LEVELS: &[&[&str]] = &[
    &["files"],
    &["stats", "tensor", "config", "hub"],
    &["partition", "samples"],
    &["checkpoint"],
    &["merge", "model"],
    &["eval", "export", "report"],
    &["gate"],
    &["cli"],
];

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// Every Rust file of a room.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a line of code names: `crate::room` wherever it stands.
fn rooms_named(text: &str) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for rest in code.split("crate::").skip(1) {
            let room: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            named.push((number + 1, room));
        }
    }
    named
}

#[test]
fn rooms_import_only_downwards() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut edges = 0;
    for entry in fs_err::read_dir(&source).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let room = folder.file_name().unwrap().to_string_lossy().into_owned();
        let own = level(&room).unwrap_or_else(|| panic!("src/{room} has no level in tests/architecture.rs"));
        let mut files = Vec::new();
        sources(&folder, &mut files);
        for file in files {
            let text = fs_err::read_to_string(&file).unwrap();
            for (line, other) in rooms_named(&text) {
                let Some(theirs) = level(&other) else { continue };
                edges += 1;
                if other != room && theirs >= own {
                    wrong.push(format!("{}:{line}: {room} imports {other}", file.display()));
                }
            }
        }
    }
    assert!(edges > 20, "found only {edges} imports: does this test still read the sources?");
    assert!(wrong.is_empty(), "imports that do not go downwards:\n{}", wrong.join("\n"));
}

#[test]
fn only_model_and_eval_name_libtorch() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in LEVELS.iter().flat_map(|rooms| rooms.iter()) {
        if ["model", "eval"].contains(room) || !source.join(room).is_dir() {
            continue;
        }
        let mut files = Vec::new();
        sources(&source.join(room), &mut files);
        for file in files {
            let text = fs_err::read_to_string(&file).unwrap();
            let names_it = |line: &str| {
                let code = line.split("//").next().unwrap_or_default();
                // A path that begins with it: `wildmatch::` is another crate.
                let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                code.match_indices("tch::").any(|(at, _)| begins(at)) || code.contains("torch_sys")
            };
            let found = text.lines().find(|line| names_it(line));
            assert!(found.is_none(), "{} names libtorch: {}", file.display(), found.unwrap_or_default());
        }
    }
}
