//! Modules import only from lower levels, files within a module do not import in circles, and nothing below the command
//! line prints or reads the process's environment.

mod graph;
mod source;

use std::path::Path;

use graph::circles;
use source::{Crate, Reference};

/// The modules at the root of `src` by level; each imports from lower levels only.
const LEVELS: &[&[&str]] = &[
    &["files", "words"],
    &["stats", "tensor", "config", "hub"],
    &["partition", "samples", "options"],
    &["checkpoint", "limits"],
    &["merge", "model"],
    &["eval", "export", "report"],
    &["gate", "verify"],
    &["error"],
    &["run"],
    &["comparison", "cli"],
    &["lib", "main"],
];

/// The one file below `cli` that may read the environment: where the Hugging Face cache is, and the token.
const READS_ENVIRONMENT: &str = "hub/settings.rs";

fn sources() -> Crate {
    Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|modules| modules.contains(&module))
}

fn assert_none(wrong: &[String], rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
fn modules_import_only_downwards() {
    let sources = sources();
    let mut wrong = Vec::new();
    let mut edges = 0;
    for file in &sources.files {
        let own = level(file.top()).unwrap_or_else(|| panic!("{} has no level in {}", file.name, file!()));
        for (line, target) in sources.references(file, Reference::WithTests) {
            let other = sources.files[target].top();
            edges += 1;
            if other != file.top() && level(other).is_none_or(|theirs| theirs >= own) {
                wrong.push(format!("src/{}:{line}: {} imports {other}", file.name, file.top()));
            }
        }
    }
    assert!(edges > 200, "found only {edges} imports: does this test still read the sources?");
    assert_none(&wrong, "imports that do not go downwards");
}

#[test]
fn files_of_a_module_do_not_import_in_circles() {
    let sources = sources();
    assert_none(&circles(&sources), "circles of files");
}

#[test]
fn only_model_and_eval_name_libtorch() {
    let sources = sources();
    let others = sources.files.iter().filter(|file| !["model", "eval"].contains(&file.top()));
    let names = others.flat_map(|file| {
        let paths = file.paths().filter(|(_, path)| ["tch", "torch_sys"].contains(&path[0].as_str()));
        paths.map(|(line, path)| format!("src/{}:{line}: {}", file.name, path.join("::")))
    });
    assert_none(&names.collect::<Vec<_>>(), "libtorch outside model and eval");
}

#[test]
fn only_the_command_line_reads_arguments_and_environment() {
    const READERS: [&str; 6] = ["args", "args_os", "var", "var_os", "vars", "vars_os"];
    let sources = sources();
    let mut wrong = Vec::new();
    let mut allowed = 0;
    for file in sources.files.iter().filter(|file| file.top() != "cli") {
        for (line, path) in file.paths() {
            let reads = path.windows(2).any(|pair| pair[0] == "env" && READERS.contains(&pair[1].as_str()));
            if reads && file.name == READS_ENVIRONMENT {
                allowed += 1;
            } else if reads {
                wrong.push(format!("src/{}:{line}: {}", file.name, path.join("::")));
            }
        }
    }
    assert_none(&wrong, "what reads the process's arguments or environment outside cli");
    assert!(allowed > 0, "{READS_ENVIRONMENT} no longer reads the environment: does this test still see it?");
}

#[test]
fn nothing_below_the_command_line_prints() {
    const MACROS: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
    let sources = sources();
    let mut wrong = Vec::new();
    for file in sources.files.iter().filter(|file| !["cli", "lib", "main"].contains(&file.top())) {
        for (number, line) in file.code.lines().enumerate() {
            let prints = MACROS.iter().any(|name| {
                line.match_indices(name).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            let writes = ["stdout()", "stderr()"].iter().any(|call| line.contains(&format!("io::{call}")));
            if prints || writes {
                wrong.push(format!("src/{}:{}: {}", file.name, number + 1, line.trim()));
            }
        }
    }
    assert_none(&wrong, "what prints below cli");
}
