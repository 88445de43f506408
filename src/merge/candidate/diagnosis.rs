//! What a tensor is that no way of merging makes, where its values prove it.

use super::order::Order;
use super::orders::wrong_orders;
use super::way::{Expectation, Way};
use crate::config::Architecture;
use crate::partition::{Kind, Role};
use crate::tensor::{
    DType, HostTensor, TensorError, agreement, difference, differs_by_rank_one, multiple, rows_agree, rows_like,
};
use crate::words::scientific;

/// What a tensor is instead of what it should be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Diagnosis {
    Missing,
    /// The checkpoint has no such parameter.
    Extra,
    Shape {
        expected: Vec<usize>,
        found: Vec<usize>,
    },
    Zero,
    Transposed,
    /// The words of an [`Order`].
    Order(String),
    /// This much was added to every element.
    Offset(f64),
    Multiple(f64),
    /// Behind its norm it gives the same but for a constant: a rank-one term that only the norm's bias meets.
    Constant,
    /// The right rows, in an order that nobody has a name for.
    SameRows,
    /// Another layer's, wholly.
    OfLayer(usize),
    /// It follows this way, which is not the strategy's.
    Is(Way),
    /// It follows the strategy, to a coarser rounding than the rest.
    Rounded {
        dtype: DType,
        nearest: bool,
    },
    Differs(Distance),
}

/// How far a tensor is from the expected one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distance {
    pub max_abs: f64,
    pub relative: f64,
    pub differing: u64,
    pub count: u64,
}

impl std::fmt::Display for Diagnosis {
    /// Completes a sentence about the parameter: `is the transpose`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => formatter.write_str("is missing"),
            Self::Extra => formatter.write_str("is there, and the checkpoint has none"),
            Self::Shape { expected, found } => write!(formatter, "has shape {found:?}, expected {expected:?}"),
            Self::Zero => formatter.write_str("is all zero"),
            Self::Transposed => formatter.write_str("is the transpose"),
            Self::Order(words) => formatter.write_str(words),
            Self::Offset(offset) if *offset < 0.0 => write!(formatter, "is lower by {}", -offset),
            Self::Offset(offset) => write!(formatter, "is higher by {offset}"),
            Self::Multiple(factor) => write!(formatter, "is {factor} times what it should be"),
            Self::Constant => formatter.write_str("adds a constant (a rank-one term that only the norm's bias meets)"),
            Self::SameRows => formatter.write_str("has the right rows in another order"),
            Self::OfLayer(layer) => write!(formatter, "is layer {layer}'s"),
            Self::Is(way) => write!(formatter, "is {way}"),
            Self::Rounded { dtype, nearest: true } => write!(formatter, "is rounded to {dtype}, the rest is not"),
            Self::Rounded { dtype, nearest: false } => {
                write!(formatter, "is off by up to a step of {dtype}, the rest is not")
            }
            Self::Differs(Distance { max_abs, relative, differing, count }) => {
                let (max_abs, relative) = (scientific(*max_abs, 1), scientific(*relative, 1));
                write!(formatter, "differs by up to {max_abs} (relative {relative}) in {differing} of {count} elements")
            }
        }
    }
}

/// A parameter whose tensor no way of merging makes.
#[derive(Debug)]
pub(super) struct Suspect<'a> {
    pub architecture: &'a Architecture,
    pub role: Role,
    pub kind: Kind,
    /// Ranks of the checkpoint.
    pub ranks: usize,
    pub found: &'a HostTensor,
    /// The candidate's gain of the norm that it reads, where that has a bias too.
    pub gain: Option<Vec<f64>>,
    /// In the canonical layout where the role has one, as `found` is.
    pub expected: &'a [Expectation],
}

