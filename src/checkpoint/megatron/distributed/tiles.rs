//! Whether parts of a tensor tile it: every element is in exactly one.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::checkpoint::torch_file::Part;

/// Steps after which a hostile division is given up; a real one takes as many as there are parts, times a small number.
const MAX_STEPS: usize = 1 << 22;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// A region that no part has.
    Missing(Region),
    /// A region that several parts have.
    Overlap(Region),
    /// A part outside of the tensor.
    Outside(Region),
    Tangled,
}

/// A box of a tensor, a range in each dimension.
type Region = Vec<Range<usize>>;

/// A region in Python's notation.
pub(super) fn shown(region: &[Range<usize>]) -> String {
    let ranges: Vec<_> = region.iter().map(|range| format!("{}:{}", range.start, range.end)).collect();
    format!("[{}]", ranges.join(", "))
}

pub(super) fn region(part: &Part) -> Region {
    let ranges = part.offsets.iter().zip(&part.sizes);
    ranges.map(|(&start, &size)| start..start.saturating_add(size)).collect()
}

pub(super) fn check(shape: &[usize], parts: &[Part]) -> Result<(), Fault> {
    let regions: Vec<Region> = parts.iter().map(region).collect();
    let inside = |part: &Part, region: &Region| {
        part.sizes.len() == shape.len()
            && region.len() == shape.len()
            && region.iter().zip(shape).all(|(range, &extent)| range.end <= extent)
    };
    if let Some((_, outside)) = parts.iter().zip(&regions).find(|(part, region)| !inside(part, region)) {
        return Err(Fault::Outside(outside.clone()));
    }
    if shape.contains(&0) {
        return Ok(());
    }
    let some = regions.iter().filter(|region| region.iter().all(|range| !range.is_empty())).collect();
    Tiler { shape, steps_left: MAX_STEPS }.check(&mut Vec::new(), some)
}

struct Tiler<'a> {
    shape: &'a [usize],
    steps_left: usize,
}

impl Tiler<'_> {
    /// Checks the parts of `within`, which has a range in each of the first dimensions.
    fn check(&mut self, within: &mut Region, mut parts: Vec<&Region>) -> Result<(), Fault> {
        let dim = within.len();
        let Some(&extent) = self.shape.get(dim) else {
            return match parts.len() {
                0 => Err(Fault::Missing(within.clone())),
                1 => Ok(()),
                _ => Err(Fault::Overlap(within.clone())),
            };
        };
        if parts.is_empty() {
            let rest = self.shape[dim..].iter().map(|&extent| 0..extent);
            return Err(Fault::Missing(within.iter().cloned().chain(rest).collect()));
        }
        let ends = parts.iter().flat_map(|part| [part[dim].start, part[dim].end]);
        let cuts: Vec<usize> = ends.chain([0, extent]).collect::<BTreeSet<_>>().into_iter().collect();
        parts.sort_by_key(|part| part[dim].start);
        let mut waiting = parts.into_iter().peekable();
        let mut open: Vec<&Region> = Vec::new();
        for cut in cuts.windows(2) {
            open.retain(|part| part[dim].end > cut[0]);
            while let Some(part) = waiting.next_if(|part| part[dim].start == cut[0]) {
                open.push(part);
            }
            self.steps_left = self.steps_left.checked_sub(open.len() + 1).ok_or(Fault::Tangled)?;
            within.push(cut[0]..cut[1]);
            self.check(within, open.clone())?;
            within.pop();
        }
        Ok(())
    }
}

/// A part's place in the bytes of its tensor.
pub(super) struct Tile<'a> {
    shape: &'a [usize],
    offsets: &'a [usize],
    sizes: &'a [usize],
    element: usize,
    /// The innermost dimension of which the part has not all; the first where it has all of all.
    divided: usize,
    /// Bytes of the part that lie one behind another in the tensor too.
    run: usize,
}

impl<'a> Tile<'a> {
    /// The part has `sizes` elements from `offsets` on of a tensor of this shape, inside of it; `element` is an element's bytes.
    pub(super) fn new(shape: &'a [usize], offsets: &'a [usize], sizes: &'a [usize], element: usize) -> Self {
        let divided = sizes.iter().zip(shape).rposition(|(size, extent)| size != extent).unwrap_or(0);
        let run = sizes[divided..].iter().product::<usize>() * element;
        Self { shape, offsets, sizes, element, divided, run }
    }

    /// Bytes of the part.
    pub(super) fn bytes(&self) -> usize {
        self.sizes.iter().product::<usize>() * self.element
    }

