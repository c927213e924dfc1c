//! Attention by each family of kernels, forward and backward, beside the CPU.

use autograd::{Segment, Var, attention, autocast};
use tensor::rng::Rng;
use tensor::{DType, Device, Tensor};

use crate::{assert_listed, gpu};

/// One segment: its tokens, whether they ask, and how many of each sample's keys there are.
type Tokens = (usize, bool, Option<[usize; BATCH]>);

const BATCH: usize = 2;
const HEADS: usize = 2;

struct Case {
    dtype: DType,
    width: usize,
    segments: Vec<Tokens>,
    bias: bool,
    /// What the loss is not made of: an answer that nobody uses.
    unused: Option<usize>,
    /// Kernels that it goes to, among others.
    kernels: &'static [&'static str],
}

/// The answers and the gradients of all operands under a loss of fixed weights.
struct Done {
    answers: Vec<Vec<f64>>,
    gradients: Vec<Option<Vec<f64>>>,
}

impl Case {
    /// q, k and v of each segment are parts of one tensor, as a fused projection makes them; the
    /// last segment's keys lie apart, and begin at an odd place.
    fn operands(&self, device: &Device) -> Vec<Var> {
        let (mut operands, channels) = (Vec::new(), HEADS * self.width);
        // Numbers of bf16, so that rounding operands is not what is compared.
        let normal = |seed: usize, shape: &[usize]| {
            let noise = Rng::new(seed as u64).normal(shape, DType::F32).unwrap();
            noise.to_dtype(DType::BF16).to_dtype(self.dtype).to_device(device).unwrap()
        };
        for (i, &(tokens, asks, _)) in self.segments.iter().enumerate() {
            let fused = normal(i, &[BATCH, tokens, 3 * channels]);
            let part = |which: usize| fused.narrow(2, which * channels, channels).unwrap();
            let mut parts = vec![part(0), part(1), part(2)];
            if i + 1 == self.segments.len() {
                let odd = normal(10 + i, &[BATCH, tokens, channels + 3]);
                parts[1] = odd.narrow(2, 3, channels).unwrap();
            }
            operands.extend(parts.into_iter().skip(usize::from(!asks)).map(Var::parameter));
        }
        if self.bias {
            let tokens = |asking: bool| -> usize {
                let of = self.segments.iter().filter(|(_, asks, _)| *asks || !asking);
                of.map(|(tokens, ..)| tokens).sum()
            };
            operands.push(Var::parameter(normal(20, &[HEADS, tokens(true), tokens(false)])));
        }
        operands
    }

    fn run(&self, device: &Device) -> Done {
        let operands = self.operands(device);
        let mut next = operands.iter();
        let segments: Vec<Segment> = self
            .segments
            .iter()
            .map(|(_, asks, key_len)| Segment {
                q: asks.then(|| next.next().unwrap()),
                k: next.next().unwrap(),
                v: next.next().unwrap(),
                key_len: key_len.as_ref().map(|len| &len[..]),
            })
            .collect();
        let scale = (self.width as f64).sqrt().recip();
        let answers = attention(&segments, HEADS, scale, next.next()).unwrap();
        let used = answers.iter().enumerate().filter(|(i, _)| Some(*i) != self.unused);
        let loss = used.map(|(i, answer)| {
            let weights = Rng::new(30 + i as u64).normal(answer.shape(), DType::F32).unwrap();
            let weights = weights.to_dtype(DType::BF16).to_dtype(DType::F32);
            let weights = Var::constant(weights.to_device(device).unwrap());
            answer.mul(&weights).unwrap().sum_all().unwrap()
        });
        let loss = loss.reduce(|a, b| a.add(&b).unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        Done {
            answers: answers.iter().map(|answer| answer.value().to_f64_vec()).collect(),
            gradients: operands.iter().map(|x| grads.get(x).map(Tensor::to_f64_vec)).collect(),
        }
    }

    /// Errors of the GPU's run: at most so much of each tensor's length.
    fn check(&self, device: &Device, tolerance: f64) {
        let (here, there) = (self.run(&Device::Cpu), self.run(device));
        let what = format!("{:?} of {} in {}", self.segments, self.width, self.dtype);
        for (i, (got, want)) in there.answers.iter().zip(&here.answers).enumerate() {
            assert_near(&format!("{what}: answer {i}"), got, want, tolerance);
        }
        assert_eq!(there.gradients.len(), here.gradients.len());
        for (i, (got, want)) in there.gradients.iter().zip(&here.gradients).enumerate() {
            let [Some(got), Some(want)] = [got, want] else {
                assert_eq!(got.is_some(), want.is_some(), "{what}: gradient {i}");
                continue;
            };
            assert_near(&format!("{what}: gradient {i}"), got, want, tolerance);
        }
        let launched = cuda::install().statistics();
        for kernel in self.kernels {
            assert!(launched.contains(&format!("{kernel}\t")), "{what}: {kernel} in\n{launched}");
        }
    }
}

/// |got − want| ≤ tolerance·|want|, of vectors; nothing is NaN.
fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = length(&mut got.iter().zip(want).map(|(a, b)| a - b));
    let limit = tolerance * length(&mut want.iter().copied());
    assert!(error <= limit, "{what}: error {error:.2e}, limit {limit:.2e}");
}

