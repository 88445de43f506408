#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::float_cmp, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::tensor::{DType, HostTensor};

const F32: Backend = Backend { device: Device::Cpu, kind: Kind::Float };

/// A message where there is nothing to test.
fn no_tiles() -> bool {
    let none = !registers::available();
    if none {
        eprintln!("skipped: this processor has no AMX tiles for bfloat16");
    }
    none
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn random(shape: [i64; 2], seed: i64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// The matrix as a checkpoint would hold it.
fn stored(matrix: &Tensor, dtype: DType) -> HostTensor {
    let shape = matrix.size().into_iter().map(|extent| usize::try_from(extent).unwrap()).collect();
    HostTensor::from_f64(dtype, shape, &values(matrix)).unwrap()
}

fn as_tensor(host: &HostTensor) -> Tensor {
    let shape: Vec<i64> = host.shape().iter().map(|&extent| to_i64(extent)).collect();
    Tensor::from_slice(&host.to_f64().unwrap()).reshape(shape)
}

/// The largest distance from `expected`, in units of 2⁻²⁴ Σ|x||w|, the size of what is rounded in each sum.
fn error(found: &Tensor, expected: &Tensor, magnitudes: &Tensor) -> f64 {
    let ulp = magnitudes * 2_f64.powi(-24);
    ((found.to_kind(Kind::Double) - expected).abs() / ulp).max().double_value(&[])
}

#[test]
fn products_are_as_accurate_as_float32_ones() {
    if no_tiles() {
        return;
    }
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let (x, w) = (random([200, 1000], 1), stored(&random([130, 1000], 2), dtype));
        let bias = random([1, 130], 3).reshape([130]);
        let found = Packed::new(F32, &w).unwrap().unwrap().product(&x, Some(&bias)).unwrap();
        let (wide_x, w) = (x.to_kind(Kind::Double), as_tensor(&w));
        let expected = wide_x.matmul(&w.transpose(0, 1)) + bias.to_kind(Kind::Double);
        let magnitudes = wide_x.abs().matmul(&w.abs().transpose(0, 1));
        let theirs = x.linear(&w.to_kind(Kind::Float), Some(&bias));
        let (ours, theirs) = (error(&found, &expected, &magnitudes), error(&theirs, &expected, &magnitudes));
        assert!(ours < 1.0f64.max(2.0 * theirs), "{dtype}: off by {ours} units, libtorch by {theirs}");
    }
}

#[test]
fn what_is_no_number_stays_none() {
    if no_tiles() {
        return;
    }
    let w = stored(&Tensor::ones([32, 32], (Kind::Float, Device::Cpu)), DType::F16);
    let packed = Packed::new(F32, &w).unwrap().unwrap();
    let payload_in_the_last_bit = f32::from_bits(0x7f80_0001);
    for bad in [f32::NAN, payload_in_the_last_bit, f32::INFINITY, f32::NEG_INFINITY] {
        let mut row = [1.0_f32; 64];
        row[40] = bad;
        let found = values(&packed.product(&Tensor::from_slice(&row).reshape([2, 32]), None).unwrap());
        assert!(found[..32].iter().all(|&value| value == 32.0), "{bad}: the other row is not touched");
        let expected = f64::from(bad);
        let same = |&value: &f64| value.is_nan() || value == expected;
        assert!(found[32..].iter().all(same), "{bad}: {:?}", &found[32..34]);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    if no_tiles() {
        return;
    }
    let w = stored(&random([40, 48], 7), DType::F16);
    let packed = Packed::new(F32, &w).unwrap().unwrap();
    assert!(packed.product(&random([3, 47], 8), None).is_err());
    assert!(packed.add_product(&random([3, 41], 9), &random([3, 48], 10)).is_err());
    assert!(packed.product(&random([3, 48], 8).to_kind(Kind::BFloat16), None).is_err());
    assert!(Packed::new(F32, &stored(&random([4, 4], 11), DType::F64)).unwrap().is_none());
    assert!(
        packed.narrow(1, 0..33).is_none() && packed.narrow(0, 8..40).is_none() && packed.narrow(0, 0..41).is_none()
    );
}

#[test]
fn the_other_order_differs_by_rounding_alone() {
    if no_tiles() {
        return;
    }
    for inputs in [64, 1000, 2100] {
        let (x, w) = (random([70, inputs], 12), stored(&random([96, inputs], 13), DType::F16));
        let packed = Packed::new(F32, &w).unwrap().unwrap();
        let (one, other) = (packed.product(&x, None).unwrap(), packed.in_other_order().product(&x, None).unwrap());
        assert_ne!(one, other, "{inputs}");
        let (x, w) = (x.to_kind(Kind::Double), as_tensor(&w));
        let (expected, magnitudes) = (x.matmul(&w.transpose(0, 1)), x.abs().matmul(&w.abs().transpose(0, 1)));
        assert!(error(&other, &expected, &magnitudes) < 2.0, "{inputs}");
    }
}

/// Numbers with few digits, whose products and sums are exact in whatever order.
fn exact(shape: [i64; 2], seed: i64) -> Tensor {
    (random(shape, seed) * 8.0).round() / 4.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_form_comes_out(
        (rows, inputs, outputs) in (0_i64..300, 1_i64..1200, 1_i64..150),
        dtype in prop::sample::select(vec![DType::BF16, DType::F16, DType::F32]),
        with_bias: bool,
        seed in 0_i64..1000,
    ) {
        if no_tiles() {
            return Ok(());
        }
        let (x, w) = (exact([rows, inputs], seed), exact([outputs, inputs], seed + 1));
        let bias = with_bias.then(|| exact([1, outputs], seed + 2).reshape([outputs]));
        let packed = Packed::new(F32, &stored(&w, dtype)).unwrap().unwrap();
        let found = packed.product(&x, bias.as_ref()).unwrap();
        let expected = x.linear(&w, bias.as_ref());
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(packed.add_product(&found, &x).unwrap(), expected + x.matmul(&w.transpose(0, 1)));
    }

    #[test]
    fn ranges_are_those_of_the_matrix(
        (panels, steps) in (1_usize..5, 1_usize..40),
        (first, second) in (0_usize..5, 0_usize..5),
        dim in 0_usize..2,
    ) {
        if no_tiles() {
            return Ok(());
        }
        let unit = |at: usize| at.min(if dim == 0 { panels } else { steps }) * BLOCK;
        let (start, end) = (unit(first.min(second)), unit(first.max(second)));
        prop_assume!(start < end);
        let w = exact([to_i64(panels * BLOCK), to_i64(steps * BLOCK)], 1);
        let packed = Packed::new(F32, &stored(&w, DType::F16)).unwrap().unwrap();
        let part = packed.narrow(dim, start..end).unwrap();
        let w = w.narrow(to_i64(dim), to_i64(start), to_i64(end - start));
        let x = exact([50, w.size()[1]], 2);
        prop_assert_eq!(part.product(&x, None).unwrap(), x.matmul(&w.transpose(0, 1)));
    }
}
