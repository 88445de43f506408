//! Models by name, against a server that answers as the Hugging Face Hub does.

use std::collections::BTreeMap;

use super::hub::{Machine, success};
use super::*;
use crate::common::hub::{HubServer, Storage};
use crate::common::hugging_face::HuggingFace;

const SHARD: &str = "model-00001-of-00002.safetensors";
const REPO: &str = "someone/model/resolve/main";

pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The files of a folder by name.
pub(super) fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// A model that was merged from the machine's checkpoint, with its tokenizer.
fn model(machine: &Machine, sharded: bool) -> Files {
    let (folder, model) = (machine.inputs.path("model"), HuggingFace::merged(&machine.inputs.files.open(), "fold"));
    if sharded {
        model.write_sharded(&folder);
    } else {
        model.write(&folder);
    }
    fs::copy(machine.inputs.path("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    files(&folder)
}

/// A server that has these files of someone's model, each stored as `storage` says.
pub(super) fn server(files: &Files, storage: impl Fn(&str) -> Storage) -> HubServer {
    let paths: Vec<_> = files.keys().map(|name| format!("{REPO}/{name}")).collect();
    let served = files.iter().zip(&paths).map(|((name, bytes), path)| (path.as_str(), storage(name), bytes.as_slice()));
    HubServer::new(&served.collect::<Vec<_>>())
}

/// As the Hub stores them.
pub(super) fn usual(name: &str) -> Storage {
    if name.ends_with(".safetensors") { Storage::Large } else { Storage::Git }
}

impl Machine {
    /// `eval` of a model, in a working directory with nothing in it.
    fn eval(&self, server: &HubServer, model: &str) -> Command {
        let mut command = kintsugi();
        command.args(["eval", model, "--device", "cpu", "--threads", "1"]);
        command.arg("--data").arg(self.inputs.path("passages.jsonl"));
        self.with_hub(command, server)
    }
}

fn table(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_model_of_one_file_or_several_is_fetched_once_and_then_found_in_the_cache() {
    for sharded in [false, true] {
        let machine = Machine::new();
        let mut there = model(&machine, sharded);
        there.insert("generation_config.json".to_owned(), b"{}".to_vec());
        there.insert("README.md".to_owned(), b"not needed".to_vec());
        let server = server(&there, usual);
        let fetched = success(&mut machine.eval(&server, "someone/model"));
        assert!(fetched.contains("(someone/model, downloaded)"), "{fetched}");
        there.remove("README.md");
        assert_eq!(files(&machine.snapshot("model")), there, "laid out as transformers has it");

        let asked = server.requests().len();
        let here = machine.inputs.path("model").display().to_string();
        let expected = table(&mut machine.eval(&server, &here));
        assert_eq!(table(&mut machine.eval(&server, "someone/model")), expected);
        // Under the name of the revision, which the first line has.
        let at_main = table(&mut machine.eval(&server, "someone/model@main"));
        assert!(at_main.contains(" model@main, 1 rank"), "{at_main}");
        assert!(at_main.lines().skip(1).eq(expected.lines().skip(1)), "{at_main}");
        assert_eq!(table(machine.eval(&server, "someone/model").env("HF_HUB_OFFLINE", "1")), expected);
        assert_eq!(server.requests().len(), asked, "what is in the cache needs no connection");
    }
}

#[test]
fn every_command_that_reads_models_takes_names() {
    let machine = Machine::new();
    let server = server(&model(&machine, false), usual);
    let mut diff = kintsugi();
    diff.args(["diff", "someone/model"]).arg(machine.inputs.path("model"));
    assert!(table(&mut machine.with_hub(diff, &server)).contains("identical"));
    let mut inspect = kintsugi();
    inspect.args(["inspect", "someone/model"]);
    assert!(table(&mut machine.with_hub(inspect, &server)).starts_with("model, step 0 "));
    for (command, option) in [("merge", None), ("synth", Some("--from"))] {
        let mut write = kintsugi();
        write.arg(command).args(option).args(["someone/model", "--tensor-parallel", "2", "-o"]).arg(command);
        assert!(table(&mut machine.with_hub(write, &server)).ends_with(&format!("{command}\n")));
        assert!(machine.home.path().join(command).join("latest").is_file());
    }
    let candidate =
        machine.inputs.compare(&["--candidate", "someone/model", "--candidate", "again=someone/model@main"]);
    let stdout = table(&mut machine.with_hub(candidate, &server));
    assert!(stdout.contains("model and again: made by another tool"), "{stdout}");
}

#[test]
fn a_file_of_weights_that_breaks_off_goes_on_where_it_was() {
    let machine = Machine::new();
    let there = model(&machine, true);
    let interrupted = |name: &str| if name == SHARD { Storage::LargeAndInterrupted } else { usual(name) };
    let server = server(&there, interrupted);
    success(&mut machine.eval(&server, "someone/model"));
    let half = there[SHARD].len() / 2;
    assert_eq!(server.ranges(&format!("{REPO}/{SHARD}")), ["0-".to_owned(), format!("{half}-")]);
}

/// The files that have arrived are kept, and the model is not taken for complete.
#[test]
fn a_model_that_did_not_arrive_whole_is_completed_by_the_next_run() {
    let machine = Machine::new();
    let there = model(&machine, true);
    let lost = server(&there, |name| if name == SHARD { Storage::LargeAndLost } else { usual(name) });
    let complaint = failure(&mut machine.eval(&lost, "someone/model"));
    assert!(complaint.contains(&format!("error: {SHARD} of someone/model at ")), "{complaint}");
    assert!(complaint.contains(" could not be downloaded from "), "{complaint}");
    let complaint = failure(machine.eval(&lost, "someone/model").env("HF_HUB_OFFLINE", "1"));
    assert!(complaint.contains("and HF_HUB_OFFLINE is set"), "{complaint}");
    let whole = server(&there, usual);
    success(&mut machine.eval(&whole, "someone/model"));
    let asked: Vec<_> = whole.requests().into_iter().map(|request| request.path).collect();
    assert!(!asked.iter().any(|path| path.ends_with("config.json")), "{asked:?}");
    assert_eq!(whole.ranges(&format!("{REPO}/{SHARD}")), [format!("{}-", there[SHARD].len() / 2)]);
}

#[test]
fn every_file_has_the_bytes_of_its_checksum() {
    let machine = Machine::new();
    let there = model(&machine, true);
    let damaged = server(&there, |name| if name == SHARD { Storage::LargeAndDamaged } else { usual(name) });
    let complaint = failure(&mut machine.eval(&damaged, "someone/model"));
    assert!(complaint.contains("the file's checksum is ") && complaint.contains("\nhint: "), "{complaint}");
    assert!(!files(&machine.snapshot("model")).contains_key(SHARD));
    // Files of the cache that were changed later, of git and of large-file storage.
    let server = server(&there, usual);
    success(&mut machine.eval(&server, "someone/model"));
    for name in ["config.json", "model.safetensors.index.json", "tokenizer.json", SHARD] {
        let path = machine.snapshot("model").join(name);
        let mut bytes = there[name].clone();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        let complaint = failure(&mut machine.eval(&server, "someone/model"));
        assert!(complaint.contains("the file's checksum is "), "{name}: {complaint}");
        fs::write(&path, &there[name]).unwrap();
    }
}

/// As a launcher starts them.
#[test]
fn several_processes_fetch_a_model_once() {
    let machine = Machine::new();
    let there = model(&machine, false);
    let server = server(&there, usual);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| success(&mut machine.eval(&server, "someone/model")));
        }
    });
    assert_eq!(server.ranges(&format!("{REPO}/model.safetensors")), ["0-"]);
}

