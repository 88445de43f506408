use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

fn f32s(values: &[f32]) -> HostTensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    HostTensor::new(DType::F32, vec![values.len()], bytes).unwrap()
}

fn f16s(values: &[f32]) -> HostTensor {
    let bytes = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    HostTensor::new(DType::F16, vec![values.len()], bytes).unwrap()
}

#[test]
fn byte_count_must_fit_the_shape() {
    let error = HostTensor::new(DType::F32, vec![2, 3], vec![0; 20]).unwrap_err();
    assert_eq!(error.to_string(), "a f32 tensor of shape [2, 3] needs 24 bytes, found 20");
    assert!(matches!(HostTensor::new(DType::F32, vec![usize::MAX, 8], vec![]), Err(TensorError::TooLarge(_))));
}

#[test]
fn means_accumulate_in_float64_and_round_once() {
    let tensors = [f16s(&[2048.0]), f16s(&[1.0]), f16s(&[1.0])];
    let refs: Vec<_> = tensors.iter().collect();
    assert_eq!(sum(&refs, Arithmetic::Float64).unwrap().to_f64().unwrap(), [2050.0]);
    // float16 has steps of 2 at 2048 and ties go to even: each addition of 1 is lost.
    assert_eq!(sum(&refs, Arithmetic::Storage).unwrap().to_f64().unwrap(), [2048.0]);
}

#[test]
fn storage_mean_rounds_the_sum_before_dividing() {
    // merge20b.py computes (a + b) / 2 on float16 tensors: 65504 + 65504 overflows before it is halved.
    let tensors = [f16s(&[65504.0]), f16s(&[65504.0])];
    let refs: Vec<_> = tensors.iter().collect();
    assert_eq!(mean(&refs, Arithmetic::Float64).unwrap().to_f64().unwrap(), [65504.0]);
    assert_eq!(mean(&refs, Arithmetic::Storage).unwrap().to_f64().unwrap(), [f64::INFINITY]);
}

#[test]
fn median_scale_and_geometric_mean() {
    let tensors = [f32s(&[1.0, -4.0, 2.0]), f32s(&[3.0, -1.0, -2.0]), f32s(&[8.0, -2.0, 5.0])];
    let refs: Vec<_> = tensors.iter().collect();
    assert_eq!(median(&refs).unwrap().to_f64().unwrap(), [3.0, -2.0, 2.0]);
    assert_eq!(median(&refs[..2]).unwrap().to_f64().unwrap(), [2.0, -2.5, 0.0]);
    assert_eq!(scale(&refs, 3.0).unwrap().to_f64().unwrap(), [12.0, -7.0, 5.0]);
    let geometric = geometric_mean(&refs).unwrap().to_f64().unwrap();
    assert!((geometric[0] - 24f64.powf(1.0 / 3.0)).abs() < 1e-6);
    assert!((geometric[1] + 2.0).abs() < 1e-6);
    assert!(geometric[2].abs() < f64::EPSILON);
}

#[test]
fn different_forms_are_refused() {
    let (left, right) = (f32s(&[1.0]), f16s(&[1.0]));
    let error = sum(&[&left, &right], Arithmetic::Float64).unwrap_err();
    assert_eq!(error.to_string(), "expected f32 [1], found f16 [1]");
    assert!(matches!(sum(&[], Arithmetic::Float64), Err(TensorError::Empty)));
    let integers = HostTensor::new(DType::I64, vec![1], vec![0; 8]).unwrap();
    assert!(matches!(mean(&[&integers], Arithmetic::Float64), Err(TensorError::NotFloat(DType::I64))));
}