/// P, its gradient and that of the answer are each rounded to bf16, by 2⁻⁹ at most and mostly by
/// less than half of it; what they are summed to is rounded once more by none.
const TENSOR_CORES: f64 = 1.0 / 128.0;

/// Sums of a few hundred terms in float32, in an order of their own.
const FLOAT32: f64 = 2e-6;

fn case(dtype: DType, width: usize, segments: Vec<Tokens>) -> Case {
    Case { dtype, width, segments, bias: false, unused: None, kernels: &[] }
}

/// Tiles with edges, padding, a sample without a key in one segment, one that only others ask of.
#[test]
fn attention_of_bf16_goes_to_tensor_cores() {
    let device = gpu();
    let joint = || vec![(70, true, None), (9, true, Some([4, 0]))];
    Case {
        kernels: &[
            "attention_d32_s2_f32",
            "attention_backward_queries_d32_s2_f32",
            "attention_backward_keys_d32_s2_f32",
        ],
        ..case(DType::BF16, 32, joint())
    }
    .check(&device, TENSOR_CORES);
    Case {
        bias: true,
        kernels: &["attention_bias_d64_s2_f32", "attention_backward_bias_d64"],
        ..case(DType::BF16, 64, vec![(9, false, Some([9, 5])), (65, true, None)])
    }
    .check(&device, TENSOR_CORES);
    // The answers alone are made by tensor cores.
    Case {
        kernels: &["attention_d128_s1_f32", "attention_exact_backward_keys_s1_bf16"],
        ..case(DType::BF16, 128, vec![(5, true, Some([5, 2]))])
    }
    .check(&device, TENSOR_CORES);
    // One answer has no gradient: its queries neither, and keys none from it.
    Case {
        unused: Some(0),
        kernels: &["attention_backward_keys_d32_s1_f32"],
        ..case(DType::BF16, 32, joint())
    }
    .check(&device, TENSOR_CORES);
    assert_listed();
}

#[test]
fn attention_of_other_floats_and_widths_is_computed_in_float32() {
    let device = gpu();
    let joint = || vec![(37, true, None), (9, true, Some([4, 0]))];
    for (dtype, width) in [(DType::F32, 64), (DType::F32, 67), (DType::BF16, 12), (DType::F16, 32)]
    {
        case(dtype, width, joint()).check(&device, FLOAT32);
    }
    Case { bias: true, unused: Some(1), ..case(DType::F32, 5, joint()) }.check(&device, FLOAT32);
    // Nobody has a key; nobody asks in one segment; there are no tokens in another.
    case(DType::F32, 8, vec![(3, true, Some([0, 0]))]).check(&device, FLOAT32);
    let segments = vec![(6, false, None), (0, true, None), (2, true, Some([1, 2]))];
    Case { bias: true, ..case(DType::F32, 8, segments) }.check(&device, FLOAT32);
    assert_listed();
}

#[test]
fn autocast_takes_attention_and_products_of_float32_to_tensor_cores() {
    let device = gpu();
    let joint = Case {
        kernels: &["attention_d64_s2_f32", "attention_backward_keys_d64_s2_f32"],
        ..case(DType::F32, 64, vec![(20, true, None), (9, true, Some([4, 0]))])
    };
    autocast(|| joint.check(&device, TENSOR_CORES));
    // An odd width stays in float32.
    autocast(|| case(DType::F32, 6, vec![(20, true, None)]).check(&device, FLOAT32));

    // Of numbers that bf16 has, a product is only summed in another order.
    let product = |device: &Device, [m, k, n]: [usize; 3]| {
        let [x, w, b] = [[m, k], [n, k], [n, 1]].map(|shape| {
            let noise = Rng::new(shape[0] as u64).normal(shape, DType::F32).unwrap();
            let noise = noise.to_dtype(DType::BF16).to_dtype(DType::F32);
            Var::parameter(noise.to_device(device).unwrap())
        });
        let y = x.linear(&w, Some(&b.reshape([n]).unwrap())).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        [&x, &w]
            .map(|x| grads.get(x).unwrap().to_f64_vec())
            .into_iter()
            .chain([y.value().to_f64_vec()])
    };
    // The second has rows that tensor cores cannot take.
    for size in [[16, 24, 40], [16, 23, 40]] {
        let (want, got) = (product(&Device::Cpu, size), autocast(|| product(&device, size)));
        want.zip(got).for_each(|(want, got)| assert_near("linear", &got, &want, FLOAT32));
    }
    let launched = cuda::install().statistics();
    assert!(launched.contains("gemm_tensor_cores_nt_bf16_f32_bias\t"), "{launched}");
    assert_listed();
}

/// Memory grows with the tokens, not with their square.
#[test]
fn no_scores_exist() {
    let Device::Cuda(gpu) = gpu() else { unreachable!("it is a GPU") };
    let device = Device::Cuda(gpu.clone());
    let tokens = 600;
    let operands = case(DType::F32, 1, vec![(tokens, true, None)]).operands(&device);
    gpu.reset_peak();
    let before = gpu.peak_bytes();
    let segment = Segment::new(&operands[0], &operands[1], &operands[2]);
    let answers = attention(&[segment], HEADS, 1.0, None).unwrap();
    answers[0].sum_all().unwrap().backward().unwrap();
    let scores = 4 * BATCH * HEADS * tokens * tokens;
    let more = gpu.peak_bytes() - before;
    assert!(more * 20 < scores, "{more} bytes, of {scores} for scores");
}
