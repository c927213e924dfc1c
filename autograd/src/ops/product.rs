//! What the operations made of matrix products share.

use kernels::Real;
use kernels::gemm::ptx::{Gemm, Tiles, Way, Writing};
use kernels::gemm::{Reader, Stored, Strided};
use kernels::ptx::Storage;
use tensor::cuda::Launch;
use tensor::{Cuda, DType, Element, Error, Result, Shape, Tensor, bf16, f16};

use crate::scope;

/// A type that products are computed in.
pub(super) trait Float: Real + Element {
    /// The last two axes of `x` as a matrix, those before as a batch, wherever they lie in memory.
    ///
    /// Errors: elements that do not widen to this type.
    fn reader(x: &Tensor) -> Result<Box<dyn Reader<Self> + '_>>;
}

impl Float for f32 {
    fn reader(x: &Tensor) -> Result<Box<dyn Reader<f32> + '_>> {
        match x.dtype() {
            DType::BF16 => strided::<f32, bf16>(x),
            DType::F16 => strided::<f32, f16>(x),
            _ => strided::<f32, f32>(x),
        }
    }
}

impl Float for f64 {
    fn reader(x: &Tensor) -> Result<Box<dyn Reader<f64> + '_>> {
        strided::<f64, f64>(x)
    }
}

fn strided<'a, T: Real, E: Stored<T> + Element>(x: &'a Tensor) -> Result<Box<dyn Reader<T> + 'a>> {
    let (elements, strides) = x.raw_slice::<E>()?;
    let (batch, matrix) = strides.split_at(strides.len() - 2);
    let reader = Strided::new(elements, [matrix[0], matrix[1]]);
    Ok(Box::new(reader.batched(&x.shape()[..batch.len()], batch)))
}

/// How a GPU's kernels know these elements.
///
/// Errors: elements other than f32 and halves.
pub(super) fn stored(name: &'static str, x: &Tensor) -> Result<Storage> {
    match x.dtype() {
        DType::F32 => Ok(Storage::F32),
        DType::BF16 => Ok(Storage::Bf16),
        DType::F16 => Ok(Storage::F16),
        _ => Err(Error::dtype(name, "GPU kernels compute in float32").operand("input", x)),
    }
}

/// What a GPU's product ends in: its writer and what that reads and keeps, float32 and packed from
/// a multiple of [`WIDE`] elements; but the gate's rows may lie apart.
pub(super) enum End<'a> {
    Store,
    Bias(&'a Tensor),
    BiasGelu { bias: &'a Tensor, kept: &'a mut Tensor },
    GateResidual { bias: &'a Tensor, kept: &'a mut Tensor, gate: &'a Tensor, residual: &'a Tensor },
}

/// Elements that a writer reads and writes at once.
pub(super) const WIDE: u32 = 4;

impl End<'_> {
    fn writing(&self) -> Writing {
        match self {
            Self::Store => Writing::Store,
            Self::Bias(_) => Writing::Bias,
            Self::BiasGelu { .. } => Writing::BiasGelu,
            Self::GateResidual { .. } => Writing::GateResidual,
        }
    }

    /// Adds what the writer takes, for results of `m` rows.
    fn arguments<'a>(self, launch: Launch<'a>, m: usize) -> Launch<'a>
    where
        Self: 'a,
    {
        match self {
            End::Store => launch,
            End::Bias(bias) => launch.input(bias),
            End::BiasGelu { bias, kept } => launch.input(bias).output(kept),
            End::GateResidual { bias, kept, gate, residual } => {
                let (stride, samples) = (gate.strides()[0], gate.shape()[0].max(1));
                let launch = launch.input(bias).output(kept).view(gate).input(residual);
                launch.numbers([stride, (m / samples).max(1)])
            }
        }
    }
}

