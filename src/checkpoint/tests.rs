//! File names and directories; what the files hold is tested in `tests/library/checkpoint_reading.rs`.

use std::path::Path;

use fs_err as fs;
use tempfile::TempDir;

use super::layout::{self, Layout, parse_layer_file, parse_rank_file, step_folder};
use super::{CheckpointError, digest_file};

/// A folder of empty files.
fn folder(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    folder
}

/// The message without the temporary folder.
fn message(folder: &Path, error: &CheckpointError) -> String {
    error.to_string().replace(&folder.display().to_string(), "SAVE")
}

fn list_error(names: &[&str]) -> String {
    let folder = folder(names);
    message(folder.path(), &layout::list(folder.path()).unwrap_err())
}

#[test]
fn layer_files_are_told_by_their_whole_name() {
    for (name, expected) in [
        ("layer_00-model_00-model_states.pt", Some((0, 0))),
        ("layer_02-model_01-model_states.pt", Some((2, 1))),
        ("layer_104-model_15-model_states.pt", Some((104, 15))),
        ("layer_2-model_1-model_states.pt", Some((2, 1))),
        ("layer_02_expert_0_mp_rank_00_model_states.pt", None),
        ("layer_02-model_00-model_states.pt.tmp", None),
        ("layer_02-model_00-optim_states.pt", None),
        ("xlayer_02-model_00-model_states.pt", None),
        ("layer_-model_00-model_states.pt", None),
        ("layer_02-model_-model_states.pt", None),
        ("layer_+2-model_00-model_states.pt", None),
        ("layer_2a-model_00-model_states.pt", None),
        ("layer_٢-model_00-model_states.pt", None),
        ("layer_02-model_00", None),
        ("layer_99999999999999999999-model_00-model_states.pt", None),
    ] {
        assert_eq!(parse_layer_file(name), expected, "{name}");
    }
    assert_eq!(layout::layer_file_name(2, 1), "layer_02-model_01-model_states.pt");
    assert_eq!(layout::layer_file_name(104, 0), "layer_104-model_00-model_states.pt");
}

#[test]
fn rank_files_are_told_by_their_whole_name() {
    for (name, expected) in [
        ("mp_rank_00_model_states.pt", Some(0)),
        ("mp_rank_113_model_states.pt", Some(113)),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", None),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", None),
        ("mp_rank_00_model_states.pt.lock", None),
        ("mp_rank__model_states.pt", None),
    ] {
        assert_eq!(parse_rank_file(name), expected, "{name}");
    }
}

#[test]
fn files_without_weights_are_ignored_and_remembered() {
    let folder = folder(&[
        "layer_00-model_00-model_states.pt",
        "layer_00-model_01-model_states.pt",
        "layer_110-model_00-model_states.pt",
        "layer_110-model_01-model_states.pt",
        "expp_rank_0_mp_rank_00_optim_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "mp_rank_00_model_states.pt",
        "mp_rank_03_model_states.pt",
        "zero_to_fp32.py",
        "configs/20B.yml",
    ]);
    let files = layout::list(folder.path()).unwrap();
    assert_eq!((files.layout, files.tp_size()), (Layout::LayerFiles, 2));
    assert_eq!(files.layers.keys().copied().collect::<Vec<_>>(), [0, 110]);
    // With pipelines there are more rank files than ranks, and gaps in a copy of them do no harm.
    assert_eq!(files.rank_files.keys().copied().collect::<Vec<_>>(), [0, 3]);
    assert_eq!(
        files.ignored,
        [
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "expp_rank_0_mp_rank_00_optim_states.pt",
            "zero_pp_rank_0_mp_rank_00_optim_states.pt"
        ]
    );
}

#[test]
fn experts_are_refused_with_the_reason() {
    for name in ["layer_02_expert_0_mp_rank_00_model_states.pt", "expert_3_mp_rank_00_model_states.pt"] {
        let folder = folder(&["layer_00-model_00-model_states.pt", name]);
        let error = layout::list(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("this model is refused: "), "{error}");
        assert!(error.ends_with(&format!("{name}: routing tokens to experts is not implemented")), "{error}");
    }
}

#[test]
fn without_layer_files_every_rank_file_is_a_rank() {
    let folder = folder(&["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt", "layer_2_expert_0.pt"]);
    let files = layout::list(folder.path()).unwrap();
    assert_eq!((files.layout, files.tp_size()), (Layout::RankFiles, 2));
}

#[test]
fn folders_that_are_no_checkpoint_are_refused() {
    assert_eq!(
        list_error(&["pytorch_model.bin", "optimizer.pt"]),
        "SAVE: not a gpt-neox checkpoint: no layer_XX-model_YY-model_states.pt and no mp_rank_XX_model_states.pt"
    );
    assert_eq!(
        list_error(&["layer_00-model_00-model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"]),
        "SAVE/zero_pp_rank_1_mp_rank_00_model_states.pt: ZeRO-3 shards hold slices of flattened parameters, not tensors"
    );
    let twice = list_error(&["layer_2-model_00-model_states.pt", "layer_02-model_00-model_states.pt"]);
    assert!(twice.ends_with("model_00-model_states.pt exists twice, with differently padded numbers"), "{twice}");
    let twice = list_error(&["mp_rank_0_model_states.pt", "mp_rank_00_model_states.pt"]);
    assert!(twice.ends_with("model_states.pt exists twice, with differently padded numbers"), "{twice}");
}

