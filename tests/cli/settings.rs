//! Flags from run files and from the environment, and what a run would do.

use super::*;

/// `compare` by a run file of these lines, with further arguments.
fn by_file(inputs: &Inputs, lines: &str, further: &[&str]) -> Command {
    let file = inputs.write("run.yml", lines);
    let mut command = kintsugi();
    command.args(["compare", "--config"]).arg(file).args(further);
    command
}

/// Everything that a run needs.
fn whole(inputs: &Inputs) -> String {
    let path = |name: &str| inputs.path(name).display().to_string();
    format!(
        "checkpoint: {}\ndata: {}\ntokenizer: {}\nstrategy: [mean, fold]\ndevice: cpu\nthreads: 1\n\
         bootstrap_replicates: 100\nno-noise-floor: true\n",
        inputs.files.path().display(),
        path("passages.jsonl"),
        path("tokenizer.json")
    )
}

fn rows(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let known = ["baseline", "mean", "fold", "zeroth", "noise floor"];
    let stdout = text(&output.stdout);
    let table = stdout.split("\n\n").nth(1).unwrap();
    known.into_iter().filter(|name| table.contains(&format!("\n{name} "))).map(str::to_owned).collect()
}

#[test]
fn a_run_file_is_a_command_line() {
    let inputs = Inputs::new();
    let output = run(&mut by_file(&inputs, &whole(&inputs), &[]));
    assert_eq!(rows(&output), ["baseline", "mean", "fold"]);
    assert!(text(&output.stderr).contains("run file: "), "{}", text(&output.stderr));
    // What was typed wins, and replaces a list as a whole; a flag may stand before or after the file.
    assert_eq!(rows(&run(&mut by_file(&inputs, &whole(&inputs), &["--strategy", "zeroth"]))), ["baseline", "zeroth"]);
    let mut eval = kintsugi();
    let file = inputs.write(
        "eval.yml",
        whole(&inputs)
            .replace("checkpoint:", "model:")
            .replace("strategy: [mean, fold]\n", "")
            .replace("no-noise-floor: true\n", "")
            .replace("bootstrap_replicates: 100\n", ""),
    );
    assert_eq!(rows(&run(eval.args(["eval", "-q"]).arg(format!("--config={}", file.display())))), ["baseline"]);
}

#[test]
fn the_environment_stands_between_flags_and_file() {
    let inputs = Inputs::new();
    let with = |further: &[&str], strategy: &str| {
        rows(&run(by_file(&inputs, &whole(&inputs), further).env("KINTSUGI_STRATEGY", strategy)))
    };
    assert_eq!(with(&[], "zeroth, fold"), ["baseline", "fold", "zeroth"]);
    assert_eq!(with(&["--strategy", "mean"], "zeroth"), ["baseline", "mean"]);
    assert_eq!(with(&[], ""), ["baseline", "mean", "fold"]);
    let mut all = kintsugi();
    all.arg("compare").env("KINTSUGI_CONFIG", inputs.write("run.yml", whole(&inputs)));
    assert_eq!(rows(&run(all.env("KINTSUGI_NO_NOISE_FLOOR", "false"))), ["baseline", "mean", "fold", "noise floor"]);
    let mut wrong = by_file(&inputs, &whole(&inputs), &[]);
    let complaint = failure(wrong.env("KINTSUGI_LIMIT", "many"));
    assert!(complaint.contains("error: KINTSUGI_LIMIT: invalid value 'many' for '--limit <N>'"), "{complaint}");
}

#[test]
fn mistakes_in_a_run_file_are_named_by_line() {
    let inputs = Inputs::new();
    for (line, words) in [
        (
            "limt: 3",
            "INPUT/run.yml, line 9: `limt` is not an option of `kintsugi compare`; did you mean `limit`?\nhint: ",
        ),
        ("colour: red", "line 9: `colour` is not an option of `kintsugi compare`\nhint: "),
        ("config: other.yml", "line 9: `config` is not an option"),
        ("limit: 0", "line 9: invalid value '0' for '--limit <N>'"),
        ("dtype: [f32, bf16]", "line 9: `dtype` takes a string or a number, found [\"f32\",\"bf16\"]"),
        ("dry-run: maybe", "line 9: `dry-run` takes true or false, found \"maybe\""),
        ("shard:", "line 9: `shard` takes a string or a number, found null"),
        ("data: other.jsonl", "data"),
        ("- x", "run.yml"),
    ] {
        let stderr = failure(&mut by_file(&inputs, &format!("{}{line}\n", whole(&inputs)), &[]));
        let complaint = inputs.without_paths(&stderr);
        assert!(complaint.contains(words), "{line}: {complaint}");
    }
    let mut missing = kintsugi();
    assert!(failure(missing.args(["compare", "--config", "no/such.yml"])).contains("no/such.yml"));
}

