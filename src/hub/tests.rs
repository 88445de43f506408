#![allow(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::path::Path;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::*;

fn of(variables: &[(&str, &str)]) -> Hub {
    Hub::from_variables(|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    })
}

/// The table of `huggingface_hub/constants.py`.
#[test]
fn the_environment_is_that_of_huggingface_hub() {
    let cache = |variables| of(variables).cache.display().to_string();
    assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
    assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
    assert_eq!(cache(&[("HF_HOME", "/f"), ("XDG_CACHE_HOME", "/x")]), "/f/hub");
    assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
    assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/c");
    assert_eq!(cache(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/f")]), "/f/hub");
    assert_eq!(of(&[]).endpoint, "https://huggingface.co");
    assert_eq!(of(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
    assert_eq!(of(&[("HF_TOKEN", " t \n")]).token.as_deref(), Some("t"));
    for (value, offline) in [("1", true), ("ON", true), ("Yes", true), ("true", true), ("0", false), ("", false)] {
        assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
    assert!(!format!("{:?}", of(&[("HF_TOKEN", "hush")])).contains("hush"));
}

#[test]
fn names_that_cannot_be_are_told_from_those_that_can() {
    for name in ["gpt2", "EleutherAI/gpt-neox-20b", "a/b@v1.0", "a/b@refs/pr/1", "_a/b.c"] {
        assert!(HubFile::named(name, "f").is_some(), "{name}");
    }
    for name in ["", "a/b/c", "/a", "./a", "../a", "a/", "a b", "a/..", "a--b", "a@", "a@../b", "a@/b", "ä"] {
        assert!(HubFile::named(name, "f").is_none(), "{name}");
    }
    for file in ["", "../f", "/f", "d/../../f"] {
        assert!(HubFile::named("a/b", file).is_none(), "{file}");
    }
}

#[test]
fn a_cached_file_is_checked_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
    let git = "ce013625030ba8dba906f756967f9e9ca394464a";
    let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    for name in [git, sha256] {
        let path = folder.path().join(name);
        fs_err::write(&path, "hello\n").unwrap();
        checksum::check(&path).unwrap();
        fs_err::write(&path, "hellO\n").unwrap();
        assert!(matches!(checksum::check(&path), Err(HubError::Checksum { .. })), "{name}");
    }
    // More than is read at once.
    let bytes = vec![7; 700_001];
    let header = format!("blob {}\0", bytes.len());
    let git = crate::files::hexadecimal(&Sha1::new().chain_update(header).chain_update(&bytes).finalize());
    for name in [git, crate::files::hexadecimal(&Sha256::digest(&bytes))] {
        let path = folder.path().join(name);
        fs_err::write(&path, &bytes).unwrap();
        checksum::check(&path).unwrap();
        fs_err::write(&path, &bytes[1..]).unwrap();
        assert!(matches!(checksum::check(&path), Err(HubError::Checksum { .. })));
    }
    let other = folder.path().join("an-etag-of-its-own");
    fs_err::write(&other, "hello\n").unwrap();
    checksum::check(&other).unwrap();
    assert!(matches!(checksum::check(Path::new("no/such/file")), Err(HubError::Read { .. })));
}

#[test]
fn a_configured_tokenizer_comes_first_and_another_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let step = folder.path().join("global_step1");
    fs_err::create_dir(&step).unwrap();
    let write = |name: &str| fs_err::write(folder.path().join(name), name).unwrap();
    let find = |kind, vocab_file, merge_file| {
        let configured = ConfiguredTokenizer { kind: Some(kind), vocab_file, merge_file };
        let hub = of(&[]);
        TokenizerRequest { given: None, folder: &step, configured }.find(&hub, &mut ())
    };
    let others = [
        ("SPMTokenizer", Some("/there/x.model"), "its SentencePiece model, converted"),
        ("HFGPT2Tokenizer", None, "openai-community/gpt2"),
        ("CharLevelTokenizer", None, "numbers the bytes"),
        ("TiktokenTokenizer", Some("/there/x.json"), "its encoding, converted"),
        ("GPT2BPETokenizer", Some("/there/vocab.json"), "with its merges.txt beside it"),
    ];
    for (kind, file, expected) in others {
        let hint = find(kind, file, None).unwrap_err().hint().unwrap();
        assert!(hint.contains(kind) && hint.contains(expected), "{hint}");
    }
    write("20B_tokenizer.json");
    for (kind, file, _) in others {
        let place = find(kind, file, None).unwrap();
        assert!(place.path.ends_with("20B_tokenizer.json") && place.merges.is_none(), "{place:?}");
        assert!(place.warnings[0].contains(&format!("the configuration names {kind}")), "{place:?}");
    }
    for (vocab, merges, configured) in [
        ("vocab.json", "merges.txt", (None, None)),
        ("gpt2-vocab.json", "gpt2-merges.txt", (Some("/there/gpt2-vocab.json"), None)),
        ("v.json", "m.txt", (Some("/there/v.json"), Some("/there/m.txt"))),
    ] {
        write(vocab);
        write(merges);
        let place = find("GPT2BPETokenizer", configured.0, configured.1).unwrap();
        assert!(place.path.ends_with(vocab) && place.merges.as_ref().unwrap().ends_with(merges), "{place:?}");
        assert!(place.warnings[0].ends_with("20B_tokenizer.json is another one"), "{place:?}");
    }
    // HFTokenizer: the same bytes under another name are no other tokenizer.
    let place = find("HFTokenizer", Some("./20B_tokenizer.json"), None).unwrap();
    assert_eq!(place.warnings, Vec::<String>::new());
    write("mine.json");
    let place = find("HFTokenizer", Some("/there/mine.json"), None).unwrap();
    assert!(place.path.ends_with("mine.json") && place.warnings.len() == 1, "{place:?}");
    fs_err::write(folder.path().join("mine.json"), "20B_tokenizer.json").unwrap();
    assert_eq!(find("HFTokenizer", Some("/there/mine.json"), None).unwrap().warnings, Vec::<String>::new());
    let place = find("HFTokenizer", Some("/there/gone.json"), None).unwrap();
    assert!(place.warnings[0].contains("names HFTokenizer /there/gone.json, which is not there; "), "{place:?}");
    assert_eq!(find("HFTokenizer", None, None).unwrap().warnings, Vec::<String>::new());
}
