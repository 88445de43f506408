//! The client state beside the weights: what of it is not understood.

use std::io::Write as _;
use std::path::Path;

use fs_err as fs;
use kintsugi::export::{Value, save};
use kintsugi::tensor::HostTensor;

use crate::common::{TinyModel, weights};

/// A pickle of `{"module": None, "iteration": 10, "args": {"num_layers": 2}, NAME: value}`.
fn client_state(value: &[u8]) -> Vec<u8> {
    fn text(text: &str) -> Vec<u8> {
        [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
    }
    let args = [b"}".to_vec(), text("num_layers"), b"K\x02s".to_vec()].concat();
    let entries = [text("module"), b"N".to_vec(), text("iteration"), b"K\x0a".to_vec(), text("args"), args];
    [b"\x80\x02}(".to_vec(), entries.concat(), text("forks_own"), value.to_vec(), b"u.".to_vec()].concat()
}

fn write_archive(path: &Path, pickle: &[u8]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in
        [("a/data.pkl", pickle), ("a/data/0", &[0; 8]), ("a/byteorder", b"little"), ("a/version", b"3\n")]
    {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn objects_in_the_client_state_that_are_not_understood_do_no_harm() {
    let files = TinyModel::new().write();
    let expected = weights(&files.open());
    let storage = |class: &str| {
        format!(
            "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n{class}\nX\x01\0\0\00X\x03\0\0\0cpuK\x02tQK\0K\x02\u{85}K\x01\u{85}\u{89})tR"
        )
    };
    for (what, value) in [
        ("defaultdict", "ccollections\ndefaultdict\nc__builtin__\nint\n\u{85}RX\x04\0\0\0pileK\x0as".to_owned()),
        ("deque", "ccollections\ndeque\n)R(K\x01K\x02e".to_owned()),
        ("a subclass of dict with its state", "cfork\nAttrDict\n)\u{81}(X\x01\0\0\0aK\x01u}b".to_owned()),
        ("a dictionary by tuples", "}(K\x01K\x02\u{86}K\x03u".to_owned()),
        ("a set", "\u{8f}(K\x01\u{90}".to_owned()),
        ("float8", storage("Float8_e4m3fnStorage")),
        ("complex", storage("ComplexFloatStorage")),
        ("an object with a tensor", format!("cfork\nState\n)\u{81}}}X\x01\0\0\0t{}sb", storage("FloatStorage"))),
    ] {
        for tp_rank in [0, 1] {
            let value: Vec<u8> = value.chars().map(|byte| u8::try_from(u32::from(byte)).unwrap()).collect();
            write_archive(&files.rank_file(tp_rank), &client_state(&value));
        }
        let checkpoint = files.open();
        assert_eq!(weights(&checkpoint), expected, "{what}");
        assert_eq!(checkpoint.client().iteration, Some(10), "{what}");
        assert_eq!(checkpoint.client().args.num_layers, Some(2), "{what}");
        assert!(checkpoint.warnings().is_empty(), "{what}: {:?}", checkpoint.warnings());
    }
    // What cannot be followed is said and passed over: an opcode of out-of-band buffers.
    write_archive(&files.rank_file(0), &client_state(b"\x97"));
    let checkpoint = files.open();
    assert_eq!(weights(&checkpoint), expected);
    assert!(checkpoint.warnings()[0].contains("the client state was not read"), "{:?}", checkpoint.warnings());
}

#[test]
fn what_merge_wrote_and_is_not_understood_is_named() {
    let source = TinyModel::new().write();
    for (stated, reason, read) in [
        (Value::Str("size=9 reduction=shared".to_owned()), "no quirk `size`", 1),
        (Value::Str("reduction=other".to_owned()), "`other`: reduction is one of", 0),
        (Value::Int(7), "it is no text", 0),
    ] {
        let state = Value::Dict(vec![("kintsugi_quirks".to_owned(), stated)]);
        save(&source.rank_file(0), &state, |_| Err::<HostTensor, _>("no tensors")).unwrap();
        let checkpoint = source.open();
        let warnings = checkpoint.warnings().join("\n");
        assert!(warnings.contains(&format!("`kintsugi_quirks` was not read whole: {reason}")), "{warnings}");
        assert_eq!(checkpoint.client().args.quirks.len(), read, "{warnings}");
    }
}