/// The same bytes under another commit are named, not fetched.
#[test]
fn what_the_cache_has_under_another_commit_is_not_fetched_again() {
    let machine = Machine::new();
    let there = model(&machine, true);
    let first = server(&there, usual);
    success(&mut machine.eval(&first, "someone/model"));
    let snapshots = machine.snapshot("model").parent().unwrap().to_owned();
    fs::rename(machine.snapshot("model"), snapshots.join("f".repeat(40))).unwrap();
    let second = server(&there, usual);
    success(&mut machine.eval(&second, "someone/model"));
    assert_eq!(second.ranges(&format!("{REPO}/{SHARD}")), [""; 0]);
    assert_eq!(files(&machine.snapshot("model")), there);
}

/// `AutoModelForCausalLM.from_pretrained` fetches no tokenizer.
#[test]
fn a_tokenizer_that_python_has_not_fetched_is_fetched_with_its_model() {
    let machine = Machine::new();
    let there = model(&machine, false);
    let whole = server(&there, usual);
    success(&mut machine.eval(&whole, "someone/model"));
    fs::remove_file(machine.snapshot("model").join("tokenizer.json")).unwrap();
    // Without a connection the model is there all the same.
    let nobody = machine.eval(&whole, "someone/model").env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    assert!(text(&nobody.stderr).contains("error: no tokenizer: "), "{}", text(&nobody.stderr));
    let again = server(&there, usual);
    success(&mut machine.eval(&again, "someone/model"));
    assert_eq!(again.ranges(&format!("{REPO}/model.safetensors")), [""; 0]);
    assert!(machine.snapshot("model").join("tokenizer.json").is_file());
}

