//! Runs of a file against what pytorch-reader reads of the same tensors.

use std::io::Write as _;

use fs_err as fs;
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// Reads every tensor both ways; returns how many were runs, and how many there are of floating point.
fn both_ways(file: &TorchFile) -> (usize, usize) {
    let runs = file.find_runs().map_or(0, |runs| runs.places.len());
    for (name, tensor) in file.tensors.iter() {
        let (read, non_finite) = file.read_and_search(name).unwrap();
        assert!(read.bytes() == tensor.read().unwrap(), "{name}");
        assert_eq!(non_finite, read.first_non_finite(), "{name}");
    }
    let forms = file.forms().unwrap();
    (runs, forms.values().filter(|form| form.dtype.is_float()).count())
}

#[test]
fn checkpoints_of_torch_are_read_as_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = root.join("../shared/checkpoints");
    let mut folders = vec![root.join("evals/demo/checkpoint/global_step1600")];
    match fs::read_dir(&shared) {
        Ok(entries) => {
            let saves = entries.map(|entry| entry.unwrap().path());
            let latest = |save: PathBuf| Some(save.join(fs::read_to_string(save.join("latest")).ok()?.trim()));
            folders.extend(saves.filter_map(latest));
        }
        Err(_) => eprintln!("skipped in part: {} is not there", shared.display()),
    }
    let mut files = 0;
    for entry in folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = match () {
            () if name.starts_with("layer_") => TorchFile::open(&path).unwrap(),
            () if name.starts_with("mp_rank_") => match TorchFile::open_key(&path, "module") {
                Ok(file) => file,
                // The weights are in layer files.
                Err(_) => continue,
            },
            () => continue,
        };
        let (runs, tensors) = both_ways(&file);
        // One checkpoint has a transposed matrix.
        let transposed = path.to_string_lossy().contains("old-names");
        assert!(runs == tensors || transposed && runs + 1 == tensors, "{}: {runs} of {tensors}", path.display());
        files += 1;
    }
    assert!(files >= 14, "{files}");
}

