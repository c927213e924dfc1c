//! Rows by number: the embedding of tokens, and the choice of some rows among many.

use kernels::Real;
use kernels::gather;
use kernels::ptx::Storage;
use tensor::{Cuda, DType, Device, Element, Error, Result, Shape, Tensor, bf16, f16};

use super::product::stored;
use crate::spec::{Case, Draw};
use crate::{Keep, Kept, Op, Rows, Spec, Var, apply, compute_dtype};

/// Rows by number. Of a table of halves the chosen rows are widened, and no others.
impl Var {
    /// The rows of the first axis with these numbers, in this order; a row may come twice.
    ///
    /// yᵢ = x\[rowsᵢ\].
    /// Source: elementary.
    ///
    /// Shapes: x \[V, ..\] → y \[n, ..\]. Saves: nothing. Cost: one read and write of the rows; the
    /// gradient also clears a tensor like x. Errors: no axis; no such row; not floats.
    #[track_caller]
    pub fn index_rows(&self, rows: &[usize]) -> Result<Self> {
        let table = self.shape().first().copied().unwrap_or(0);
        let rows = Rows::new(rows, table).map_err(|error| error.operand("input", self))?;
        self.rows(&rows)
    }

    /// The same of numbers that were checked before, on whichever device they are.
    ///
    /// Shapes: x \[V, ..\] → \[n, ..\]. Saves, cost: as [`index_rows`](Self::index_rows). Errors: the
    /// numbers are those of another table; no axis; not floats.
    #[track_caller]
    pub fn rows(&self, rows: &Rows) -> Result<Self> {
        let device = self.device();
        // A GPU adds by groups, where there will be something to add.
        let lacks = device != Device::Cpu && self.is_tracked() && !rows.is_grouped();
        let rows = if lacks { rows.clone().grouped()? } else { rows.clone() };
        apply(IndexRows(rows.map(&mut |x| x.to_device(&device))?), [self])
    }

    /// The embeddings of tokens: row `ids[i]` of this table for each id, in `shape`.
    ///
    /// Shapes: x \[V, C\], `ids` and `shape` \[B, L\] → \[B, L, C\]. Saves, cost: as
    /// [`index_rows`](Self::index_rows). Errors: as [`rows`](Self::rows); `ids` do not fill `shape`.
    #[track_caller]
    pub fn embedding(&self, ids: &Rows, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.numel() != ids.count() {
            return Err(Error::shape("embedding", format!("{} ids do not fill it", ids.count()))
                .operand("shape", &shape));
        }
        self.rows(ids)?.reshape([&shape[..], &self.shape()[1..]].concat().as_slice())
    }
}

/// The choice of rows.
#[derive(Debug)]
struct IndexRows(Rows);

impl Op<1> for IndexRows {
    const NAME: &'static str = "index_rows";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const HALF: bool = true;
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        let Some(&rows) = x.shape().first() else {
            return Err(Error::shape("index_rows", "there are no rows").operand("input", x));
        };
        if rows != self.0.table() {
            let message = format!("the numbers are of a table of {} rows", self.0.table());
            return Err(Error::shape("index_rows", message).operand("input", x));
        }
        if let Some(gpu) = x.cuda() {
            return Ok((rows_on(gpu, x, self.0.numbers())?, ()));
        }
        let rows = self.0.here()?;
        let y = match x.dtype() {
            DType::F32 => rows_of::<f32>(x, &rows)?,
            DType::F64 => rows_of::<f64>(x, &rows)?,
            DType::BF16 => rows_of::<bf16>(x, &rows)?,
            DType::F16 => rows_of::<f16>(x, &rows)?,
            _ => {
                return Err(Error::dtype("index_rows", "elements are not floating-point numbers")
                    .operand("input", x));
            }
        };
        Ok((y.to_dtype(compute_dtype(x.dtype())), ()))
    }

    fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([Some(apply(ScatterRows(self.0.clone(), *kept.shape(0)), [dy])?)])
    }
}

/// The transpose of the choice: rows are added up where they came from.
#[derive(Debug)]
struct ScatterRows(Rows, Shape);

impl Op<1> for ScatterRows {
    const NAME: &'static str = "scatter_rows";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, [dy]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        fn run<T: Real + Element>(dy: &Tensor, ids: &[usize], shape: &Shape) -> Result<Tensor> {
            let mut dx = Tensor::zeros(shape, dy.dtype());
            let width = shape[1..].iter().product();
            gather::scatter_add(dy.contiguous().slice::<T>()?, width, ids, dx.slice_mut::<T>()?);
            Ok(dx)
        }
        let dx = match (dy.cuda(), dy.dtype()) {
            (Some(gpu), _) => scatter_on(gpu, dy, &self.0, &self.1)?,
            (None, DType::F64) => run::<f64>(dy, &self.0.here()?, &self.1)?,
            (None, _) => run::<f32>(dy, &self.0.here()?, &self.1)?,
        };
        Ok((dx, ()))
    }

    fn vjp(&self, _: Kept<'_, ()>, dz: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([Some(apply(IndexRows(self.0.clone()), [dz])?)])
    }
}

