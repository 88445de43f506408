//! Loops of our own for float32 and bfloat16 on a CPU, where libtorch's take a fifth of a layer's time and more: the tanh
//! form of GELU, which it computes by way of a slow tangent; the rotation of queries and keys, for which it makes eight
//! passes over short strided rows; layer norms, whose statistics serve all ranks' gains. Statistics and arithmetic are
//! float32. Every function returns whether it can handle the tensors; if not, nothing is done.

#![expect(clippy::inline_always, reason = "what stays a call inside a loop keeps it from becoming vector instructions")]

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::ModelError;

/// Partial sums of a row, so that they are added side by side.
const LANES: usize = 16;

/// An element type that is computed in float32.
pub(super) trait Element: Copy {
    fn widen(self) -> f32;
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// To the nearest, ties to even.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        // Rounding must not carry a NaN over into infinity.
        let kept = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
        Self::from_bits((kept >> 16) as u16)
    }
}

/// `x ← gelu(x)`, tanh form: `x / (1 + exp(−2u))` with `u = √(2/π) (x + 0.044715 x³)`.
pub(super) fn gelu_tanh(x: &mut Tensor) -> bool {
    if !x.is_contiguous() {
        return false;
    }
    let length = x.numel();
    match (x.device(), x.kind()) {
        (Device::Cpu, Kind::Float) => gelu_of(elements::<f32>(x, length)),
        (Device::Cpu, Kind::BFloat16) => gelu_of(elements::<bf16>(x, length)),
        _ => return false,
    }
    true
}

/// `(x1, x2) ← (x1 cos − x2 sin, x2 cos + x1 sin)` for the two halves of the first elements of every head. `heads` is
/// `[tokens, heads, head size]` with any strides but the last, `cos` and `sin` are contiguous `[tokens, …, half]`.
pub(super) fn rotate(heads: &Tensor, cos: &Tensor, sin: &Tensor) -> bool {
    let kind = heads.kind();
    let alike = |table: &Tensor| table.kind() == kind && table.device() == Device::Cpu && table.is_contiguous();
    if heads.device() != Device::Cpu || !alike(cos) || !alike(sin) {
        return false;
    }
    match kind {
        Kind::Float => rotate_as::<f32>(heads, cos, sin),
        Kind::BFloat16 => rotate_as::<bf16>(heads, cos, sin),
        _ => false,
    }
}

fn rotate_as<T: Element>(heads: &Tensor, cos: &Tensor, sin: &Tensor) -> bool {
    let (sizes, strides) = (to_usize(&heads.size()), to_usize(&heads.stride()));
    let (&[tokens, count, size], &[token_stride, head_stride, 1]) = (&sizes[..], &strides[..]) else { return false };
    if tokens == 0 || count == 0 {
        return true;
    }
    let half = cos.numel() / tokens;
    // Rows that overlap, as those of expanded tensors do, cannot be rotated one by one.
    let apart = head_stride >= size && token_stride >= (count - 1) * head_stride + size;
    if cos.numel() != tokens * half || sin.numel() != cos.numel() || 2 * half > size || !apart {
        return false;
    }
    let span = (tokens - 1) * token_stride + (count - 1) * head_stride + size;
    let (cos, sin) = (read::<T>(cos), read::<T>(sin));
    let mut heads = heads.shallow_clone();
    let rows = elements::<T>(&mut heads, span).chunks_mut(token_stride);
    for ((row, cos), sin) in rows.zip(cos.chunks_exact(half)).zip(sin.chunks_exact(half)) {
        for head in row.chunks_mut(head_stride).take(count) {
            let (first, rest) = head.split_at_mut(half);
            for (((x1, x2), cos), sin) in first.iter_mut().zip(&mut rest[..half]).zip(cos).zip(sin) {
                let (a, b, cos, sin) = (x1.widen(), x2.widen(), cos.widen(), sin.widen());
                (*x1, *x2) = (T::narrow(a * cos - b * sin), T::narrow(b * cos + a * sin));
            }
        }
    }
    true
}

/// The layer norm of the rows with each gain and bias, in `replicas`' order: `[rows, hidden]` each.
pub(super) fn layer_norms(
    rows: &Tensor,
    replicas: &[(Option<Tensor>, Option<Tensor>)],
    epsilon: f64,
) -> Result<Option<Vec<Tensor>>, ModelError> {
    let kind = rows.kind();
    let able = |tensor: &Tensor| tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.is_contiguous();
    let affine: Option<Vec<_>> = replicas.iter().map(|(gain, bias)| Some((gain.as_ref()?, bias.as_ref()?))).collect();
    let Some(affine) = affine else { return Ok(None) };
    let width = rows.size().last().copied().unwrap_or(0);
    let fits = |tensor: &Tensor| able(tensor) && tensor.size() == [width];
    if !able(rows) || width == 0 || !affine.iter().all(|(gain, bias)| fits(gain) && fits(bias)) {
        return Ok(None);
    }
    match kind {
        Kind::Float => layer_norms_as::<f32>(rows, &affine, epsilon).map(Some),
        Kind::BFloat16 => layer_norms_as::<bf16>(rows, &affine, epsilon).map(Some),
        _ => Ok(None),
    }
}

fn layer_norms_as<T: Element>(
    rows: &Tensor,
    affine: &[(&Tensor, &Tensor)],
    epsilon: f64,
) -> Result<Vec<Tensor>, ModelError> {
    let mut outputs = affine.iter().map(|_| rows.f_empty_like()).collect::<Result<Vec<_>, _>>()?;
    #[expect(clippy::cast_possible_truncation, reason = "statistics are float32")]
    let epsilon = epsilon as f32;
    let mut targets: Vec<_> = outputs.iter_mut().map(|output| elements::<T>(output, rows.numel())).collect();
    let affine: Vec<_> = affine.iter().map(|(gain, bias)| (read::<T>(gain), read::<T>(bias))).collect();
    layer_norms_of(read::<T>(rows), &affine, epsilon, &mut targets);
    Ok(outputs)
}