/// A pickle of `{name: tensor}` over one storage of float32.
fn pickle(tensors: &[(&str, u8, &[u8], &[u8])], numel: u8) -> Vec<u8> {
    let mut bytes = b"\x80\x02}q\x00(".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.push(b'X');
        bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    let sizes = |bytes: &mut Vec<u8>, sizes: &[u8]| {
        bytes.push(b'(');
        bytes.extend(sizes.iter().flat_map(|&size| [b'K', size]));
        bytes.push(b't');
    };
    for (number, (name, first, shape, strides)) in tensors.iter().enumerate() {
        text(&mut bytes, name);
        bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        if number == 0 {
            bytes.push(b'(');
            text(&mut bytes, "storage");
            bytes.extend(b"ctorch\nFloatStorage\n");
            text(&mut bytes, "0");
            text(&mut bytes, "cpu");
            bytes.extend([b'K', numel, b't', b'q', 1]);
        } else {
            bytes.extend(b"h\x01");
        }
        bytes.extend([b'Q', b'K', *first]);
        sizes(&mut bytes, shape);
        sizes(&mut bytes, strides);
        bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    bytes.extend(b"u.");
    bytes
}

fn archive(path: &Path, pickle: &[u8], storage: &[f32]) {
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    let entries = [("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", bytemuck::cast_slice(storage))];
    for (name, bytes) in entries {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

const VIEWS: &[(&str, u8, &[u8], &[u8])] = &[
    ("whole", 0, &[4, 6], &[6, 1]),
    ("from the middle", 6, &[2, 6], &[6, 1]),
    ("one row", 3, &[1, 3], &[77, 1]),
    ("transposed", 0, &[6, 4], &[1, 6]),
    ("every other", 0, &[12], &[2]),
    ("repeated", 0, &[5], &[0]),
    ("scalar", 23, &[], &[]),
    ("empty", 24, &[0, 3], &[3, 1]),
];

#[test]
fn views_are_runs_where_their_elements_follow_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("views.pt");
    let storage: Vec<f32> = (0..24_u8).map(f32::from).collect();
    archive(&path, &pickle(VIEWS, 24), &storage);
    let file = TorchFile::open(&path).unwrap();
    assert_eq!(both_ways(&file), (4, 8));
    let mut runs: Vec<_> = file.find_runs().unwrap().places.into_iter().collect();
    runs.sort_by(|left, right| left.0.cmp(&right.0));
    let checked: Vec<_> = runs.iter().map(|(name, run)| (&name[..], run.crc32.is_some())).collect();
    assert_eq!(checked, [("from the middle", false), ("one row", false), ("scalar", false), ("whole", true)]);
}

#[test]
fn damage_is_found_in_any_piece_and_not_finite_values_are_counted_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pt");
    // 780,300 bytes: two pieces of the file and more.
    let tensors: &[(&str, u8, &[u8], &[u8])] = &[("weight", 0, &[255, 255, 3], &[0, 3, 1])];
    let (count, pickled) = (255 * 255 * 3, pickle(tensors, 255));
    let pickled = long(&long(&pickled, [255, b't', b'q'], 195_075), [0, b'K', 3], 765);
    let mut storage = vec![0.5_f32; count];
    for (at, value) in [(0, f32::NAN), (100_000, f32::NEG_INFINITY), (count - 1, f32::INFINITY)] {
        storage[at] = value;
        archive(&path, &pickled, &storage);
        let file = TorchFile::open(&path).unwrap();
        assert_eq!(both_ways(&file), (1, 1));
        assert_eq!(file.read_and_search("weight").unwrap().1, Some(at));
        storage[at] = 0.5;
    }
    archive(&path, &pickled, &storage);
    let bytes = fs::read(&path).unwrap();
    let start = bytes.windows(4).position(|window| window == 0.5_f32.to_le_bytes()).unwrap();
    for at in [start, start + count * 2, start + count * 4 - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        let error = TorchFile::open(&path).unwrap().read("weight").unwrap_err();
        assert!(matches!(error, CheckpointError::Checksum { .. }), "{error}");
    }
    let file = TorchFile::open(&path).unwrap();
    fs::write(&path, &bytes[..start + count]).unwrap();
    let error = file.read("weight").unwrap_err();
    assert!(matches!(error, CheckpointError::Unreadable { .. }), "{error}");
}

/// The same pickle with another number for the one-byte number that these bytes begin with.
fn long(pickle: &[u8], found: [u8; 3], number: i32) -> Vec<u8> {
    let at = pickle.windows(4).position(|window| window[0] == b'K' && window[1..] == found).unwrap();
    [&pickle[..at], b"J", &number.to_le_bytes(), &pickle[at + 2..]].concat()
}

#[test]
fn any_other_pickle_is_left_to_the_reader() {
    let pickled = pickle(VIEWS, 24);
    for end in 0..pickled.len() {
        assert!(places(&pickled[..end], None).is_none(), "{end}");
    }
    assert!(places(&pickled, Some("module")).is_none());
    // A dictionary that holds more than tensors; a list; nesting without end.
    assert!(places(b"\x80\x02}(X\x01\x00\x00\x00aK\x01u.", None).is_none());
    assert!(places(b"\x80\x02].", None).is_none());
    let deep: Vec<u8> = [b"\x80\x02}".to_vec(), b"\x85".repeat(100_000), b".".to_vec()].concat();
    assert!(places(&deep, None).is_none());
    let deep: Vec<u8> =
        [b"}X\x01\x00\x00\x00a".repeat(100_000), b"}".to_vec(), b"s".repeat(100_000), b".".to_vec()].concat();
    assert!(places(&deep, None).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_pickle_is_too_much(at in 0_usize..600, with in prop::collection::vec(any::<u8>(), 1..6)) {
        let mut pickled = pickle(VIEWS, 24);
        let at = at % pickled.len();
        let end = (at + with.len()).min(pickled.len());
        pickled.splice(at..end, with);
        let _ = places(&pickled, None);
    }
}

/// Two tensors, each far too large to be compared, in one storage of the file.
fn large_views() -> (Vec<u8>, Vec<f32>) {
    let tensors: &[(&str, u8, &[u8], &[u8])] =
        &[("first", 0, &[255, 254], &[254, 1]), ("second", 6, &[255, 254], &[254, 1])];
    let pickled = long(&pickle(tensors, 255), [255, b't', b'q'], 255 * 254 + 6);
    (pickled, (0..255_u16 * 254 + 6).map(f32::from).collect())
}

#[test]
fn a_wrong_offset_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("views.pt");
    let pickled = pickle(VIEWS, 24);
    archive(&path, &pickled, &(0..24_u8).map(f32::from).collect::<Vec<_>>());
    let file = TorchFile::open(&path).unwrap();
    let handle = files::open(&path).unwrap();
    let right = places(&pickled, None).unwrap();
    assert_eq!(file.check_runs(&handle, file.runs("a/data/", right.clone())).unwrap().len(), 4);
    for name in ["whole", "from the middle", "one row", "scalar"] {
        for wrong in [1, 2, 5, 12] {
            let mut places = right.clone();
            let place = places.get_mut(name).unwrap();
            place.first = if place.first >= wrong { place.first - wrong } else { place.first + wrong };
            // A place that leaves the storage is no run at all.
            if let Some(runs) = file.check_runs(&handle, file.runs("a/data/", places)) {
                assert!(!runs.contains_key(name), "{name}: {wrong}");
            }
        }
    }
    // Large tensors that share a storage are left to the reader, whatever the places are.
    let (pickled, storage) = large_views();
    archive(&path, &pickled, &storage);
    let file = TorchFile::open(&path).unwrap();
    assert!(file.find_runs().unwrap().places.is_empty());
    assert_eq!(both_ways(&file), (0, 2));
}

/// A file of `{"module": tensors, "odd": value}`.
fn with_odd_value(tensors: &[u8], value: &[u8]) -> Vec<u8> {
    let text = |text: &str| [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
    let module = &tensors[2..tensors.len() - 1];
    [b"\x80\x02}(", &text("module")[..], module, &text("odd"), value, b"u."].concat()
}

#[test]
fn tensors_beside_objects_that_are_not_understood_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, odd) = (folder.path().join("plain.pt"), folder.path().join("odd.pt"));
    let storage: Vec<f32> = (0..24_u8).map(f32::from).collect();
    let tensors = pickle(VIEWS, 24);
    archive(&plain, &tensors, &storage);
    let expected = TorchFile::open(&plain).unwrap();
    for value in [
        &b"ccollections\ndefaultdict\nc__builtin__\nint\n\x85RK\x01K\x02s"[..],
        b"ccollections\ndeque\n)R(K\x01K\x02e",
        b"cfork\nState\n)\x81}(X\x01\0\0\0ah\x01Qub",
    ] {
        archive(&odd, &with_odd_value(&tensors, value), &storage);
        assert!(PytorchReader::with_top_level_key(&odd, "module").is_err());
        let file = TorchFile::open_key(&odd, "module").unwrap();
        assert_eq!(file.forms().unwrap(), expected.forms().unwrap());
        for (name, ..) in VIEWS {
            assert!(file.read(name).unwrap().same_bits(&expected.read(name).unwrap()), "{name}");
        }
        assert_eq!(read_value(&odd, "iteration").unwrap(), None);
    }
    // Tensors of unknown types are not passed over.
    let at = tensors.windows(12).position(|window| window == b"FloatStorage").unwrap();
    let unknown = [&tensors[..at], b"Float8_e5m2Storage", &tensors[at + 12..]].concat();
    archive(&odd, &unknown, &storage);
    let error = TorchFile::open(&odd).unwrap().forms().unwrap_err();
    assert!(matches!(error, CheckpointError::ElementType { .. }), "{error}");
    // A tensor that reaches beyond its storage, and a storage that is missing.
    archive(&odd, &with_odd_value(&tensors, b"ccollections\ndeque\n)R(K\x01e"), &storage[..12]);
    let file = TorchFile::open_key(&odd, "module").unwrap();
    assert!(matches!(file.read("whole").unwrap_err(), CheckpointError::Unreadable { .. }));
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
}

