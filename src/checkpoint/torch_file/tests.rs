//! Runs of a file against what pytorch-reader reads of the same tensors.

mod nested;

use std::io::Write as _;

use fs_err as fs;
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::places::places;
use super::*;
use crate::files;

/// Reads every tensor all ways; returns how many were runs, and how many there are of floating point.
fn both_ways(file: &TorchFile) -> (usize, usize) {
    let runs = file.find_runs().map_or(0, |runs| runs.places.len());
    for (name, tensor) in file.tensors.iter() {
        let (read, non_finite) = file.read_and_search(name).unwrap();
        assert!(read.bytes() == tensor.read().unwrap(), "{name}");
        assert_eq!(non_finite, read.first_non_finite(), "{name}");
        let mut pieces = Vec::new();
        let take = &mut |at: usize, piece: &[u8]| {
            assert_eq!(at, pieces.len(), "{name}");
            pieces.extend_from_slice(piece);
        };
        assert_eq!(file.read_pieces(name, take).unwrap(), non_finite, "{name}");
        assert!(pieces == read.bytes(), "{name}");
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