fn rows_on(gpu: &Cuda, x: &Tensor, numbers: &Tensor) -> Result<Tensor> {
    let (width, pair) = (x.shape()[1..].iter().product(), [stored("index_rows", x)?, Storage::F32]);
    let mut y = Tensor::uninit_on(Some(gpu), x.shape().with_length(0, numbers.numel()), DType::F32);
    let (x, len) = (x.contiguous(), y.numel());
    let kernel = gpu.kernel(&format!("gather {pair:?}"), || gather::ptx::gather(pair))?;
    kernel.input(&x).input(numbers).output(&mut y).numbers([width, len]).run([len, 1, 1])?;
    Ok(y)
}

fn scatter_on(gpu: &Cuda, dy: &Tensor, ids: &Rows, shape: &Shape) -> Result<Tensor> {
    let width: usize = shape[1..].iter().product();
    let mut dx = Tensor::zeros_on(Some(gpu), shape, DType::F32);
    let (dy, [order, starts, rows], len) = (dy.contiguous(), ids.groups()?, ids.count() * width);
    let launch = gpu.kernel("scatter_add", gather::ptx::scatter_add)?;
    let launch = launch.input(&dy).input(&order).input(&starts).input(&rows).output(&mut dx);
    launch.numbers([width, len]).run([len, 1, 1])?;
    Ok(dx)
}

fn rows_of<T: Element>(x: &Tensor, ids: &[usize]) -> Result<Tensor> {
    let mut shape = *x.shape();
    shape[0] = ids.len();
    let mut y = Tensor::uninit(shape, x.dtype());
    let width = shape[1..].iter().product();
    gather::gather(x.contiguous().slice::<T>()?, width, ids, y.slice_mut::<T>()?);
    Ok(y)
}

/// The registry's entry for `index_rows`.
pub struct Index;

impl Spec for Index {
    fn name(&self) -> &'static str {
        "index_rows"
    }

    fn equation(&self) -> &'static str {
        "yᵢ = x[rowsᵢ]"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [rows, width, n] = [draw.dim().max(1), draw.dim(), draw.dim()];
        let ids: Vec<usize> = (0..n).map(|_| draw.below(rows)).collect();
        let x = draw.uniform([rows, width], -1.0, 2.0)?;
        let (label, wanted) = (format!("{n} of [{rows}, {width}]"), ids.clone());
        let forward = move |x: &[Var]| x[0].index_rows(&ids);
        Ok(Case::new(label, [x], forward, move |x| {
            wanted.iter().flat_map(|&row| x[0][row * width..][..width].to_vec()).collect()
        }))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let ids: Vec<usize> = (0..1024).map(|_| draw.below(32_128)).collect();
        let x = draw.uniform([32_128, 512], -1.0, 1.0)?;
        let forward = move |x: &[Var]| x[0].index_rows(&ids);
        Ok(Case::new("1024 of [32128, 512]", [x], forward, |_| Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_find_their_embeddings_and_gradients_their_rows() {
        let table = Var::parameter(Tensor::arange(6, DType::F32).reshape([3, 2]).unwrap());
        let ids = Rows::new(&[2, 0, 2, 2], 3).unwrap();
        let y = table.embedding(&ids, [2, 2]).unwrap();
        assert_eq!(*y.shape(), [2, 2, 2]);
        assert_eq!(y.value().to_f64_vec()[..4], [4.0, 5.0, 0.0, 1.0]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        let want = [1.0, 1.0, 0.0, 0.0, 3.0, 3.0];
        assert_eq!(grads.get(&table).unwrap().to_f64_vec(), want);
        assert!(table.index_rows(&[3]).unwrap_err().to_string().contains("no row 3 among 3"));
        assert!(table.embedding(&Rows::new(&[3], 4).unwrap(), [1]).is_err());
        assert!(table.embedding(&ids, [2]).is_err());
        assert_eq!(*table.index_rows(&[]).unwrap().shape(), [0, 2]);
    }

    #[test]
    fn rows_of_halves_are_widened_and_so_are_their_gradients() {
        let wide = Tensor::arange(6, DType::F32).reshape([3, 2]).unwrap();
        for dtype in [DType::BF16, DType::F16] {
            let table = Var::parameter(wide.to_dtype(dtype));
            let y = table.index_rows(&[2, 2]).unwrap();
            assert_eq!((y.dtype(), y.value().to_f64_vec()), (DType::F32, vec![4.0, 5.0, 4.0, 5.0]));
            let grads = y.sum_all().unwrap().backward().unwrap();
            let gradient = grads.get(&table).unwrap();
            assert_eq!(gradient.dtype(), DType::F32);
            assert_eq!(gradient.to_f64_vec(), [0.0, 0.0, 0.0, 0.0, 2.0, 2.0]);
        }
    }
}
