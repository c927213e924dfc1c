//! Any sequence of views reads as the same sequence of steps on plain index arithmetic.

use proptest::prelude::*;
use tensor::{DType, Shape, Tensor};

/// The naive tensor: a function from an index to a number, tabulated in row-major order.
#[derive(Clone, Debug)]
struct Model {
    shape: Vec<usize>,
    elements: Vec<f64>,
}

impl Model {
    /// A model of `shape` whose element at `index` is this model's at `from(index)`.
    fn gather(&self, shape: Vec<usize>, from: impl Fn(&[usize]) -> Vec<usize>) -> Self {
        let elements = indices(&shape).map(|index| self.at(&from(&index))).collect();
        Self { shape, elements }
    }

    fn at(&self, index: &[usize]) -> f64 {
        let place = index.iter().zip(&self.shape).fold(0, |place, (i, n)| place * n + i);
        self.elements[place]
    }
}

/// Every index of a shape in row-major order.
fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    (0..shape.iter().product()).map(move |mut place| {
        let mut index = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            index[axis] = place % shape[axis];
            place /= shape[axis];
        }
        index
    })
}

/// Applies the view that three random numbers choose, where one of that kind is possible.
fn step(x: &Tensor, model: &Model, kind: u8, a: usize, b: usize) -> Option<(Tensor, Model)> {
    let (shape, rank) = (&model.shape, model.shape.len());
    let axis = a.checked_rem(rank);
    Some(match kind {
        0 => {
            let (i, j) = (axis?, b % rank);
            let swap = |list: &[usize]| {
                let mut list = list.to_vec();
                list.swap(i, j);
                list
            };
            (x.transpose(i, j).unwrap(), model.gather(swap(shape), swap))
        }
        1 => {
            let axis = axis?;
            let start = b % (shape[axis] + 1);
            let length = (a / 7) % (shape[axis] - start + 1);
            let mut narrow = shape.clone();
            narrow[axis] = length;
            let shifted = |index: &[usize]| {
                let mut index = index.to_vec();
                index[axis] += start;
                index
            };
            (x.narrow(axis, start, length).unwrap(), model.gather(narrow, shifted))
        }
        2 => {
            let axis = axis?;
            let i = b.checked_rem(shape[axis])?;
            let mut rest = shape.clone();
            rest.remove(axis);
            let with = |index: &[usize]| [&index[..axis], &[i], &index[axis..]].concat();
            (x.select(axis, i).unwrap(), model.gather(rest, with))
        }
        3 if rank < 6 => {
            let axis = a % (rank + 1);
            let more = [&shape[..axis], &[1], &shape[axis..]].concat();
            let without = |index: &[usize]| [&index[..axis], &index[axis + 1..]].concat();
            (x.unsqueeze(axis).unwrap(), model.gather(more, without))
        }
        4 => {
            let axis = shape.iter().position(|&length| length == 1)?;
            let mut wide = shape.clone();
            wide[axis] = b % 4;
            let first = |index: &[usize]| {
                let mut index = index.to_vec();
                index[axis] = 0;
                index
            };
            (x.broadcast_to(&wide[..]).unwrap(), model.gather(wide.clone(), first))
        }
        5 => {
            // Moves a factor of one axis to its neighbour, or splits it off.
            let axis = axis?;
            let factor = (1..=shape[axis])
                .rev()
                .find(|f| shape[axis].is_multiple_of(*f) && f % 2 == b % 2)?;
            let mut lengths = shape.clone();
            lengths[axis] /= factor;
            match axis + 1 {
                next if next < rank => lengths[next] *= factor,
                next if rank < 6 => lengths.insert(next, factor),
                _ => return None,
            }
            let reshaped = Model { shape: lengths.clone(), elements: model.elements.clone() };
            (x.reshape(&lengths[..]).unwrap(), reshaped)
        }
        6 => {
            let mut order: Vec<usize> = (0..rank).collect();
            order.rotate_left(axis?);
            let turned = order.iter().map(|&axis| shape[axis]).collect();
            let back = |index: &[usize]| {
                let mut source = vec![0; rank];
                order.iter().zip(index).for_each(|(&axis, &i)| source[axis] = i);
                source
            };
            (x.permute(&order).unwrap(), model.gather(turned, back))
        }
        7 => {
            let axis = axis?;
            let doubled = Tensor::cat(&[x, x], axis).unwrap();
            let mut lengths = shape.clone();
            lengths[axis] *= 2;
            let folded = |index: &[usize]| {
                let mut index = index.to_vec();
                index[axis] %= shape[axis];
                index
            };
            (doubled, model.gather(lengths, folded))
        }
        _ => return None,
    })
}

