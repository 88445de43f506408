//! Nested dictionaries, plain values and files before torch 1.6.

use super::*;

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
    let expected = folder.path().join("zip.pt");
    archive(&expected, &views, &storage);
    let expected = TorchFile::open(&expected).unwrap();
    for (name, ..) in VIEWS {
        assert!(file.read(&format!("model.{name}")).unwrap().same_bits(&expected.read(name).unwrap()), "{name}");
    }
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
    // A long name before many, and a long text many times.
    let long = "n".repeat(1 << 20);
    let short: Vec<u8> = (0..10_000).flat_map(|key| [&text(&key.to_string())[..], b"N"].concat()).collect();
    assert!(refused(&[b"\x80\x02}(", &text("model")[..], b"}", &text(&long), b"}(", &short, b"usu."].concat()));
    let times = [&text(&long)[..], b"q\x00](", &b"h\x00".repeat(100_000), b"e\x86"].concat();
    assert!(refused(&[b"\x80\x02}(", &text("values")[..], &times, b"u."].concat()));
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
