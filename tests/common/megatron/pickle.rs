//! Files as Megatron-LM's `torch.save` writes them: nested dictionaries of tensors beside objects of its own classes, as a
//! zip archive or, before torch 1.6, as a stream of pickles.

use std::io::Write as _;
use std::path::Path;

use fs_err as fs;
use kintsugi::tensor::{DType, HostTensor};
use serde_json::{Map, Value};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// What a rank's file holds.
#[derive(Debug, Clone)]
pub struct RankContents {
    pub args: Option<Map<String, Value>>,
    pub version: Option<f64>,
    pub iteration: u64,
    /// `model`, or `model0`, `model1`, …; the tensors of each by their names.
    pub models: Vec<(String, Vec<(String, HostTensor)>)>,
    /// Whether names up to the layers are nested dictionaries.
    pub nested: bool,
    /// Whether it is a zip archive.
    pub zip: bool,
}

impl RankContents {
    pub fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut pickler = Pickler { bytes: b"\x80\x02".to_vec(), storages: Vec::new(), stream: !self.zip };
        pickler.whole(self);
        let storages = pickler.storages;
        if self.zip {
            write_zip(path, &pickler.bytes, &storages);
        } else {
            write_stream(path, &pickler.bytes, &storages);
        }
    }
}

pub fn write_zip(path: &Path, pickle: &[u8], storages: &[HostTensor]) {
    zip_into(fs::File::create(path).unwrap(), "model_optim_rng", pickle, storages);
}

/// One tensor as `torch.save` writes it.
pub fn item(tensor: &HostTensor) -> Vec<u8> {
    let mut pickler = Pickler { bytes: b"\x80\x02".to_vec(), storages: Vec::new(), stream: false };
    pickler.tensor(tensor);
    pickler.bytes.push(b'.');
    let mut file = std::io::Cursor::new(Vec::new());
    zip_into(&mut file, "archive", &pickler.bytes, &pickler.storages);
    file.into_inner()
}