/// `y = end(a·b)` on a GPU, for a \[.., m, k\] and b \[.., k, n\] of the same batch; y is packed.
///
/// Products of bf16, and of all floats under [`autocast`](crate::autocast()), go to the tensor
/// cores if their rows are aligned and of even length; all others have the CPU's bits.
pub(super) fn multiply_on(
    gpu: &Cuda,
    [a, b]: [&Tensor; 2],
    y: &mut Tensor,
    end: End<'_>,
) -> Result<()> {
    let [[batch, m, mut k], [_, _, n]] = [matrices(a)?.dims()?, matrices(b)?.dims()?];
    let [a, b] = if k == 0 {
        // A kernel adds up one product at least.
        k = 1;
        let zeros = |shape: [usize; 3]| Tensor::zeros_on(Some(gpu), shape, DType::F32);
        [Side::new(&zeros([batch, m, 1]))?, Side::new(&zeros([batch, 1, n]))?]
    } else {
        sides([a, b])?
    };
    let operands = stored("product", &a.x)?;
    let is_exact = operands != Storage::Bf16 || !fit_tensor_cores([&a, &b], n);
    let transposed = [a.transposed, b.transposed];
    let gemm = Gemm { operands, transposed, writing: end.writing() };
    let way = match is_exact {
        true => Way::Exact(Tiles::of(batch, m, n)),
        false => Way::TensorCores(gemm.squares(batch, [m, n, k])),
    };
    let part = gemm.part(way, batch, [m, n, k]);
    let parts = k.div_ceil(part);
    let product = |y: &mut Tensor, end: End| {
        let gemm = Gemm { writing: end.writing(), ..gemm };
        let kernel = gpu.kernel(&format!("{gemm:?} {way:?}"), || gemm.kernel(way))?;
        let kernel = end.arguments(kernel.view(&a.x).view(&b.x).output(y), m);
        let kernel = kernel.numbers([m, n, k, a.row_stride, b.row_stride, a.next, b.next]);
        kernel.numbers([parts, part]).run([n, m, batch * parts])
    };
    if parts == 1 {
        return product(y, end);
    }
    let mut sums = Tensor::uninit_on(Some(gpu), [batch, parts, m, n], DType::F32);
    product(&mut sums, End::Store)?;
    let kernel = gpu.kernel(&format!("finish {:?}", gemm.writing), || gemm.writing.finish())?;
    let kernel = end.arguments(kernel.input(&sums).output(y), m);
    kernel.numbers([m, n, parts]).run([n, m, batch])
}

/// The last two axes as a matrix, those before as one axis.
fn matrices(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 2 { x.unsqueeze(0) } else { x.flatten(0, x.rank() as isize - 3) }
}

/// Both operands in one element type: their own if it is the same, else float32; under
/// [`autocast`](crate::autocast()) bf16, if tensor cores then take them.
fn sides([a, b]: [&Tensor; 2]) -> Result<[Side; 2]> {
    let as_type = |dtype| -> Result<[Side; 2]> {
        Ok([Side::new(&converted(a, dtype)?)?, Side::new(&converted(b, dtype)?)?])
    };
    if scope::is_autocast() {
        let [a, b] = as_type(DType::BF16)?;
        if fit_tensor_cores([&a, &b], b.x.shape()[2]) {
            return Ok([a, b]);
        }
    }
    as_type(if a.dtype() == b.dtype() { a.dtype() } else { DType::F32 })
}

/// The elements in another type. Where columns are adjacent they stay so: reading goes along them.
fn converted(x: &Tensor, dtype: DType) -> Result<Tensor> {
    match x.strides() {
        [.., 1, next] if *next != 1 => x.transpose(-1, -2)?.to_dtype(dtype).transpose(-1, -2),
        _ => Ok(x.to_dtype(dtype)),
    }
}

/// Whether tensor cores take these operands of bf16, for rows of `n`.
fn fit_tensor_cores(sides: [&Side; 2], n: usize) -> bool {
    n.is_multiple_of(2) && sides.iter().all(|side| side.is_aligned())
}

/// One operand as a GPU's product reads it.
struct Side {
    x: Tensor,
    /// Whether it is the columns that are adjacent elements.
    transposed: bool,
    /// From row to row, as they lie, and from matrix to matrix.
    row_stride: usize,
    next: usize,
}

impl Side {
    fn new(x: &Tensor) -> Result<Self> {
        let mut x = matrices(x)?;
        let [_, rows, columns] = x.dims()?;
        let of = |x: &Tensor| {
            let &[next, row, column] = x.strides() else { unreachable!("three axes") };
            [next, row, column]
        };
        let [_, row, column] = of(&x);
        let transposed = column != 1 && columns > 1 && (row == 1 || rows == 1);
        if !(transposed || column == 1 || columns <= 1) {
            x = x.contiguous();
        }
        let [next, row, column] = of(&x);
        Ok(Self { x, transposed, row_stride: if transposed { column } else { row }, next })
    }

    /// Whether every row is whole pieces of 16 bytes, in bf16, which begin at multiples of that:
    /// what lies behind a row must not be read with it.
    fn is_aligned(&self) -> bool {
        let [rows, columns] = [1, 2].map(|axis| self.x.shape()[axis]);
        let row = if self.transposed { rows } else { columns };
        self.x.is_aligned(8)
            && [row, self.row_stride, self.next].iter().all(|n| n.is_multiple_of(8))
    }
}

/// Errors unless every operand is of floats.
pub(super) fn check_floats(name: &'static str, operands: &[(&'static str, &Tensor)]) -> Result<()> {
    match operands.iter().find(|(_, x)| !x.dtype().is_float()) {
        None => Ok(()),
        Some((operand, x)) => {
            Err(Error::dtype(name, "elements are not floats").operand(*operand, *x))
        }
    }
}

/// A shape's rows, all axes but the last as one: \[.., C\] → \[R, C\].
pub(super) fn rows(shape: &Shape) -> [usize; 2] {
    let (&width, outer) = shape.split_last().expect("the caller has checked the rank");
    [outer.iter().product(), width]
}