#[test]
fn the_report_tells_how_to_repeat_a_run_without_its_file() {
    let inputs = Inputs::new();
    let out = inputs.path("out");
    let output = run(by_file(&inputs, &whole(&inputs), &["--output-dir"]).arg(&out));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let argv: Vec<&str> = report["run"]["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert!(argv.contains(&"--strategy=fold") && !argv.iter().any(|word| word.contains("config")), "{argv:?}");
    let output = run(kintsugi().args(&argv[1..]));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_dry_run_checks_everything_and_leaves_nothing_behind() {
    let inputs = Inputs::new();
    let out = inputs.path("out/of/this");
    let output = run(inputs.compare(&["--strategy", "fold", "--dry-run", "--output-dir"]).arg(&out));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!inputs.path("out").exists());
    let stdout = text(&output.stdout);
    let line = |name: &str| stdout.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("task").ends_with("(3 passages, 6 tokens, 3 of them predicted)"), "{stdout}");
    assert!(line("evaluates").ends_with("baseline, fold, noise floor"), "{stdout}");
    assert!(line("memory").ends_with("; all passages in one pass"), "{stdout}");
    assert!(line("takes").contains("at the speed of a matrix product just measured"), "{stdout}");
    assert!(line("writes").contains("are free"), "{stdout}");
    // Two layers of 12·64² weights, 4·64 + 3·64 + 2·64 … biases and norms, a final norm; a head of 128 rows.
    let (weights, others) = (2 * 12 * 64 * 64, 2 * (9 * 64 + 4 * 64) + 2 * 64 + 2 * 2 * 64);
    let attention = 4 * 64 * 2 * (3 + 6 + 1);
    let operations = 3 * (2 * (weights + others) * 6 + 2 * 128 * 64 * 3 + attention);
    let said: f64 = line("computes").split_whitespace().nth(3).unwrap().parse().unwrap();
    let off = (said / f64::from(operations) - 1.0).abs();
    assert!(off < 0.05, "{said} for {operations}");
    for (further, words) in [
        (&["--max-length", "65"][..], "more than the model's 64 positions"),
        (&["--memory-budget", "1kB"], "a memory budget of 1000 bytes does not hold"),
        (&["--strategy", "nobody"], "unknown strategy"),
        (&["--output-dir", "/proc/nobody/writes/here"], "/proc/nobody/writes/here"),
    ] {
        let complaint = inputs.complaint(&[&["--dry-run"], further].concat());
        assert!(complaint.contains(words), "{further:?}: {complaint}");
    }
}

#[test]
fn the_shipped_example_is_sound() {
    let mut command = kintsugi();
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["compare", "--config", "configs/examples/compare-demo.yml", "--dry-run"]);
    let output = run(&mut command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("evals/demo/checkpoint (gpt-neox, 2 ranks)"), "{}", text(&output.stdout));
}

#[test]
fn a_mistyped_variable_is_pointed_out() {
    let inputs = Inputs::new();
    let mut command = by_file(&inputs, &whole(&inputs), &["--dry-run"]);
    let output = run(command.env("KINTSUGI_DEVICES", "cpu").env("KINTSUGI_ELSEWHERE", "1").env("KINTSUGI_LIMIT", "2"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    let said =
        " WARN KINTSUGI_DEVICES is not an option of `kintsugi compare` and is ignored; did you mean KINTSUGI_DEVICE?\n";
    assert!(stderr.contains(said) && stderr.matches("is not an option").count() == 1, "{stderr}");
}
