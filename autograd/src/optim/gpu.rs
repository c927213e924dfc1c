//! Steps on a GPU: launches of `kernels::adamw::ptx`, which has the CPU's bits.

use kernels::adamw::{Update, ptx};
use kernels::reduce;
use tensor::{Cuda, DType, Device, Result, Tensor};

use super::Slot;
use crate::Var;

/// Σ x², in parts of float64.
pub(super) fn squares_on(gpu: &Cuda, x: &Tensor) -> Result<Tensor> {
    let (n, x) = (x.numel(), x.contiguous());
    let parts = n.div_ceil(reduce::ptx::PART as usize);
    let mut sums = Tensor::uninit_on(Some(gpu), [parts], DType::F64);
    let square = || reduce::ptx::row_parts(reduce::ptx::Term::Square);
    let launch = gpu.kernel("square_parts", square)?;
    launch.input(&x).output(&mut sums).number(n).run([parts, 1, 1])?;
    Ok(sums)
}

/// `d·e + (1 − d)·p`.
pub(super) fn average_on(decay: f64, e: &Tensor, p: Tensor) -> Result<Tensor> {
    let [e, p] = [e.clone(), p].map(Var::constant);
    Ok(e.mul_scalar(decay)?.add(&p.mul_scalar(1.0 - decay)?)?.value())
}

impl Slot {
    pub(super) fn step_on(&mut self, gpu: &Cuda, u: &Update, g: &Tensor) -> Result<()> {
        let Self { var, m, v, ema, .. } = self;
        let (n, average) = (g.numel(), ema.is_some());
        let clip = Tensor::scalar(u.clip, DType::F32).to_device(&Device::Cuda(gpu.clone()))?;
        let name = if average { "adamw with an average" } else { "adamw" };
        var.update(|p| {
            let launch = gpu.kernel(name, || ptx::kernel(average))?;
            let launch = launch.input(g).output(p).output(m).output(v);
            let launch = match ema {
                Some(ema) => launch.output(ema),
                None => launch,
            };
            let launch = launch.input(&clip).number(n);
            ptx::numbers(u).into_iter().fold(launch, |launch, x| launch.float(x)).run([n, 1, 1])
        })?
    }
}
