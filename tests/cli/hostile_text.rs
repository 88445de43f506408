//! Configurations, tasks, strategies, tokenizers and passages that are made to exhaust or confuse their readers.

use std::fmt::Write as _;

use super::*;
use crate::common::reports::{samples, write_report};

/// Lists of lists that stand for 9^9 elements.
fn alias_bomb() -> String {
    let mut text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
    for level in 1..9 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{inner}]").unwrap();
    }
    text
}

fn deep() -> String {
    format!("rules: {}{}", "[".repeat(100_000), "]".repeat(100_000))
}

/// Texts that are no configuration, strategy, task or gates.
fn yaml_attacks() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("an alias bomb", alias_bomb().into_bytes()),
        ("an alias of itself", b"name: &a [*a]\nrules: *a\n".to_vec()),
        ("merge keys", b"a: &a {b: 1}\n<<: [*a, *a]\nrules: {}\n".to_vec()),
        ("nesting", deep().into_bytes()),
        ("flow without end", b"{".repeat(50_000)),
        ("two documents", b"name: x\n---\nname: y\n".to_vec()),
        ("not UTF-8", b"name: \xff\xfe\n".to_vec()),
        ("UTF-16", b"\xff\xfen\0a\0m\0e\0".to_vec()),
        ("control characters", b"name: \x00\x01\x02\n".to_vec()),
        ("a tag", b"!!python/object/apply:os.system [touch /tmp/x]\n".to_vec()),
        ("a list", b"- 1\n- 2\n".to_vec()),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn yaml_attacks_on_the_configuration_are_refused() {
    let mut all = Complaints::default();
    for (name, attack) in yaml_attacks() {
        let inputs = Inputs::new();
        fs::write(inputs.files.config_file(), attack).unwrap();
        let complaint = inputs.refusal_of_all(&[]);
        assert!(complaint.contains("configs/synthetic.yml"), "{name}: {complaint}");
        all.add(name, &complaint);
    }
    insta::assert_snapshot!("configurations", all.0);
}

#[test]
fn yaml_attacks_on_tasks_and_strategies_are_refused() {
    let (mut strategies, mut tasks) = (Complaints::default(), Complaints::default());
    for (name, attack) in yaml_attacks() {
        let inputs = Inputs::new();
        let path = inputs.write("attack.yml", attack);
        let path = path.to_str().unwrap();
        strategies.add(name, &inputs.refusal_of_all(&["--strategy", path]));
        if cfg!(feature = "libtorch") {
            let compare = inputs.compare(&["--task", path]);
            tasks.add(name, &inputs.without_paths(&failure(&mut with_little_memory(&compare))));
        }
    }
    for all in [&strategies.0, &tasks.0] {
        assert_eq!(all.matches("\nerror: INPUT/attack.yml: ").count(), all.matches("## ").count());
    }
    insta::assert_snapshot!("strategies", strategies.0);
    if cfg!(feature = "libtorch") {
        insta::assert_snapshot!("tasks", tasks.0);
    }
}

#[test]
fn yaml_attacks_on_gates_are_refused() {
    let inputs = Inputs::new();
    let output = inputs.path("out");
    let three = || samples([(-1.0, true), (-2.0, false), (-0.5, true)]);
    write_report(&output, three(), vec![("mean", three())]);
    let mut all = Complaints::default();
    for (name, attack) in yaml_attacks() {
        // A file of gates may be empty: then nothing is limited.
        if name == "nothing" {
            continue;
        }
        let path = inputs.write("gates.yml", attack);
        let mut gate = kintsugi();
        gate.arg("gate").arg(&output).arg("--gates").arg(path);
        let complaint = inputs.without_paths(&failure(&mut with_little_memory(&gate)));
        assert!(complaint.starts_with("error: INPUT/gates.yml: "), "{name}: {complaint}");
        all.add(name, &complaint);
    }
    insta::assert_snapshot!("gates", all.0);
}

#[test]
#[cfg(feature = "libtorch")]
fn tokenizers_that_are_garbage_are_refused() {
    let attacks: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"null".to_vec(),
        b"[".repeat(100_000),
        b"{\"model\":".repeat(10_000),
        b"\xff\xfe\x00".to_vec(),
        b"{\"version\": \"9.9\", \"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}".to_vec(),
        b"{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": -1}}}".to_vec(),
        b"{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"Sentence\", \"vocab\": {\"a\": 1}}}".to_vec(),
        b"{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"b c\"]}}"
            .to_vec(),
        b"{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"Unigram\", \"vocab\": [], \"unk_id\": 7}}".to_vec(),
    ];
    let mut all = Complaints::default();
    for attack in attacks {
        let inputs = Inputs::new();
        let shown = String::from_utf8_lossy(&attack[..attack.len().min(80)]).escape_debug().to_string();
        inputs.write("tokenizer.json", attack);
        let complaint = inputs.refusal(&[]);
        assert!(complaint.starts_with("error: INPUT/tokenizer.json: not a tokenizer: "), "{shown}: {complaint}");
        all.add(&shown, &complaint);
    }
    insta::assert_snapshot!("tokenizers", all.0);
}

