//! `action.yml` on the bundled checkpoint: its steps run in a plain shell, in their order, with the files and variables that
//! GitHub gives them. Python is a stand-in that puts this program where pip would put it.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use serde_json::Value;
use tempfile::TempDir;

use super::text;

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn action() -> Value {
    serde_saphyr::from_str(&fs::read_to_string(repository("action.yml")).unwrap()).unwrap()
}

/// Makes an "environment" whose pip writes down its arguments: `python -m venv FOLDER`.
const PYTHON: &str = r#"#!/bin/bash
test "$1 $2" = "-m venv" || exit 9
mkdir -p "$3/bin"
printf '#!/bin/bash\nprintf "%%s\\n" "$@" > "%s/pip-arguments"\n' "$3" > "$3/bin/pip"
chmod +x "$3/bin/pip"
ln -s "$PROGRAM" "$3/bin/kintsugi"
"#;

/// A job with the action as its only step.
struct Job {
    folder: TempDir,
    inputs: Vec<(String, String)>,
    /// The outputs of its steps: `gate.verdict`.
    outputs: Vec<(String, String)>,
    /// What the steps print.
    log: String,
    /// Where the page was uploaded from, if it was.
    uploaded: Option<PathBuf>,
}

impl Job {
    /// `compare` of 64 passages by mean and fold, with these inputs besides.
    fn new(inputs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data of mine");
        fs::create_dir(&data).unwrap();
        for file in ["passages.jsonl", "tokenizer.json", "task.yml"] {
            fs::copy(repository("evals/demo").join(file), data.join(file)).unwrap();
        }
        let python = folder.path().join("python");
        fs::write(&python, PYTHON).unwrap();
        fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let compare = "--data 'data of mine/passages.jsonl' --tokenizer \"data of mine/tokenizer.json\"\n\
            --task data\\ of\\ mine/task.yml --strategy mean --strategy fold --limit 64\n\
            --device cpu --threads 1 --bootstrap-replicates 100 --no-noise-floor";
        let mut all = vec![
            ("checkpoint".to_owned(), repository("evals/demo/checkpoint").display().to_string()),
            ("compare".to_owned(), compare.to_owned()),
            ("wheel".to_owned(), "dist/kintsugi_merge-1.whl".to_owned()),
            ("python".to_owned(), python.display().to_string()),
        ];
        for (name, value) in inputs {
            all.retain(|(given, _)| given != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        Self { folder, inputs: all, outputs: Vec::new(), log: String::new(), uploaded: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What GitHub puts for `${{ inputs.NAME }}` and `${{ steps.ID.outputs.NAME }}`, the only expressions that are used.
    fn resolved(&self, action: &Value, template: &str) -> String {
        let Some((before, rest)) = template.split_once("${{ ") else { return template.to_owned() };
        let (expression, after) = rest.split_once(" }}").unwrap();
        let value_in = |values: &[(String, String)], wanted: &str| {
            values.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        };
        let value = if let Some(name) = expression.strip_prefix("inputs.") {
            let declared = &action["inputs"][name];
            assert!(declared["description"].is_string(), "{name} is no input");
            value_in(&self.inputs, name).unwrap_or_else(|| declared["default"].as_str().unwrap().to_owned())
        } else {
            let (step, name) = expression.strip_prefix("steps.").unwrap().split_once(".outputs.").unwrap();
            value_in(&self.outputs, &format!("{step}.{name}")).unwrap_or_default()
        };
        format!("{before}{value}{}", self.resolved(action, after))
    }

    /// Runs the steps up to the first that fails, whose exit code it gives.
    fn run(&mut self) -> i32 {
        let action = action();
        for (index, step) in action["runs"]["steps"].as_array().unwrap().iter().enumerate() {
            let Some(script) = step["run"].as_str() else {
                assert!(step["uses"].as_str().unwrap().starts_with("actions/upload-artifact@"), "{step}");
                let path = self.path(&self.resolved(&action, step["with"]["path"].as_str().unwrap()));
                assert!(path.is_dir(), "{}", path.display());
                self.uploaded = Some(path);
                continue;
            };
            let file = self.path(&format!("step-{index}.sh"));
            fs::write(&file, script).unwrap();
            let mut command = Command::new("bash");
            command.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(file).current_dir(self.folder.path());
            let mut path = std::env::var("PATH").unwrap();
            for added in self.read("path").lines() {
                path = format!("{added}:{path}");
            }
            command.env_clear().env("PATH", path);
            command.env("HOME", self.folder.path()).env("HF_HUB_OFFLINE", "1");
            command.env("PROGRAM", env!("CARGO_BIN_EXE_kintsugi")).env("RUNNER_TEMP", self.folder.path());
            for (variable, file) in [("GITHUB_PATH", "path"), ("GITHUB_STEP_SUMMARY", "summary")] {
                command.env(variable, self.path(file));
            }
            let outputs = self.path(&format!("outputs-{index}"));
            command.env("GITHUB_OUTPUT", &outputs);
            for (name, value) in step["env"].as_object().unwrap() {
                command.env(name, self.resolved(&action, value.as_str().unwrap()));
            }
            let output = command.output().unwrap();
            self.log += &text(&output.stdout);
            self.log += &text(&output.stderr);
            for line in fs::read_to_string(outputs).unwrap_or_default().lines() {
                let (name, value) = line.split_once('=').unwrap();
                self.outputs.push((format!("{}.{name}", step["id"].as_str().unwrap()), value.to_owned()));
            }
            if !output.status.success() {
                return output.status.code().unwrap();
            }
        }
        0
    }

    /// An output of the action.
    fn output(&self, name: &str) -> String {
        let action = action();
        self.resolved(&action, action["outputs"][name]["value"].as_str().unwrap())
    }
}

#[test]
fn no_input_is_ever_part_of_a_script() {
    let action = action();
    assert_eq!(action["runs"]["using"], "composite");
    for step in action["runs"]["steps"].as_array().unwrap() {
        if let Some(script) = step["run"].as_str() {
            assert!(!script.contains("${{") && !script.contains("eval"), "{script}");
            assert_eq!(step["shell"], "bash");
        }
    }
}

#[test]
fn what_is_within_its_limits_passes() {
    let mut job = Job::new(&[("model", "fold"), ("limits", "--max-kl 0.0001"), ("output-dir", "out of it")]);
    assert_eq!(job.run(), 0, "{}", job.log);
    assert_eq!(
        job.read("kintsugi/pip-arguments"),
        "install\n--quiet\n--extra-index-url\nhttps://download.pytorch.org/whl/cpu\ndist/kintsugi_merge-1.whl\n"
    );
    let summary = job.read("summary");
    assert!(summary.contains("gate passed: 1 of 1 limit proven") && summary.contains("# "), "{summary}");
    assert!(summary.ends_with(&job.read("out of it/report.md")));
    assert_eq!((job.output("verdict").as_str(), job.output("exit-code").as_str()), ("within", "0"));
    assert!(job.path(&job.output("report")).is_file());
    let uploaded = job.uploaded.unwrap();
    assert!(uploaded.join("report.html").is_file() && uploaded.join("gate.xml").is_file());
}

#[test]
fn what_is_beyond_a_limit_fails_after_its_report_was_shown() {
    let mut job = Job::new(&[("model", "mean\nfold\n"), ("limits", "--max-kl 0.0001"), ("wheel", "0.2.0")]);
    assert_eq!(job.run(), 1, "{}", job.log);
    let summary = job.read("summary");
    assert!(summary.contains("BEYOND") && summary.contains("gate FAILED: 1 of 2 limits exceeded"), "{summary}");
    assert!(job.log.contains("::error::"), "{}", job.log);
    assert!(job.uploaded.is_some());
    assert_eq!(job.output("verdict"), "beyond");
    assert!(job.read("kintsugi/pip-arguments").ends_with("\nkintsugi-merge==0.2.0\n"));
}

#[test]
fn what_is_undecided_fails_where_it_is_asked_to() {
    for (fails, code) in [("true", 3), ("false", 0)] {
        let limits = [("model", "fold"), ("limits", "--max-acc-loss 0.5pp"), ("fail-on-undecided", fails)];
        let mut job = Job::new(&limits);
        assert_eq!(job.run(), code, "{}", job.log);
        assert_eq!(job.output("verdict"), "undecided");
        assert!(job.read("summary").contains("gate UNDECIDED") && job.log.contains("::warning::"), "{}", job.log);
        assert!(job.uploaded.is_some());
    }
}

#[test]
fn what_cannot_be_checked_fails_with_its_error() {
    let attack = "nowhere\"; touch owned; `touch owned` $(touch owned)";
    for (input, value, error) in [
        ("checkpoint", attack, "error: "),
        ("compare", attack, "unmatched double quote"),
        ("compare", "--limit 8 '$(touch owned)'", "unexpected argument"),
        ("limits", "--max-kl $(touch owned)", "$(touch"),
        ("model", attack, "nowhere"),
    ] {
        let mut job = Job::new(&[(input, value)]);
        assert!(job.run() > 0, "{input}: {}", job.log);
        assert!(job.log.contains(error), "{input}: {}", job.log);
        assert!(!job.path("owned").exists() && job.uploaded.is_none(), "{input}: {}", job.log);
    }
}

/// The workflows of the page give inputs that there are, and all that are required.
#[test]
fn the_page_uses_inputs_that_there_are() {
    let inputs = action()["inputs"].as_object().unwrap().clone();
    let page = fs::read_to_string(repository("docs/regression-testing.md")).unwrap();
    let uses = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let uses: Vec<_> = uses.filter(|block| block.contains("/kintsugi@")).collect();
    assert!(!uses.is_empty());
    for block in uses {
        let workflow: Value = serde_saphyr::from_str(block).unwrap();
        let steps = workflow["jobs"]["gate"]["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["uses"].as_str().is_some_and(|uses| uses.contains("/kintsugi@")));
        let given = step.unwrap()["with"].as_object().unwrap();
        assert!(given.keys().all(|name| inputs.contains_key(name)), "{given:?}");
        let needed = inputs.iter().filter(|(_, input)| input["required"] == true);
        assert!(needed.clone().all(|(name, _)| given.contains_key(name)), "{given:?}");
    }
    for name in inputs.keys() {
        assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
    }
}
