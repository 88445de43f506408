//! Choices for a run, as they are written on the command line. They say nothing of libtorch, so that every build of the
//! program has all options.

use std::fmt;
use std::str::FromStr;

use crate::tensor::DType;

/// The devices to compute on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// All GPUs if there are any, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// These GPUs; empty means all of them.
    Cuda(Vec<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(Vec::new())),
            _ => {}
        }
        let mut indices = Vec::new();
        for part in text.split(',') {
            let number = part.strip_prefix("cuda:").unwrap_or(part).parse::<usize>();
            let Ok(index) = number else {
                return Err(format!("`{part}`: expected auto, cpu, cuda or cuda:N[,N…]"));
            };
            if indices.contains(&index) {
                return Err(format!("cuda:{index} is named twice"));
            }
            indices.push(index);
        }
        Ok(Self::Cuda(indices))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(indices) if indices.is_empty() => f.write_str("cuda"),
            Self::Cuda(indices) => {
                write!(f, "cuda:{}", indices.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// The type to compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// The checkpoint's type on a GPU, float32 on a CPU.
    #[default]
    Auto,
    Exactly(DType),
}

impl FromStr for Compute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "f32" => Self::Exactly(DType::F32),
            "bf16" => Self::Exactly(DType::BF16),
            "f16" => Self::Exactly(DType::F16),
            "f64" => Self::Exactly(DType::F64),
            _ => return Err("expected auto, f32, bf16, f16 or f64".to_owned()),
        })
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(dtype) => dtype.fmt(f),
        }
    }
}

/// Which tokens stand before a text. None ever stands behind it: a target would lose its first token to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// What the tokenizer itself puts there: nothing for GPT-NeoX's, BOS for Llama's.
    #[default]
    Auto,
    /// The tokenizer's BOS, whether or not it puts it there itself.
    Yes,
    /// Nothing.
    No,
}

impl FromStr for SpecialTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "yes" => Self::Yes,
            "no" => Self::No,
            _ => return Err("expected auto, yes or no".to_owned()),
        })
    }
}

impl fmt::Display for SpecialTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Yes => "yes",
            Self::No => "no",
        })
    }
}
