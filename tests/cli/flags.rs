//! Help, and flags that make no sense.

use super::*;

fn help(arguments: &[&str]) -> String {
    let output = run(kintsugi().args(arguments));
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

#[test]
fn help_says_what_there_is() {
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help_compare", help(&["compare", "--help"]));
    assert_eq!(help(&["help", "compare"]), help(&["compare", "--help"]));
}

#[test]
fn every_subcommand_has_help_that_fits_the_terminal() {
    let overview = help(&["--help"]);
    let commands = overview.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    // Continuation lines of a description are indented further.
    let names: Vec<_> = commands
        .lines()
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() >= 5 && names.contains(&"merge"), "{names:?}");
    for name in names.into_iter().filter(|&name| name != "help") {
        let text = help(&[name, "--help"]);
        assert!(text.contains("Usage: kintsugi "), "{name}: {text}");
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 100, "{name}: a line of {longest} characters");
        // What holds for every command comes after what is special to it.
        let options: Vec<_> = text.lines().map(str::trim_start).filter(|line| line.starts_with('-')).collect();
        let at = |flag: &str| options.iter().position(|line| line.starts_with(flag)).unwrap();
        let last = [at("-q, --quiet"), at("-v, --verbose"), at("-h, --help")];
        assert_eq!(last, [options.len() - 3, options.len() - 2, options.len() - 1], "{name}: {text}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = format!("kintsugi {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(help(&["-V"]), version);
    let long = help(&["--version"]);
    let build = long.strip_prefix(&version).unwrap_or_else(|| panic!("{long}"));
    let keys: Vec<_> = build.lines().filter_map(|line| line.split_once(": ")).map(|(key, _)| key).collect();
    assert_eq!(keys, ["commit", "features", "libtorch", "torch needed"], "{long}");
    assert_eq!(build.contains("libtorch: none"), !cfg!(feature = "libtorch"), "{long}");
}

#[test]
fn nothing_asked_for_shows_the_help_and_fails() {
    let output = run(&mut kintsugi());
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("Usage: kintsugi"));
}

/// Without `=` the value of an option that may have none is another argument.
#[test]
fn a_value_that_belongs_behind_an_equals_sign_is_told_so() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo/checkpoint").display().to_string();
    let advice = "to give '--trim-vocab' a value, use '--trim-vocab=300'";
    for (arguments, words) in [
        (&[&checkpoint, "--trim-vocab", "300"][..], "unexpected argument '300' found"),
        (&["--trim-vocab", "300", &checkpoint], "unexpected argument '"),
        (&["--trim-vocab", "300"], "300: expected a checkpoint directory, found nothing"),
    ] {
        let complaint = failure(kintsugi().arg("merge").args(arguments).args(["--output-dir", "none"]));
        assert!(complaint.contains(words) && complaint.contains(advice), "{arguments:?}: {complaint}");
    }
    // No value of it, or nothing to do with it.
    for arguments in [&["--trim-vocab", "none"][..], &["--trim-vocab", "300", "--format", "other"]] {
        let complaint = failure(kintsugi().arg("merge").args(arguments).args(["--output-dir", "none"]));
        assert!(!complaint.contains("to give '"), "{arguments:?}: {complaint}");
    }
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let inputs = Inputs::new();
    for (further, words) in [
        (&["--limt", "3"][..], "unexpected argument '--limt'"),
        (&["--limit", "0"], "invalid value '0' for '--limit <N>'"),
        (&["--limit", "-3"], "-3"),
        (&["--limit", "many"], "invalid value 'many' for '--limit <N>'"),
        (&["--shard", "3/2"], "expected I/N with 1 ≤ I ≤ N, for example 2/4"),
        (&["--shard", "0/2"], "expected I/N with 1 ≤ I ≤ N"),
        (&["--shard", "1"], "expected I/N with 1 ≤ I ≤ N"),
        (&["--device", "gpu"], "expected auto, cpu, cuda or cuda:N[,N…]"),
        (&["--device", "cuda:1,cuda:1"], "cuda:1 is named twice"),
        (&["--dtype", "f8"], "expected auto, f32, bf16, f16 or f64"),
        (&["--memory-budget", "lots"], "expected a number of bytes, for example 8GiB or 500MB"),
        (&["--memory-budget", "0"], "expected a number of bytes"),
        (&["--threads", "0"], "invalid value '0' for '--threads <N>'"),
        (&["--chunk-tokens", "0"], "invalid value '0' for '--chunk-tokens <N>'"),
        (&["--max-length", "0"], "invalid value '0' for '--max-length <TOKENS>'"),
        (&["--seed", "x"], "invalid value 'x' for '--seed <SEED>'"),
        (&["-q", "-v"], "'--quiet' cannot be used with '--verbose...'"),
    ] {
        // A flag given twice is refused too: leave the default away where the case gives its own.
        let mut command = kintsugi();
        command.arg("compare").arg(inputs.files.path()).arg("--data").arg(inputs.path("passages.jsonl")).args(further);
        let complaint = failure(&mut command);
        assert!(complaint.contains(words), "{further:?}: {complaint}");
    }
    for (arguments, words) in [
        (&["compare", "--data", "x"][..], "<CHECKPOINT>"),
        (&["merge-everything"], "unrecognized subcommand 'merge-everything'"),
        (&["synth", "--shape", "7b", "--output-dir", "x"], "[possible values: 14m"),
    ] {
        let complaint = failure(kintsugi().args(arguments));
        assert!(complaint.contains(words), "{arguments:?}: {complaint}");
    }
}

#[test]
#[cfg(feature = "libtorch")]
fn a_gpu_that_is_not_there_is_refused_with_a_hint() {
    let inputs = Inputs::new();
    let mut command = kintsugi();
    command.arg("compare").arg(inputs.files.path()).arg("--data").arg(inputs.path("passages.jsonl"));
    command.arg("--tokenizer").arg(inputs.path("tokenizer.json")).args(["--device", "cuda:4096"]);
    let complaint = failure(&mut command);
    assert!(complaint.contains("error: device cuda"), "{complaint}");
    let hints = [
        "`kintsugi doctor` lists the devices",
        "this may be libtorch for CPUs: `make setup LIBTORCH_KIND=cuda` gets the other",
    ];
    let hinted = hints.iter().any(|hint| complaint.contains(&format!("\nhint: {hint}; --device cpu always works\n")));
    assert!(hinted, "{complaint}");
}