    /// Copies a piece of the part, which begins `at` bytes from the part's first, into the tensor.
    pub(super) fn place(&self, target: &mut [u8], mut at: usize, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (number, into_run) = (at / self.run, at % self.run);
            let (here, further) = piece.split_at(piece.len().min(self.run - into_run));
            let start = self.start_of(number) + into_run;
            target[start..start + here.len()].copy_from_slice(here);
            at += here.len();
            piece = further;
        }
    }

    /// Where in the tensor a run of the part begins.
    fn start_of(&self, mut number: usize) -> usize {
        let (mut start, mut stride) = (0, self.element);
        for dim in (0..self.shape.len()).rev() {
            let index = if dim < self.divided {
                let index = number % self.sizes[dim];
                number /= self.sizes[dim];
                index
            } else {
                0
            };
            start += (self.offsets[dim] + index) * stride;
            stride *= self.shape[dim];
        }
        start
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "regions")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(offsets: &[usize], sizes: &[usize]) -> Part {
        Part { offsets: offsets.to_vec(), sizes: sizes.to_vec(), item: None }
    }

    #[test]
    fn every_element_is_in_one_part() {
        let quarters = || vec![part(&[2, 0], &[2, 3]), part(&[0, 3], &[4, 3]), part(&[0, 0], &[2, 3])];
        assert_eq!(check(&[4, 6], &quarters()), Ok(()));
        let mut missing = quarters();
        missing.remove(0);
        assert_eq!(check(&[4, 6], &missing), Err(Fault::Missing(vec![2..4, 0..3])));
        assert_eq!(check(&[4, 6], &[]), Err(Fault::Missing(vec![0..4, 0..6])));
        assert_eq!(check(&[5, 6], &quarters()), Err(Fault::Missing(vec![4..5, 0..6])));
        for (more, region) in [(part(&[1, 1], &[1, 1]), vec![1..2, 1..2]), (part(&[0, 0], &[2, 3]), vec![0..2, 0..3])] {
            let mut parts = quarters();
            parts.push(more);
            assert_eq!(check(&[4, 6], &parts), Err(Fault::Overlap(region)));
        }
        for outside in [part(&[4, 0], &[1, 6]), part(&[usize::MAX, 0], &[2, 3]), part(&[0], &[4]), part(&[0, 0], &[4])]
        {
            assert!(matches!(check(&[4, 6], &[outside]), Err(Fault::Outside(_))));
        }
        // A part of nothing is none; a scalar is one part.
        let mut parts = quarters();
        parts.push(part(&[0, 0], &[0, 6]));
        assert_eq!(check(&[4, 6], &parts), Ok(()));
        assert_eq!(check(&[], &[part(&[], &[])]), Ok(()));
        assert_eq!(check(&[], &[]), Err(Fault::Missing(vec![])));
        assert_eq!(check(&[0, 3], &[]), Ok(()));
    }

    #[test]
    fn tangled_divisions_are_given_up() {
        // Each part ends where another begins, and all overlap in one corner.
        let parts: Vec<_> = (0..20_000).map(|at| part(&[at, 0], &[20_000 - at, 1])).collect();
        assert!(check(&[20_000, 1], &parts).is_err());
        let stripes = (0..5000).map(|at| part(&[0, at], &[5000, 1]));
        let column = (0..5000).map(|at| part(&[at, 5000], &[1, 1]));
        assert_eq!(check(&[5000, 5001], &stripes.chain(column).collect::<Vec<_>>()), Err(Fault::Tangled));
    }

    #[test]
    fn parts_go_where_they_belong() {
        let parts =
            [(vec![0, 0], vec![2, 1]), (vec![0, 1], vec![1, 3]), (vec![1, 1], vec![1, 3]), (vec![2, 0], vec![1, 4])];
        let mut target = vec![0; 12];
        for (offsets, sizes) in parts {
            let rows = (offsets[0]..offsets[0] + sizes[0])
                .flat_map(|row| (offsets[1]..offsets[1] + sizes[1]).map(move |column| row * 4 + column));
            let bytes: Vec<u8> = rows.map(|at| u8::try_from(at).unwrap_or(255)).collect();
            let tile = Tile::new(&[3, 4], &offsets, &sizes, 1);
            assert_eq!(tile.bytes(), bytes.len());
            tile.place(&mut target, 0, &bytes);
        }
        assert_eq!(target, (0..12).collect::<Vec<u8>>());
        Tile::new(&[6, 2], &[2, 0], &[1, 2], 1).place(&mut target, 0, &[99, 98]);
        assert_eq!(target[4..6], [99, 98]);
        let mut scalar = [0; 4];
        Tile::new(&[], &[], &[], 4).place(&mut scalar, 0, &[1, 2, 3, 4]);
        assert_eq!(scalar, [1, 2, 3, 4]);
    }

    proptest! {
        /// Against the definition: element by element.
        #[test]
        fn pieces_of_parts_go_where_they_belong(
            dims in prop::collection::vec((0..3_usize, 1..4_usize, 0..3_usize), 0..4),
            element in prop::sample::select(vec![1_usize, 2, 4]), piece in 1..9_usize,
        ) {
            let offsets: Vec<_> = dims.iter().map(|dim| dim.0).collect();
            let sizes: Vec<_> = dims.iter().map(|dim| dim.1).collect();
            let shape: Vec<_> = dims.iter().map(|dim| dim.0 + dim.1 + dim.2).collect();
            let tile = Tile::new(&shape, &offsets, &sizes, element);
            let part: Vec<u8> = (1..=tile.bytes()).map(|at| u8::try_from(at).unwrap_or(0)).collect();
            let mut target = vec![0; shape.iter().product::<usize>() * element];
            let mut expected = target.clone();
            for (number, bytes) in part.chunks(element).enumerate() {
                let (mut left, mut at, mut stride) = (number, 0, element);
                for dim in (0..shape.len()).rev() {
                    at += (offsets[dim] + left % sizes[dim]) * stride;
                    (left, stride) = (left / sizes[dim], stride * shape[dim]);
                }
                expected[at..at + element].copy_from_slice(bytes);
            }
            for (number, bytes) in part.chunks(piece).enumerate() {
                tile.place(&mut target, number * piece, bytes);
            }
            prop_assert_eq!(target, expected);
        }
    }
}
