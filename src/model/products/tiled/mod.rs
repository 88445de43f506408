//! Products of float32 by the tiles of AMX, which multiply bfloat16 sixteen times as fast as vectors multiply float32:
//! five products of pieces for each of numbers (six with float32 weights, three with bfloat16 ones) leave twice the speed.

mod multiply;
mod packed;
mod pieces;
mod recycled;
mod registers;
#[cfg(test)]
mod tests;

use tch::{Device, Kind, TchError, Tensor};

use crate::model::extent::to_i64;
use crate::model::kernels::{elements, read};
use crate::model::{Backend, ModelError};
use multiply::{Start, multiply};
pub(in crate::model) use packed::Packed;
use registers::{BLOCK, Tiles};

/// Whether products of this backend's type are done here.
pub(in crate::model) fn usable(backend: Backend) -> bool {
    backend.device == Device::Cpu && backend.kind == Kind::Float && registers::available()
}

impl Packed {
    /// `x Wᵀ + bias`, `[rows, outputs]`, for `x` `[rows, inputs]`.
    pub(in crate::model) fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let rows = self.rows_of(x)?;
        let mut product = Tensor::f_empty([rows, to_i64(self.outputs)], (x.kind(), x.device()))?;
        let mut start = match bias {
            Some(bias) => Vec::<f32>::try_from(&bias.f_to_kind(Kind::Float)?.f_flatten(0, -1)?)?,
            None => Vec::new(),
        };
        start.resize(self.outputs.next_multiple_of(BLOCK), 0.0);
        self.multiply(x, Start::Row(&start), &mut product)?;
        Ok(product)
    }

    /// `total + x Wᵀ`, in `total`'s own memory if that is contiguous.
    pub(in crate::model) fn add_product(&self, total: &Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
        let expected = [self.rows_of(x)?, to_i64(self.outputs)];
        if total.size() != expected || total.kind() != x.kind() {
            return Err(unfit("a sum", total, &expected));
        }
        let mut total = total.f_contiguous()?;
        self.multiply(x, Start::Output, &mut total)?;
        Ok(total)
    }

    fn rows_of(&self, x: &Tensor) -> Result<i64, ModelError> {
        match x.size()[..] {
            [rows, inputs] if inputs == to_i64(self.inputs) && x.kind() == Kind::Float => Ok(rows),
            _ => Err(unfit("activations", x, &[-1, to_i64(self.inputs)])),
        }
    }

    fn multiply(&self, x: &Tensor, start: Start<'_>, output: &mut Tensor) -> Result<(), ModelError> {
        let Some(tiles) = Tiles::configure() else {
            return Err(unfit("a processor with AMX for activations", x, &[]));
        };
        let x = x.f_contiguous()?;
        let length = output.numel();
        multiply(&tiles, read::<f32>(&x), self, start, elements::<f32>(output, length));
        Ok(())
    }
}

fn unfit(what: &str, found: &Tensor, expected: &[i64]) -> ModelError {
    let (kind, size) = (found.kind(), found.size());
    TchError::Kind(format!("expected {what} {expected:?}, found {kind:?} {size:?}")).into()
}
