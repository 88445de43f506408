#![allow(clippy::unwrap_used, reason = "tests")]

use tch::Kind;

use super::super::super::packing::Packed;
use super::*;
use crate::eval::packing::TokenizedPassage;

fn chunk() -> Chunk {
    let passage =
        |index: usize, length: u32| TokenizedPassage::new(index, &(0..length).collect::<Vec<_>>(), &[7], 64).unwrap();
    let packed = Packed::new([5, 3, 3, 3, 2].iter().enumerate().map(|(at, &length)| passage(at, length)).collect());
    let positions = Tensor::from_slice(&packed.positions);
    pieces(&packed.chunks(100), &positions).unwrap().remove(0).chunk
}

#[test]
fn halves_hold_half_of_the_passages_each() {
    let [first, second] = chunk().halves().unwrap().unwrap();
    let group = |start, passages, length| Group { start, passages, length };
    assert_eq!((first.start, first.tokens, second.start, second.tokens), (0, 8, 8, 8));
    assert_eq!(first.groups, [group(0, 1, 5), group(5, 1, 3)]);
    assert_eq!(second.groups, [group(0, 2, 3), group(6, 1, 2)]);
    assert_eq!(Vec::<i64>::try_from(&second.positions).unwrap(), [0, 1, 2, 0, 1, 2, 0, 1]);
    let [alone, _] = first.halves().unwrap().unwrap();
    assert!(alone.halves().unwrap().is_none());
}

#[test]
fn errors_come_through_and_a_cpu_does_not_try_again() {
    let mut rows = Streams::new(vec![Tensor::zeros([16, 2], (Kind::Float, Device::Cpu))]);
    let done = in_parts(&mut rows, &chunk(), &|_, chunk| Ok(chunk.tokens)).unwrap();
    assert_eq!(done, [16]);
    let full = in_parts(&mut rows, &chunk(), &|_, _| -> Result<(), ModelError> {
        Err(tch::TchError::Torch("CUDA out of memory".to_owned()).into())
    });
    assert!(full.unwrap_err().is_out_of_memory());
}