fn zip_into(file: impl std::io::Write + std::io::Seek, folder: &str, pickle: &[u8], storages: &[HostTensor]) {
    let mut archive = ZipWriter::new(file);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    let numbered = storages.iter().enumerate().map(|(number, tensor)| (format!("data/{number}"), tensor.bytes()));
    let fixed = [("data.pkl".to_owned(), pickle), ("byteorder".to_owned(), b"little".as_slice())];
    for (name, bytes) in fixed.into_iter().chain(numbered).chain([("version".to_owned(), b"3\n".as_slice())]) {
        archive.start_file(format!("{folder}/{name}"), stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

/// The format before torch 1.6: magic number, version, system, value, the storages' names, the storages.
fn write_stream(path: &Path, pickle: &[u8], storages: &[HostTensor]) {
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend(pickle);
    let mut keys = Pickler { bytes: b"\x80\x02](".to_vec(), storages: Vec::new(), stream: true };
    (0..storages.len()).for_each(|number| keys.text(&number.to_string()));
    bytes.extend(keys.bytes);
    bytes.extend(b"e.");
    for tensor in storages {
        bytes.extend((tensor.element_count() as u64).to_le_bytes());
        bytes.extend(tensor.bytes());
    }
    fs::write(path, bytes).unwrap();
}

struct Pickler {
    bytes: Vec<u8>,
    storages: Vec<HostTensor>,
    stream: bool,
}

impl Pickler {
    fn whole(&mut self, contents: &RankContents) {
        self.bytes.extend(b"}(");
        if let Some(args) = &contents.args {
            self.text("args");
            self.bytes.extend(b"cargparse\nNamespace\n)\x81}(");
            for (field, value) in args {
                self.text(field);
                self.value(value);
            }
            // Objects of classes that no reader has.
            self.text("params_dtype");
            self.bytes.extend(b"ctorch\nfloat32\n");
            self.text("exit_signal");
            self.bytes.extend(b"csignal\nSignals\nK\x0f\x85R");
            self.text("attention_backend");
            self.bytes.extend(b"cmegatron.core.transformer.enums\nAttnBackend\nK\x05\x85R");
            self.bytes.extend(b"ub");
        }
        if let Some(version) = contents.version {
            self.text("checkpoint_version");
            self.value(&version.into());
        }
        self.text("iteration");
        self.value(&contents.iteration.into());
        for (key, tensors) in &contents.models {
            self.text(key);
            let mut root = Node::default();
            for (name, tensor) in tensors {
                root.insert(if contents.nested { name } else { "" }, name, tensor);
            }
            self.node(&root);
        }
        self.text("rng_state");
        self.bytes.extend(b"](}(");
        self.text("np_rng_state");
        self.bytes.extend(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85c_codecs\nencode\n");
        self.text("b");
        self.text("latin1");
        self.bytes.extend(b"\x86RtR");
        self.text("cuda_rng_state");
        self.tensor(&HostTensor::new(DType::U8, vec![16], vec![7; 16]).unwrap());
        self.bytes.extend(b"ueu.");
    }

    fn node(&mut self, node: &Node) {
        self.bytes.extend(b"ccollections\nOrderedDict\n)R(");
        for (key, child) in &node.children {
            self.text(key);
            match child {
                Child::Node(node) => self.node(node),
                Child::Tensor(tensor) => self.tensor(tensor),
            }
        }
        self.bytes.extend(b"u");
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.bytes.push(b'N'),
            Value::Bool(true) => self.bytes.push(0x88),
            Value::Bool(false) => self.bytes.push(0x89),
            Value::String(text) => self.text(text),
            Value::Number(number) => {
                if let Some(number) = number.as_i64() {
                    self.bytes.extend([0x8a, 8]);
                    self.bytes.extend(number.to_le_bytes());
                } else {
                    self.bytes.push(b'G');
                    self.bytes.extend(number.as_f64().unwrap().to_be_bytes());
                }
            }
            Value::Array(items) => {
                self.bytes.extend(b"](");
                for item in items {
                    self.value(item);
                }
                self.bytes.push(b'e');
            }
            Value::Object(entries) => {
                self.bytes.extend(b"}(");
                for (key, value) in entries {
                    self.text(key);
                    self.value(value);
                }
                self.bytes.push(b'u');
            }
        }
    }

    fn tensor(&mut self, tensor: &HostTensor) {
        let class = match tensor.dtype() {
            DType::F64 => "DoubleStorage",
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            _ => "ByteStorage",
        };
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.bytes.extend(format!("ctorch\n{class}\n").as_bytes());
        self.text(&self.storages.len().to_string());
        self.text("cpu");
        self.value(&tensor.element_count().into());
        // A sixth item for views, until torch 1.6.
        self.bytes.extend(if self.stream { b"NtQK\x00".as_slice() } else { b"tQK\x00" });
        let mut strides = vec![1];
        for extent in tensor.shape().iter().skip(1).rev() {
            strides.insert(0, strides[0] * extent);
        }
        for sizes in [tensor.shape(), &strides] {
            self.bytes.push(b'(');
            for &size in sizes {
                self.value(&size.into());
            }
            self.bytes.push(b't');
        }
        self.bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        self.storages.push(tensor.clone());
    }
}

#[derive(Default)]
struct Node<'a> {
    children: Vec<(&'a str, Child<'a>)>,
}

enum Child<'a> {
    Node(Node<'a>),
    Tensor(&'a HostTensor),
}

impl<'a> Node<'a> {
    /// Nests by the dots of `path`, as far as the layers; a flat name where it is empty.
    fn insert(&mut self, path: &'a str, name: &'a str, tensor: &'a HostTensor) {
        let nests = !path.is_empty() && !path.starts_with("layers.") && !path.starts_with("final_");
        match path.split_once('.').filter(|_| nests) {
            None => self.children.push((if path.is_empty() { name } else { path }, Child::Tensor(tensor))),
            Some((key, rest)) => {
                let known = self.children.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                    self.children.push((key, Child::Node(Node::default())));
                    self.children.len() - 1
                });
                if let (_, Child::Node(node)) = &mut self.children[known] {
                    node.insert(rest, name, tensor);
                }
            }
        }
    }
}
