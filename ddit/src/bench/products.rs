//! Kernels alone: matrix products of the sizes that models have, and attention.

use std::convert::Infallible;
use std::time::Duration;

use kernels::attention::{self, Gradient, Output, Problem, Saved, Segment, View};
use kernels::gemm::{self, PackedB, Reader, Size, Store, Strided};
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

use super::clock::{Times, time_for};

/// Rows, columns and length of the sums. 154, 333 and 1178 are token counts of SD3: text, a mix,
/// text and a 512 x 512 picture; 1536 and 6144 its widths.
pub const PRODUCTS: [[usize; 3]; 8] = [
    [64, 64, 64],
    [256, 256, 256],
    [154, 1536, 1536],
    [333, 1536, 1536],
    [1024, 1024, 1024],
    [1178, 1536, 1536],
    [1178, 6144, 1536],
    [2048, 2048, 2048],
];

/// An attention to be timed: joint over two segments, or over one where `text` is 0.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// What it occurs in.
    pub name: &'static str,
    /// Samples.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Tokens of the first segment.
    pub image: usize,
    /// Tokens of the second.
    pub text: usize,
}

/// The attentions of the [workloads](super::workload), of SD3 at 512 x 512, and of an autoencoder.
#[rustfmt::skip]
pub const ATTENTIONS: [Attention; 5] = [
    Attention { name: "nano", batch: 32, heads: 6, width: 32, image: 64, text: 24 },
    Attention { name: "small", batch: 4, heads: 6, width: 64, image: 256, text: 64 },
    Attention { name: "block", batch: 1, heads: 24, width: 64, image: 1024, text: 256 },
    Attention { name: "sd3", batch: 2, heads: 24, width: 64, image: 1024, text: 154 },
    Attention { name: "vae", batch: 1, heads: 1, width: 512, image: 4096, text: 0 },
];

/// Times C = A·B of `[m, n, k]` in float32, in memory as tensors have it, `packed` with B packed
/// before, as frozen weights are.
///
/// Errors: none that a size could cause.
pub fn product([m, n, k]: [usize; 3], packed: bool, budget: Duration) -> Result<Times> {
    let normal = |shape: [usize; 2], stream| Rng::new(0).stream(stream).normal(shape, DType::F32);
    let (a, b) = (normal([m, k], 1)?, normal([k, n], 2)?);
    let (a, b) = (a.slice::<f32>()?, b.slice::<f32>()?);
    let mut c = Tensor::zeros([m, n], DType::F32);
    let c = c.slice_mut::<f32>()?;
    let (left, right) = (Strided::rows(a, k), Strided::rows(b, n));
    let size = Size::new(m, n, k);
    let weights = packed.then(|| PackedB::new(k, n, b, [n, 1]));
    Ok(endless(budget, || match &weights {
        Some(weights) => gemm::gemm(size, left.plain(), weights, &Store, c),
        None => gemm::gemm(size, left.plain(), right.plain(), &Store, c),
    }))
}

impl Attention {
    /// Tokens of all segments.
    fn tokens(&self) -> usize {
        self.image + self.text
    }

    /// Arithmetic of the forward products; the backward ones are 5/2 of it.
    pub fn flops(&self) -> f64 {
        (4 * self.batch * self.heads * self.width * self.tokens().pow(2)) as f64
    }

    /// Times the forward and the backward pass in float32.
    pub fn time(&self, budget: Duration) -> [Times; 2] {
        let &Self { batch, heads, width, image, text, .. } = self;
        let channels = heads * width;
        let lengths: Vec<usize> = [image, text].into_iter().filter(|&tokens| tokens > 0).collect();
        let size = |tokens: usize| batch * tokens * channels;
        let inputs: Vec<[Vec<f32>; 4]> = lengths
            .iter()
            .map(|&tokens| [1, 2, 3, 4].map(|stream| numbers(size(tokens), stream)))
            .collect();
        let segments: Vec<Segment<f32>> = lengths
            .iter()
            .zip(&inputs)
            .map(|(&tokens, [q, k, v, _])| {
                let view = |data| View::contiguous(data, tokens, channels);
                Segment { tokens, q: Some(view(q)), k: view(k), v: view(v), key_len: None }
            })
            .collect();
        let scale = 1.0 / (width as f64).sqrt();
        let problem = Problem { batch, heads, width, scale, segments: &segments, bias: None };

        let mut answers: Vec<[Vec<f32>; 2]> = lengths
            .iter()
            .map(|&tokens| [vec![0.0; size(tokens)], vec![0.0; batch * heads * tokens]])
            .collect();
        let forward = endless(budget, || {
            let outputs = answers.iter_mut().map(|[o, lse]| Output { o, lse });
            attention::forward(&problem, &mut outputs.collect::<Vec<_>>());
        });
        let saved: Vec<Saved<f32>> = answers
            .iter()
            .zip(&inputs)
            .map(|([o, lse], [.., d_o])| Saved { o, lse, d_o: Some(d_o) })
            .collect();
        let mut gradients: Vec<[Vec<f32>; 3]> =
            lengths.iter().map(|&tokens| [(); 3].map(|()| vec![0.0; size(tokens)])).collect();
        let backward = endless(budget, || {
            let outputs = gradients.iter_mut().map(|[dq, dk, dv]| Gradient { dq, dk, dv });
            attention::backward(&problem, &saved, &mut outputs.collect::<Vec<_>>(), None);
        });
        [forward, backward]
    }
}

/// Times something that cannot fail.
fn endless(budget: Duration, mut f: impl FnMut()) -> Times {
    let Ok(times) = time_for(budget, || {
        f();
        Ok::<_, Infallible>(())
    });
    times
}

/// Standard normal numbers.
fn numbers(count: usize, stream: u64) -> Vec<f32> {
    let mut rng = Rng::new(0).stream(stream);
    (0..count).map(|_| rng.next_normal() as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_small_runs() {
        let budget = Duration::ZERO;
        assert!(product([7, 20, 9], false, budget).unwrap().min() > 0.0);
        assert!(product([7, 20, 9], true, budget).unwrap().min() > 0.0);
        for text in [0, 3] {
            let one = Attention { name: "", batch: 2, heads: 2, width: 8, image: 5, text };
            assert_eq!(one.flops(), (4 * 2 * 2 * 8 * (5 + text) * (5 + text)) as f64);
            assert!(one.time(budget).iter().all(|times| times.min() > 0.0));
        }
    }
}
