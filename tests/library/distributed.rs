//! Distributed checkpoints that are incomplete, damaged or hostile, or of formats that are not read: every one is refused by
//! what is wrong with it.

use std::path::Path;

use fs_err as fs;
use kintsugi::checkpoint::{CheckpointError, DistributedCheckpoint, ModelSource as _, OpenOptions, open_model};
use kintsugi::tensor::{DType, HostTensor};
use tempfile::TempDir;

use crate::common::megatron::distributed::{Chunk, Contents, Division, Place};
use crate::common::megatron::{Writing, tiny};

const QKV: &str = "decoder.layers.self_attention.linear_qkv.weight";
const WORDS: &str = "embedding.word_embeddings.weight";

fn contents() -> Contents {
    let (architecture, stages) = tiny(|_| {});
    Contents::new(&Writing::new(&architecture, 2), &Division::DEFAULT, &architecture, &stages)
}

fn written(change: impl FnOnce(&mut Contents)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut contents = contents();
    change(&mut contents);
    contents.write(folder.path());
    folder
}

/// Opens a checkpoint and reads all of it.
fn read(folder: &Path) -> Result<(), CheckpointError> {
    let checkpoint = DistributedCheckpoint::open(folder, &[])?.unwrap();
    checkpoint.stage_ids().into_iter().try_for_each(|id| checkpoint.read_stage(id).map(drop))
}

fn complaint(folder: &TempDir) -> String {
    let error = read(folder.path()).unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(!hint.is_empty(), "{error}");
    format!("{error}; {hint}")
}

fn assert_complains(change: impl FnOnce(&mut Contents), expected: &[&str]) {
    let complaint = complaint(&written(change));
    for part in expected {
        assert!(complaint.contains(part), "expected `{part}`: {complaint}");
    }
}

