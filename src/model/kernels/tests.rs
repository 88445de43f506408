#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

/// Every representable exponent, and densely where GELU bends.
fn inputs() -> Tensor {
    let wide = (-126..=126).flat_map(|exponent| [1.0_f32, -1.0].map(|sign| sign * 2_f32.powi(exponent)));
    let dense = (-160_000..160_000_i32).map(|at| {
        #[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
        let x = at as f32 * 1e-4;
        x
    });
    Tensor::from_slice(&wide.chain(dense).chain([0.0]).collect::<Vec<f32>>())
}

#[test]
fn a_row_whose_variance_overflows_is_no_number() {
    let rows = Tensor::from_slice(&[1e30_f32, -1e30, 1.0, -1.0]).reshape([2, 2]);
    let replica = (Some(Tensor::from_slice(&[1.0_f32; 2])), Some(Tensor::from_slice(&[0.0_f32; 2])));
    let normed = layer_norms(&rows, &[replica], 1e-5).unwrap().unwrap();
    let normed = values(&normed[0]);
    assert!(normed[..2].iter().all(|value| value.is_nan()) && normed[2..].iter().all(|value| value.is_finite()));
}

#[test]
fn gelu_is_that_of_float64() {
    let x = inputs();
    let expected = values(&x.to_kind(Kind::Double).gelu("tanh"));
    let theirs = values(&x.gelu("tanh"));
    let mut ours = x.shallow_clone().copy();
    assert!(gelu_tanh(&mut ours));
    let worst = |found: &[f64]| {
        let error = |(found, expected): (&f64, &f64)| (found - expected).abs() / expected.abs().max(1.0);
        found.iter().zip(&expected).map(error).fold(0.0, f64::max)
    };
    let (ours, theirs) = (worst(&values(&ours)), worst(&theirs));
    assert!(ours <= 3e-7 && ours <= 3.0 * theirs, "off by {ours:e}, libtorch by {theirs:e}");
}

#[test]
fn without_fused_multiplication_gelu_is_the_same_to_rounding() {
    let x: Vec<f32> = Vec::try_from(inputs()).unwrap();
    for x in x {
        let (fused, plain) = (gelu::<true>(x), gelu::<false>(x));
        assert!((fused - plain).abs() <= 4e-7 * fused.abs().max(1.0), "{x}: {fused} and {plain}");
    }
}

#[test]
fn bfloat16_is_rounded_once() {
    let x = inputs().to_kind(Kind::BFloat16);
    let expected = values(&x.to_kind(Kind::Double).gelu("tanh"));
    let mut ours = x.copy();
    assert!(gelu_tanh(&mut ours));
    for (found, expected) in values(&ours).iter().zip(expected) {
        assert!((found - expected).abs() <= expected.abs() / 256.0 + 1e-6, "{found} and {expected}");
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let mut x = Tensor::from_slice(&[f32::NAN, -f32::NAN, 1.0]).to_kind(kind);
        assert!(gelu_tanh(&mut x));
        let found = values(&x);
        assert!(found[0].is_nan() && found[1].is_nan() && found[2] > 0.8, "{found:?}");
    }
}

#[test]
fn heads_are_rotated_where_they_lie() {
    for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 1.0 / 64.0)] {
        // Queries, as the attention sees them: every third block of a joined tensor.
        let joined = Tensor::arange(5 * 2 * 3 * 8, (Kind::Float, Device::Cpu)).sin().to_kind(kind);
        let joined = joined.view([5, 2, 3, 8]);
        let before = joined.copy();
        let (cos, sin) = (Tensor::rand([5, 1, 3], (kind, Device::Cpu)), Tensor::rand([5, 1, 3], (kind, Device::Cpu)));
        assert!(rotate(&joined.select(2, 0), &cos, &sin));
        let (x1, x2) = (before.select(2, 0).narrow(-1, 0, 3), before.select(2, 0).narrow(-1, 3, 3));
        let expected = before.copy();
        expected.select(2, 0).narrow(-1, 0, 3).copy_(&(&x1 * &cos - &x2 * &sin));
        expected.select(2, 0).narrow(-1, 3, 3).copy_(&(&x2 * &cos + &x1 * &sin));
        for (found, expected) in values(&joined).iter().zip(values(&expected)) {
            assert!((found - expected).abs() <= tolerance, "{kind:?}: {found} and {expected}");
        }
    }
}

#[test]
fn layer_norms_are_those_of_float64() {
    for width in [512, 37, 5] {
        let rows = Tensor::randn([9, width], (Kind::Double, Device::Cpu)) * 3.0 + 2.0;
        let vector = |kind| Tensor::randn([width], (Kind::Double, Device::Cpu)).to_kind(kind);
        for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 1.0 / 64.0)] {
            let rows = rows.to_kind(kind);
            let replicas: Vec<_> = (0..3).map(|_| (Some(vector(kind)), Some(vector(kind)))).collect();
            let found = layer_norms(&rows, &replicas, 1e-5).unwrap().unwrap();
            for ((gain, bias), found) in replicas.iter().zip(&found) {
                let [gain, bias] = [gain, bias].map(|part| part.as_ref().map(|part| part.to_kind(Kind::Double)));
                let expected = rows.to_kind(Kind::Double).layer_norm([width], gain, bias, 1e-5, true);
                for (found, expected) in values(found).iter().zip(values(&expected)) {
                    let error = (found - expected).abs();
                    assert!(error <= tolerance * expected.abs().max(1.0), "{kind:?}: {found} and {expected}");
                }
            }
        }
    }
}

#[test]
fn other_tensors_are_left_to_libtorch() {
    let double = Tensor::ones([2, 2, 4], (Kind::Double, Device::Cpu));
    assert!(!gelu_tanh(&mut double.shallow_clone()));
    assert!(!rotate(&double, &double.narrow(-1, 0, 2).contiguous(), &double.narrow(-1, 0, 2).contiguous()));
    let floats = Tensor::ones([2, 2, 4], (Kind::Float, Device::Cpu));
    assert!(!gelu_tanh(&mut floats.transpose(0, 2)));
    let table = Tensor::ones([2, 1, 2], (Kind::Float, Device::Cpu));
    assert!(!rotate(&floats.narrow(1, 0, 1).expand([2, 3, 4], false), &table, &table));
    assert!(!rotate(&floats.transpose(1, 2), &table, &table));
    let gain = || Some(Tensor::ones([4], (Kind::Float, Device::Cpu)));
    assert!(layer_norms(&double, &[(gain(), gain())], 1e-5).unwrap().is_none());
    assert!(layer_norms(&floats, &[(gain(), None)], 1e-5).unwrap().is_none());
    assert!(layer_norms(&floats.transpose(0, 2), &[(gain(), gain())], 1e-5).unwrap().is_none());
    assert_eq!(values(&floats), values(&Tensor::ones([16], (Kind::Float, Device::Cpu))));
}
