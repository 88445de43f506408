//! Products of activations and a linear layer's weights. libtorch does them, but for float32 on processors with AMX: there
//! numbers are taken apart into sums of bfloat16, whose products are exact, and multiplied by tiles. That is twice as
//! fast as float32 vectors at their best, and as accurate.

#[cfg_attr(not(target_arch = "x86_64"), path = "unsupported.rs")]
mod tiled;

use tch::{Device, Kind, Tensor};

use super::extent::to_i64;
use super::{Backend, ModelError};
pub(super) use tiled::{Packed, usable};

/// Whether this processor's matrix products are done by AMX tiles.
pub fn has_tiles() -> bool {
    usable(Backend { device: Device::Cpu, kind: Kind::Float })
}

/// The weights of a linear layer, `[outputs, inputs]`, ready to be multiplied with.
#[derive(Debug)]
pub(super) enum LinearWeight {
    Plain(Tensor),
    /// In two, each `[outputs, some of the inputs]`: the last inputs are summed first.
    Halves(Tensor, Tensor),
    Packed(Packed),
}

impl LinearWeight {
    /// A matrix whose products are libtorch's; in another order of summation than its own if asked for, as far as there are two
    /// inputs to sum.
    pub(super) fn plain(weight: Tensor, other_order: bool) -> Result<Self, ModelError> {
        let inputs = weight.size2()?.1;
        if !other_order || inputs < 2 {
            return Ok(Self::Plain(weight));
        }
        let half = inputs / 2;
        Ok(Self::Halves(weight.f_narrow(1, 0, half)?, weight.f_narrow(1, half, inputs - half)?))
    }

    /// Columns of the activations.
    pub(super) fn inputs(&self) -> Result<i64, ModelError> {
        match self {
            Self::Plain(weight) => Ok(weight.size2()?.1),
            Self::Halves(first, last) => Ok(first.size2()?.1 + last.size2()?.1),
            Self::Packed(weight) => Ok(to_i64(weight.inputs())),
        }
    }

    /// `x Wᵀ + bias`, `[rows, outputs]`, for `x` `[rows, inputs]`.
    pub(super) fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        match self {
            Self::Plain(weight) => Ok(x.f_linear(weight, bias)?),
            Self::Halves(first, last) => {
                let (x_first, x_last) = halves(x, first)?;
                Ok(x_last.f_linear(last, bias)?.f_addmm_(&x_first, &first.f_transpose(0, 1)?)?)
            }
            Self::Packed(weight) => weight.product(x, bias),
        }
    }

    /// `total + x Wᵀ`, in `total`'s own memory.
    pub(super) fn add_product(&self, mut total: Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Self::Plain(weight) => Ok(total.f_addmm_(x, &weight.f_transpose(0, 1)?)?),
            Self::Halves(first, last) => {
                let (x_first, x_last) = halves(x, first)?;
                let mut total = total.f_addmm_(&x_last, &last.f_transpose(0, 1)?)?;
                Ok(total.f_addmm_(&x_first, &first.f_transpose(0, 1)?)?)
            }
            Self::Packed(weight) => weight.add_product(&total, x),
        }
    }
}

/// The columns of `x` that a matrix's first half of the inputs multiplies, and the others.
fn halves(x: &Tensor, first: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
    let (inputs, half) = (x.size2()?.1, first.size2()?.1);
    Ok((x.f_narrow(1, 0, half)?, x.f_narrow(1, half, inputs - half)?))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::LinearWeight;

    /// On whatever processor: these are the products that AMX has no part in.
    #[test]
    fn plain_products_have_a_second_order_of_summation() {
        tch::manual_seed(1);
        let random = |rows, columns, kind| Tensor::rand([rows, columns], (Kind::Double, Device::Cpu)).to_kind(kind);
        for (kind, rounding) in [(Kind::Double, 1e-15), (Kind::Float, 1e-6), (Kind::BFloat16, 2e-2)] {
            let (x, bias) = (random(8, 1001, kind), random(1, 64, kind).squeeze());
            let weight = random(64, 1001, kind);
            let of = |other_order| LinearWeight::plain(weight.shallow_clone(), other_order).unwrap();
            let products = [of(false), of(true)].map(|weight| {
                let product = weight.product(&x, Some(&bias)).unwrap();
                weight.add_product(product, &x).unwrap().to_kind(Kind::Double)
            });
            let difference = (&products[1] - &products[0]).abs().max().double_value(&[]);
            let largest = products[0].abs().max().double_value(&[]);
            assert!(difference > 0.0, "{kind:?}: the same order");
            assert!(difference <= rounding * largest, "{kind:?}: {difference:e} of {largest:e}");
        }
        let narrow = LinearWeight::plain(random(4, 1, Kind::Float), true).unwrap();
        assert!(matches!(narrow, LinearWeight::Plain(_)));
    }
}
