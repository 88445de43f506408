//! Where the forward pass runs, and in which type.

use std::fmt;

use tch::{Device, Kind, Tensor};

use super::{ModelError, cuda};
use crate::options::Compute;
use crate::tensor::DType;

/// Where and in which type the forward pass runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    pub device: Device,
    /// The type of activations and weights. Norm statistics and softmax are at least float32 whatever this is.
    pub kind: Kind,
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Device::Cpu => formatter.write_str("cpu"),
            Device::Cuda(index) => write!(formatter, "cuda:{index}"),
            other => write!(formatter, "{other:?}"),
        }
    }
}

impl Backend {
    /// Loads what the device needs, before anything is computed on it.
    pub fn prepare(self) -> Result<(), ModelError> {
        if self.device.is_cuda() { cuda::load() } else { Ok(()) }
    }

    /// Waits until the device has done its work; on a CPU that is so at any time.
    pub fn synchronize(self) -> Result<(), ModelError> {
        if self.device.is_cuda() {
            // Reading an element waits as tch's own call does, but gives an error of the work before it back.
            Tensor::f_zeros([1], (Kind::Float, self.device))?.f_double_value(&[0])?;
        }
        Ok(())
    }

    pub fn dtype_name(&self) -> &'static str {
        match self.kind {
            Kind::Half => DType::F16.name(),
            Kind::BFloat16 => DType::BF16.name(),
            Kind::Double => DType::F64.name(),
            _ => DType::F32.name(),
        }
    }
}

impl Compute {
    /// The libtorch type for a checkpoint of this type on this device.
    pub fn resolve(self, checkpoint: DType, device: Device) -> Kind {
        match (self, device) {
            (Self::Exactly(dtype), _) => kind_of(dtype),
            (Self::Auto, Device::Cpu) => Kind::Float,
            (Self::Auto, _) => kind_of(checkpoint),
        }
    }
}

/// float64 for float64, else float32: for sums that other types are too narrow for.
pub fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

pub(super) fn kind_of(dtype: DType) -> Kind {
    match dtype {
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::F32 => Kind::Float,
        DType::F64 => Kind::Double,
        DType::U8 => Kind::Uint8,
        DType::I8 => Kind::Int8,
        DType::I16 => Kind::Int16,
        DType::I32 => Kind::Int,
        DType::I64 => Kind::Int64,
    }
}
