//! Processors without tiles.

use std::ops::Range;

use tch::Tensor;

use crate::model::{Backend, ModelError};
use crate::tensor::HostTensor;

#[derive(Debug, Clone)]
pub(in crate::model) enum Packed {}

pub(in crate::model) fn usable(_backend: Backend) -> bool {
    false
}

impl Packed {
    pub(in crate::model) fn new(_backend: Backend, _matrix: &HostTensor) -> Result<Option<Self>, ModelError> {
        Ok(None)
    }

    pub(in crate::model) fn narrow(&self, _dim: usize, _range: Range<usize>) -> Option<Self> {
        match *self {}
    }

    pub(in crate::model) fn inputs(&self) -> usize {
        match *self {}
    }

    pub(in crate::model) fn in_other_order(self) -> Self {
        self
    }

    pub(in crate::model) fn product(&self, _x: &Tensor, _bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        match *self {}
    }

    pub(in crate::model) fn add_product(&self, _total: &Tensor, _x: &Tensor) -> Result<Tensor, ModelError> {
        match *self {}
    }
}
