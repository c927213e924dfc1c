//! Strategies of [`proptest`](mod@proptest) for property tests of operations of one's own.
//!
//! An [`Operand`] is drawn in any layout (packed, transposed, sliced, broadcast) and can be had in
//! any float type; what fails shrinks to few, plain elements in row-major order. [`check`] asks of
//! an operation all that the registry asks of ours.
//!
//! ```
//! use autograd::strategies::{Operand, check, operands, shapes};
//! use autograd::Var;
//! use proptest::prelude::*;
//! use tensor::Result;
//!
//! /// x³, by other operations.
//! fn cube(x: &Var) -> Result<Var> {
//!     x.square()?.mul(x)
//! }
//!
//! fn operand() -> impl Strategy<Value = Operand> {
//!     shapes(0..=3, 0..=5).prop_flat_map(|shape| operands(shape, -2.0..2.0))
//! }
//!
//! proptest! {
//!     # #![proptest_config(ProptestConfig::with_cases(8))]
//!     // In a test module: #[test]
//!     fn cube_is_right(x in operand()) {
//!         let reference = |x: &[Vec<f64>]| x[0].iter().map(|x| x.powi(3)).collect();
//!         check(&[x], |x| cube(&x[0]), reference)?;
//!     }
//! }
//! # cube_is_right();
//! ```

use std::ops::{Range, RangeInclusive};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tensor::{DType, Result, Shape, Tensor};

use crate::Var;
use crate::spec::{Case, Layout, OpReport};

/// Shapes with so many axes of such lengths; axes go first when they shrink, then lengths.
pub fn shapes(
    rank: RangeInclusive<usize>,
    lengths: RangeInclusive<usize>,
) -> impl Strategy<Value = Shape> {
    vec(lengths, rank).prop_map(|lengths| Shape::from(&lengths[..]))
}

/// Shapes that broadcast with others drawn for the same `shape`: axes have its lengths or one, and
/// the first may be missing.
pub fn broadcastable(shape: Shape) -> impl Strategy<Value = Shape> {
    let choices = (0..=shape.rank(), vec(any::<bool>(), shape.rank()));
    choices.prop_map(move |(missing, stretched)| {
        let mut lengths = shape;
        for (length, _) in lengths.iter_mut().zip(stretched).filter(|(_, stretched)| *stretched) {
            *length = 1;
        }
        Shape::from(&lengths[missing..])
    })
}

/// Layouts of tensors of a shape; the simplest is packed.
pub fn layouts(shape: Shape) -> impl Strategy<Value = Layout> {
    let axes = 0..shape.rank().max(1);
    (0..4_usize, axes.clone(), axes).prop_map(move |(kind, a, b)| match kind {
        1 if shape.rank() > 0 => Layout::Transposed(a, b),
        2 if shape.rank() > 0 => Layout::Sliced(a),
        3 if shape.rank() > 0 => Layout::Broadcast(a),
        _ => Layout::Packed,
    })
}

/// The types of floats, widest first.
pub fn float_types() -> impl Strategy<Value = DType> {
    select(&[DType::F64, DType::F32, DType::BF16, DType::F16][..])
}

/// Tensors of a shape in any layout with elements of a range, whose type is chosen later.
pub fn operands(shape: Shape, range: Range<f64>) -> impl Strategy<Value = Operand> {
    layouts(shape).prop_flat_map(move |layout| {
        let elements = vec(range.clone(), layout.base(shape).numel());
        elements.prop_map(move |elements| Operand { shape, layout, elements })
    })
}

/// Tensors of a shape in any layout with elements of a range, rounded to a type.
pub fn tensors(shape: Shape, range: Range<f64>, dtype: DType) -> impl Strategy<Value = Tensor> {
    operands(shape, range).prop_map(move |operand| operand.tensor(dtype))
}

/// A tensor of floats whose type is still open.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Its shape.
    pub shape: Shape,
    /// How it lies in memory.
    pub layout: Layout,
    /// The elements of the packed tensor that it is a view of.
    pub elements: Vec<f64>,
}

impl Operand {
    /// The tensor with elements rounded to `dtype`.
    pub fn tensor(&self, dtype: DType) -> Tensor {
        let base = self.layout.base(self.shape);
        let packed = Tensor::from_slice(&self.elements, base).expect("drawn for this shape");
        let view = self.layout.view(&packed.to_dtype(dtype), self.shape);
        view.expect("a layout of this shape")
    }
}

