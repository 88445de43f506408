//! What the `.pt` writer writes, read back by the reader and, where there is one, by torch.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use crate::common::TinyModel;
use kintsugi::checkpoint::TorchFile;
use kintsugi::export::{ExportError, StoredTensor, TorchArchive, Value, save, save_tensors};
use kintsugi::tensor::{DType, HostTensor};
use proptest::prelude::*;

const DTYPES: [DType; 9] =
    [DType::F16, DType::BF16, DType::F32, DType::F64, DType::U8, DType::I8, DType::I16, DType::I32, DType::I64];

fn tensor(dtype: DType, shape: &[usize], mut seed: u8) -> HostTensor {
    let count: usize = shape.iter().product::<usize>() * dtype.size();
    let mut next = || {
        seed = seed.wrapping_mul(77).wrapping_add(13);
        seed
    };
    HostTensor::new(dtype, shape.to_vec(), (0..count).map(|_| next()).collect()).unwrap()
}

fn stored(storage: usize, tensor: &HostTensor) -> Value {
    Value::Tensor(StoredTensor { storage, dtype: tensor.dtype(), shape: tensor.shape().to_vec() })
}

fn text(text: &str) -> Value {
    Value::Str(text.to_owned())
}

fn dict<const N: usize>(entries: [(&str, Value); N]) -> Vec<(String, Value)> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn tensors_come_back_as_they_were(
        tensors in prop::collection::btree_map(
            "[a-zäß漢_][a-z0-9_.é]{0,12}",
            (0..DTYPES.len(), prop::collection::vec(0_usize..5, 0..4), any::<u8>()),
            0..8,
        )
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tensors.pt");
        let tensors: Vec<_> = tensors
            .into_iter()
            .map(|(name, (dtype, shape, seed))| (name, tensor(DTYPES[dtype], &shape, seed)))
            .collect();
        save_tensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
        let shard = TorchFile::open(&path).unwrap();
        prop_assert_eq!(shard.forms().unwrap().len(), tensors.len());
        for (name, tensor) in &tensors {
            prop_assert!(shard.read(name).unwrap().same_bits(tensor), "{}", name);
        }
        // Only the finished file is there.
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn entries_are_stored_aligned_and_prefixed_as_torch_does() {
    let folder = tempfile::tempdir().unwrap();
    for (file, prefix) in
        [("layer_02-model_00-model_states.pt", "layer_02-model_00-model_states"), ("größe.pt", "archive")]
    {
        let path = folder.path().join(file);
        let tensors = [tensor(DType::F16, &[3], 1), tensor(DType::U8, &[5, 7], 2), tensor(DType::F64, &[], 3)];
        save_tensors(&path, ["a", "b", "c"].into_iter().zip(&tensors)).unwrap();
        let mut zip = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
        let names: Vec<_> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
        let expected = ["data.pkl", "byteorder", "data/0", "data/1", "data/2", "version"];
        assert_eq!(names, expected.map(|name| format!("{prefix}/{name}")));
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).unwrap();
            assert_eq!(entry.data_start().unwrap() % 64, 0, "{:?}", entry.name());
            assert_eq!((entry.compression(), entry.compressed_size()), (zip::CompressionMethod::Stored, entry.size()));
            // Reading to the end compares the checksum.
            entry.read_to_end(&mut Vec::new()).unwrap();
        }
    }
}

#[test]
fn clones_share_a_storage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.pt");
    let original = tensor(DType::F32, &[1000], 5);
    let clone = original.clone();
    let other = tensor(DType::F32, &[1000], 5);
    save_tensors(&path, [("first", &original), ("second", &clone), ("third", &other)]).unwrap();
    let shard = TorchFile::open(&path).unwrap();
    for name in ["first", "second", "third"] {
        assert!(shard.read(name).unwrap().same_bits(&original));
    }
    let zip = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(zip.file_names().filter(|name| name.as_ref().is_ok_and(|name| name.contains("/data/"))).count(), 2);
}

