//! Attention.

use half::bf16;
use kernels::attention::ptx::{Attention, Exact, exact};
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
    /// By the kernels in float32, or by tensor cores.
    pub exact: bool,
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
        let (width, segments, bias) = (self.width as u32, self.segments.len(), self.bias);
        match self.exact {
            true => Exact { operands: Storage::F32, width, segments, bias }.forward(),
            false => Attention { width, segments, bias }.forward(),
        }
    }

    /// Where an operand is on the machine, as these kernels take it, and the size of an element.
    fn upload_operand(&self, gpu: &mut Machine, x: &[f32]) -> (u64, usize) {
        if self.exact {
            return (gpu.upload(x).address, 4);
        }
        let bits: Vec<u16> = x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        (gpu.upload(&bits).address, 2)
    }

    /// The extent of a grid for so many rows.
    fn extent(&self, rows: usize) -> [usize; 3] {
        [rows, if self.exact { HEADS * exact::parts(self.width) } else { HEADS }, BATCH]
    }

    /// How many of a segment's keys are padding, by sample.
    fn padding(&self, segment: usize) -> [u32; BATCH] {
        let (tokens, lens) = self.segments[segment];
        lens.map(|len| (tokens - len) as u32)
    }

    pub fn got(&self, kernel: &Kernel) -> Result<([Vec<f32>; 2], Statistics), Fault> {
        let mut gpu = Machine::new();
        let (queries, channels) = (self.segments[0].0, self.channels());
        let mut args = Vec::new();
        let mut first_keys = Vec::new();
        let mut first = 0;
        for (i, (tokens, _)) in self.segments.iter().enumerate() {
            let (fused, bytes) = self.upload_operand(&mut gpu, &self.qkv(i));
            for which in if i == 0 { 0..3 } else { 1..3 } {
                args.push(Arg::from(fused + (bytes * which * channels) as u64));
                args.extend([tokens * 3 * channels, 3 * channels].map(|n| Arg::from(n as u32)));
            }
            args.extend([Arg::from(*tokens as u32), gpu.upload(&self.padding(i)).into()]);
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
        let statistics = launch(&mut gpu, kernel, self.extent(queries), &args)?;
        Ok(([o, lse].map(|buffer| gpu.download(buffer).expect("a buffer")), statistics))
    }
}

/// Heads of odd widths, of half a tile's and a whole tile's, and of several blocks' channels; with
/// edges of every tile, and a sample without keys.
pub fn exact_cases() -> [Case; 4] {
    let exact = true;
    [
        Case { width: 20, segments: vec![(9, [9, 0]), (130, [129, 0])], bias: false, exact },
        Case { width: 67, segments: vec![(37, [37, 3]), (2, [0, 2])], bias: true, exact },
        Case { width: 64, segments: vec![(65, [65, 1])], bias: false, exact },
        Case { width: 3, segments: vec![(70, [64, 1])], bias: true, exact },
    ]
}

#[test]
fn answers_are_those_of_the_reference() {
    let exact = false;
    let cases = [
        Case { width: 32, segments: vec![(70, [70, 3])], bias: true, exact },
        Case { width: 64, segments: vec![(9, [9, 0]), (130, [129, 0])], bias: false, exact },
        Case { width: 128, segments: vec![(5, [5, 2])], bias: false, exact },
    ];
    for case in cases.into_iter().chain(exact_cases()) {
        let none = vec![Vec::new(); case.segments.len()];
        let want = case.reference(1, &none);
        let (want_o, want_lse) = (&want.o[0], &want.lse[0]);
        // P is rounded to bf16, and values are at most 1: half a unit in 2⁻⁸, twice over. In
        // float32, scores of a few units are rounded, and so are sums of a hundred products.
        let tolerance = if case.exact { 2e-6 } else { 4e-3 };
        let shown = perturbed(|| {
            let ([o, lse], _) = case.got(&case.kernel()).unwrap_or_else(|fault| panic!("{fault}"));
            for (i, (got, want)) in o.iter().zip(want_o).enumerate() {
                assert!((f64::from(*got) - want).abs() < tolerance, "o {i}: {got} {want}");
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
        let case = Case { width, segments: vec![(64, [64, 64])], bias: false, exact: false };
        let (_, statistics) = case.got(&case.kernel()).expect("no fault");
        assert_no_conflicts(&statistics);
    }
}

/// Waiting for anything less attention is at fault, and the machine says so: after an even number
/// of tiles, or after an odd one, whatever the width of heads, with a bias and without.
#[test]
fn nothing_that_is_waited_for_can_be_missing() {
    let case = |n, width, bias, exact| {
        let segments = vec![(n, [n, n]), (70, [70, 70])];
        Case { width, segments, bias, exact }
    };
    let of_cores = |width, bias| Vec::from([100, 150].map(|n| case(n, width, bias, false)));
    for (cases, has_gradients) in [
        (of_cores(32, false), true),
        (of_cores(32, true), true),
        (of_cores(64, false), true),
        (of_cores(64, true), true),
        (of_cores(128, false), false),
        (of_cores(128, true), false),
        // Of float32: two tiles a segment; one panel a tile, and two.
        (vec![case(65, 17, false, true)], true),
        (vec![case(65, 70, false, true)], true),
    ] {
        let passes = |run: fn(&Case, &Kernel) -> bool, kernel: &Kernel| {
            cases.iter().all(|case| run(case, kernel))
        };
        let first = &cases[0];
        let mut kernels: Vec<(Kernel, fn(&Case, &Kernel) -> bool)> =
            vec![(first.kernel(), |case, kernel| case.got(kernel).is_ok())];
        if has_gradients {
            kernels.push((first.queries_kernel(), |case, kernel| {
                case.query_gradients(kernel, 0).is_ok()
            }));
            kernels
                .push((first.keys_kernel(), |case, kernel| case.key_gradients(kernel, 0).is_ok()));
        }
        for (kernel, run) in kernels {
            let weakened = kernel.weakened();
            assert!(weakened.len() >= 6, "a few barriers and waits");
            for (i, broken) in weakened.iter().enumerate() {
                let name = &kernel.spec().name;
                assert!(!passes(run, broken), "{name}, weakened in way {i}, passes");
            }
        }
    }
}

fn assert_no_conflicts(statistics: &Statistics) {
    let total = statistics.total();
    assert!(total.wavefronts > 0);
    assert_eq!(total.wavefronts, total.ideal_wavefronts, "{statistics}");
}