/// Opens a pickle as nested dictionaries under `model`; everything else as plain values.
fn nested(path: &Path) -> Result<(TorchFile, Map<String, serde_json::Value>), CheckpointError> {
    TorchFile::open_nested(path, &|key| key == "model", &|_| true)
}

#[test]
fn plain_values_are_read_and_objects_are_never_built() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("values.pt");
    let entries: &[(&str, &[u8], serde_json::Value)] = &[
        ("none", b"N", serde_json::Value::Null),
        ("yes", b"\x88", true.into()),
        ("negative", b"J\xfe\xff\xff\xff", (-2).into()),
        ("long", b"\x8a\x02\x00\xff", (-256).into()),
        ("float", b"G\x3f\xe0\x00\x00\x00\x00\x00\x00", 0.5.into()),
        ("infinite", b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", "inf".into()),
        ("tuple", b"(K\x01K\x02t", serde_json::json!([1, 2])),
        ("mixed", b"(J\xff\xff\xff\xffK\x00t", serde_json::json!([-1, 0])),
        ("list", b"](K\x01Ne", serde_json::json!([1, null])),
        ("appended", b"]K\x07a", serde_json::json!([7])),
        ("type", b"ctorch\nfloat32\n", "torch.float32".into()),
        ("enumeration", b"csignal\nSignals\nK\x0f\x85R", "signal.Signals(15)".into()),
        ("call", b"cposix\nsystem\nX\x02\0\0\0ls\x85R", "posix.system(\"ls\")".into()),
        ("object", b"cfork\nState\n)\x81}(X\x01\0\0\0aK\x03ub", serde_json::json!({ "a": 3 })),
        ("slots", b"cfork\nState\n)\x81N}\x86b", "fork.State()".into()),
        ("set", b"\x8f(K\x01\x90", serde_json::Value::Null),
    ];
    let body: Vec<u8> = entries.iter().flat_map(|(key, value, _)| [text(key), value.to_vec()].concat()).collect();
    archive(&path, &[b"\x80\x02}(", &body[..], b"u."].concat(), &[]);
    let (_, values) = nested(&path).unwrap();
    for (key, _, expected) in entries {
        assert_eq!(&values[*key], expected, "{key}");
    }
}

