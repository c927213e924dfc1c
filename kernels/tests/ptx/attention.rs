//! Attention.

use half::bf16;
use kernels::attention::ptx::Attention;
use kernels::attention::{Problem, Reference, Segment, View, reference};
use kernels::ptx::{Kernel, Storage};
use ptx_vm::{Arg, Buffer, Fault, Machine, Statistics};

use crate::{launch, numbers, perturbed};

mod backward;

/// Joint attention of two samples with two heads; the first segment asks.
pub struct Case {
    pub width: usize,
    /// Tokens of each segment, and those of each sample that are no padding.
    pub segments: Vec<(usize, [usize; 2])>,
    pub bias: bool,
}

const BATCH: usize = 2;
const HEADS: usize = 2;
const SCALE: f32 = 0.3;

fn rounded(n: usize, scale: f32, seed: u32) -> Vec<f32> {
    numbers(n, scale, seed).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
}

impl Case {
    fn channels(&self) -> usize {
        HEADS * self.width
    }

    /// q, k and v of a segment, side by side as a fused projection makes them.
    fn qkv(&self, segment: usize) -> Vec<f32> {
        rounded(BATCH * self.segments[segment].0 * 3 * self.channels(), 1.0, segment as u32)
    }

    /// Tokens of the first segments, so many of them.
    fn tokens(&self, segments: usize) -> usize {
        self.segments[..segments].iter().map(|(tokens, _)| tokens).sum()
    }

    /// \[H, queries, keys\], where the first `asking` segments ask.
    fn bias(&self, asking: usize) -> Vec<f32> {
        numbers(HEADS * self.tokens(asking) * self.tokens(self.segments.len()), 2.0, 9)
    }

    /// The reference's answers, in float64, where the first `asking` segments ask, and the
    /// gradients for this one of each answer.
    fn reference(&self, asking: usize, d_o: &[Vec<f64>]) -> Reference {
        let channels = self.channels();
        let fused: Vec<Vec<f32>> = (0..self.segments.len()).map(|i| self.qkv(i)).collect();
        let segments: Vec<Segment<f32>> = (0..)
            .zip(&self.segments)
            .map(|(i, (tokens, lens))| {
                let view = |which: usize| View {
                    data: &fused[i][which * channels..],
                    batch_stride: tokens * 3 * channels,
                    row_stride: 3 * channels,
                };
                let q = (i < asking).then(|| view(0));
                Segment { tokens: *tokens, q, k: view(1), v: view(2), key_len: Some(lens) }
            })
            .collect();
        let bias = self.bias(asking);
        let problem = Problem {
            batch: BATCH,
            heads: HEADS,
            width: self.width,
            scale: SCALE.into(),
            segments: &segments,
            bias: self.bias.then_some(&bias[..]),
        };
        reference(&problem, d_o)
    }

    fn kernel(&self) -> Kernel {
        let (width, segments) = (self.width as u32, self.segments.len());
        Attention { width, segments, bias: self.bias, output: Storage::F32 }.forward()
    }

    pub fn got(&self, kernel: &Kernel) -> Result<([Vec<f32>; 2], Statistics), Fault> {
        let mut gpu = Machine::new();
        let (queries, channels) = (self.segments[0].0, self.channels());
        let mut args = Vec::new();
        let mut first_keys = Vec::new();
        let mut first = 0;
        for (i, (tokens, lens)) in self.segments.iter().enumerate() {
            let fused: Vec<u16> =
                self.qkv(i).iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
            let fused = gpu.upload(&fused);
            for which in if i == 0 { 0..3 } else { 1..3 } {
                args.push(Arg::from(fused.address + (2 * which * channels) as u64));
                args.extend([tokens * 3 * channels, 3 * channels].map(|n| Arg::from(n as u32)));
            }
            args.push(gpu.upload(&lens.map(|len| len as u32)).into());
            first_keys.push(Arg::from(first as u32));
            first += tokens;
        }
        if self.bias {
            args.push(gpu.upload(&self.bias(1)).into());
            args.extend([queries * first, first].map(|n| Arg::from(n as u32)));
            args.extend(first_keys);
        }
        let o: Buffer<f32> = gpu.alloc(BATCH * queries * channels);
        let lse: Buffer<f32> = gpu.alloc(BATCH * HEADS * queries);
        args.extend([o.into(), lse.into(), Arg::from(queries as u32), Arg::from(HEADS as u32)]);
        args.push(SCALE.into());
        let statistics = launch(&mut gpu, kernel, [queries, HEADS, BATCH], &args)?;
        Ok(([o, lse].map(|buffer| gpu.download(buffer).expect("a buffer")), statistics))
    }
}

