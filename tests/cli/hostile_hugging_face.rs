//! Hugging Face directories that lie: as candidates, which are read beside the checkpoint, and alone.

use super::hostile::{tensor_pickle, text_opcode, write_compressed, write_pickle};
use super::*;
use crate::common::hugging_face::HuggingFace;

/// A checkpoint and its merge as a Hugging Face directory, `INPUT/converted`.
struct Converted(Inputs);

impl Converted {
    fn new() -> Self {
        let inputs = Inputs::new();
        HuggingFace::merged(&inputs.files.open(), "mean").write(&inputs.path("converted"));
        Self(inputs)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path("converted").join(name)
    }

    /// The error of `diff` with little memory, which that of `compare --candidate` contains.
    fn refusal(&self) -> String {
        let folder = self.0.path("converted");
        let mut diff = kintsugi();
        diff.arg("diff").arg(self.0.files.path()).arg(&folder);
        let complaint = self.0.without_paths(&failure(&mut with_little_memory(&diff)));
        if cfg!(feature = "libtorch") {
            let compare = self.0.compare(&["--candidate", folder.to_str().unwrap()]);
            let of_compare = self.0.without_paths(&failure(&mut with_little_memory(&compare)));
            let reason = complaint.split_once("INPUT/converted").unwrap().1;
            assert!(of_compare.contains(reason), "diff: {complaint}\ncompare: {of_compare}");
        }
        complaint
    }

    fn refused(&self, expected: &str) {
        let complaint = self.refusal();
        assert!(complaint.contains("INPUT/converted/") && complaint.contains(expected), "{expected}: {complaint}");
        assert!(complaint.contains("\nhint: "), "{complaint}");
        assert!(complaint.len() < 1000, "the attack is shown in full");
    }
}

