//! Files, syntax, keys that appear twice, damage.

use super::*;

/// The combined map of files with these texts, named `0.yml`, `1.yml` and so on; paths in messages are shortened.
fn read(texts: &[&str]) -> Result<Map<String, Value>, (String, Option<String>)> {
    let directory = tempfile::tempdir().unwrap();
    let named = texts.iter().enumerate();
    let paths: Vec<PathBuf> =
        named.map(|(index, text)| write(directory.path(), &format!("{index}.yml"), text)).collect();
    read_files(&paths).map(|(map, _)| map).map_err(|error| {
        let prefix = format!("{}/", directory.path().display());
        (error.to_string().replace(&prefix, ""), error.hint())
    })
}

fn message(texts: &[&str]) -> String {
    read(texts).unwrap_err().0
}

#[test]
fn flow_style_takes_comments_trailing_commas_and_python_words() {
    let map =
        read(&["# head\n{\n  \"a-b\": 1, # one\n  # between\n  'c': [1, 2,],\n  d: {\"e-f\": True,},\n}\n# tail\n"]);
    assert_eq!(Value::Object(map.unwrap()), json!({ "a_b": 1, "c": [1, 2], "d": { "e-f": true } }));
}

#[test]
fn block_style_json_and_byte_order_marks_are_read() {
    let expected = object(json!({ "num_layers": 4, "fp16": { "enabled": true } }));
    assert_eq!(read(&["num-layers: 4\nfp16:\n  enabled: yes\n"]).unwrap(), expected);
    assert_eq!(read(&["{\n\t\"num-layers\": 4,\n\t\"fp16\": {\n\t\t\"enabled\": true\n\t}\n}\n"]).unwrap(), expected);
    assert_eq!(read(&["\u{feff}{\"num_layers\": 4, \"fp16\": {\"enabled\": true}}"]).unwrap(), expected);
    assert_eq!(read(&["", "# nothing but a comment\n", "{}"]).unwrap(), Map::new());
}

#[test]
fn scalars_read_as_in_python() {
    let map = read(&["{a: 010, b: 1_000, c: 1e-5, d: off, e: ~, f: '1e-5', g: 1.0e-8, h: .inf}"]).unwrap();
    let expected = json!({
        "a": 8, "b": 1000, "c": 1e-5, "d": false, "e": null, "f": "1e-5", "g": 1e-8, "h": ".inf",
    });
    assert_eq!(Value::Object(map), expected);
}

#[test]
fn many_comment_lines_are_no_problem() {
    let comments = "# licence\n".repeat(500);
    assert_eq!(read(&[&format!("{{\n\"a\": 1,\n{comments}\"b\": 2,\n{comments}}}")]).unwrap().len(), 2);
}

#[test]
fn files_combine_and_remember_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let model = write(directory.path(), "model.yml", "{\"num-layers\": 2, \"hidden-size\": 8}");
    let rest = write(directory.path(), "rest.json", "{\"num_attention_heads\": 2, \"max-position-embeddings\": -1}");
    let (map, sources) = read_files(&[model.clone(), rest.clone()]).unwrap();
    let keys: Vec<&str> = map.keys().map(String::as_str).collect();
    assert_eq!(keys, ["num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"]);
    assert_eq!(sources.files(), [model.clone(), rest.clone()]);
    assert_eq!(sources.file_of("hidden_size"), Some(model.as_path()));
    assert_eq!((sources.file_of("num_attention_heads"), sources.file_of("absent")), (Some(rest.as_path()), None));
    // The message names the file at fault, and both where a key is in neither.
    let error = NeoxConfig::from_files(&[model.clone(), rest.clone()]).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{}: `max_position_embeddings`", rest.display())), "{error}");
    let error = NeoxConfig::from_files(&[model.clone(), write(directory.path(), "none.yml", "")]).unwrap_err();
    assert!(error.to_string().contains("model.yml, ") && error.to_string().contains("none.yml: key `"), "{error}");
}

#[test]
fn a_key_given_twice_is_refused() {
    for (texts, expected) in [
        (vec!["{\"a\": 1,\n\"b\": 2,\n\"a\": 2}"], "key `a` is given twice: 0.yml:1 and 0.yml:3"),
        (vec!["{\"vocab-file\": 1,\n\"vocab_file\": 2}"], "key `vocab_file` is given twice: 0.yml:1 and 0.yml:2"),
        (vec!["{\"vocab-file\": 1,\n\"vocab-file\": 2}"], "key `vocab_file` is given twice: 0.yml:1 and 0.yml:2"),
        (vec!["a-b: 1", "{}", "c: 1\na-b: 2"], "key `a_b` is given twice: 0.yml:1 and 2.yml:2"),
        (vec!["a_b: 1", "a-b: 2"], "key `a_b` is given twice: 0.yml:1 and 1.yml:1"),
        (vec!["{fp16: {enabled: true,\n enabled: false}}"], "0.yml:2:2: key `enabled` is given twice in one mapping"),
    ] {
        assert_eq!(message(&texts), expected);
    }
    assert!(read(&["a: 1", "a: 1"]).unwrap_err().1.unwrap().contains("remove the other"));
}