#[test]
fn a_missing_rank_is_named() {
    assert_eq!(
        list_error(&[
            "layer_00-model_00-model_states.pt",
            "layer_00-model_01-model_states.pt",
            "layer_02-model_00-model_states.pt",
        ]),
        "SAVE/layer_02-model_01-model_states.pt: missing: rank 1 of 2"
    );
    assert_eq!(
        list_error(&["layer_00-model_01-model_states.pt"]),
        "SAVE/layer_00-model_00-model_states.pt: missing: rank 0 of 2"
    );
    assert_eq!(
        list_error(&["mp_rank_00_model_states.pt", "mp_rank_02_model_states.pt"]),
        "SAVE/mp_rank_01_model_states.pt: missing: rank 1 of 3"
    );
    // A number beyond all bounds is nobody's rank.
    let hostile = list_error(&["layer_00-model_18446744073709551615-model_states.pt"]);
    assert!(hostile.contains("not a gpt-neox checkpoint"), "{hostile}");
}

#[test]
fn latest_is_trimmed_and_followed() {
    for text in ["global_step7", "global_step7\n", "  global_step7 \r\n"] {
        let folder = folder(&["global_step7/mp_rank_00_model_states.pt"]);
        fs::write(folder.path().join("latest"), text).unwrap();
        assert_eq!(step_folder(folder.path()).unwrap(), folder.path().join("global_step7"), "{text:?}");
        // The step folder itself has no `latest`.
        let step = folder.path().join("global_step7");
        assert_eq!(step_folder(&step).unwrap(), step);
    }
}

#[test]
fn latest_leads_nowhere_but_to_a_folder_beside_it() {
    let outside = folder(&["global_step7/mp_rank_00_model_states.pt"]);
    let outside = outside.path().join("global_step7");
    let outside = outside.to_str().unwrap();
    for tag in
        ["", "\n", "global_step8", "a_file", ".", "..", "../save", "global_step7/..", "./global_step7", "/", outside]
    {
        let folder = folder(&["global_step7/mp_rank_00_model_states.pt", "a_file"]);
        fs::write(folder.path().join("latest"), tag).unwrap();
        let error = step_folder(folder.path()).unwrap_err();
        let expected = format!("SAVE/latest: names `{}`, which is not a folder beside it", tag.trim());
        assert_eq!(message(folder.path(), &error), expected);
        assert_eq!(error.hint().as_deref(), Some("give the global_stepN directory itself"));
    }
}

#[test]
fn what_is_no_directory_is_said_to_be_none() {
    let folder = folder(&["a_file"]);
    for (name, found) in [("a_file", "a file"), ("nothing", "nothing")] {
        let error = step_folder(&folder.path().join(name)).unwrap_err();
        let expected = format!("SAVE/{name}: expected a checkpoint directory, found {found}");
        assert_eq!(message(folder.path(), &error), expected);
    }
}

#[test]
fn configurations_lie_beside_the_shards_or_else_in_the_save_folder() {
    let names = |folder: &TempDir| -> Vec<String> {
        let files = layout::list(&folder.path().join("global_step1")).unwrap();
        let found = files.config_files().unwrap();
        found.iter().map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string()).collect()
    };
    let shard = "global_step1/mp_rank_00_model_states.pt";
    let beside = folder(&[shard, "global_step1/configs/b.yml", "global_step1/configs/a.JSON", "configs/20B.yml"]);
    assert_eq!(names(&beside), ["global_step1/configs/a.JSON", "global_step1/configs/b.yml"]);
    // Before 2021-11-26; an empty folder beside the shards is as good as none.
    let root = folder(&[shard, "global_step1/configs/README.md", "configs/20B.yml", "configs/notes.txt"]);
    assert_eq!(names(&root), ["configs/20B.yml"]);
    let none = folder(&[shard, "configs/notes.txt"]);
    let step = none.path().join("global_step1");
    let error = layout::list(&step).unwrap().config_files().unwrap_err();
    assert_eq!(message(none.path(), &error), "SAVE/global_step1: no configuration files under configs/");
    assert!(error.hint().unwrap().contains("--neox-config"));
}

#[test]
fn digests_are_those_of_b3sum() {
    let folder = folder(&["empty"]);
    let digest = digest_file(&folder.path().join("empty")).unwrap();
    assert_eq!((digest.file.as_str(), digest.bytes), ("empty", 0));
    assert_eq!(digest.blake3, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    // More than one buffer: python3 -c "import blake3; print(blake3.blake3(b'ab' * 600000).hexdigest())"
    let path = folder.path().join("long");
    fs::write(&path, "ab".repeat(600_000)).unwrap();
    let digest = digest_file(&path).unwrap();
    assert_eq!(digest.bytes, 1_200_000);
    assert_eq!(digest.blake3, "254a1b8b26ed73ef1b714bf02437825b3764d2ad52f01be5d7a02a0b242c257f");
}