#[test]
fn a_mistyped_path_is_no_name() {
    let machine = Machine::new();
    let server = HubServer::new(&[]);
    for folder in ["runs", "runs/merged"] {
        fs::create_dir_all(machine.home.path().join(folder)).unwrap();
    }
    for path in [
        "merged-hf",
        "./merged/hf",
        "../merged",
        "/merged/hf",
        "runs/megred",
        "a/b/c",
        "merged/",
        "some/model.safetensors",
        "merged/global_step1000",
        "pytorch_model.bin",
    ] {
        let complaint = failure(&mut machine.eval(&server, path));
        assert!(complaint.contains(path) && !complaint.contains("Hugging Face cache"), "{path}: {complaint}");
        assert_eq!(server.requests(), [], "{path}");
    }
}

#[test]
fn what_is_not_on_the_hub_is_said_with_where_it_was_looked_for() {
    let machine = Machine::new();
    let there = model(&machine, false);
    let without = |name: &str| {
        there
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(name, bytes)| (name.clone(), bytes.clone()))
            .collect::<Files>()
    };
    let mut other = without("model.safetensors");
    other.insert("model-q4.gguf".to_owned(), Vec::new());
    let mut broken = without("model.safetensors");
    broken.insert("model.safetensors.index.json".to_owned(), b"{\"weight_map\": {\"a\": \"../../b\"}}".to_vec());
    let mut empty = broken.clone();
    empty.insert("model.safetensors.index.json".to_owned(), b"{\"weight_map\": {}}".to_vec());
    for (files, words) in [
        (
            Files::new(),
            "error: someone/model: no such file or directory, and ENDPOINT has no config.json of someone/model\n",
        ),
        (without("config.json"), "has no config.json of someone/model"),
        (other, "error: someone/model at main: no weights that are read, found model-q4.gguf\n"),
        (broken, "error: no file of the Hugging Face Hub can be named `../../b`\n"),
        (empty, "not an index of weights: `weight_map` is empty\n"),
    ] {
        let machine = Machine::new();
        let server = server(&files, usual);
        let complaint = failure(&mut machine.eval(&server, "someone/model"));
        let complaint = complaint.replace(&server.endpoint, "ENDPOINT");
        assert!(complaint.contains(words) && complaint.contains("\nhint: "), "{complaint}");
    }
    let private = server(&there, |_| Storage::Private);
    let complaint = failure(&mut machine.eval(&private, "someone/model"));
    assert!(
        complaint.contains("refuses config.json of someone/model\n") && complaint.contains("HF_TOKEN"),
        "{complaint}"
    );
    success(machine.eval(&private, "someone/model").env("HF_TOKEN", "secret"));
    let machine = Machine::new();
    let complaint = failure(machine.eval(&private, "someone/model").env("HF_HUB_OFFLINE", "1"));
    let words = "error: someone/model: no such file or directory, and config.json of someone/model is not in the Hugging Face cache ";
    assert!(complaint.contains(words) && complaint.contains("hint: unset HF_HUB_OFFLINE"), "{complaint}");
}