#[test]
fn a_missing_comma_is_explained() {
    // As in a published configuration: the value before an empty line has no comma.
    let text = "{\n  \"attention-config\": [[[\"flash\"], 36]]\n\n   \"bias-gelu-fusion\": true,\n}\n";
    let (message, hint) = read(&[text]).unwrap_err();
    assert_eq!(message, "0.yml:4:4: while parsing a flow mapping, did not find expected ',' or '}'");
    assert_eq!(hint.unwrap(), "a comma seems to be missing at the end of line 2");

    for value in ["1", "true", "\"text\"", "{\"b\": 1}", "word", "1 # with, a comment,", "\"with # in it\""] {
        let (_, hint) = read(&[&format!("{{\n  \"a\": {value}\n  # note,\n\n  \"c\": 1,\n}}\n")]).unwrap_err();
        assert_eq!(hint.as_deref(), Some("a comma seems to be missing at the end of line 2"), "{value}");
    }
    let (_, hint) = read(&["{\"a\": 1, \"b\": [\"x\" \"y\"]}"]).unwrap_err();
    assert_eq!(hint.unwrap(), "look for a missing comma or quotation mark on line 1 or just before it");
    let (_, hint) = read(&["{\n \"a\": \"x,\n \"b\": 2}"]).unwrap_err();
    assert_eq!(hint.unwrap(), "look for a missing comma or quotation mark on line 3 or just before it");
}

#[test]
fn damage_is_located() {
    for (text, expected) in [
        ("{\n  \"a\": 1,\n", "0.yml:1:1: unclosed bracket '{'"),
        ("{\n  \"a\": 1,\n}}\n", "0.yml:3:2: misplaced bracket"),
        ("a: 1\n---\nb: 2\n", "0.yml:3:1: expected one YAML document, found a second"),
        ("[1, 2]", "0.yml:1:1: invalid type: sequence, expected a mapping of configuration keys"),
        ("hello", "0.yml:1:1: invalid type: string \"hello\", expected a mapping of configuration keys"),
        ("? [1]\n: 2\n", "0.yml:1:3: expected string scalar"),
    ] {
        assert_eq!(message(&[text]), expected);
    }
    assert!(message(&[&"word ".repeat(1000)]).len() < 200);
}

#[test]
fn bytes_that_are_no_text_are_located() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.yml");
    fs_err::write(&path, b"a: 1\nb: \xff\n").unwrap();
    let error = read_files(std::slice::from_ref(&path)).unwrap_err();
    assert_eq!(error.to_string(), format!("{}:2:4: expected text in UTF-8, found other bytes", path.display()));
}

#[test]
fn unreadable_files_are_named() {
    assert_eq!(NeoxConfig::from_files(&[]).unwrap_err().to_string(), "no configuration file was given");
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("absent.yml"), directory.path().to_owned()] {
        let error = read_files(std::slice::from_ref(&path)).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read the configuration file {}", path.display()));
        assert!(std::error::Error::source(&error).is_some());
    }
    let large = directory.path().join("weights.pt");
    fs_err::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    let error = read_files(&[large]).unwrap_err();
    assert!(error.to_string().ends_with("expected a configuration of at most 16777216 bytes, found more"), "{error}");
}

#[test]
fn files_that_would_grow_without_bound_are_refused() {
    let rows = ["a", "b", "c", "d", "e", "f"];
    let mut laughs = format!("a: &a [{}]\n", ["x"; 9].join(","));
    for pair in rows.windows(2) {
        let copies = [format!("*{}", pair[0]).as_str(); 9].join(",");
        laughs.extend([pair[1], ": &", pair[1], " [", &copies, "]\n"]);
    }
    assert!(message(&[&laughs]).contains("budget breached"));
    let copies = ["*a"; 900].join(",");
    assert!(message(&[&format!("a: &a \"{}\"\nb: [{copies}]\n", "x".repeat(1 << 20))]).contains("budget breached"));
    let deep = format!("{{a: {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(read(&[&deep]).is_err());
}

#[test]
fn a_cut_or_altered_file_never_panics() {
    let complete = read(&[LIKE_20B]).unwrap();
    let start = LIKE_20B.find('{').unwrap() + 1;
    let end = LIKE_20B.rfind('}').unwrap();
    for cut in (start..end).step_by(13) {
        assert!(read(&[&LIKE_20B[..cut]]).is_err(), "cut at {cut}");
    }
    for (place, _) in LIKE_20B.char_indices().step_by(23) {
        for mark in ["{", "]", "\"", ",", ":", "\u{0}", "&a", "*a", "!!binary "] {
            let altered = format!("{}{mark}{}", &LIKE_20B[..place], &LIKE_20B[place..]);
            if let Ok(map) = read(&[&altered]) {
                let _ = NeoxConfig::from_raw(map, Vec::new());
            }
        }
    }
    assert_eq!(complete.len(), 21);
}
