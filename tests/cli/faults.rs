//! What breaks while results are being written: nothing half-written stays, and a run that could not save has failed.

use std::collections::BTreeSet;

use super::*;

/// Every file below a folder, which must be whole: pictures by their end, all others by their last line break.
fn whole_files(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(whole_files(&path));
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let contents = fs::read(&path).unwrap();
        if name == "journal.jsonl" {
            // It only grows, and holds as many whole records as there was room for.
            assert!(contents.is_empty() || contents.ends_with(b"}\n"), "{} is not whole", path.display());
            names.insert(name);
            continue;
        }
        let ends: &[u8] = match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("png") => b"IEND\xaeB`\x82",
            Some("svg") => b"</svg>\n",
            Some("html") => b"</html>",
            _ => b"\n",
        };
        assert!(!name.starts_with('.') && contents.ends_with(ends), "{} is not whole", path.display());
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let lines = contents.split(|&byte| byte == b'\n').count();
            // The last line break has nothing behind it.
            assert_eq!(lines, 4, "{} is not whole", path.display());
        }
        names.insert(name);
    }
    names
}

/// Runs a shell line with the command as `"$@"`.
fn in_shell(line: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", line, "sh"]).arg(command.get_program()).args(command.get_args()).env("KINTSUGI_NO_CACHE", "1");
    shell
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    // The first are too small for the journal, the others for page and plots.
    for kilobytes in [8, 16, 64, 128] {
        let inputs = Inputs::new();
        let output = inputs.path("out");
        fs::create_dir(&output).unwrap();
        let Some(disk) = SmallDisk::mount(&output, kilobytes) else { return };
        let complaint = inputs.without_paths(&failure(inputs.compare(&["--output-dir"]).arg(&output)));
        assert!(complaint.contains("No space left on device"), "{kilobytes} kB: {complaint}");
        assert!(complaint.contains("INPUT/out") && complaint.contains("\nhint: "), "{kilobytes} kB: {complaint}");
        assert!(!whole_files(&output).contains("report.json"), "{kilobytes} kB");
        drop(disk);
    }
}

/// A file system of a few kilobytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, kilobytes: u32) -> Option<Self> {
        let size = format!("size={kilobytes}k");
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder.to_owned()));
        }
        eprintln!("skipped: may not mount a small file system");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[test]
fn a_file_that_may_not_grow_leaves_nothing_half_written() {
    let inputs = Inputs::new();
    let output = inputs.path("out");
    // Enough for journal and samples, not for the plots.
    let command = in_shell("trap '' XFSZ; ulimit -f 64; exec \"$@\"", inputs.compare(&["--output-dir"]).arg(&output));
    let complaint = inputs.without_paths(&failure(&mut { command }));
    assert!(complaint.starts_with("error: INPUT/out/") && complaint.contains("File too large"), "{complaint}");
    let written = whole_files(&output);
    assert!(written.contains("baseline.jsonl") && !written.contains("report.json"), "{written:?}");
}

#[test]
fn an_earlier_report_survives_a_run_that_cannot_save() {
    let inputs = Inputs::new();
    let output = inputs.path("out");
    assert!(run(inputs.compare(&["--output-dir"]).arg(&output)).status.success());
    let before = fs::read(output.join("report.json")).unwrap();
    let limited = in_shell("trap '' XFSZ; ulimit -f 4; exec \"$@\"", inputs.compare(&["--output-dir"]).arg(&output));
    failure(&mut { limited });
    assert_eq!(fs::read(output.join("report.json")).unwrap(), before);
    assert!(whole_files(&output).contains("report.json"));
}

#[test]
fn a_full_standard_output_is_a_failure() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: no /dev/full");
        return;
    }
    let inputs = Inputs::new();
    let complaint = failure(&mut in_shell("exec \"$@\" > /dev/full", &inputs.compare(&[])));
    assert!(complaint.contains("No space left on device"), "{complaint}");
}

#[test]
fn names_that_are_taken_by_folders_are_told() {
    for (taken, by_file) in [
        ("out", true),
        ("out/samples", true),
        ("out/plots", true),
        ("out/lm-eval", true),
        ("out/report.json", false),
        ("out/report.md", false),
        ("out/report.html", false),
        ("out/passages.jsonl", false),
        ("out/plots/drift.png", false),
    ] {
        let inputs = Inputs::new();
        let path = inputs.path(taken);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if by_file {
            fs::write(&path, "mine\n").unwrap();
        } else {
            fs::create_dir(&path).unwrap();
        }
        let complaint = inputs.without_paths(&failure(inputs.compare(&["--output-dir"]).arg(inputs.path("out"))));
        assert!(complaint.starts_with(&format!("error: INPUT/{taken}: ")), "{taken}: {complaint}");
        assert_eq!(path.is_file(), by_file, "{taken} was replaced");
        if path.parent() == Some(inputs.path("out").as_path()) {
            assert!(!whole_files(&inputs.path("out")).contains("report.json"));
        }
    }
}
