//! The kernel of every elementwise formula, for the GPU.
//!
//! The formula emits its own instructions ([`Pointwise::at`] over registers), so that forward
//! values, slopes and slopes of slopes need no further code here, and have the CPU's bits.
//!
//! Where all operands are dense, a thread takes [`VECTOR`] adjacent elements by one load each;
//! else one element, whose place in each operand follows from its index by division. So does its
//! place in an output that is a part of a larger array: a gradient added to a part of another
//! ([`add_region`](super::add_region)), or operands written side by side.

use super::formula::{Pointwise, Unary};
use super::walk::Walk;
use crate::num::Num;
use crate::ptx::{Body, F32, Global, Kernel, Reg, Storage, Stored, U32, with_stored};

/// Threads of a block.
const THREADS: u32 = 256;

/// Adjacent elements that a thread of a dense kernel takes: 16 bytes of float32.
pub const VECTOR: u32 = 4;

/// How the operands of a kernel lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Like the output: adjacent, and aligned as [`VECTOR`] elements are.
    Dense,
    /// By strides along so many axes, after merging; 0 broadcasts. The output is dense.
    Strided(usize),
    /// By strides, the output as well, which does not overlap itself.
    Scattered(usize),
}

/// A layout and the numbers that follow the pointers: the arguments of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which kernel is needed.
    pub layout: Layout,
    /// Its numbers, in the order of its parameters.
    pub numbers: Vec<u32>,
    /// Elements, the extent of its grid.
    pub len: usize,
}

impl Launch {
    /// What a call on operands with these strides comes to. `aligned` says whether all operands
    /// begin at a multiple of [`VECTOR`] elements' size.
    ///
    /// Errors: indices of some operand do not fit 32 bits.
    ///
    /// # Panics
    /// If `shape` has more than seven axes, as [`map`](super::map).
    pub fn new<const K: usize>(
        shape: &[usize],
        strides: [&[usize]; K],
        aligned: bool,
    ) -> Result<Launch, String> {
        let walk = Walk::new(shape, strides);
        if aligned && walk.rank == 1 && (0..K).all(|k| walk.strides[k][0] == 1) {
            let (len, numbers) = numbers(shape, &walk, false)?;
            return Ok(Launch { layout: Layout::Dense, numbers, len });
        }
        let (len, numbers) = numbers(shape, &walk, true)?;
        Ok(Launch { layout: Layout::Strided(walk.rank), numbers, len })
    }

    /// The same where the output has strides too: the last of `strides`. It may be an operand
    /// itself, `y += x`.
    ///
    /// Errors and panics: as [`new`](Self::new).
    pub fn scattered<const N: usize>(
        shape: &[usize],
        strides: [&[usize]; N],
    ) -> Result<Launch, String> {
        let walk = Walk::new(shape, strides);
        let (len, numbers) = numbers(shape, &walk, true)?;
        Ok(Launch { layout: Layout::Scattered(walk.rank), numbers, len })
    }
}

/// The number of elements, and the numbers of a launch: that, and lengths and strides where they
/// are `wanted`.
fn numbers<const K: usize>(
    shape: &[usize],
    walk: &Walk<K>,
    wanted: bool,
) -> Result<(usize, Vec<u32>), String> {
    let axes = 0..walk.rank;
    let len = shape.iter().product();
    let farthest = |k: usize| {
        axes.clone().map(|axis| (walk.lengths[axis].max(1) - 1) * walk.strides[k][axis]).sum()
    };
    // The last block counts on to its end.
    let end = len + (THREADS * VECTOR) as usize;
    let last: usize = (0..K).map(farthest).max().unwrap_or(0).max(end);
    let small = |x: usize| u32::try_from(x).map_err(|_| format!("{shape:?}: too many elements"));
    small(last)?;
    let mut numbers = vec![small(len)?];
    if wanted {
        for axis in axes.clone().skip(1) {
            numbers.push(small(walk.lengths[axis])?);
        }
        for k in 0..K {
            for axis in axes.clone() {
                numbers.push(small(walk.strides[k][axis])?);
            }
        }
    }
    Ok((len, numbers))
}

/// The numbers that a formula holds, as its kernels take them: the last arguments.
pub fn parameters<const K: usize, F: Pointwise<K>>(f: &F) -> Vec<f32> {
    if const { size_of::<F>() == 0 } {
        return Vec::new();
    }
    // Written once where nobody reads it, the formula says what it asks for.
    let k = Body::default();
    k.formula(|| f.at([k.value(0.0_f32); K])).1
}

/// y = f(x₀, x₁, …): operands x0, x1, …, y, then the numbers of a [`Launch`] and the
/// [`parameters`] of the formula, which the kernel does not depend on otherwise.
///
/// `from` is how operands are stored, `to` how the result is.
pub fn kernel<const K: usize, F: Pointwise<K>>(
    name: &str,
    f: &F,
    storages: [Storage; 2],
    layout: Layout,
) -> Kernel {
    // All that is compiled for each formula; the rest is compiled once.
    let f = Formula { at: &|x| f.at(x), parameters: parameters(f).len() };
    kernel_of(name, f, storages, layout)
}