#[test]
fn nested_dictionaries_are_named_by_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nested.pt");
    let storage: Vec<f32> = (0..24_u8).map(f32::from).collect();
    let views = pickle(VIEWS, 24);
    let (inner, state) = (&views[2..views.len() - 1], b"NX\x0c\0\0\0_extra_stateN");
    // {"model": {"a": {tensors}, "b": {"c": {the same}, "_extra_state": None}}, "other": {tensors}}
    let model = [b"}(", &text("a")[..], inner, &text("b"), b"}(", &text("c"), inner, &state[1..], b"uu"].concat();
    let whole = [b"\x80\x02}(", &text("model")[..], &model, &text("other"), inner, b"u."].concat();
    archive(&path, &whole, &storage);
    let (file, _) = nested(&path).unwrap();
    assert_eq!(file.forms().unwrap().len(), 2 * VIEWS.len());
    let flat = folder.path().join("flat.pt");
    archive(&flat, &views, &storage);
    let flat = TorchFile::open(&flat).unwrap();
    for (name, ..) in VIEWS {
        for prefix in ["model.a", "model.b.c"] {
            let read = file.read(&format!("{prefix}.{name}")).unwrap();
            assert!(read.same_bits(&flat.read(name).unwrap()), "{prefix}.{name}");
        }
    }
    assert!(file.checksum("model.a.whole").is_some() && file.checksum("model.a.repeated").is_none());
    // What is no tensor has no type that a parameter has.
    let odd = [b"\x80\x02}(", &text("model")[..], b"}(", &text("a"), b"K\x01uu."].concat();
    archive(&path, &odd, &storage);
    assert!(matches!(nested(&path).unwrap().0.forms(), Err(CheckpointError::ElementType { .. })));
}

