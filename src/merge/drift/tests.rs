//! Drift against numbers worked out by hand.
#![allow(clippy::float_cmp, reason = "the numbers are exact")]

use proptest::prelude::*;

use super::*;
use crate::tensor::DType;

fn tensor(dtype: DType, values: &[f64]) -> HostTensor {
    HostTensor::from_f64(dtype, vec![values.len()], values).unwrap()
}

fn drift(dtype: DType, replicas: &[&[f64]]) -> Drift {
    let replicas: Vec<_> = replicas.iter().map(|values| tensor(dtype, values)).collect();
    Drift::between(&replicas).unwrap()
}

#[test]
fn one_rank_cannot_drift() {
    assert_eq!(drift(DType::F32, &[&[1.0, -2.0]]), Drift::NONE);
    assert_eq!(Drift::between(&[]).unwrap(), Drift::NONE);
}

#[test]
fn equal_replicas_do_not_drift() {
    let values: &[f64] = &[0.5, -0.0, 3.0];
    assert_eq!(drift(DType::F16, &[values, values, values, values]), Drift::NONE);
}

#[test]
fn two_ranks_by_hand() {
    let found = drift(DType::F32, &[&[3.0, 4.0], &[4.0, 3.0]]);
    assert!(!found.bit_identical);
    assert_eq!(found.max_abs, 1.0);
    assert_eq!(found.mean_abs, 1.0);
    // √1 / √((9 + 16 + 16 + 9) / 4)
    assert_eq!(found.relative, 1.0 / 12.5_f64.sqrt());
    // From 3 = 1.5·2 to 4 = 1·2² there are half of the 2²³ numbers of a binade.
    assert_eq!(found.max_ulps, 1 << 22);
    assert!((found.min_cosine - 24.0 / 25.0).abs() < 1e-15);
    assert_eq!(found.most_different_ranks, Some([0, 1]));
}

#[test]
fn four_ranks_by_hand() {
    let found = drift(DType::F64, &[&[1.0, 0.0], &[1.0, 0.0], &[1.0, 2.0], &[1.0, -1.0]]);
    assert_eq!(found.max_abs, 3.0);
    // Six pairs of two elements: 0, 2, 1, 2, 1, 3 in the second element.
    assert_eq!(found.mean_abs, 9.0 / 12.0);
    assert_eq!(found.relative, ((4.0 + 1.0 + 4.0 + 1.0 + 9.0_f64) / 12.0 / (9.0 / 8.0)).sqrt());
    // (1, 2)·(1, −1) / (√5 √2)
    assert!((found.min_cosine + 1.0 / 10.0_f64.sqrt()).abs() < 1e-15);
    assert_eq!(found.most_different_ranks, Some([2, 3]));
}

#[test]
fn the_first_of_equally_different_pairs_is_named() {
    assert_eq!(drift(DType::F32, &[&[1.0], &[1.0], &[2.0]]).most_different_ranks, Some([0, 2]));
}

#[test]
fn units_in_the_last_place_are_those_of_the_storage_type() {
    // After 1 come 1 + 2⁻¹⁰, 1 + 2⁻⁷ and 1 + 2⁻²³; below 1 they lie twice as close.
    for (dtype, step) in
        [(DType::F16, 2.0_f64.powi(-10)), (DType::BF16, 2.0_f64.powi(-7)), (DType::F32, 2.0_f64.powi(-23))]
    {
        assert_eq!(drift(dtype, &[&[1.0], &[1.0 + step]]).max_ulps, 1, "{dtype}");
        assert_eq!(drift(dtype, &[&[1.0 + 3.0 * step], &[1.0 - step / 2.0]]).max_ulps, 4, "{dtype}");
        assert_eq!(drift(dtype, &[&[-1.0], &[-1.0 - 5.0 * step]]).max_ulps, 5, "{dtype}");
    }
    assert_eq!(drift(DType::F64, &[&[1.0], &[1.0 + f64::EPSILON]]).max_ulps, 1);
}

#[test]
fn units_are_counted_through_zero() {
    // The smallest float16 is 2⁻²⁴, the smallest bfloat16 2⁻¹³³.
    assert_eq!(drift(DType::F16, &[&[2.0_f64.powi(-24)], &[-2.0_f64.powi(-24)]]).max_ulps, 2);
    assert_eq!(drift(DType::BF16, &[&[2.0_f64.powi(-133)], &[-2.0 * 2.0_f64.powi(-133)]]).max_ulps, 3);
    assert_eq!(drift(DType::F64, &[&[f64::MAX], &[-f64::MAX]]).max_ulps, 2 * f64::MAX.to_bits());
}

#[test]
fn zeros_of_different_sign_differ_in_bits_alone() {
    let found = drift(DType::F16, &[&[1.0, 0.0], &[1.0, -0.0]]);
    let expected = Drift { bit_identical: false, most_different_ranks: Some([0, 1]), ..Drift::NONE };
    assert_eq!(found, expected);
    assert_eq!(drift(DType::F16, &[&[0.0], &[-0.0]]), expected);
}

#[test]
fn a_replica_of_zeros() {
    let found = drift(DType::F32, &[&[0.0, 0.0], &[0.0, 2.0]]);
    assert_eq!((found.max_abs, found.mean_abs, found.min_cosine), (2.0, 1.0, 0.0));
    // √(4/2) / √(4/4)
    assert_eq!(found.relative, 2.0_f64.sqrt());
}

#[test]
fn opposite_signs() {
    let found = drift(DType::F32, &[&[1.0, -1.0], &[-1.0, 1.0]]);
    assert_eq!((found.max_abs, found.relative, found.min_cosine), (2.0, 2.0, -1.0));
}

#[test]
fn the_ends_of_float64() {
    let found = drift(DType::F64, &[&[f64::MAX], &[-f64::MAX]]);
    assert_eq!((found.max_abs, found.mean_abs, found.relative), (f64::MAX, f64::MAX, 2.0));
    let tiny = f64::from_bits(1);
    let found = drift(DType::F64, &[&[tiny], &[2.0 * tiny]]);
    assert_eq!((found.max_abs, found.mean_abs, found.max_ulps), (tiny, tiny, 1));
    assert!(found.relative.is_finite());
}

#[test]
fn other_forms_are_refused() {
    let one = tensor(DType::F32, &[1.0]);
    assert!(Drift::between(&[one.clone(), tensor(DType::F16, &[1.0])]).is_err());
    assert!(Drift::between(&[one, tensor(DType::F32, &[1.0, 2.0])]).is_err());
}

proptest! {
    #[test]
    fn every_number_is_finite_and_pairs_are_symmetric(
        values in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY), 1..8),
    ) {
        let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
        let left: Vec<_> = values.iter().map(|&(value, _)| finite(value)).collect();
        let right: Vec<_> = values.iter().map(|&(_, value)| finite(value)).collect();
        let found = drift(DType::F64, &[&left, &right]);
        for number in [found.max_abs, found.mean_abs, found.relative, found.min_cosine] {
            prop_assert!(number.is_finite(), "{found:?}");
        }
        prop_assert!(found.mean_abs <= found.max_abs * (1.0 + 1e-12));
        prop_assert_eq!(found.bit_identical, found.most_different_ranks.is_none());
        prop_assert_eq!(found, drift(DType::F64, &[&right, &left]));
    }
}
