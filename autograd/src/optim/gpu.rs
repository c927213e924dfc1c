//! Steps on a GPU: launches of `kernels::adamw::ptx`, which has the CPU's bits.

use kernels::adamw::{Update, ptx};
use tensor::{Cuda, DType, Device, Error, Result, Tensor};

use super::{Factor, Slot};

/// The norms of two groups of gradients, and what each is multiplied with, where the GPU has them.
pub(super) struct Norms {
    /// \[2\], float64.
    norms: Tensor,
    /// \[2\]; NaN twice where a norm is not finite.
    factors: Tensor,
}

impl Norms {
    /// Of the gradients that are limited together and of the others, by two launches for all of them.
    ///
    /// Errors: more gradients than [`MOST_ARRAYS`](ptx::MOST_ARRAYS), or elements than fit 32 bits; the
    /// GPU's.
    pub fn of(gpu: &Cuda, [limited, others]: [Vec<Tensor>; 2], limit: Option<f64>) -> Result<Self> {
        let (first, gradients) = (limited.len(), [limited, others].concat());
        if gradients.len() > ptx::MOST_ARRAYS as usize {
            let message =
                format!("{} gradients are more than {}", gradients.len(), ptx::MOST_ARRAYS);
            return Err(Error::value("adamw", message));
        }
        let lens = gradients.iter().map(Tensor::numel);
        let mut firsts = vec![0];
        for len in lens.clone() {
            firsts.push(firsts[firsts.len() - 1] + len.div_ceil(ptx::SEGMENT as usize));
        }
        let segments = firsts[gradients.len()];
        let numbers = |numbers: Vec<usize>| {
            let fits = |n| i32::try_from(n).map_err(|_| Error::value("adamw", "too many elements"));
            let numbers = numbers.into_iter().map(fits).collect::<Result<Vec<i32>>>()?;
            let count = numbers.len();
            Tensor::from_vec(numbers, [count])?.to_device(&Device::Cuda(gpu.clone()))
        };
        let [lens, firsts] = [numbers(lens.collect())?, numbers(firsts)?];
        let mut sums = Tensor::uninit_on(Some(gpu), [segments], DType::F64);
        gpu.kernel("gradient_squares", ptx::squares)?
            .table(&gradients)
            .input(&lens)
            .input(&firsts)
            .output(&mut sums)
            .numbers([gradients.len(), segments])
            .run([segments, 1, 1])?;
        let [mut norms, mut factors] =
            [DType::F64, DType::F32].map(|dtype| Tensor::uninit_on(Some(gpu), [2], dtype));
        gpu.kernel("gradient_clip", ptx::clip)?
            .input(&sums)
            .input(&firsts)
            .output(&mut norms)
            .output(&mut factors)
            .numbers([gradients.len(), first])
            .double(limit.unwrap_or(f64::INFINITY))
            .run([1, 1, 1])?;
        Ok(Self { norms, factors })
    }

    /// What the gradients of each group are multiplied with.
    pub fn factors(&self) -> Result<[Factor; 2]> {
        let factor = |i| Ok(Factor::There(self.factors.narrow(0, i, 1)?));
        Ok([factor(0)?, factor(1)?])
    }

    /// The norms, once the GPU has come to them.
    pub fn read(&self) -> Result<[f64; 2]> {
        let norms = self.norms.to_device(&Device::Cpu)?.to_vec::<f64>()?;
        Ok([norms[0], norms[1]])
    }
}

/// The GPU that a factor lies on.
fn gpu_of(factor: &Tensor) -> Result<&Cuda> {
    factor.cuda().ok_or_else(|| Error::device("adamw", "the factor is on no GPU"))
}

/// `e ← d·e + (1 − d)·p`.
pub(super) fn average_on(u: &Update, factor: &Tensor, p: &Tensor, e: &mut Tensor) -> Result<()> {
    let n = p.numel();
    let [.., decay, rest] = ptx::numbers(u);
    let launch = gpu_of(factor)?.kernel("average", ptx::average)?;
    let launch = launch.input(p).output(e).input(factor).number(n);
    launch.float(decay).float(rest).run([n, 1, 1])
}

impl Slot {
    pub(super) fn step_on(&mut self, u: &Update, factor: &Tensor, g: &Tensor) -> Result<()> {
        let Self { var, m, v, ema, .. } = self;
        let (n, average) = (g.numel(), ema.is_some());
        let name = if average { "adamw with an average" } else { "adamw" };
        let gpu = gpu_of(factor)?;
        var.update(|p| {
            let launch = gpu.kernel(name, || ptx::kernel(average))?;
            let launch = launch.input(g).output(p).output(m).output(v);
            let launch = match ema {
                Some(ema) => launch.output(ema),
                None => launch,
            };
            let launch = launch.input(factor).number(n);
            ptx::numbers(u).into_iter().fold(launch, |launch, x| launch.float(x)).run([n, 1, 1])
        })?
    }
}
