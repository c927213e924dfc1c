//! Steps on a GPU: launches of `kernels::adamw::ptx`, which has the CPU's bits.

use kernels::adamw::{Update, ptx};
use tensor::{Cuda, DType, Device, Error, Result, Tensor};

use super::Slot;

/// Σ g² of each gradient, by one launch for all of them.
pub(super) fn squares_on(gpu: &Cuda, gradients: &[Tensor]) -> Result<Vec<f64>> {
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
    let [lens, starts] = [numbers(lens.collect())?, numbers(firsts.clone())?];
    let mut sums = Tensor::uninit_on(Some(gpu), [segments], DType::F64);
    gpu.kernel("gradient_squares", ptx::squares)?
        .table(gradients)
        .input(&lens)
        .input(&starts)
        .output(&mut sums)
        .numbers([gradients.len(), segments])
        .run([segments, 1, 1])?;
    let sums = sums.to_device(&Device::Cpu)?.to_vec::<f64>()?;
    Ok(firsts.windows(2).map(|of| sums[of[0]..of[1]].iter().sum()).collect())
}

/// `e ← d·e + (1 − d)·p`.
pub(super) fn average_on(gpu: &Cuda, u: &Update, p: &Tensor, e: &mut Tensor) -> Result<()> {
    let (n, p, clip) = (p.numel(), p.contiguous(), clip_on(gpu, u)?);
    let [.., decay, rest] = ptx::numbers(u);
    let launch = gpu.kernel("average", ptx::average)?.input(&p).output(e).input(&clip);
    launch.number(n).float(decay).float(rest).run([n, 1, 1])
}

/// The factor that gradients are scaled with, where kernels look for it.
fn clip_on(gpu: &Cuda, u: &Update) -> Result<Tensor> {
    Tensor::scalar(u.clip, DType::F32).to_device(&Device::Cuda(gpu.clone()))
}

impl Slot {
    pub(super) fn step_on(&mut self, gpu: &Cuda, u: &Update, g: &Tensor) -> Result<()> {
        let Self { var, m, v, ema, .. } = self;
        let (n, average) = (g.numel(), ema.is_some());
        let clip = clip_on(gpu, u)?;
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
