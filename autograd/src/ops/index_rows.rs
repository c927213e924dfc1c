//! Rows by number: the embedding of tokens, and the choice of some rows among many.

use std::sync::Arc;

use kernels::Real;
use kernels::gather::{self, ptx::Groups};
use kernels::ptx::Storage;
use tensor::{Cuda, DType, Device, Element, Error, Result, Shape, Tensor, bf16, f16};

use super::product::stored;
use crate::spec::{Case, Draw};
use crate::{Keep, Kept, Op, Spec, Var, apply, compute_dtype};

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
        apply(IndexRows(rows.into()), [self])
    }

    /// The embeddings of tokens: row `ids[i]` of this table for each id, in `shape`.
    ///
    /// Shapes: x \[V, C\], `ids` and `shape` \[B, L\] → \[B, L, C\]. Saves, cost: as
    /// [`index_rows`](Self::index_rows). Errors: as there; `ids` do not fill `shape`.
    #[track_caller]
    pub fn embedding(&self, ids: &[u32], shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.numel() != ids.len() {
            return Err(Error::shape("embedding", format!("{} ids do not fill it", ids.len()))
                .operand("shape", &shape));
        }
        let rows = self.index_rows(&ids.iter().map(|&id| id as usize).collect::<Vec<_>>())?;
        rows.reshape([&shape[..], &self.shape()[1..]].concat().as_slice())
    }
}

/// The choice of rows.
#[derive(Debug)]
struct IndexRows(Arc<[usize]>);

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
        if let Some(row) = self.0.iter().find(|&&row| row >= rows) {
            return Err(Error::value("index_rows", format!("no row {row} among {rows}"))
                .operand("input", x));
        }
        if let Some(gpu) = x.cuda() {
            return Ok((rows_on(gpu, x, &self.0)?, ()));
        }
        let y = match x.dtype() {
            DType::F32 => rows_of::<f32>(x, &self.0)?,
            DType::F64 => rows_of::<f64>(x, &self.0)?,
            DType::BF16 => rows_of::<bf16>(x, &self.0)?,
            DType::F16 => rows_of::<f16>(x, &self.0)?,
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
struct ScatterRows(Arc<[usize]>, Shape);

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
            (None, DType::F64) => run::<f64>(dy, &self.0, &self.1)?,
            (None, _) => run::<f32>(dy, &self.0, &self.1)?,
        };
        Ok((dx, ()))
    }

    fn vjp(&self, _: Kept<'_, ()>, dz: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([Some(apply(IndexRows(self.0.clone()), [dz])?)])
    }
}

/// Numbers of rows or places, in a GPU's memory.
fn numbers_on(gpu: &Cuda, numbers: &[usize]) -> Result<Tensor> {
    let narrow = numbers.iter().map(|&number| number as i32).collect();
    Tensor::from_vec(narrow, [numbers.len()])?.to_device(&Device::Cuda(gpu.clone()))
}

fn rows_on(gpu: &Cuda, x: &Tensor, ids: &[usize]) -> Result<Tensor> {
    let (width, pair) = (x.shape()[1..].iter().product(), [stored("index_rows", x)?, Storage::F32]);
    let mut y = Tensor::uninit_on(Some(gpu), x.shape().with_length(0, ids.len()), DType::F32);
    let (x, ids, len) = (x.contiguous(), numbers_on(gpu, ids)?, y.numel());
    let kernel = gpu.kernel(&format!("gather {pair:?}"), || gather::ptx::gather(pair))?;
    kernel.input(&x).input(&ids).output(&mut y).numbers([width, len]).run([len, 1, 1])?;
    Ok(y)
}

fn scatter_on(gpu: &Cuda, dy: &Tensor, ids: &[usize], shape: &Shape) -> Result<Tensor> {
    let width: usize = shape[1..].iter().product();
    let mut dx = Tensor::zeros_on(Some(gpu), shape, DType::F32);
    let (dy, groups) = (dy.contiguous(), Groups::of(ids));
    let len = groups.rows.len() * width;
    let [order, starts, rows] = [&groups.order, &groups.starts, &groups.rows];
    let (order, starts, rows) =
        (numbers_on(gpu, order)?, numbers_on(gpu, starts)?, numbers_on(gpu, rows)?);
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
        let y = table.embedding(&[2, 0, 2, 2], [2, 2]).unwrap();
        assert_eq!(*y.shape(), [2, 2, 2]);
        assert_eq!(y.value().to_f64_vec()[..4], [4.0, 5.0, 0.0, 1.0]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        let want = [1.0, 1.0, 0.0, 0.0, 3.0, 3.0];
        assert_eq!(grads.get(&table).unwrap().to_f64_vec(), want);
        assert!(table.embedding(&[3], [1]).is_err());
        assert!(table.embedding(&[1], [2]).is_err());
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