#[test]
#[cfg(feature = "libtorch")]
fn passages_that_are_garbage_are_refused() {
    let long = [b"{\"text\": \"".as_slice(), &vec![b'a'; 17 << 20], b" b\"}\n"].concat();
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("line 1 is longer than", long),
        ("line 1 is longer than", vec![b'{'; 20 << 20]),
        ("line 2, column", [b"{\"text\": \"a b\"}\n{\"text\": ".as_slice(), &b"[".repeat(100_000)].concat()),
        ("line 2 is not UTF-8", b"{\"text\": \"w1 w2\"}\n{\"text\": \"w1 \xc3\x28 w2\"}\n".to_vec()),
        ("line 1 is not UTF-8", b"{\"text\": \"w1 \xed\xa0\x80 w2\"}\n".to_vec()),
        ("line 1, column", b"{\"text\": \"w1 \\ud800 w2\"}\n".to_vec()),
        ("line 2, column", b"{\"text\": \"w1 w2\"}\n{\"text\": \"w1\x00 w2\"}\n".to_vec()),
        ("line 1: expected an object", b"{\"text\": {\"text\": \"w1 w2\"}}\n".to_vec()),
    ];
    for (expected, attack) in attacks {
        let inputs = Inputs::new();
        inputs.write_data(attack);
        let complaint = inputs.refusal(&[]);
        assert!(complaint.starts_with("error: INPUT/passages.jsonl: "), "{complaint}");
        assert!(complaint.contains(expected) && complaint.contains("\nhint: "), "{expected}: {complaint}");
        assert!(complaint.len() < 1000, "the attack is shown in full");
    }
}

#[test]
fn files_beyond_all_measure_are_refused_without_being_read() {
    const EXBIBYTE_OR_SO: u64 = 1 << 42;
    let inputs = Inputs::new();
    let huge = inputs.path("huge.yml");
    // A hole takes no room on the disk.
    if fs::File::create(&huge).unwrap().set_len(EXBIBYTE_OR_SO).is_err() {
        eprintln!("skipped: this file system has no files with holes of that size");
        return;
    }
    let huge = huge.to_str().unwrap();
    for flag in ["--tokenizer", "--task", "--strategy", "--neox-config"] {
        let of_merge = ["--strategy", "--neox-config"].contains(&flag);
        let arguments = [flag, huge];
        let commands = if of_merge { inputs.readers(&arguments) } else { vec![inputs.compare(&arguments)] };
        if !of_merge && !cfg!(feature = "libtorch") {
            continue;
        }
        for command in commands {
            let complaint = inputs.without_paths(&failure(&mut with_little_memory(&command)));
            let expected = match flag {
                "--neox-config" => "expected a configuration of at most 16777216 bytes, found more\n",
                "--tokenizer" => "larger than 268435456 bytes",
                "--task" | "--strategy" => "larger than 1048576 bytes",
                _ => "larger than 16777216 bytes",
            };
            assert!(complaint.starts_with(&format!("error: INPUT/huge.yml: {expected}")), "{flag}: {complaint}");
            assert!(complaint.contains("\nhint: "), "{flag}: {complaint}");
        }
    }
    let latest = inputs.files.path().join("latest");
    fs::OpenOptions::new().write(true).open(&latest).unwrap().set_len(EXBIBYTE_OR_SO).unwrap();
    for complaint in inputs.refusals(&[]) {
        assert!(complaint.starts_with("error: SAVE/latest: larger than 4096 bytes"), "{complaint}");
    }
}

#[test]
fn latest_never_leads_out_of_the_folder() {
    let inputs = Inputs::new();
    let step = inputs.files.step().display().to_string();
    for tag in [step.as_str(), "..", "../..", ".", "", "/", "global_step1/../..", ".hidden", "a\0b", "\u{202e}"] {
        fs::write(inputs.files.path().join("latest"), tag).unwrap();
        for complaint in inputs.refusals(&[]) {
            assert!(complaint.starts_with("error: SAVE/latest: names `"), "{tag:?}: {complaint}");
            assert!(complaint.contains("\nhint: "), "{tag:?}: {complaint}");
        }
    }
}