/// A formula over registers.
#[derive(Clone, Copy)]
struct Formula<'f, const K: usize> {
    at: &'f dyn for<'k> Fn([Reg<'k, F32>; K]) -> Reg<'k, F32>,
    parameters: usize,
}

impl<const K: usize> Formula<'_, K> {
    /// Writes it down at `x`.
    fn at<'k>(self, k: &'k Body, x: [Reg<'k, F32>; K]) -> Reg<'k, F32> {
        k.formula(|| (self.at)(x)).0
    }
}

fn kernel_of<const K: usize>(
    name: &str,
    f: Formula<K>,
    [from, to]: [Storage; 2],
    layout: Layout,
) -> Kernel {
    let stored = if from == to { from.name().into() } else { [from.name(), to.name()].join("_") };
    with_stored!(from, From => with_stored!(to, To => match layout {
        Layout::Dense => {
            let per_block = [THREADS * VECTOR, 1, 1];
            Kernel::new(&format!("{name}_{stored}_dense"), THREADS, per_block, |k| {
                dense::<K, From, To>(k, f);
            })
        }
        Layout::Strided(rank) => {
            let name = format!("{name}_{stored}_strided{rank}");
            Kernel::new(&name, THREADS, [THREADS, 1, 1], |k| {
                strided::<K, From, To>(k, f, rank, false);
            })
        }
        Layout::Scattered(rank) => {
            let name = format!("{name}_{stored}_scattered{rank}");
            Kernel::new(&name, THREADS, [THREADS, 1, 1], |k| {
                strided::<K, From, To>(k, f, rank, true);
            })
        }
    }))
}

/// The pointers: operands and output.
fn operands<const K: usize, S: Stored, D: Stored>(k: &Body) -> ([Global<'_, S>; K], Global<'_, D>) {
    (std::array::from_fn(|i| k.global(&format!("x{i}"))), k.global("y"))
}

fn dense<const K: usize, S: Stored, D: Stored>(k: &Body, f: Formula<K>) {
    let (x, y) = operands::<K, S, D>(k);
    let n = k.u32("n");
    k.formula_parameters(f.parameters);
    let first = k.block(0).mad(THREADS, k.thread()) * VECTOR;
    k.if_(first.lt(n), || {
        k.if_else(
            (first + VECTOR).ge(n + 1),
            || {
                let one = |i: Reg<'_, U32>| y.at(i).store(f.at(k, x.map(|x| x.at(i).load())));
                k.note("the last elements, one by one");
                k.for_(first, n, 1, one);
            },
            || {
                let x = x.map(|x| x.at(first).load_n(VECTOR as usize));
                let value = |i: usize| f.at(k, std::array::from_fn(|k| x[k][i]));
                let values: Vec<_> = (0..VECTOR as usize).map(value).collect();
                y.at(first).store_n(&values);
            },
        );
    });
}

fn strided<const K: usize, S: Stored, D: Stored>(
    k: &Body,
    f: Formula<K>,
    rank: usize,
    scattered: bool,
) {
    let (x, y) = operands::<K, S, D>(k);
    let n = k.u32("n");
    let lengths: Vec<_> = (1..rank).map(|axis| k.u32(&format!("length{axis}"))).collect();
    let stride = |operand, axis| k.u32(&format!("stride{operand}_{axis}"));
    let strides: Vec<Vec<_>> = (0..K + usize::from(scattered))
        .map(|i| (0..rank).map(|axis| stride(i, axis)).collect())
        .collect();
    k.formula_parameters(f.parameters);
    let index = k.block(0).mad(THREADS, k.thread());
    k.if_(index.lt(n), || {
        let mut rest = index;
        let mut offsets = vec![k.value::<U32>(0); strides.len()];
        for axis in (0..rank).rev() {
            let place = if axis == 0 { rest } else { rest % lengths[axis - 1] };
            for (offset, strides) in offsets.iter_mut().zip(&strides) {
                *offset = place.mad(strides[axis], *offset);
            }
            if axis > 0 {
                rest = rest / lengths[axis - 1];
            }
        }
        let values = std::array::from_fn(|i| x[i].at(offsets[i]).load());
        let to = offsets.get(K).copied().unwrap_or(index);
        y.at(to).store(f.at(k, values));
    });
}

/// y = x: what copies, broadcasts, transposes and casts are made of.
#[derive(Clone, Copy, Debug)]
pub struct Identity;

impl Unary for Identity {
    const NAME: &'static str = "copy";
    const EQUATION: &'static str = "x";
    fn f<N: Num>(&self, x: N) -> N {
        x
    }
}
