//! Data and tokenizers by name, against a server that answers as the Hugging Face Hub does.

use super::*;
use sha2::{Digest, Sha256};

use crate::common::hub::{COMMIT, HubServer, Request, Storage};

const TOKENIZER: &str = "someone/words/resolve/main/tokenizer.json";
const DATA: &str = "datasets/EleutherAI/lambada_openai/resolve/main/data/lambada_test_en.jsonl";
const PASSAGES: &[u8] = b"{\"text\": \"w1 w2 w3\"}\n{\"text\": \"w4 w5 w6 w7\"}\n{\"text\": \"w2 w1\"}\n";

/// A machine with a cache of its own.
pub(super) struct Machine {
    pub inputs: Inputs,
    pub home: TempDir,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self { inputs: Inputs::new(), home: tempfile::tempdir().unwrap() }
    }

    fn tokenizer(&self) -> Vec<u8> {
        fs::read(self.inputs.path("tokenizer.json")).unwrap()
    }

    /// Where Python's library finds the files of someone's repository.
    pub(super) fn snapshot(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("hub/models--someone--{name}/snapshots")).join(COMMIT)
    }

    /// Leaves bytes as those that have arrived of someone's file.
    fn leave(&self, file: &[u8], arrived: &[u8]) {
        let folder = self.home.path().join("hub/models--someone--words/blobs");
        fs::create_dir_all(&folder).unwrap();
        let sha256 = kintsugi::files::hexadecimal(&Sha256::digest(file));
        fs::write(folder.join(format!("{sha256}.part")), arrived).unwrap();
    }

    /// `compare` without `--data`, in a working directory with nothing in it.
    fn compare(&self, server: &HubServer, further: &[&str]) -> Command {
        let mut command = kintsugi();
        command.arg("compare").arg(self.inputs.files.path()).args(["--strategy", "mean", "--device", "cpu"]);
        command.args(["--threads", "1", "--bootstrap-replicates", "100"]).args(further);
        self.with_hub(command, server)
    }

    /// The same command with this server as the Hub.
    pub(super) fn with_hub(&self, mut command: Command, server: &HubServer) -> Command {
        command.current_dir(self.home.path()).env_remove("HF_HUB_OFFLINE");
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &server.endpoint);
        command
    }
}