#[test]
fn non_finite_values_are_found() {
    assert_eq!(f32s(&[1.0, f32::MAX, -0.0]).first_non_finite(), None);
    assert_eq!(f32s(&[1.0, f32::NAN]).first_non_finite(), Some(1));
    assert_eq!(f16s(&[1.0, 2.0, f32::NEG_INFINITY]).first_non_finite(), Some(2));
    let brain = HostTensor::new(DType::BF16, vec![1], bf16::NAN.to_le_bytes().to_vec()).unwrap();
    assert_eq!(brain.first_non_finite(), Some(0));
}

#[test]
fn casting_rounds_once() {
    let values = [1.0, -2.5, 65504.0, 1.0 + 1.0 / 2048.0, 1e-8, 70000.0];
    let single = HostTensor::from_f64(DType::F32, vec![6], &values).unwrap();
    let half = single.cast(DType::F16).unwrap();
    assert_eq!(half.to_f64().unwrap()[..4], [1.0, -2.5, 65504.0, 1.0]);
    assert_eq!(half.first_non_finite(), Some(5));
    let double = HostTensor::from_f64(DType::F64, vec![6], &values).unwrap();
    let direct = HostTensor::from_f64(DType::BF16, vec![6], &values).unwrap();
    assert!(double.cast(DType::BF16).unwrap().same_bits(&direct));
    assert!(half.cast(DType::F32).unwrap().cast(DType::F16).unwrap().same_bits(&half));
    assert!(single.cast(DType::F32).unwrap().same_bits(&single));
    assert!(matches!(single.cast(DType::I64), Err(TensorError::NotFloat(DType::I64))));
}

#[test]
fn pieces_along_the_second_dimension() {
    let left = HostTensor::new(DType::U8, vec![2, 2], vec![1, 2, 3, 4]).unwrap();
    let right = HostTensor::new(DType::U8, vec![2, 3], vec![5, 6, 7, 8, 9, 10]).unwrap();
    let joined =
        concatenate(1, &[Piece { tensor: &right, range: 1..3 }, Piece { tensor: &left, range: 0..1 }]).unwrap();
    assert_eq!((joined.shape(), joined.bytes()), (&[2, 3][..], &[6, 7, 1, 9, 10, 3][..]));
    assert!(concatenate(1, &[Piece { tensor: &left, range: 1..3 }]).is_err());
    assert!(concatenate(0, &[Piece { tensor: &left, range: 0..2 }, Piece { tensor: &right, range: 0..2 }]).is_err());
}

/// The nearest of all representable values of a 16-bit format, ties to the even bit pattern.
fn nearest(value: f64, decode: impl Fn(u16) -> f64) -> u16 {
    (0..=u16::MAX)
        .filter(|&bits| decode(bits).is_finite())
        .min_by(|&left, &right| {
            let distance = |bits| (decode(bits) - value).abs();
            distance(left).total_cmp(&distance(right)).then((left & 1).cmp(&(right & 1)))
        })
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rounding_happens_once(base in any::<u16>(), nudge in -3i32..=3) {
        // Values a hair beside the midpoint between two neighbours are where a second rounding goes wrong.
        let (low, high) = (f16::from_bits(base & 0x7bfe).to_f64(), f16::from_bits((base & 0x7bfe) + 1).to_f64());
        if low.is_finite() && high.is_finite() {
            let value = f64::midpoint(low, high) * (1.0 + f64::from(nudge) * 1e-12);
            let expected = nearest(value, |bits| f16::from_bits(bits).to_f64());
            prop_assert_eq!(round_to_f16(value).to_bits(), expected);
            prop_assert_eq!(round_to_f16(-value).to_bits(), expected | 0x8000);
        }
        let (low, high) = (bf16::from_bits(base & 0x7f7e).to_f64(), bf16::from_bits((base & 0x7f7e) + 1).to_f64());
        if low.is_finite() && high.is_finite() {
            let value = f64::midpoint(low, high) * (1.0 + f64::from(nudge) * 1e-12);
            prop_assert_eq!(round_to_bf16(value).to_bits(), nearest(value, |bits| bf16::from_bits(bits).to_f64()));
        }
    }
}
