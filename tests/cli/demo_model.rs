//! `demo --model`: from a name on the Hub to a report, against a server that answers as the Hub does.

use super::hub::Machine;
use super::hub_models::{Files, files, server, usual};
use super::*;
use crate::common::disk::SmallDisk;
use crate::common::evaluation::{demo, in_repository};
use crate::common::hub::{HubServer, Storage};

const DATA: &str = "datasets/EleutherAI/lambada_openai/resolve/main/data/lambada_test_en.jsonl";

/// The bundled checkpoint as transformers has it, with its tokenizer: a small GPT-NeoX model that was trained.
fn trained() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let mut merge = kintsugi();
    merge.arg("merge").arg(demo()).args(["--format", "hf", "--strategy", "fold", "--max-shard-size", "200000"]);
    merge.arg("--tokenizer").arg(in_repository("evals/demo/tokenizer.json"));
    let merged = folder.path().join("merged");
    assert!(run(merge.arg("-o").arg(&merged)).status.success());
    let mut files = files(&merged);
    assert!(files.contains_key("model.safetensors.index.json"), "several files of weights");
    files.insert("generation_config.json".to_owned(), b"{}".to_vec());
    files
}

fn demo_of(machine: &Machine, server: &HubServer, further: &[&str]) -> Command {
    let mut command = kintsugi();
    command.args(["demo", "--model", "someone/model", "--device", "cpu", "--output-dir", "out"]).args(further);
    machine.with_hub(command, server)
}

fn report(machine: &Machine) -> serde_json::Value {
    serde_json::from_slice(&fs::read(machine.home.path().join("out/report.json")).unwrap()).unwrap()
}

#[test]
fn a_public_model_loses_its_biases_and_nothing_by_folding() {
    let machine = Machine::new();
    let mut there: Vec<_> =
        trained().into_iter().map(|(name, bytes)| (format!("someone/model/resolve/main/{name}"), bytes)).collect();
    there.push((DATA.to_owned(), fs::read(in_repository("evals/demo/passages.jsonl")).unwrap()));
    let storage = |path: &str| if path.ends_with(".safetensors") { Storage::LargeAndInterrupted } else { Storage::Git };
    let served: Vec<_> = there.iter().map(|(path, bytes)| (path.as_str(), storage(path), bytes.as_slice())).collect();
    let server = HubServer::new(&served);
    let done = run(&mut demo_of(&machine, &server, &[]));
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("fold"), "{}", text(&done.stdout));

    let report = report(&machine);
    assert_eq!(report["checkpoint"]["name"], "model");
    assert_eq!(report["checkpoint"]["tp_size"], 2);
    let row = |name: &str| {
        let called = |row: &&serde_json::Value| {
            row["name"] == name || row["also"].as_array().is_some_and(|also| also.contains(&json!(name)))
        };
        report["variants"].as_array().unwrap().iter().find(called).unwrap()
    };
    let ratio = |name: &str| row(name)["loss"]["perplexity_ratio"].as_f64().unwrap();
    let kl = |name: &str| row(name)["fidelity"]["kl_mean"].as_f64().unwrap();
    for lossy in ["zeroth", "mean"] {
        assert!(ratio(lossy) > 1.02 && kl(lossy) > 1e-3, "{lossy}: {} {}", ratio(lossy), kl(lossy));
        assert_eq!(row(lossy)["exact"]["exact"], false);
    }
    assert!((ratio("fold") - 1.0).abs() < 1e-4 && kl("fold") < 1e-6, "fold: {} {}", ratio("fold"), kl("fold"));
    assert_eq!(row("fold")["exact"]["exact"], true);
    // The weights of the demo give the demo's answers: its replicas drifted otherwise.
    assert!((report["baseline"]["perplexity"].as_f64().unwrap() - 3.254).abs() < 0.02, "{}", report["baseline"]);

    // Nothing of the ranks' files stays, and the second run needs no connection.
    let left = |name: &str| {
        let names = fs::read_dir(machine.home.path().join("out")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|found| found.to_string_lossy().starts_with(name)).count()
    };
    assert_eq!(left("checkpoint"), 0);
    let further = ["--tensor-parallel", "4", "--drift", "0", "--limit", "20", "--keep-checkpoint"];
    let done = run(demo_of(&machine, &server, &further).env("HF_HUB_OFFLINE", "1"));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let report = self::report(&machine);
    assert_eq!(report["checkpoint"]["tp_size"], 4);
    assert_eq!(report["baseline"]["n"], 20);
    let kept = machine.home.path().join("out/checkpoint");
    assert!(kept.join("latest").is_file() && kept.join("truth.json").is_file());
    let complaint = failure(demo_of(&machine, &server, &further).env("HF_HUB_OFFLINE", "1"));
    assert!(complaint.contains("out/checkpoint: exists already"), "{complaint}");
}

#[test]
fn a_model_that_cannot_be_split_leaves_nothing_behind() {
    let machine = Machine::new();
    let server = server(&trained(), usual);
    let data = in_repository("evals/demo/passages.jsonl").display().to_string();
    for (further, words) in [
        (&["--tensor-parallel", "3"][..], "cannot be written for 3 ranks"),
        (&["--drift", "2"], "drift: expected a fraction from 0 to 1"),
        (&["--limit", "0"], "--limit"),
    ] {
        let complaint = failure(&mut demo_of(&machine, &server, &[&["--data", &data], further].concat()));
        assert!(complaint.contains(words), "{complaint}");
        let out = machine.home.path().join("out");
        assert!(!out.exists() || fs::read_dir(out).unwrap().count() == 0);
    }
    for alone in [&["--tensor-parallel", "2"][..], &["--drift", "0.1"], &["--data", &data], &["--keep-checkpoint"]] {
        let complaint = failure(kintsugi().arg("demo").args(alone));
        assert!(complaint.contains("--model <NAME|DIR>"), "{complaint}");
    }
}

#[test]
fn a_disk_without_room_is_named_before_anything_is_written() {
    let machine = Machine::new();
    let server = server(&trained(), usual);
    let Some(disk) = SmallDisk::mount(100_000) else { return };
    let mut command = kintsugi();
    command.args(["demo", "--model", "someone/model", "--device", "cpu", "--output-dir"]).arg(disk.path());
    let complaint = failure(&mut machine.with_hub(command, &server));
    assert!(complaint.contains("MiB of weights would be written, and 0 MiB are free on that disk"), "{complaint}");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}