impl Suspect<'_> {
    /// What it is, and of which way's result; without a way where that needs none, or where nothing is proven.
    pub(super) fn diagnose(&self) -> Result<Option<(Diagnosis, Option<Way>)>, TensorError> {
        let Some(first) = self.expected.first() else { return Ok(None) };
        if first.tensor.shape() != self.found.shape() {
            let (expected, found) = (first.tensor.shape().to_vec(), self.found.shape().to_vec());
            return Ok(Some((Diagnosis::Shape { expected, found }, None)));
        }
        if self.found.is_zero()? {
            return Ok(Some((Diagnosis::Zero, None)));
        }
        let narrowest = self.found.narrowest()?;
        for expected in self.expected {
            let dtype = expected.tensor.dtype().coarser(narrowest);
            if let Some(diagnosis) = self.of_one(&expected.tensor, dtype)? {
                return Ok(Some((diagnosis, Some(expected.way))));
            }
        }
        Ok(None)
    }

    pub(super) fn distances(&self) -> Result<Vec<(Way, Distance)>, TensorError> {
        let same_shape = self.expected.iter().filter(|expected| expected.tensor.shape() == self.found.shape());
        same_shape
            .map(|expected| {
                let found = difference(&expected.tensor, self.found)?;
                let (relative, count) = (found.relative(), found.count);
                Ok((expected.way, Distance { max_abs: found.max_abs, relative, differing: found.differing, count }))
            })
            .collect()
    }

    fn of_one(&self, expected: &HostTensor, dtype: DType) -> Result<Option<Diagnosis>, TensorError> {
        if let [rows, columns] = expected.shape()
            && rows == columns
            && rows_agree(&expected.transposed()?, self.found, dtype, Some)?
        {
            return Ok(Some(Diagnosis::Transposed));
        }
        if let Some(order) = self.order(expected, dtype)? {
            return Ok(Some(Diagnosis::Order(order)));
        }
        if let Some(diagnosis) = self.offset(expected, dtype)? {
            return Ok(Some(diagnosis));
        }
        if let Some(factor) = multiple(expected, self.found, dtype)? {
            return Ok(Some(Diagnosis::Multiple(factor)));
        }
        if let Some(gain) = &self.gain
            && differs_by_rank_one(expected, self.found, gain, dtype)?
        {
            return Ok(Some(Diagnosis::Constant));
        }
        if self.is_matrix() {
            if let Some(shift) = shift(expected, self.found, dtype)? {
                let (by, way) = (shift.unsigned_abs(), if shift > 0 { "up" } else { "down" });
                let rows = if by == 1 { "row" } else { "rows" };
                return Ok(Some(Diagnosis::Order(format!("is shifted {way} by {by} {rows}"))));
            }
            if same_rows(expected, self.found) {
                return Ok(Some(Diagnosis::SameRows));
            }
        }
        Ok(None)
    }

    fn is_matrix(&self) -> bool {
        self.found.shape().len() == 2
    }

    fn order(&self, expected: &HostTensor, dtype: DType) -> Result<Option<String>, TensorError> {
        let orders = wrong_orders(self.architecture, self.role, self.ranks);
        let agrees = |expected: &HostTensor, found: &HostTensor, Order { source, .. }: &Order| {
            let rows = found.shape().first().copied().unwrap_or(0);
            Ok(source.len() == rows && rows_agree(expected, found, dtype, |row| source.get(row).copied())?)
        };
        let by_columns = self.kind.partition_dim() == Some(1) && self.is_matrix();
        let turned = if by_columns && !orders.is_empty() {
            Some((expected.transposed()?, self.found.transposed()?))
        } else {
            None
        };
        let (expected, found) = turned.as_ref().map_or((expected, self.found), |(expected, found)| (expected, found));
        for order in orders {
            if agrees(expected, found, &order)? {
                return Ok(Some(order.words));
            }
        }
        Ok(None)
    }

    /// A gain without its one, or with one too many.
    fn offset(&self, expected: &HostTensor, dtype: DType) -> Result<Option<Diagnosis>, TensorError> {
        if self.kind != Kind::NormGain {
            return Ok(None);
        }
        let own = expected.to_f64()?;
        // Around zero stands what was rounded around one.
        let scale: Vec<f64> = own.iter().map(|value| value.abs() + 1.0).collect();
        for offset in [-1.0, 1.0] {
            let values: Vec<f64> = own.iter().map(|value| value + offset).collect();
            let moved = HostTensor::from_f64(DType::F64, expected.shape().to_vec(), &values)?;
            let rounding = agreement(&moved, self.found, Some(&scale))?.map(|found| found.rounding.unwrap_or(dtype));
            if rounding.is_some_and(|rounding| !rounding.is_coarser_than(dtype)) {
                return Ok(Some(Diagnosis::Offset(offset)));
            }
        }
        Ok(None)
    }
}

/// By how many rows the tensor is moved: row `at` is the right one's row `at + shift`, wherever there is one.
fn shift(expected: &HostTensor, found: &HostTensor, dtype: DType) -> Result<Option<isize>, TensorError> {
    let rows = found.shape().first().copied().unwrap_or(0);
    for probe in [rows / 2, rows / 3, 2 * rows / 3] {
        let [place] = rows_like(expected, found, dtype, probe)?[..] else { continue };
        let Ok(shift) = isize::try_from(place).and_then(|place| isize::try_from(probe).map(|probe| place - probe))
        else {
            continue;
        };
        let source = |row: usize| row.checked_add_signed(shift).filter(|&from| from < rows);
        let proven = shift != 0 && 2 * shift.unsigned_abs() <= rows && rows_agree(expected, found, dtype, source)?;
        return Ok(proven.then_some(shift));
    }
    Ok(None)
}

/// Whether the rows are the same, bit for bit, in whatever order.
fn same_rows(expected: &HostTensor, found: &HostTensor) -> bool {
    let rows = |tensor: &HostTensor| {
        let bytes = tensor.shape().get(1..).map_or(1, |rest| rest.iter().product()) * tensor.dtype().size();
        let mut rows: Vec<_> =
            tensor.bytes().chunks(bytes.max(1)).map(blake3::hash).map(|hash| *hash.as_bytes()).collect();
        rows.sort_unstable();
        rows
    };
    expected.cast(found.dtype()).is_ok_and(|expected| rows(&expected) == rows(found))
}