fn check(x: &Tensor, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(&**x.shape(), &model.shape[..]);
    prop_assert_eq!(&x.to_f64_vec(), &model.elements);
    let (reach, strides) = x.raw_slice::<i32>().unwrap();
    for (index, expected) in indices(&model.shape).zip(&model.elements) {
        let place: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        prop_assert_eq!(f64::from(reach[place]), *expected);
    }
    if x.is_contiguous() {
        prop_assert_eq!(reach, x.slice::<i32>().unwrap());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_are_index_arithmetic(
        shape in prop::collection::vec(0_usize..5, 0..5),
        steps in prop::collection::vec((0_u8..8, any::<u16>(), any::<u16>()), 0..8),
    ) {
        let n = shape.iter().product();
        let mut x = Tensor::arange(n, DType::I32).reshape(&shape[..]).unwrap();
        let mut model = Model { shape, elements: (0..n).map(|i| i as f64).collect() };
        for (kind, a, b) in steps {
            if let Some(next) = step(&x, &model, kind, a.into(), b.into())
                && next.0.numel() < 4000
            {
                (x, model) = next;
                check(&x, &model)?;
            }
        }
        let mut written = x.clone();
        written.slice_mut::<i32>().unwrap().fill(-1);
        prop_assert!(written.to_f64_vec().iter().all(|&value| value == -1.0));
        check(&x, &model)?;
    }

    #[test]
    fn broadcasting_is_symmetric_and_reached(
        a in prop::collection::vec(0_usize..3, 0..5),
        b in prop::collection::vec(0_usize..3, 0..5),
    ) {
        let (a, b) = (Shape::from(&a[..]), Shape::from(&b[..]));
        prop_assert_eq!(a.broadcast(&b), b.broadcast(&a));
        if let Some(both) = a.broadcast(&b) {
            for shape in [a, b] {
                let wide = Tensor::zeros(shape, DType::U8).broadcast_to(both);
                prop_assert_eq!(*wide.unwrap().shape(), both);
            }
        }
    }
}

/// Large enough to be divided among threads and to be copied by tiles.
#[test]
fn large_copies_are_exact_in_every_word_size() {
    for dtype in [DType::F64, DType::I32, DType::F16, DType::U8] {
        let x = Tensor::arange(301 * 700, DType::I32).to_dtype(dtype);
        let x = x.reshape([7, 301, 100]).unwrap();
        for order in [[0, 2, 1], [2, 1, 0], [1, 0, 2]] {
            let view = x.permute(&order).unwrap();
            let there = view.contiguous();
            let back: Vec<usize> =
                (0..3).map(|axis| order.iter().position(|&o| o == axis).unwrap()).collect();
            assert_eq!(there.permute(&back).unwrap().to_f64_vec(), x.to_f64_vec());
            let [a, b, c] = view.dims().unwrap();
            let corner = there.narrow(0, a - 1, 1).unwrap().narrow(1, b / 2, 1).unwrap();
            let corner = corner.narrow(2, c - 1, 1).unwrap().item().unwrap();
            let mut index = [0; 3];
            order.iter().zip([a - 1, b / 2, c - 1]).for_each(|(&axis, i)| index[axis] = i);
            let expected = x.narrow(0, index[0], 1).unwrap().narrow(1, index[1], 1).unwrap();
            assert_eq!(corner, expected.select(2, index[2]).unwrap().item().unwrap());
        }
    }
}
