//! Steps on a GPU: launches of `kernels::adamw::ptx`, which has the CPU's bits.

use kernels::adamw::ptx;
use tensor::{Cuda, DType, Device, Error, Result, Tensor};

use super::{AdamW, Clipped, Slot, whole};
use crate::Grads;

/// A step in parts, for whoever records it. What changes from one to the next is in tensors; all
/// the rest of a step is the same launches, as long as the same parameters have gradients.
impl AdamW {
    /// The GPU that everything lies on, if it does.
    pub(super) fn gpu(&self) -> Option<&Cuda> {
        self.slots.first().and_then(|slot| slot.m.cuda())
    }

    /// What a GPU has to be told of the step that comes next: learning rate, corrections and
    /// decays, as its kernels take them.
    ///
    /// Shapes: → \[parameters, 9\], float32, in this machine's memory.
    pub fn numbers(&self, lr: f64) -> Result<Tensor> {
        let numbers = |slot| ptx::numbers(&self.next_update(slot, lr));
        let numbers: Vec<f32> = self.slots.iter().flat_map(numbers).collect();
        Tensor::from_vec(numbers, [self.slots.len(), ptx::NUMBERS])
    }

    /// Queues a step of everything on a GPU, whose [`numbers`](Self::numbers) are there by now:
    /// norms, factors and updates. It is counted by [`finish`](Self::finish), which these norms are
    /// for.
    ///
    /// Shapes: → \[2\], float64, on the GPU.
    /// Errors: a gradient that is not like its parameter, or lies elsewhere; the GPU's.
    pub fn queue(&mut self, grads: &Grads, numbers: &Tensor) -> Result<Tensor> {
        let Some(gpu) = self.gpu().cloned() else {
            return Err(Error::device("adamw", "nothing lies on a GPU"));
        };
        let gradients = self.parameters().map(|vars| whole(grads, vars));
        let [norms, factors] = norms(&gpu, gradients, self.config.clip)?;
        let factors = [factors.narrow(0, 0, 1)?, factors.narrow(0, 1, 1)?];
        for (i, slot) in self.slots.iter_mut().enumerate() {
            let factor = &factors[usize::from(!slot.clipped)];
            slot.step_on(&gpu, [factor, &numbers.select(0, i)?], grads)?;
        }
        Ok(norms)
    }

    /// Ends a step that was queued: waits for its norms, and counts it unless one is not finite.
    ///
    /// Errors: the GPU's.
    pub fn finish(&mut self, norms: &Tensor) -> Result<Clipped> {
        let found = Clipped::both(read(norms)?, self.config.clip);
        Ok(self.count(found))
    }
}

/// The norms of the gradients that are limited together and of the others \[2\] (float64), by two
/// launches for all of them, and what each are multiplied with \[2\]: NaN twice where a norm is not
/// finite.
///
/// Errors: more gradients than [`MOST_ARRAYS`](ptx::MOST_ARRAYS), or elements than fit 32 bits; the
/// GPU's.
pub(super) fn norms(
    gpu: &Cuda,
    [limited, others]: [Vec<Tensor>; 2],
    limit: Option<f64>,
) -> Result<[Tensor; 2]> {
    let (first, gradients) = (limited.len(), [limited, others].concat());
    if gradients.len() > ptx::MOST_ARRAYS as usize {
        let message = format!("{} gradients are more than {}", gradients.len(), ptx::MOST_ARRAYS);
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
        .number(gradients.len())
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
    Ok([norms, factors])
}

/// Two norms, once the GPU has come to them.
pub(super) fn read(norms: &Tensor) -> Result<[f64; 2]> {
    let norms = norms.to_device(&Device::Cpu)?.to_vec::<f64>()?;
    Ok([norms[0], norms[1]])
}

impl Slot {
    /// By the factor of its gradient and its numbers, both the GPU's; without a gradient the
    /// average alone moves.
    fn step_on(
        &mut self,
        gpu: &Cuda,
        [factor, numbers]: [&Tensor; 2],
        grads: &Grads,
    ) -> Result<()> {
        let gradient = self.gradient(grads)?;
        let Self { var, m, v, ema, .. } = self;
        let n = m.numel();
        let Some(g) = gradient else {
            let Some(ema) = ema else { return Ok(()) };
            let p = var.value().contiguous();
            let launch = gpu.kernel("average", ptx::average)?.input(&p).output(ema);
            return launch.input(factor).input(numbers).number(n).run([n, 1, 1]);
        };
        let average = ema.is_some();
        let name = if average { "adamw with an average" } else { "adamw" };
        var.update(|p| {
            let launch = gpu.kernel(name, || ptx::kernel(average))?;
            let launch = launch.input(&g).output(p).output(m).output(v);
            let launch = match ema {
                Some(ema) => launch.output(ema),
                None => launch,
            };
            launch.input(factor).input(numbers).number(n).run([n, 1, 1])
        })?
    }
}