/// Extents and strides of tensors in memory are neither negative nor larger than it.
fn to_usize(extents: &[i64]) -> Vec<usize> {
    extents.iter().map(|&extent| usize::try_from(extent).unwrap_or(0)).collect()
}

/// The first `length` elements of a CPU tensor's memory, counted from its own first.
#[expect(unsafe_code, reason = "libtorch hands out its memory as a pointer")]
pub(super) fn elements<T: Element>(tensor: &mut Tensor, length: usize) -> &mut [T] {
    if length == 0 {
        return &mut [];
    }
    // SAFETY: callers have checked device and type, and `length` reaches no further than the tensor's last element. A
    // tensor's storage is initialised by the kernel that made it; nothing else writes to it while this chunk's thread,
    // which made it, is here.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), length) }
}

/// All elements of a contiguous CPU tensor.
#[expect(unsafe_code, reason = "libtorch hands out its memory as a pointer")]
pub(super) fn read<T: Element>(tensor: &Tensor) -> &[T] {
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: callers have checked device, type and contiguity; the storage is initialised and not written to meanwhile.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// Makes of a loop one function for each set of instructions, and one that picks the widest that the processor has.
macro_rules! for_widest_vectors {
    ($name:ident, $by:ident, ($($argument:ident: $type:ty),*)) => {
        fn $name<T: Element>($($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,fma")]
                fn avx512<T: Element>($($argument: $type),*) {
                    $by::<T, true>($($argument),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<T: Element>($($argument: $type),*) {
                    $by::<T, true>($($argument),*);
                }
                let fused = is_x86_feature_detected!("fma");
                if fused && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                    #[expect(unsafe_code, reason = "instructions that not every processor has")]
                    // SAFETY: this processor has them.
                    return unsafe { avx512($($argument),*) };
                }
                if fused && is_x86_feature_detected!("avx2") {
                    #[expect(unsafe_code, reason = "instructions that not every processor has")]
                    // SAFETY: this processor has them.
                    return unsafe { avx2($($argument),*) };
                }
            }
            $by::<T, false>($($argument),*);
        }
    };
}

for_widest_vectors!(gelu_of, gelu_loop, (x: &mut [T]));
for_widest_vectors!(layer_norms_of, layer_norms_loop, (
    rows: &[T],
    affine: &[(&[T], &[T])],
    epsilon: f32,
    outputs: &mut [&mut [T]]
));

#[inline(always)]
fn layer_norms_loop<T: Element, const FMA: bool>(
    rows: &[T],
    affine: &[(&[T], &[T])],
    epsilon: f32,
    outputs: &mut [&mut [T]],
) {
    let Some(width) = affine.first().map(|(gain, _)| gain.len()) else { return };
    #[expect(clippy::cast_precision_loss, reason = "elements of a row")]
    let per_element = 1.0 / width as f32;
    for (at, row) in rows.chunks_exact(width).enumerate() {
        let mean = sum_of::<T>(row, |x| x) * per_element;
        let variance = sum_of::<T>(row, |x| (x - mean) * (x - mean)) * per_element;
        // A variance that overflows would scale everything to 0 and hide that nothing is left of the row.
        let scale = if variance.is_finite() { 1.0 / (variance + epsilon).sqrt() } else { f32::NAN };
        for ((gain, bias), output) in affine.iter().zip(outputs.iter_mut()) {
            let output = &mut output[at * width..][..width];
            for (((x, gain), bias), y) in row.iter().zip(*gain).zip(*bias).zip(output) {
                *y = T::narrow(multiply_add::<FMA>((x.widen() - mean) * scale, gain.widen(), bias.widen()));
            }
        }
    }
}

/// Σ term(x) over a row, in [`LANES`] partial sums.
#[inline(always)]
fn sum_of<T: Element>(row: &[T], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let blocks = row.chunks_exact(LANES);
    let rest: f32 = blocks.remainder().iter().map(|x| term(x.widen())).sum();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += term(x.widen());
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn gelu_loop<T: Element, const FMA: bool>(x: &mut [T]) {
    for element in x {
        *element = T::narrow(gelu::<FMA>(element.widen()));
    }
}

/// `a b + c`, in one rounding where the processor does that.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    /// −2 √(2/π)
    const LINEAR: f32 = -1.595_769;
    const CUBIC: f32 = LINEAR * 0.044_715;
    x / (1.0 + exp::<FMA>(x * multiply_add::<FMA>(CUBIC, x * x, LINEAR)))
}

/// eˣ to 2 units in the last place for −87 ≤ x ≤ 88, the value at −87 below and infinity above: 2ⁿ eʳ with |r| ≤ ln 2 / 2
/// and the minimax polynomial of Cephes' `expf`.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding 1.5 · 2²³ rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few enough digits that n times it is exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    const COEFFICIENTS: [f32; 5] = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FMA>(n, -LN_2.1, multiply_add::<FMA>(n, -LN_2.0, x));
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in COEFFICIENTS {
        polynomial = multiply_add::<FMA>(polynomial, r, coefficient);
    }
    let fraction = multiply_add::<FMA>(polynomial, r * r, r + 1.0);
    // The exponent of 2ⁿ: n sits in the low bits of `shifted`.
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    fraction * power
}

#[cfg(test)]
mod tests;
