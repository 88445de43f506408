//! Element types, and the conversions that must round exactly once.

use half::{bf16, f16};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE half precision.
    F16,
    /// The upper half of a float32.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Unsigned byte; also booleans.
    U8,
    /// Signed byte.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
}

impl DType {
    /// Bytes an element takes.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// The usual short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// float64 → float16 with one rounding (nearest, ties to even). `half::f16::from_f64` goes through float32 where the
/// processor has F16C and then rounds twice.
pub fn round_to_f16(value: f64) -> f16 {
    f16::from_f32(round_to_odd_f32(value))
}

/// float64 → bfloat16 with one rounding (nearest, ties to even).
pub fn round_to_bf16(value: f64) -> bf16 {
    bf16::from_f32(round_to_odd_f32(value))
}

/// Rounds towards zero and sets the last bit if anything was cut off. A float32 so made keeps enough of the value for a
/// second rounding to 11 bits or fewer to be the right one (Boldo and Melquiond, "When double rounding is odd", 2005).
#[expect(clippy::cast_possible_truncation, clippy::float_cmp, reason = "whether anything was cut off is what counts")]
pub(super) fn round_to_odd_f32(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    let kept = back == value || !nearest.is_finite();
    // Without branches, so that loops over many values vectorise.
    let towards_zero = nearest.to_bits().wrapping_sub(u32::from(back.abs() > value.abs()));
    f32::from_bits(if kept { nearest.to_bits() } else { towards_zero | 1 })
}