fn edit_metadata(folder: &TempDir, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.path().join("iter_0000007/.metadata");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sound_one_is_read() {
    read(written(|_| {}).path()).unwrap();
}

#[test]
fn what_is_missing_is_named() {
    assert_complains(
        |contents| drop(contents.tensors.get_mut(QKV).unwrap().chunks.remove(0)),
        &[".metadata", QKV, "part [", "is not in the checkpoint", "not finished"],
    );
    // The metadata has it, no file does.
    let leave_out = |name: &str, offsets: &[usize], place: Place| (name != WORDS || offsets[0] == 0).then_some(place);
    assert_complains(|contents| contents.places = leave_out, &[WORDS, "part [", "is not in the checkpoint"]);
    for (name, wanted) in [
        (WORDS, "the word embedding"),
        ("decoder.layers.mlp.linear_fc2.bias", "the bias of the MLP's second layer"),
        ("decoder.final_layernorm.weight", "the gain of the final norm"),
    ] {
        assert_complains(|contents| drop(contents.tensors.remove(name)), &[".metadata: missing tensor", wanted]);
    }
    for (file, expected) in [
        ("__1_0.distcp", "__1_0.distcp: missing: it holds a part of"),
        (".metadata", ".metadata: missing: it says which file holds which tensor"),
        ("common.pt", "holds no args"),
    ] {
        let folder = written(|_| {});
        fs::remove_file(folder.path().join("iter_0000007").join(file)).unwrap();
        assert!(complaint(&folder).contains(expected), "{}", complaint(&folder));
    }
    let folder = written(|_| {});
    let path = folder.path().join("iter_0000007/__1_0.distcp");
    let bytes = fs::read(&path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
    assert!(complaint(&folder).contains("expected, the file has"), "{}", complaint(&folder));
}

#[test]
fn parts_that_overlap_or_lie_outside_are_named() {
    assert_complains(
        |contents| {
            let chunks = &mut contents.tensors.get_mut(QKV).unwrap().chunks;
            chunks.push(chunks[0].clone());
        },
        &[QKV, "is there more than once"],
    );
    assert_complains(|contents| contents.tensors.get_mut(WORDS).unwrap().chunks[0].offsets[0] += 1, &[WORDS, "part ["]);
    assert_complains(
        |contents| contents.tensors.get_mut(WORDS).unwrap().chunks[0].offsets[0] = 1 << 40,
        &[WORDS, "is outside of its shape"],
    );
}

#[test]
fn places_that_lie_are_not_believed() {
    for (change, expected) in [
        (
            (|_, _, (file, _, length)| Some((file, u64::MAX >> 1, length))) as fn(&str, &[usize], Place) -> _,
            "the file has",
        ),
        (|_, _, (file, offset, _)| Some((file, offset, u64::MAX >> 1)), "the file has"),
        (|_, _, (file, offset, _)| Some((file, offset, 8)), "does not fit the 8 bytes"),
        (|_, _, (file, offset, length)| Some((file, offset + 1, length - 1)), "no zip archive"),
        (|_, _, (file, offset, length)| Some((file, offset, length - 1)), "no zip archive"),
        (|_, _, (_, offset, length)| Some(("../common.pt".to_owned(), offset, length)), "not one in its folder"),
        (|_, _, (_, offset, length)| Some(("/etc/passwd".to_owned(), offset, length)), "not one in its folder"),
        (|_, _, (_, offset, length)| Some(("__9_0.distcp".to_owned(), offset, length)), "missing"),
    ] {
        assert_complains(|contents| contents.places = change, &[expected]);
    }
}

#[test]
fn items_of_another_form_are_named() {
    // The item is of another type, or of another shape, than the metadata says.
    assert_complains(
        |contents| contents.tensors.get_mut(WORDS).unwrap().dtype = DType::F16,
        &[WORDS, "item at byte", "expected f16", "found f32"],
    );
    let reshape = |contents: &mut Contents| {
        let saved = contents.tensors.get_mut(WORDS).unwrap();
        let Chunk { tensor, .. } = &mut saved.chunks[0];
        let (shape, bytes) = (tensor.shape().to_vec(), tensor.bytes().to_vec());
        *tensor = HostTensor::new(tensor.dtype(), vec![shape[0] / 2, 2 * shape[1]], bytes).unwrap();
    };
    assert_complains(reshape, &[WORDS, "part ["]);
    assert_complains(
        |contents| {
            let saved = contents.tensors.get_mut(WORDS).unwrap();
            let mut values = saved.chunks[0].tensor.to_f64().unwrap();
            values[3] = f64::NAN;
            let tensor = &mut saved.chunks[0].tensor;
            *tensor = HostTensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &values).unwrap();
        },
        &[WORDS, "NaN or infinity at element 3"],
    );
    assert_complains(|contents| contents.tensors.get_mut(WORDS).unwrap().shape[0] += 2, &["padded_vocab_size"]);
    assert_complains(|contents| contents.tensors.get_mut(QKV).unwrap().shape[0] += 1, &[QKV, "expected shape"]);
    // One flipped bit in a weight.
    let folder = written(|contents| contents.writers = 1);
    let path = folder.path().join("iter_0000007/__0_0.distcp");
    let mut bytes = fs::read(&path).unwrap();
    let weights = contents().tensors[WORDS].chunks[0].tensor.bytes().to_vec();
    let at = bytes.windows(weights.len()).position(|window| window == weights).unwrap();
    bytes[at + 5] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(complaint(&folder).contains("checksum"), "{}", complaint(&folder));
}

#[test]
fn names_are_understood_or_refused() {
    for (name, expected) in [
        ("decoder.layers.self_attention.new.weight", "unexpected tensor"),
        ("decoder.layers.mlp.router.weight", "mixtures of experts"),
        ("decoder.layers.0.self_attention.linear_qkv.weight", "are the same parameter"),
        ("module.embedding.word_embeddings.weight", "are the same parameter"),
        ("decoder.layers.mlp.linear_fc1.weight_w", "are the same parameter"),
        ("decoder.layers.9.mlp.linear_fc1.weight", "num_layers"),
        ("embedding.position_embeddings.weight", "position_embedding_type is not learned_absolute"),
    ] {
        let copy = |contents: &mut Contents| {
            let source = if name.contains("embedding") { WORDS } else { QKV };
            let mut saved = contents.tensors[source].clone();
            if name.contains("layers.0") || name.contains("layers.9") {
                saved.shape.remove(0);
                saved.chunks.retain(|chunk| chunk.offsets[0] == 0);
                for chunk in &mut saved.chunks {
                    chunk.offsets.remove(0);
                    let tensor = &chunk.tensor;
                    let shape = tensor.shape()[1..].to_vec();
                    chunk.tensor = HostTensor::new(tensor.dtype(), shape, tensor.bytes().to_vec()).unwrap();
                }
            }
            contents.tensors.insert(name.to_owned(), saved);
        };
        let folder = written(copy);
        let message = read(folder.path()).unwrap_err().to_string();
        let shape_first = name.contains("layers.9") && message.contains("expected shape");
        assert!(message.contains(expected) || shape_first, "{name}: {message}");
    }
}

#[test]
fn one_half_of_a_gated_layer_is_not_enough() {
    let (architecture, stages) = tiny(|options| options.activation = kintsugi::config::Activation::SwiGlu);
    let division = Division { halves: true, ..Division::DEFAULT };
    let mut contents = Contents::new(&Writing::new(&architecture, 2), &division, &architecture, &stages);
    contents.tensors.remove("decoder.layers.mlp.linear_fc1.weight_v").unwrap();
    let folder = tempfile::tempdir().unwrap();
    contents.write(folder.path());
    assert!(complaint(&folder).contains("the other half of `decoder.layers.mlp.linear_fc1.weight_w` (`_v`)"));
}

#[test]
fn other_formats_are_refused_by_name() {
    let refusal = |change: &dyn Fn(&Path), contents: &dyn Fn(&mut Contents)| {
        let folder = written(|whole| contents(whole));
        change(&folder.path().join("iter_0000007"));
        let error = open_model(folder.path(), &OpenOptions::default()).unwrap_err();
        assert!(error.hint().is_some());
        error.to_string()
    };
    let zarr = |step: &Path| fs::write(step.join("metadata.json"), "{\"sharded_backend\": \"zarr\"}").unwrap();
    assert!(refusal(&zarr, &|_| {}).contains("sharded_backend is `zarr`"));
    let plain = |step: &Path| fs::remove_file(step.join("metadata.json")).unwrap();
    assert!(refusal(&plain, &|_| {}).contains("torch_dcp"));
    let fsdp = |contents: &mut Contents| {
        let tensors = std::mem::take(&mut contents.tensors);
        contents.tensors = tensors.into_iter().map(|(name, saved)| (format!("model.module.{name}"), saved)).collect();
    };
    assert!(refusal(&plain, &fsdp).contains("fsdp_dtensor"));
    for (head, expected) in
        [(&b"\x28\xb5\x2f\xfd"[..], "compressed with zstd"), (b"\x40\0\0\0\0\0\0\0{", "in the format of safetensors")]
    {
        let folder = written(|contents| contents.writers = 1);
        let path = folder.path().join("iter_0000007/__0_0.distcp");
        let mut bytes = fs::read(&path).unwrap();
        // Every item begins with an archive's first bytes.
        let starts: Vec<usize> =
            bytes.windows(4).enumerate().filter(|(_, window)| window == b"PK\x03\x04").map(|(at, _)| at).collect();
        for at in starts {
            bytes[at..at + head.len()].copy_from_slice(head);
        }
        fs::write(&path, bytes).unwrap();
        assert!(complaint(&folder).contains(expected), "{}", complaint(&folder));
    }
}

#[test]
fn folders_of_other_programs_are_found() {
    for inner in ["weights", "dist_ckpt", "actor/dist_ckpt"] {
        let folder = tempfile::tempdir().unwrap();
        contents().write_step(&folder.path().join(inner));
        read(folder.path()).unwrap();
    }
    // Settings from the user where common.pt has none.
    let folder = written(|_| {});
    let (args, step) = (folder.path().join("args.json"), folder.path().join("iter_0000007"));
    fs::write(&args, serde_json::to_string(contents().common.args.as_ref().unwrap()).unwrap()).unwrap();
    fs::remove_file(step.join("common.pt")).unwrap();
    assert!(complaint(&folder).contains("--megatron-args FILE"));
    let checkpoint = DistributedCheckpoint::open(folder.path(), &[args]).unwrap().unwrap();
    assert_eq!(checkpoint.iteration(), Some(7));
    // A save folder without its tracker.
    fs::remove_file(folder.path().join("latest_checkpointed_iteration.txt")).unwrap();
    assert!(complaint(&folder).contains("names one of iter_0000007"));
}

#[test]
fn no_metadata_is_too_much() {
    let folder = written(|_| {});
    let path = folder.path().join("iter_0000007/.metadata");
    let sound = fs::read(&path).unwrap();
    for end in (0..sound.len()).step_by(97) {
        fs::write(&path, &sound[..end]).unwrap();
        assert!(complaint(&folder).contains("not the metadata"));
    }
    let hostile: [&[u8]; 6] = [
        b"",
        b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.",
        // An object whose tensors are itself.
        b"\x80\x02cm\nMetadata\n)\x81q\x00}(X\x13\0\0\0state_dict_metadatah\x00X\x0c\0\0\0storage_datah\x00ub.",
        b"\x80\x02cm\nMetadata\n)\x81}q\x00(X\x13\0\0\0state_dict_metadatah\x00X\x0c\0\0\0storage_datah\x00ub.",
        b"\x80\x02cm\nMetadata\n)\x81.",
        b"cposix\nsystem\nX\x02\0\0\0ls\x85R.",
    ];
    for bytes in hostile {
        fs::write(&path, bytes).unwrap();
        let _ = complaint(&folder);
    }
    // A list of parts that all tensors share.
    edit_metadata(&folder, |bytes| {
        *bytes = b"\x80\x02cm\nC\n)\x81}(X\x07\0\0\0offsets)X\x05\0\0\0sizes)ubq\x01".to_vec();
        bytes.extend(b"cm\nMetadata\n)\x81}(X\x13\0\0\0state_dict_metadata}(");
        for name in 0..200_u8 {
            bytes.extend([b'X', 3, 0, 0, 0]);
            bytes.extend(format!("{name:03}").bytes());
            bytes.extend(b"cx\nx.TensorStorageMetadata\n)\x81}(X\x0a\0\0\0propertiescm\nP\n)\x81(ctorch\nfloat32\nNtb");
            bytes.extend(b"X\x04\0\0\0size)X\x06\0\0\0chunks");
            if name == 0 {
                bytes.extend(b"](");
                bytes.extend(b"h\x01".repeat(5000));
                bytes.extend(b"eq\x00");
            } else {
                bytes.extend(b"h\x00");
            }
            bytes.extend(b"ub");
        }
        bytes.extend(b"uX\x0c\0\0\0storage_data}ub.");
    });
    assert!(complaint(&folder).contains("is not that of a tensor"), "{}", complaint(&folder));
    // Bytes changed one after another: an error or not, and never a panic.
    let mut seed = 7_u64;
    for _ in 0..400 {
        let mut bytes = sound.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 33).unwrap() % bytes.len();
            bytes[at] = seed.to_le_bytes()[3];
        }
        fs::write(&path, bytes).unwrap();
        let _ = read(folder.path());
    }
}