pub(super) fn success(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn data_and_tokenizer_are_fetched_once_and_then_found_in_the_cache() {
    let machine = Machine::new();
    let tokenizer = machine.tokenizer();
    let server = HubServer::new(&[(TOKENIZER, Storage::Git, &tokenizer), (DATA, Storage::Large, PASSAGES)]);
    let first = success(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
    assert!(first.contains("(someone/words, downloaded)"), "{first}");
    assert!(first.contains("(data/lambada_test_en.jsonl of EleutherAI/lambada_openai, downloaded)"), "{first}");
    let snapshot = machine.snapshot("words");
    assert_eq!(fs::read(snapshot.join("tokenizer.json")).unwrap(), tokenizer);

    let asked = server.requests().len();
    let second = success(machine.compare(&server, &["--tokenizer", "someone/words"]).env("HF_HUB_OFFLINE", "1"));
    assert!(second.contains("(someone/words, from the Hugging Face cache)"), "{second}");
    assert_eq!(server.requests().len(), asked, "what is in the cache needs no connection");
    let cache = machine.home.path().join("hub");
    let third = machine
        .compare(&server, &["--tokenizer", &format!("someone/words@{COMMIT}")])
        .env("HF_HUB_CACHE", cache)
        .env("HF_HOME", "/nonexistent")
        .output()
        .unwrap();
    assert!(third.status.success(), "a commit of the cache: {}", text(&third.stderr));
}

#[test]
fn a_token_goes_along_and_its_lack_is_named() {
    let machine = Machine::new();
    let tokenizer = machine.tokenizer();
    let server = HubServer::new(&[(TOKENIZER, Storage::Private, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
    let complaint = failure(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
    assert!(complaint.contains(&format!("error: {} refuses tokenizer.json of someone/words\n", server.endpoint)));
    assert!(complaint.contains("\nhint: ") && complaint.contains("HF_TOKEN"), "{complaint}");
    let mut wrong = machine.compare(&server, &["--tokenizer", "someone/words"]);
    let complaint = failure(wrong.env("HF_TOKEN", "wrong"));
    assert!(complaint.contains("refuses tokenizer.json of someone/words to the token given"), "{complaint}");
    assert!(!complaint.contains("wrong"), "the token itself is not shown: {complaint}");
    // `hf auth login` leaves it here.
    fs::write(machine.home.path().join("token"), "secret\n").unwrap();
    success(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
    let secret = |request: &Request| request.path.contains("words") && request.token.as_deref() == Some("secret");
    assert!(server.requests().iter().any(secret));
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let machine = Machine::new();
    let tokenizer = machine.tokenizer();
    let server =
        HubServer::new(&[(TOKENIZER, Storage::LargeAndInterrupted, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
    success(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
    let half = tokenizer.len() / 2;
    assert_eq!(server.ranges(TOKENIZER), ["0-".to_owned(), format!("{half}-")]);
}

/// What one run has fetched of a file the next one need not.
#[test]
fn a_download_goes_on_where_an_earlier_run_was() {
    let machine = Machine::new();
    let tokenizer = machine.tokenizer();
    let half = tokenizer.len() / 2;
    let lost = HubServer::new(&[(TOKENIZER, Storage::LargeAndLost, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
    let complaint = failure(&mut machine.compare(&lost, &["--tokenizer", "someone/words"]));
    assert!(complaint.contains("error: tokenizer.json of someone/words could not be downloaded from "), "{complaint}");
    assert_eq!(lost.ranges(TOKENIZER).len(), 5, "half of it, and four requests in vain");

    // The first connection fails before it has brought anything: what is there already stays in its place.
    let closed = HubServer::new(&[(TOKENIZER, Storage::LargeAndClosed, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
    success(&mut machine.compare(&closed, &["--tokenizer", "someone/words"]));
    assert_eq!(closed.ranges(TOKENIZER), [format!("{half}-"), format!("{half}-")]);
    assert_eq!(fs::read(machine.snapshot("words").join("tokenizer.json")).unwrap(), tokenizer);
}

/// A process that ends at the wrong moment leaves a whole file under a temporary name; a damaged one may be longer.
#[test]
fn a_download_goes_on_from_whatever_is_there() {
    for (left, expected) in [(0, 0), (1, 1), (usize::MAX, usize::MAX - 1)] {
        let machine = Machine::new();
        let tokenizer = machine.tokenizer();
        let (left, expected) = (left.min(tokenizer.len()), expected.min(tokenizer.len() - 1));
        let server = HubServer::new(&[(TOKENIZER, Storage::Large, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
        machine.leave(&tokenizer, &tokenizer[..left]);
        success(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
        assert_eq!(server.ranges(TOKENIZER), [format!("{expected}-")]);
    }
    let machine = Machine::new();
    let tokenizer = machine.tokenizer();
    let server = HubServer::new(&[(TOKENIZER, Storage::Large, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
    machine.leave(&tokenizer, &[&tokenizer[..], b"more"].concat());
    success(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
    assert_eq!(server.ranges(TOKENIZER), ["0-"]);
}

#[test]
fn bytes_that_are_not_those_of_the_checksum_are_refused_and_not_kept() {
    let machine = Machine::new();
    let tokenizer = machine.tokenizer();
    let server = HubServer::new(&[(TOKENIZER, Storage::LargeAndDamaged, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
    for _ in 0..2 {
        let complaint = failure(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
        assert!(complaint.contains("the file's checksum is ") && complaint.contains("\nhint: "), "{complaint}");
    }
    let snapshot = machine.snapshot("words");
    assert!(fs::symlink_metadata(snapshot.join("tokenizer.json")).is_err());

    // A file of the cache that was changed later.
    let server = HubServer::new(&[(TOKENIZER, Storage::Git, &tokenizer), (DATA, Storage::Git, PASSAGES)]);
    success(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
    fs::write(snapshot.join("tokenizer.json"), "{}").unwrap();
    let complaint = failure(&mut machine.compare(&server, &["--tokenizer", "someone/words"]));
    assert!(complaint.contains("the file's checksum is "), "{complaint}");
}

#[test]
fn what_is_nowhere_is_said_with_where_it_was_looked_for() {
    let machine = Machine::new();
    let server = HubServer::new(&[]);
    let endpoint = &server.endpoint;
    let given = |name| machine.inputs.path(name).display().to_string();
    let tokenizer = given("tokenizer.json");
    for (further, words) in [
        (&["--tokenizer", "someone/nothing"][..], format!("error: {endpoint} has no tokenizer.json of someone/nothing\n")),
        (&["--tokenizer", "a/b/c"], "error: a/b/c: no such file\n".to_owned()),
        (
            &["--tokenizer", &tokenizer],
            format!(
                "error: no data for lambada_openai: there is no lambada_test.jsonl, and {endpoint} has no \
                 data/lambada_test_en.jsonl of EleutherAI/lambada_openai\n"
            ),
        ),
        (
            &["--tokenizer", &tokenizer, "--task", "lambada_standard"],
            "error: no data for lambada_standard: there is no lambada_test_plain_text.txt\nhint: give it with --data FILE"
                .to_owned(),
        ),
    ] {
        let data = given("passages.jsonl");
        let mut command = machine.compare(&server, further);
        if words.contains("tokenizer") || words.contains("a/b/c") {
            command.args(["--data", &data]);
        }
        let complaint = failure(&mut command);
        assert!(complaint.contains(&words), "{further:?}: {complaint}");
    }
    let mut offline = machine.compare(&server, &["--tokenizer", "someone/words", "--data", &given("passages.jsonl")]);
    let complaint = failure(offline.env("HF_HUB_OFFLINE", "ON"));
    assert!(complaint.contains("tokenizer.json of someone/words is not in the Hugging Face cache"), "{complaint}");
    assert!(complaint.contains("hint: unset HF_HUB_OFFLINE"), "{complaint}");
    // Nobody listens there.
    let mut unreachable =
        machine.compare(&server, &["--tokenizer", "someone/words", "--data", &given("passages.jsonl")]);
    let complaint = failure(unreachable.env("HF_ENDPOINT", "http://127.0.0.1:1"));
    assert!(complaint.contains("could not be downloaded from http://127.0.0.1:1") && complaint.contains("\nhint: "));

    let complaint = failure(&mut machine.compare(&server, &["--data", &given("passages.jsonl")]));
    assert!(complaint.contains("error: no tokenizer: looked for ") && complaint.contains("20B_tokenizer.json"));
    assert!(complaint.contains("such as EleutherAI/gpt-neox-20b"), "{complaint}");
}

#[test]
fn the_tokenizer_that_the_configuration_names_is_found_by_itself() {
    let machine = Machine::new();
    let server = HubServer::new(&[(DATA, Storage::Git, PASSAGES)]);
    let own = machine.inputs.path("own-words.json");
    fs::rename(machine.inputs.path("tokenizer.json"), &own).unwrap();
    let name = |vocab_file: &str| {
        machine.inputs.files.edit_config(|config| drop(config.insert("vocab_file".to_owned(), json!(vocab_file))));
    };
    name(own.to_str().unwrap());
    let stderr = success(&mut machine.compare(&server, &[]));
    assert!(stderr.contains("own-words.json (named in the checkpoint's configuration)"), "{stderr}");
    // The path of another machine; the file was copied along.
    name("/mnt/elsewhere/own-words.json");
    let complaint = failure(&mut machine.compare(&server, &[]));
    assert!(complaint.contains("/mnt/elsewhere/own-words.json"), "{complaint}");
    fs::copy(&own, machine.inputs.files.path().join("own-words.json")).unwrap();
    let plain = success(&mut machine.compare(&server, &[]));
    assert!(!plain.contains("WARN"), "{plain}");
    // One that lies beside is not taken for it.
    let beside = machine.inputs.files.path().join("20B_tokenizer.json");
    let mut other: serde_json::Value = serde_json::from_slice(&fs::read(&own).unwrap()).unwrap();
    other["model"]["unk_token"] = json!("w7");
    fs::write(&beside, other.to_string()).unwrap();
    let warned = success(&mut machine.compare(&server, &[]));
    assert!(
        warned.contains("own-words.json is configured, and taken; ")
            && warned.contains("20B_tokenizer.json is another one"),
        "{warned}"
    );
    // The configured one is gone.
    fs::remove_file(machine.inputs.files.path().join("own-words.json")).unwrap();
    let warned = success(&mut machine.compare(&server, &[]));
    assert!(warned.contains("names HFTokenizer /mnt/elsewhere/own-words.json, which is not there; "), "{warned}");
}

#[test]
fn a_task_file_brings_its_data_along() {
    let machine = Machine::new();
    let server = HubServer::new(&[]);
    let task = "name: mine\nversion: 1\ndescription: mine\nsplitting: last-space\nmetrics: [acc]\n\
                data: { file: mine.jsonl, passage_count: 3, url: nowhere }\n";
    let path = machine.inputs.write("mine.yml", task);
    machine.inputs.write("mine.jsonl", PASSAGES);
    let tokenizer = machine.inputs.path("tokenizer.json").display().to_string();
    let stderr = success(&mut machine.compare(&server, &["--task", path.to_str().unwrap(), "--tokenizer", &tokenizer]));
    assert!(stderr.contains("mine.jsonl (the file that the task names)"), "{stderr}");
    machine
        .inputs
        .write("mine.yml", format!("{task}  ").replace("url: nowhere", "url: x, hub: { repo: ../x, file: y }"));
    let complaint = failure(&mut machine.compare(&server, &["--task", path.to_str().unwrap()]));
    assert!(complaint.contains("no repository of the Hugging Face Hub can be named `../x`"), "{complaint}");
}