/// The header of `model.safetensors`, changed; `length` in place of its own.
fn edit_header(converted: &Converted, length: Option<u64>, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = converted.path("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let end = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let mut header = serde_json::from_slice(&bytes[8..end]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let length = length.unwrap_or(header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), &bytes[end..]].concat()).unwrap();
}

const NORM: &str = "gpt_neox.final_layer_norm.weight";

#[test]
fn headers_that_lie_are_refused() {
    type Edit = fn(&mut serde_json::Value);
    let lies: &[(&str, Edit)] = &[
        ("absurd shape", |header| header[NORM]["shape"] = json!([u64::MAX, u64::MAX])),
        ("shape that overflows to the right size", |header| header[NORM]["shape"] = json!([1_u64 << 63, 2, 64])),
        ("negative shape", |header| header[NORM]["shape"] = json!([-64])),
        ("overlap", |header| header[NORM]["data_offsets"] = json!([0, 256])),
        ("beyond the file", |header| header[NORM]["data_offsets"] = json!([1_u64 << 62, (1_u64 << 62) + 256])),
        ("backwards", |header| header[NORM]["data_offsets"] = json!([256, 0])),
        ("a hole", |header| drop(header.as_object_mut().unwrap().remove(NORM))),
        ("no type", |header| header[NORM]["dtype"] = json!("F7")),
        ("nested", |header| header[NORM] = json!([[[[[[{}]]]]]])),
    ];
    let mut all = Complaints::default();
    for (name, edit) in lies {
        let converted = Converted::new();
        edit_header(&converted, None, edit);
        all.add(name, &converted.refusal());
    }
    for length in [0, 1 << 20, 100_000_001, 1 << 63, u64::MAX] {
        let converted = Converted::new();
        edit_header(&converted, Some(length), |_| {});
        all.add(&format!("a header of {length} bytes"), &converted.refusal());
    }
    let deep = Converted::new();
    let header = b"{\"a\":".repeat(100_000);
    fs::write(deep.path("model.safetensors"), [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat())
        .unwrap();
    all.add("nesting", &deep.refusal());
    assert_eq!(all.0.matches("INPUT/converted/model.safetensors: cannot be read as a safetensors file: ").count(), 15);
    insta::assert_snapshot!("headers_that_lie", all.0);
}

#[test]
fn names_in_an_index_never_lead_out_of_the_folder() {
    for place in ["../model.safetensors", "/etc/passwd", "a/../../x", "sub/model.safetensors", "..", ".", "", "a\0b"] {
        let converted = Converted::new();
        fs::rename(converted.path("model.safetensors"), converted.0.path("model.safetensors")).unwrap();
        let index = json!({ "weight_map": { NORM: place } }).to_string();
        fs::write(converted.path("model.safetensors.index.json"), index).unwrap();
        converted.refused("which is not a file of this folder");
    }
}

#[test]
fn configurations_and_indices_that_are_garbage_are_refused() {
    let garbage: [(&str, Vec<u8>); 6] = [
        ("nothing", b"".to_vec()),
        ("lists without end", b"[".repeat(100_000)),
        ("objects without end", b"{\"weight_map\":".repeat(10_000)),
        ("not UTF-8", b"{\"architectures\": [\"\xff\xfe\"]}".to_vec()),
        ("infinity", b"{\"architectures\": [\"GPTNeoXForCausalLM\"], \"hidden_size\": 1e400}".to_vec()),
        ("null", b"null".to_vec()),
    ];
    let mut all = Complaints::default();
    for (name, attack) in garbage {
        let converted = Converted::new();
        fs::write(converted.path("config.json"), &attack).unwrap();
        all.add(&format!("config.json: {name}"), &converted.refusal());
        let converted = Converted::new();
        fs::remove_file(converted.path("model.safetensors")).unwrap();
        fs::write(converted.path("model.safetensors.index.json"), &attack).unwrap();
        all.add(&format!("index: {name}"), &converted.refusal());
    }
    assert_eq!(all.0.matches("INPUT/converted/config.json: ").count(), 6);
    assert_eq!(all.0.matches("INPUT/converted/model.safetensors.index.json: ").count(), 6);
    insta::assert_snapshot!("garbage", all.0);
    // A hole takes no room on the disk.
    let converted = Converted::new();
    fs::File::create(converted.path("config.json")).unwrap().set_len(1 << 40).unwrap();
    converted.refused("converted/config.json: larger than 16777216 bytes");
}

#[test]
fn settings_for_models_beyond_all_measure_are_refused() {
    for (key, value) in [("num_hidden_layers", 100_000), ("hidden_size", 1 << 30), ("vocab_size", 1 << 30)] {
        let converted = Converted::new();
        let path = converted.path("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = json!(value);
        fs::write(path, config.to_string()).unwrap();
        converted.refused("do config.json and weights belong together?");
    }
}

#[test]
fn pickled_weights_run_nothing_and_unpack_nothing() {
    let pickled = |write: &dyn Fn(&Path)| {
        let converted = Converted::new();
        fs::remove_file(converted.path("model.safetensors")).unwrap();
        write(&converted.path("pytorch_model.bin"));
        converted
    };
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let command = text_opcode(&format!("touch {}", mark.display()));
    let call = [b"\x80\x02cposix\nsystem\n".as_slice(), &command, b"\x85R."].concat();
    let mut all = Complaints::default();
    all.add("in an archive", &pickled(&|path| write_pickle(path, &call)).refusal());
    all.add("alone", &pickled(&|path| fs::write(path, &call).unwrap()).refusal());
    assert!(!mark.exists(), "the pickle was executed");
    assert_eq!(all.0.matches("INPUT/converted/pytorch_model.bin: ").count(), 2);
    insta::assert_snapshot!("pickled_weights", all.0.replace(&mark.display().to_string(), "MARK"));
    let bomb = tensor_pickle(&[1 << 20, 1 << 10], &[0, 0], 0, 16);
    pickled(&|path| write_pickle(path, &bomb)).refused("pytorch_model.bin: tensor `norm.weight` has 4294967296 bytes");
    pickled(&|path| write_compressed(path, "a/data.pkl")).refused("its entry `a/data.pkl` is compressed");
}

#[test]
fn weights_that_are_not_finite_are_findings() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let inputs = Inputs::new();
        let mut written = HuggingFace::merged(&inputs.files.open(), "mean");
        written.set_element(NORM, 5, value);
        written.write(&inputs.path("converted"));
        Converted(inputs).refused(&format!("model.safetensors: tensor `{NORM}`: NaN or infinity at element 5"));
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    for (name, expected) in [
        ("config.json", "converted/config.json: the file is missing"),
        ("model.safetensors", "converted: no model.safetensors, pytorch_model.bin, or index of several of them"),
    ] {
        let converted = Converted::new();
        fs::remove_file(converted.path(name)).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(converted.path(name)).status().unwrap().success());
        let complaint = converted.refusal();
        assert!(complaint.starts_with(&format!("error: INPUT/{expected}\nhint: ")), "{complaint}");
    }
}
