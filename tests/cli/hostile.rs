//! `.pt` files that lie: whatever they claim, the program ends with exit code 2, the file's name and a hint, having run
//! nothing and taken no more memory than their size warrants.

use std::io::Write as _;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;
use crate::common::{read_tensors, set_element};

/// A `.pt` file of these entries.
fn write_archive(path: &Path, entries: &[(&str, &[u8])]) {
    let mut archive = ZipWriter::new(fs::File::create(path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in entries {
        archive.start_file(*name, stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

/// A `.pt` file of this pickle and one storage of 64 bytes.
pub(super) fn write_pickle(path: &Path, pickle: &[u8]) {
    write_archive(path, &[("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &[0; 64])]);
}

/// Opcode `BINUNICODE`.
pub(super) fn text_opcode(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat()
}

/// Opcode `LONG1`.
fn number_opcode(number: i128) -> Vec<u8> {
    [b"\x8a\x10".as_slice(), &number.to_le_bytes()].concat()
}

fn tuple_of(numbers: &[i128]) -> Vec<u8> {
    let numbers: Vec<_> = numbers.iter().flat_map(|&number| number_opcode(number)).collect();
    [b"(".as_slice(), &numbers, b"t"].concat()
}

/// The pickle of `{"norm.weight": tensor}`, float32, with a storage of `count` elements.
pub(super) fn tensor_pickle(shape: &[i128], stride: &[i128], offset: i128, count: i128) -> Vec<u8> {
    [
        b"\x80\x02}".as_slice(),
        &text_opcode("norm.weight"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text_opcode("storage"),
        b"ctorch\nFloatStorage\n",
        &text_opcode("0"),
        &text_opcode("cpu"),
        &number_opcode(count),
        b"tQ",
        &number_opcode(offset),
        &tuple_of(shape),
        &tuple_of(stride),
        b"\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat()
}

/// The final norm of rank 1, which the tests replace.
const FILE: &str = "STEP/layer_05-model_01-model_states.pt";

/// The error of a damaged file, the same of every command: the file's name and a hint are in it.
fn refused(damage: impl FnOnce(&Path)) -> String {
    let inputs = Inputs::new();
    damage(&inputs.files.layer_file(5, 1));
    let complaint = inputs.refusal_of_all(&[]);
    assert!(complaint.starts_with(&format!("error: {FILE}: ")), "{complaint}");
    assert!(complaint.contains("\nhint: "), "{complaint}");
    complaint
}

fn assert_refused(damage: impl FnOnce(&Path), expected: &str) {
    let complaint = refused(damage);
    assert!(complaint.contains(expected), "expected: {expected}\n{complaint}");
}

fn assert_pickle_refused(pickle: &[u8], expected: &str) {
    assert_refused(|path| write_pickle(path, pickle), expected);
}

#[test]
fn a_pickle_that_would_run_code_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let command = text_opcode(&format!("touch {}", mark.display()));
    let system = [b"cposix\nsystem\n".as_slice(), &command, b"\x85R"].concat();
    let evaluated = [b"cbuiltins\neval\n".as_slice(), &text_opcode("print(1)"), b"\x85R"].concat();
    let by_name = [&text_opcode("posix")[..], &text_opcode("system"), b"\x93", &command, b"\x85R"].concat();
    let instance = [b"(".as_slice(), &command, b"iposix\nsystem\n"].concat();
    let mut all = Complaints::default();
    for (name, call) in [("system", &system), ("eval", &evaluated), ("by name", &by_name), ("instance", &instance)] {
        let alone = [b"\x80\x02".as_slice(), call, b"."].concat();
        all.add(name, &refused(|path| write_pickle(path, &alone)));
        let nested = [b"\x80\x02}".as_slice(), &text_opcode("norm.weight"), b"](", call, b"es."].concat();
        all.add(&format!("{name}, nested"), &refused(|path| write_pickle(path, &nested)));
        // No archive at all, as `pickle.dump` writes it.
        all.add(&format!("{name}, no archive"), &refused(|path| fs::write(path, &alone).unwrap()));
    }
    assert!(!mark.exists(), "the pickle was executed");
    insta::assert_snapshot!("pickles_that_would_run_code", all.0.replace(&mark.display().to_string(), "MARK"));
}

#[test]
fn a_memo_bomb_is_refused() {
    // Each list holds the one before ten times: 10^30 elements in all.
    let mut pickle = b"\x80\x02]q\x00".to_vec();
    for level in 0..30_u8 {
        pickle.extend_from_slice(b"](");
        (0..10).for_each(|_| pickle.extend_from_slice(&[b'h', level]));
        pickle.extend_from_slice(&[b'e', b'q', level + 1]);
    }
    pickle.push(b'.');
    assert_pickle_refused(&pickle, "memo bomb");
}

#[test]
fn claims_of_more_bytes_than_there_are_are_refused() {
    let mut all = Complaints::default();
    for (name, claim) in [
        ("LONG4", [b"\x8b".as_slice(), &i32::MAX.to_le_bytes()].concat()),
        ("BINUNICODE8", [b"\x8d".as_slice(), &(u64::MAX / 2).to_le_bytes()].concat()),
        ("BINUNICODE", [b"X".as_slice(), &u32::MAX.to_le_bytes()].concat()),
        ("BINBYTES8", [b"\x8e".as_slice(), &u64::MAX.to_le_bytes()].concat()),
    ] {
        let pickle = [b"\x80\x04".as_slice(), &claim, b"."].concat();
        all.add(name, &refused(|path| write_pickle(path, &pickle)));
    }
    insta::assert_snapshot!("claims_of_more_bytes", all.0);
}

#[test]
fn nesting_without_end_is_refused() {
    let pickle = [b"\x80\x02".to_vec(), vec![b']'; 100_000], vec![b'a'; 99_999], b".".to_vec()].concat();
    assert_pickle_refused(&pickle, "nesting");
}

#[test]
fn absurd_shapes_are_refused() {
    let mut all = Complaints::default();
    for (name, pickle) in [
        ("a product that overflows", tensor_pickle(&[1 << 33, 1 << 33], &[1, 1], 0, 16)),
        ("negative", tensor_pickle(&[-4, -4], &[1, 1], 0, 16)),
        ("more than a word holds", tensor_pickle(&[i128::MAX], &[1], 0, 16)),
        ("a negative stride", tensor_pickle(&[4], &[-1], 3, 16)),
        ("fewer strides than sizes", tensor_pickle(&[4, 4], &[4], 0, 16)),
    ] {
        all.add(name, &refused(|path| write_pickle(path, &pickle)));
    }
    insta::assert_snapshot!("absurd_shapes", all.0);
    let ones = vec![1; 5000];
    assert_pickle_refused(&tensor_pickle(&ones, &ones, 0, 16), "expected shape [64]");
}

#[test]
fn one_element_repeated_without_end_is_refused() {
    let pickle = tensor_pickle(&[1 << 20, 1 << 10], &[0, 0], 0, 16);
    assert_pickle_refused(&pickle, "tensor `norm.weight` has 4294967296 bytes, the whole file");
    assert_pickle_refused(&tensor_pickle(&[1 << 50], &[0], 0, 16), "byte limit");
}

#[test]
fn storages_that_do_not_hold_what_is_asked_of_them_are_refused() {
    // Beyond the storage by its own account, and beyond what the archive holds of it.
    let mut all = Complaints::default();
    let (long, far) = (tensor_pickle(&[64], &[1], 0, 16), tensor_pickle(&[4], &[1], 1 << 40, 16));
    all.add("longer than the storage", &refused(|path| write_pickle(path, &long)));
    all.add("behind the storage", &refused(|path| write_pickle(path, &far)));
    let renamed = |path: &Path| {
        edit_norm(path, |archive| {
            // In the directory at the end, which is what counts.
            let position = archive.windows(6).rposition(|window| window == b"data/0").unwrap();
            archive[position + 5] = b'7';
        });
    };
    all.add("no such storage", &refused(renamed));
    insta::assert_snapshot!("storages_that_do_not_hold_it", all.0);
}

/// Changes the bytes of a file.
fn edit_norm(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn tensors_that_overlap_are_read_as_torch_reads_them() {
    let inputs = Inputs::new();
    let path = inputs.files.layer_file(5, 1);
    let storage: Vec<u8> = (0..16_u8).flat_map(|number| f32::from(number).to_le_bytes()).collect();
    // Rows that share elements: stride 1 where 2 would keep them apart.
    let pickle = tensor_pickle(&[3, 2], &[1, 1], 1, 16);
    write_archive(&path, &[("a/data.pkl", &pickle), ("a/data/0", &storage)]);
    assert_eq!(read_tensors(&path)["norm.weight"].to_f64().unwrap(), [1.0, 2.0, 2.0, 3.0, 3.0, 4.0]);
}

/// A `.pt` file whose entry of this name claims 3 GB of zeros, packed.
pub(super) fn write_compressed(path: &Path, name: &str) {
    write_archive(path, &[("a/version", b"3\n"), (name, &[0; 1000])]);
    // The method is at offset 10 of the directory's entry, the size at 24.
    edit_norm(path, |bytes| {
        let entry = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
        bytes[entry + 10] = 8;
        bytes[entry + 24..entry + 28].copy_from_slice(&3_000_000_000_u32.to_le_bytes());
    });
}

#[test]
fn compressed_archives_are_refused_before_they_are_unpacked() {
    // Named as a pickle, as a storage and as something else.
    for name in ["a/data.pkl", "a/data/0", "a/readme"] {
        assert_refused(
            |path| write_compressed(path, name),
            &format!("its entry `{name}` is compressed, which torch.save never does"),
        );
    }
}

#[test]
fn entries_whose_size_lies_are_refused() {
    let claim = |size: u32| {
        move |path: &Path| {
            edit_norm(path, |bytes| {
                for position in
                    (0..bytes.len() - 4).filter(|&at| bytes[at..at + 4] == *b"PK\x01\x02").collect::<Vec<_>>()
                {
                    bytes[position + 24..position + 28].copy_from_slice(&size.to_le_bytes());
                }
            });
        }
    };
    assert_refused(claim(3_000_000_000), "claims 3000000000 bytes, more than the file has");
    insta::assert_snapshot!("sizes_that_lie", refused(claim(7)));
}

#[test]
fn a_pickle_larger_than_any_is_refused() {
    let pickle = [b"\x80\x02(".to_vec(), vec![b'N'; 17 << 20], b"l.".to_vec()].concat();
    assert_pickle_refused(&pickle, "expected at most 16777216");
}

#[test]
fn names_that_climb_out_of_the_archive_lead_nowhere() {
    let inputs = Inputs::new();
    let path = inputs.files.layer_file(5, 1);
    let pickle = tensor_pickle(&[16], &[1], 0, 16);
    for root in ["../../outside", "/tmp/kintsugi-outside", "..\\outside"] {
        let names = ["data.pkl", "data/0"].map(|name| format!("{root}/{name}"));
        write_archive(&path, &[(&names[0], &pickle), (&names[1], &[0; 64])]);
        let complaint = inputs.complaint_of_all(&[]);
        assert!(
            complaint.starts_with(&format!("error: {FILE}: rank 1: tensor `norm.weight`: expected shape")),
            "{complaint}"
        );
    }
    assert!(!Path::new("/tmp/kintsugi-outside").exists());
    let outside = inputs.files.path().parent().unwrap().join("outside");
    assert!(!outside.exists());
}

#[test]
fn archives_of_other_kinds_are_refused() {
    let mut tar = vec![0_u8; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    assert_refused(|path| fs::write(path, &tar).unwrap(), "it is a tar archive");
    assert_refused(|path| write_archive(path, &[("a/version", b"3")]), "No data.pkl");
    let mut all = Complaints::default();
    all.add("the first bytes alone", &refused(|path| fs::write(path, b"PK\x03\x04").unwrap()));
    all.add("safetensors", &refused(|path| fs::write(path, b"\x02\0\0\0\0\0\0\0{}").unwrap()));
    assert_refused(|path| fs::write(path, b"").unwrap(), "the file is empty");
    // Two directories' worth of entries in an archive that says it has more than fit.
    let counts = |path: &Path| {
        edit_norm(path, |bytes| {
            let end = bytes.windows(4).rposition(|window| window == b"PK\x05\x06").unwrap();
            bytes[end + 8..end + 12].fill(0xff);
        });
    };
    all.add("a count of entries that lies", &refused(counts));
    insta::assert_snapshot!("archives_of_other_kinds", all.0);
}

#[test]
fn a_weight_that_is_not_finite_is_a_finding_of_every_command() {
    for value in [f64::NAN, f64::INFINITY] {
        let inputs = Inputs::new();
        set_element(&inputs.files.layer_file(5, 1), "norm.weight", 3, value);
        let (path, other, merged) = (inputs.files.path(), TinyModel::new().write(), inputs.path("merged"));
        let commands: [&[&std::ffi::OsStr]; 4] = [
            &["inspect".as_ref(), path.as_ref()],
            &["diff".as_ref(), path.as_ref(), other.path().as_ref()],
            &["merge".as_ref(), path.as_ref(), "-o".as_ref(), merged.as_ref()],
            &["merge".as_ref(), path.as_ref(), "-o".as_ref(), merged.as_ref(), "--format".as_ref(), "hf".as_ref()],
        ];
        let said = commands.map(|command| inputs.without_paths(&failure(kintsugi().args(command))));
        for complaint in said.into_iter().chain([inputs.complaint_of_all(&[])]) {
            assert!(complaint.contains("rank 1: tensor `norm.weight`: NaN or infinity at element 3"), "{complaint}");
            assert!(complaint.contains(FILE) && complaint.contains("\nhint: "), "{complaint}");
        }
        assert!(!merged.exists());
    }
}

#[test]
#[cfg(feature = "libtorch")]
fn weights_that_overflow_in_the_forward_pass_end_with_an_error() {
    let inputs = Inputs::new();
    for rank in 0..2 {
        (0..64).for_each(|at| set_element(&inputs.files.layer_file(5, rank), "norm.weight", at, 3e38));
    }
    let complaint = inputs.refusal(&[]);
    assert!(complaint.contains("`baseline` produced NaN") && complaint.contains("\nhint: "), "{complaint}");
}