#[test]
fn a_file_that_is_not_finished_leaves_nothing_and_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pt");
    let old = tensor(DType::F32, &[4], 1);
    save_tensors(&path, [("old", &old)]).unwrap();
    let root = Value::Dict(dict([("new", stored(0, &old))]));

    drop(TorchArchive::create(&path, &root).unwrap());
    let error = TorchArchive::create(&path, &root).unwrap().finish().unwrap_err();
    assert!(matches!(error, ExportError::StorageCount { expected: 1, found: 0, .. }), "{error}");
    let error = save(&path, &root, |_| Err("no such tensor")).unwrap_err();
    assert!(error.to_string().ends_with("file.pt: storage 0: no such tensor"), "{error}");

    assert!(TorchFile::open(&path).unwrap().read("old").unwrap().same_bits(&old));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_does_not_fit_the_announcement_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pt");
    let (small, large) = (tensor(DType::F32, &[4], 1), tensor(DType::F32, &[5], 1));
    let create = |root: Value| TorchArchive::create(&path, &root);

    let mut archive = create(Value::List(vec![stored(0, &small)])).unwrap();
    let error = archive.push(&large).unwrap_err();
    assert!(error.to_string().contains("expected 4 elements of f32, found 5 of f32"), "{error}");
    archive.push(&small).unwrap();
    assert!(matches!(archive.push(&small), Err(ExportError::StorageCount { expected: 1, found: 2, .. })));

    let twice = create(Value::Dict(dict([("a", Value::None), ("a", Value::None)])));
    assert!(matches!(twice, Err(ExportError::DuplicateKey { ref key, .. }) if key == "a"));
    let two_forms = create(Value::List(vec![stored(0, &small), stored(0, &large)]));
    assert!(matches!(two_forms, Err(ExportError::Storage { storage: 0, .. })));
    let gap = create(Value::List(vec![stored(1, &small)]));
    assert!(matches!(gap, Err(ExportError::Storage { storage: 0, .. })));
    let no_folder = TorchArchive::create(&folder.path().join("missing/file.pt"), &Value::None);
    assert!(matches!(no_folder, Err(ExportError::Io { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the unfinished archive is still open");
}

#[cfg(unix)]
#[test]
fn files_have_the_mode_that_other_files_have() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (ours, plain) = (folder.path().join("ours.pt"), folder.path().join("plain"));
    save_tensors(&ours, [] as [(&str, &HostTensor); 0]).unwrap();
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}

/// What torch makes of a file with everything in it: the interpreter with torch that `KINTSUGI_PYTHON` names is asked.
#[test]
fn torch_loads_every_value() {
    const SCRIPT: &str = r#"
import math, sys, zipfile, collections, torch
folder = sys.argv[1]
assert zipfile.ZipFile(f"{folder}/values.pt").testzip() is None
for options in [{"weights_only": True}, {"weights_only": True, "mmap": True}, {"weights_only": False}]:
    values = torch.load(f"{folder}/values.pt", map_location="cpu", **options)
    assert type(values) is dict and values["none"] is None and values["yes"] is True and values["no"] is False
    assert values["ints"] == [0, -1, 255, 65536, 2**31 - 1, -2**31, 2**31, -2**63, 2**63 - 1]
    assert values["floats"][:2] == (0.1, -1e300) and math.isinf(values["floats"][2])
    assert values["größe 漢"] == "naïve 🙂" and values["empty"] == {} and values["nothing"] == [] and values["unit"] == ()
    tensors = values["tensors"]
    assert type(tensors) is collections.OrderedDict
    dtypes = "float16 bfloat16 float32 float64 uint8 int8 int16 int32 int64".split()
    for name, (key, tensor) in zip(dtypes, tensors.items()):
        assert tensor.dtype == getattr(torch, name) and tensor.shape == (2, 3) and tensor.is_contiguous(), key
        assert tensor.data_ptr() % 64 == 0 or "mmap" not in options
        # The same bytes as the test wrote.
        seed, expected = 7, []
        for _ in range(tensor.numel() * tensor.element_size()):
            seed = (seed * 77 + 13) % 256
            expected.append(seed)
        assert tensor.view(torch.uint8).flatten().tolist() == expected, key
    scalar, hollow = values["scalar"], values["hollow"]
    assert scalar.shape == () and scalar.item() == 2.5 and hollow.shape == (0, 3) and hollow.dtype == torch.float16
    assert values["alias"].data_ptr() == scalar.data_ptr() and values["alias"].shape == (1,)
    for path in sys.argv[2:]:
        loaded = torch.load(path, map_location="cpu", **options)
        assert loaded, path
print("torch", torch.__version__, "accepts everything")
"#;
    let Ok(python) = std::env::var("KINTSUGI_PYTHON") else {
        eprintln!("skipped: KINTSUGI_PYTHON names no Python with torch");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut tensors: Vec<_> = DTYPES.iter().map(|&dtype| tensor(dtype, &[2, 3], 7)).collect();
    let by_dtype =
        DTYPES.iter().zip(&tensors).enumerate().map(|(at, (dtype, tensor))| (dtype.to_string(), stored(at, tensor)));
    let ints = [0, -1, 255, 65536, i64::from(i32::MAX), i64::from(i32::MIN), 1 << 31, i64::MIN, i64::MAX];
    let mut root = dict([
        ("none", Value::None),
        ("yes", Value::Bool(true)),
        ("no", Value::Bool(false)),
        ("ints", Value::List(ints.map(Value::Int).into())),
        ("floats", Value::Tuple([0.1, -1e300, f64::INFINITY].map(Value::Float).into())),
        ("größe 漢", text("naïve 🙂")),
        ("empty", Value::Dict(Vec::new())),
        ("nothing", Value::List(Vec::new())),
        ("unit", Value::Tuple(Vec::new())),
        ("tensors", Value::OrderedDict(by_dtype.collect())),
    ]);
    tensors.push(HostTensor::from_f64(DType::F32, Vec::new(), &[2.5]).unwrap());
    tensors.push(tensor(DType::F16, &[0, 3], 0));
    root.push(("scalar".to_owned(), stored(9, &tensors[9])));
    root.push(("hollow".to_owned(), stored(10, &tensors[10])));
    let alias = StoredTensor { storage: 9, dtype: DType::F32, shape: vec![1] };
    root.push(("alias".to_owned(), Value::Tensor(alias)));
    let path = folder.path().join("values.pt");
    save(&path, &Value::Dict(root), |storage| Ok::<_, ExportError>(tensors[storage].clone())).unwrap();

    let layers = TinyModel::new().write();
    let whole = TinyModel::new().with(|options| options.layout = kintsugi::checkpoint::Layout::RankFiles).write();
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(folder.path())
        .args([layers.layer_file(0, 0), layers.layer_file(2, 1), layers.rank_file(1), whole.rank_file(0)])
        .output()
        .unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stdout).trim());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