/// Checks an operation, or any function of variables, on some operands, as
/// [`check_op`](crate::spec::check_op) does: results in all float types against `reference`, plain
/// float64 loops over the operands' elements in row-major order; gradients against difference
/// quotients; second derivatives likewise, or the error that there are none; equal bits in every
/// layout. The operation must be smooth within 0.002 of every element.
///
/// Rounding errors may be those of a sum over all elements of all operands.
///
/// Errors: the first check that failed, as a failure of the property; any error of `op`.
pub fn check(
    operands: &[Operand],
    op: impl Fn(&[Var]) -> Result<Var> + Clone + 'static,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64> + Clone + 'static,
) -> Result<(), TestCaseError> {
    let mut report = OpReport::new("operation");
    let elements: usize = operands.iter().map(|operand| operand.shape.numel()).sum();
    let checked = report.check(|dtype| {
        let inputs: Vec<Tensor> = operands.iter().map(|operand| operand.tensor(dtype)).collect();
        let case = Case::new("these operands", inputs, op.clone(), reference.clone());
        Ok(case.magnitude((elements as f64).sqrt()))
    });
    match checked {
        Ok(()) if report.passed() => Ok(()),
        Ok(()) => Err(TestCaseError::fail(report.to_string())),
        Err(error) => Err(TestCaseError::fail(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, TestRunner};

    fn pairs() -> impl Strategy<Value = [Operand; 2]> {
        let shapes = shapes(0..=3, 0..=4);
        let both = shapes.prop_flat_map(|shape| (broadcastable(shape), broadcastable(shape)));
        both.prop_flat_map(|(a, b)| [operands(a, -2.0..2.0), operands(b, 1.0..2.0)])
    }

    /// Where broadcasting finds element `i` of the quotient.
    fn quotient(a: &[f64], b: &[f64], shapes: [Shape; 2]) -> Vec<f64> {
        let whole = shapes[0].broadcast(&shapes[1]).unwrap();
        let [a, b] = [(a, shapes[0]), (b, shapes[1])].map(|(x, shape)| {
            let packed = Tensor::from_slice(x, shape).unwrap();
            packed.broadcast_to(whole).unwrap().to_f64_vec()
        });
        a.iter().zip(&b).map(|(a, b)| a / b).collect()
    }

    proptest! {
        #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

        #[test]
        fn a_composed_operation_passes([a, b] in pairs()) {
            let shapes = [a.shape, b.shape];
            let reference = move |x: &[Vec<f64>]| quotient(&x[0], &x[1], shapes);
            check(&[a, b], |x| x[0].div(&x[1]), reference)?;
        }

        #[test]
        fn operands_are_what_they_were_drawn_for(
            (shape, operand) in shapes(1..=4, 0..=5)
                .prop_flat_map(|shape| (Just(shape), operands(shape, -1.0..1.0))),
            dtype in float_types(),
        ) {
            let x = operand.tensor(dtype);
            prop_assert_eq!((x.shape(), x.dtype()), (&shape, dtype));
            prop_assert!(x.to_f64_vec().iter().all(|x| x.abs() <= 1.0));
        }
    }

    #[test]
    fn a_wrong_gradient_fails_and_shrinks_to_something_small() {
        let strategy = shapes(1..=3, 1..=5).prop_flat_map(|shape| operands(shape, -2.0..2.0));
        let mut runner = TestRunner::deterministic();
        // x² with the gradient of half of it.
        let wrong = |x: &[Var]| x[0].mul(&x[0].detach());
        let reference = |x: &[Vec<f64>]| x[0].iter().map(|x| x * x).collect();
        let mut tree = strategy.new_tree(&mut runner).unwrap();
        let fails = |x: Operand| check(&[x], wrong, reference).is_err();
        assert!(fails(tree.current()));
        while tree.simplify() {
            while !fails(tree.current()) && tree.complicate() {}
        }
        let smallest = tree.current();
        assert_eq!((smallest.shape.numel(), smallest.layout), (1, Layout::Packed), "{smallest:?}");
    }

    #[test]
    fn every_layout_occurs() {
        let mut runner = TestRunner::deterministic();
        let strategy = layouts(Shape::from([2, 3]));
        let mut seen = [false; 4];
        for _ in 0..100 {
            seen[match strategy.new_tree(&mut runner).unwrap().current() {
                Layout::Packed => 0,
                Layout::Transposed(..) => 1,
                Layout::Sliced(_) => 2,
                Layout::Broadcast(_) => 3,
            }] = true;
        }
        assert_eq!(seen, [true; 4]);
    }
}