#[test]
fn answers_are_those_of_the_reference() {
    let cases = [
        Case { width: 32, segments: vec![(70, [70, 3])], bias: true },
        Case { width: 64, segments: vec![(9, [9, 0]), (130, [129, 0])], bias: false },
        Case { width: 128, segments: vec![(5, [5, 2])], bias: false },
    ];
    for case in cases {
        let none = vec![Vec::new(); case.segments.len()];
        let want = case.reference(1, &none);
        let (want_o, want_lse) = (&want.o[0], &want.lse[0]);
        let shown = perturbed(|| {
            let ([o, lse], _) = case.got(&case.kernel()).unwrap_or_else(|fault| panic!("{fault}"));
            // P is rounded to bf16, and values are at most 1: half a unit in 2⁻⁸, twice over.
            for (i, (got, want)) in o.iter().zip(want_o).enumerate() {
                assert!((f64::from(*got) - want).abs() < 4e-3, "o {i}: {got} {want}");
            }
            for (i, (got, want)) in lse.iter().zip(want_lse).enumerate() {
                let same = *want == f64::NEG_INFINITY && *got == f32::NEG_INFINITY;
                assert!(same || (f64::from(*got) - want).abs() < 1e-5, "lse {i}: {got} {want}");
            }
            [o, lse].concat()
        });
        assert!(shown, "exponentials are approximate");
    }
}

/// Shared memory without conflicts; each query and key is read once by each block that needs it.
#[test]
fn attention_has_no_bank_conflicts() {
    for width in [32, 64, 128] {
        let case = Case { width, segments: vec![(64, [64, 64])], bias: false };
        let (_, statistics) = case.got(&case.kernel()).expect("no fault");
        assert_no_conflicts(&statistics);
    }
}

/// Without any one of its barriers and waits attention is at fault, and the machine says so: after
/// an even number of tiles, or after an odd one.
#[test]
fn no_barrier_and_no_wait_can_be_missing() {
    let cases = [100, 150].map(|n| Case {
        width: 32,
        segments: vec![(n, [n, n]), (70, [70, 70])],
        bias: false,
    });
    let kernels = [
        Run::Forward(cases[0].kernel()),
        Run::Queries(cases[0].backward().queries()),
        Run::Keys(cases[0].backward().keys()),
    ];
    for kernel in kernels {
        let mut tried = 0;
        while let Some(broken) = kernel.without_sync(tried) {
            let faults = cases.iter().any(|case| match &broken {
                Run::Forward(kernel) => case.got(kernel).is_err(),
                Run::Queries(kernel) => case.query_gradients(kernel, 0).is_err(),
                Run::Keys(kernel) => case.key_gradients(kernel, 0).is_err(),
            });
            assert!(faults, "without its sync number {tried} nobody finds fault with it");
            tried += 1;
        }
        assert_eq!(tried, 8, "two at the start, two a segment, two between them");
    }
}

/// A kernel, and how it is run.
enum Run {
    Forward(Kernel),
    Queries(Kernel),
    Keys(Kernel),
}

impl Run {
    fn without_sync(&self, n: usize) -> Option<Run> {
        Some(match self {
            Run::Forward(kernel) => Run::Forward(kernel.without_sync(n)?),
            Run::Queries(kernel) => Run::Queries(kernel.without_sync(n)?),
            Run::Keys(kernel) => Run::Keys(kernel.without_sync(n)?),
        })
    }
}

fn assert_no_conflicts(statistics: &Statistics) {
    let total = statistics.total();
    assert!(total.wavefronts > 0);
    assert_eq!(total.wavefronts, total.ideal_wavefronts, "{statistics}");
}