/// A file as torch wrote it before 1.6, of one storage.
fn stream(pickle: &[u8], storage: &[f32]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let keys = [b"\x80\x02](", &text("0")[..], b"e."].concat();
    [head, pickle, &keys, &(storage.len() as u64).to_le_bytes(), bytemuck::cast_slice(storage)].concat()
}

#[test]
fn files_before_torch_1_6_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream.pt");
    let storage: Vec<f32> = (0..24_u8).map(f32::from).collect();
    let views = pickle(VIEWS, 24);
    let whole = [b"\x80\x02}(", &text("model")[..], &views[2..views.len() - 1], b"u."].concat();
    let bytes = stream(&whole, &storage);
    fs::write(&path, &bytes).unwrap();
    let (file, _) = nested(&path).unwrap();
    assert_eq!(file.read("model.whole").unwrap().to_f64().unwrap()[23], 23.0);
    assert_eq!(file.read("model.transposed").unwrap().to_f64().unwrap()[1], 6.0);
    // Cut anywhere it is refused, and no claim is believed.
    for end in 0..bytes.len() {
        fs::write(&path, &bytes[..end]).unwrap();
        assert!(nested(&path).is_err(), "{end}");
    }
    let mut lie = bytes.clone();
    let at = bytes.len() - 24 * 4 - 8;
    lie[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, lie).unwrap();
    assert!(matches!(nested(&path), Err(CheckpointError::Archive { .. })));
}

#[test]
fn shared_dictionaries_and_lists_are_not_unfolded_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.pt");
    let refused = |pickle: &[u8]| {
        archive(&path, pickle, &[]);
        nested(&path).is_err()
    };
    // A dictionary that holds itself.
    assert!(refused(&[b"\x80\x02}q\x00", &text("model")[..], b"h\x00s."].concat()));
    // Each holds the one before a hundred times.
    let mut bomb = b"\x80\x02}(".to_vec();
    bomb.extend(text("model"));
    bomb.extend(b"}q\x00");
    for level in 0..6_u8 {
        bomb.extend(b"}(");
        for key in 0..100 {
            bomb.extend(text(&key.to_string()));
            bomb.extend([b'h', level]);
        }
        bomb.extend([b'u', b'q', level + 1]);
    }
    bomb.extend(b"u.");
    let _ = refused(&bomb);
    // The same of lists, as a plain value: cut off.
    let mut bomb = [b"\x80\x02}(", &text("values")[..], b"]q\x00"].concat();
    for level in 0..30_u8 {
        bomb.extend(b"](");
        (0..10).for_each(|_| bomb.extend([b'h', level]));
        bomb.extend([b'e', b'q', level + 1]);
    }
    bomb.extend(b"u.");
    let _ = refused(&bomb);
    for deep in [b"]".repeat(100_000), b"}".repeat(100_000), b"\x85".repeat(100_000)] {
        let _ = refused(&[b"\x80\x02}(", &text("values")[..], b"N", &deep, b"u."].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn no_stream_is_too_much(at in 0_usize..900, with in prop::collection::vec(any::<u8>(), 1..6)) {
        let storage: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let views = pickle(VIEWS, 24);
        let whole = [b"\x80\x02}(", &text("model")[..], &views[2..views.len() - 1], b"u."].concat();
        let mut bytes = stream(&whole, &storage);
        let at = at % bytes.len();
        let end = (at + with.len()).min(bytes.len());
        bytes.splice(at..end, with);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream.pt");
        fs::write(&path, bytes).unwrap();
        if let Ok((file, _)) = nested(&path) {
            for name in file.forms().unwrap_or_default().keys() {
                let _ = file.read(name);
            }
        }
    }
}
