//! The wheel's two executables: the one without libtorch is started, and becomes the other one where it needs a forward pass.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// An environment with the program, and in place of the other executable a script that says how it was started.
struct Environment(TempDir);

impl Environment {
    fn new(torch: Option<&str>) -> Self {
        // Beside the program's file, so that it can be linked to.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let scripts = folder.path().join("bin");
        fs::create_dir(&scripts).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_kintsugi"), scripts.join("kintsugi")).unwrap();
        let other = scripts.join("kintsugi-libtorch");
        fs::write(&other, "#!/bin/sh\necho \"other: $*\"\nexit 3\n").unwrap();
        fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(version) = torch {
            let torch = folder.path().join("lib/python3.12/site-packages/torch");
            fs::create_dir_all(torch.join("lib")).unwrap();
            fs::write(torch.join("lib/libtorch_cpu.so"), "").unwrap();
            fs::write(torch.join("version.py"), format!("__version__ = '{version}'\n")).unwrap();
        }
        Self(folder)
    }

    fn kintsugi(&self) -> Command {
        let mut command = Command::new(self.0.path().join("bin/kintsugi"));
        command.env_remove("LD_LIBRARY_PATH");
        command
    }

    /// What the other executable is started with.
    #[track_caller]
    fn handed_over(&self, arguments: &[&str]) -> String {
        let output = run(self.kintsugi().args(arguments));
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

#[test]
fn what_needs_a_forward_pass_is_handed_over_as_it_was_typed() {
    let environment = Environment::new(Some("2.11.0+cpu"));
    let inputs = Inputs::of(&TinyModel::new().with(|options| {
        options.gpt_j_residual = false;
        options.drift = 0.01;
    }));
    let (checkpoint, merged) = (inputs.files.path().display().to_string(), inputs.path("merged").display().to_string());
    let certificate = inputs.write("certificate.json", "{}").display().to_string();
    for arguments in [
        &["compare", &checkpoint, "--limit", "3"][..],
        &["-q", "eval", &checkpoint],
        &["explain", &checkpoint, "--json"],
        &["demo", "--output-dir", "a b"],
        &["doctor"],
        &["merge", &checkpoint, "-o", &merged, "--strategy", "fold-calibrated"],
        &["synth", "--from", &checkpoint, "-o", &merged, "--evaluate"],
    ] {
        assert_eq!(environment.handed_over(arguments), format!("other: {}\n", arguments.join(" ")));
    }
    assert!(!inputs.path("merged").exists(), "something was written before");
    // What is wrong with the arguments is said at once.
    let complaint = failure(environment.kintsugi().args(["compare", &checkpoint, "--limit", "0"]));
    assert!(complaint.contains("invalid value '0' for '--limit <N>'"), "{complaint}");
    let complaint = failure(environment.kintsugi().args(["verify", &certificate, &merged]));
    assert!(complaint.contains("certificate.json"), "{complaint}");
}

#[test]
fn everything_else_is_done_here() {
    let environment = Environment::new(None);
    let inputs = Inputs::new();
    for arguments in [&["inspect"][..], &["merge", "-o", inputs.path("merged").to_str().unwrap()]] {
        let output = run(environment.kintsugi().args(arguments).arg(inputs.files.path()));
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let doctor = text(&run(environment.kintsugi().arg("doctor")).stdout);
    assert!(
        doctor.contains("\nlibtorch         none: a forward pass needs torch 2.11, and none is installed\n"),
        "{doctor}"
    );
}

#[test]
fn without_a_torch_that_fits_a_line_says_what_to_do() {
    for (torch, found) in [(None, "none is installed\n"), (Some("2.9.1+cu128"), "torch/lib is of 2.9.1+cu128\n")] {
        let complaint = failure(Environment::new(torch).kintsugi().arg("demo"));
        assert!(complaint.starts_with("error: this command needs torch 2.11, and "), "{complaint}");
        assert!(
            complaint.contains(&format!("{found}hint: pip install 'torch==2.11.*' in the environment of ")),
            "{complaint}"
        );
    }
    let complaint = failure(kintsugi().arg("demo"));
    assert!(
        complaint.starts_with("error: this command needs libtorch, and this executable is built without\nhint: "),
        "{complaint}"
    );
}