/// What torch's own classes pickled.
#[test]
fn metadata_of_torch_itself_is_read() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let seeds = fuzz.join("corpus/megatron_distributed");
    let args = serde_json::json!({
        "num_layers": 2, "hidden_size": 4, "num_attention_heads": 2, "kv_channels": 2, "max_position_embeddings": 8,
        "normalization": "RMSNorm", "swiglu": true, "add_bias_linear": false, "position_embedding_type": "rope",
        "untie_embeddings_and_output_weights": true,
    });
    let outcome = |seed: &str| {
        let folder = tempfile::tempdir().unwrap();
        let args_file = folder.path().join("args.json");
        fs::write(&args_file, args.to_string()).unwrap();
        fs::write(folder.path().join("metadata.json"), "{\"sharded_backend\": \"torch_dist\"}").unwrap();
        fs::copy(seeds.join(seed), folder.path().join(".metadata")).unwrap();
        fs::copy(fuzz.join("items.distcp"), folder.path().join("__0_0.distcp")).unwrap();
        let checkpoint = DistributedCheckpoint::open(folder.path(), &[args_file])?.unwrap();
        let stages = checkpoint.stage_ids().into_iter().map(|id| checkpoint.read_stage(id));
        let stages = stages.collect::<Result<Vec<_>, _>>()?;
        let ones = |tensor: &HostTensor| tensor.to_f64().unwrap().iter().all(|&value| (value - 1.0).abs() < 1e-12);
        let tensors = stages.iter().flat_map(|stage| stage.params.values()).map(|param| match &param.value {
            kintsugi::partition::ParamValue::Joined(tensor) => tensor,
            kintsugi::partition::ParamValue::Replicas(replicas) => &replicas[0],
        });
        assert!(tensors.into_iter().all(ones));
        Ok::<_, CheckpointError>(stages.len())
    };
    assert_eq!(outcome("sound.pkl").unwrap(), 4);
    for (seed, expected) in [
        ("lose.pkl", "is not in the checkpoint"),
        ("move.pkl", "the file has 28345"),
        ("grow.pkl", "expected shape"),
        ("turn.pkl", "missing tensor: the weight of the MLP's second layer"),
        ("zip_up.pkl", "written with zstd, which is not read"),
    ] {
        let message = outcome(seed).unwrap_err().to_string();
        assert!(message.contains(expected), "{seed}: {message}");
    }
}
