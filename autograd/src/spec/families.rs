//! Attention and products on a GPU beside the CPU, in cases made for every family of kernels that
//! they may go to.
//!
//! The registry's random cases ([`agree`](super::agree)) are small and odd: hardly one of them is
//! what tensor cores take. Here heads have the widths and rows the alignment that they are made
//! for, and tiles have edges; that their kernels were launched is part of the answer.

use tensor::rng::Rng;
use tensor::{Cuda, DType, Device, Result, Tensor};

use super::agree::Results;
use super::{Agreement, Case, Difference};
use crate::{Segment, Var, attention, autocast};

/// P, its gradient and that of the answer are each rounded to bf16, by 2⁻⁹ at most and mostly by
/// less than half of it; what they are summed to is rounded once more by none.
const ROUNDED: f64 = 1.0 / 128.0;

/// Sums of a few hundred terms in float32, in an order of their own.
const SUMMED: f64 = 2e-6;

/// Compares attention and products on a GPU with the CPU, an answer for each family of kernels: the
/// tensor cores', of bf16 and under [`autocast`], and those that compute in float32. Results and
/// gradients are apart by the length of the difference, relative to that of what it should be.
///
/// Errors: those of the CPU; what goes wrong on the GPU is part of the answer.
pub fn agree_by_family(gpu: &Cuda) -> Result<Vec<Agreement>> {
    families().iter().map(|family| family.agree(gpu)).collect()
}

/// Cases that go to one family of kernels.
struct Family {
    name: &'static str,
    allowed: f64,
    /// Whether all of it is [`autocast`].
    is_cast: bool,
    trials: Vec<Trial>,
}

/// A case on a device, and kernels that have to be launched for it on a GPU.
struct Trial {
    make: Box<dyn Fn(&Device) -> Result<Case>>,
    kernels: &'static [&'static str],
}

impl Family {
    fn agree(&self, gpu: &Cuda) -> Result<Agreement> {
        let mut found = Agreement::new(self.name, self.trials.len() as u64, self.allowed);
        for Trial { make, kernels } in &self.trials {
            let here = make(&Device::Cpu)?;
            let (what, want) = (format!("{}, {}", self.name, here.label), here.gradients()?);
            let launches = || kernels.iter().map(|kernel| gpu.launches(kernel));
            let before: Vec<u64> = launches().collect();
            let run = || -> Result<Results> { make(&Device::Cuda(gpu.clone()))?.gradients() };
            match if self.is_cast { autocast(run) } else { run() } {
                Ok(got) => found.compare(&what, want, got, distance),
                Err(error) => found.wrong.push(format!("{what}: {error}")),
            }
            let unused = launches().zip(before).zip(*kernels).filter(|((now, old), _)| now == old);
            found.wrong.extend(unused.map(|(_, name)| format!("{what}: {name} was not launched")));
        }
        Ok(found)
    }
}

/// The length of the difference, relative to that of the first; `None` for other shapes or types.
fn distance(want: &Tensor, got: &Tensor) -> Option<Difference> {
    if (want.shape(), want.dtype()) != (got.shape(), got.dtype()) {
        return None;
    }
    let [want, got] = [want, got].map(Tensor::to_f64_vec);
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = length(&mut want.iter().zip(&got).map(|(a, b)| a - b));
    let apart = match difference {
        0.0 => 0.0,
        _ => difference / length(&mut want.iter().copied()),
    };
    Some(Difference { apart, equal: want == got })
}

fn families() -> [Family; 6] {
    let family =
        |name, allowed, is_cast, trials: Vec<Trial>| Family { name, allowed, is_cast, trials };
    [
        family("attention of bf16", ROUNDED, false, attentions_of_bf16()),
        family("attention in float32", SUMMED, false, attentions_in_float32()),
        family("attention under autocast", ROUNDED, true, attentions_autocast()),
        family("products in float32", SUMMED, false, products_in_float32()),
        family("products of bf16", SUMMED, false, products_of_bf16()),
        family("products under autocast", SUMMED, true, products_autocast()),
    ]
}

/// Normal numbers that bf16 has: rounding operands is not what is compared.
fn normal(seed: usize, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let numbers = Rng::new(seed as u64).normal(shape, DType::F32)?;
    numbers.to_dtype(DType::BF16).to_dtype(dtype).to_device(device)
}

const BATCH: usize = 2;
const HEADS: usize = 2;

/// One segment: its tokens, whether they ask, and how many of each sample's keys there are.
type Tokens = (usize, bool, Option<[usize; BATCH]>);

#[derive(Clone)]
struct Joint {
    dtype: DType,
    width: usize,
    segments: Vec<Tokens>,
    bias: bool,
    /// What the result is not made of: an answer that nobody uses.
    unused: Option<usize>,
}

impl Joint {
    fn of(dtype: DType, width: usize, segments: Vec<Tokens>) -> Self {
        Self { dtype, width, segments, bias: false, unused: None }
    }

    fn biased(self) -> Self {
        Self { bias: true, ..self }
    }

    fn without(self, answer: usize) -> Self {
        Self { unused: Some(answer), ..self }
    }

    fn goes_to(self, kernels: &'static [&'static str]) -> Trial {
        Trial { kernels, make: Box::new(move |device| self.case(device)) }
    }

    fn case(&self, device: &Device) -> Result<Case> {
        let Self { dtype, width, segments, .. } = self;
        let label = format!("{segments:?}, {HEADS} heads of {width}, {dtype}");
        let joint = self.clone();
        Ok(Case::new(label, self.operands(device)?, move |x| joint.run(x), |_| Vec::new()))
    }

    /// q, k and v of each segment are parts of one tensor, as a fused projection makes them; the
    /// last segment's keys lie apart, and begin at an odd place.
    fn operands(&self, device: &Device) -> Result<Vec<Tensor>> {
        let (mut operands, channels) = (Vec::new(), HEADS * self.width);
        let normal = |seed, shape: &[usize]| normal(seed, shape, self.dtype, device);
        for (i, &(tokens, asks, _)) in self.segments.iter().enumerate() {
            let fused = normal(i, &[BATCH, tokens, 3 * channels])?;
            let part = |which| fused.narrow(2, which * channels, channels);
            let mut parts = vec![part(0)?, part(1)?, part(2)?];
            if i + 1 == self.segments.len() {
                let odd = normal(10 + i, &[BATCH, tokens, channels + 3])?;
                parts[1] = odd.narrow(2, 3, channels)?;
            }
            operands.extend(parts.into_iter().skip(usize::from(!asks)));
        }
        if self.bias {
            let tokens = |asking: bool| -> usize {
                let of = self.segments.iter().filter(|(_, asks, _)| *asks || !asking);
                of.map(|(tokens, ..)| tokens).sum()
            };
            operands.push(normal(20, &[HEADS, tokens(true), tokens(false)])?);
        }
        Ok(operands)
    }

    /// The answers that are used, one behind the other.
    fn run(&self, operands: &[Var]) -> Result<Var> {
        let mut next = operands.iter();
        let mut one = || next.next().expect("operands are those of the segments");
        let segments: Vec<Segment> = self
            .segments
            .iter()
            .map(|(_, asks, key_len)| Segment {
                q: asks.then(&mut one),
                k: one(),
                v: one(),
                key_len: key_len.as_ref().map(|len| &len[..]),
            })
            .collect();
        let scale = (self.width as f64).sqrt().recip();
        let answers = attention(&segments, HEADS, scale, next.next())?;
        let used = answers.iter().enumerate().filter(|(i, _)| Some(*i) != self.unused);
        Var::cat(&used.map(|(_, answer)| answer).collect::<Vec<_>>(), 1)
    }
}

/// Tiles with edges, padding, a sample without a key in one segment, one that only others ask of.
fn attentions_of_bf16() -> Vec<Trial> {
    let of = |width, segments| Joint::of(DType::BF16, width, segments);
    let joint = || of(32, vec![(70, true, None), (9, true, Some([4, 0]))]);
    vec![
        joint().goes_to(&[
            "attention_d32_s2_f32",
            "attention_backward_queries_d32_s2_f32",
            "attention_backward_keys_d32_s2_f32",
        ]),
        of(64, vec![(9, false, Some([9, 5])), (65, true, None)])
            .biased()
            .goes_to(&["attention_bias_d64_s2_f32", "attention_backward_bias_d64"]),
        // The answers alone are made by tensor cores.
        of(128, vec![(5, true, Some([5, 2]))])
            .goes_to(&["attention_d128_s1_f32", "attention_exact_backward_keys_wide128_s1_bf16"]),
        // One answer has no gradient: its queries neither, and keys none from it.
        joint().without(0).goes_to(&["attention_backward_keys_d32_s1_f32"]),
    ]
}

/// Other types and widths. Nobody has a key; nobody asks in one segment; there are no tokens in
/// another.
fn attentions_in_float32() -> Vec<Trial> {
    let joint = || vec![(37, true, None), (9, true, Some([4, 0]))];
    let float32 = |width, segments| Joint::of(DType::F32, width, segments);
    let empty = vec![(6, false, None), (0, true, None), (2, true, Some([1, 2]))];
    vec![
        float32(64, joint()).goes_to(&["attention_exact_wide64_s2_f32"]),
        float32(67, joint()).goes_to(&["attention_exact_wide67_s2_f32"]),
        Joint::of(DType::BF16, 12, joint()).goes_to(&["attention_exact_wide12_s2_bf16"]),
        Joint::of(DType::F16, 32, joint()).goes_to(&["attention_exact_wide32_s2_f16"]),
        float32(5, joint()).biased().without(1).goes_to(&["attention_exact_biased_wide5_s2_f32"]),
        float32(8, vec![(3, true, Some([0, 0]))]).goes_to(&["attention_exact_wide8_s1_f32"]),
        float32(8, empty).biased().goes_to(&["attention_exact_biased_wide8_s3_f32"]),
    ]
}

fn attentions_autocast() -> Vec<Trial> {
    let joint = vec![(20, true, None), (9, true, Some([4, 0]))];
    let cores = &["attention_d64_s2_f32", "attention_backward_keys_d64_s2_f32"];
    // An odd width stays in float32.
    vec![
        Joint::of(DType::F32, 64, joint).goes_to(cores),
        Joint::of(DType::F32, 6, vec![(20, true, None)]).goes_to(&["attention_exact_wide6_s1_f32"]),
    ]
}

/// An operation on normal numbers of these shapes.
fn product(
    label: &'static str,
    dtype: DType,
    shapes: &'static [&'static [usize]],
    op: fn(&[Var]) -> Result<Var>,
    kernels: &'static [&'static str],
) -> Trial {
    let make = move |device: &Device| {
        let inputs = shapes.iter().enumerate().map(|(i, shape)| normal(i, shape, dtype, device));
        let inputs = inputs.collect::<Result<Vec<Tensor>>>()?;
        Ok(Case::new(format!("{label} of {shapes:?}"), inputs, op, |_| Vec::new()))
    };
    Trial { make: Box::new(make), kernels }
}

fn mlp(x: &[Var]) -> Result<Var> {
    x[0].mlp_gate_residual([&x[1], &x[2]], [&x[3], &x[4]], &x[5], &x[6])
}

/// Results enough for large tiles; and few, whose sums are cut.
fn products_in_float32() -> Vec<Trial> {
    let product = |label, shapes, op, kernels| product(label, DType::F32, shapes, op, kernels);
    vec![
        product(
            "A·B",
            &[&[1100, 9], &[9, 1000]],
            |x| x[0].matmul(&x[1]),
            &["gemm_exact_nn_f32_f32_store"],
        ),
        product(
            "long A·B",
            &[&[7, 2500], &[2500, 5]],
            |x| x[0].matmul(&x[1]),
            &["gemm_exact_small_nn_f32_f32_store", "gemm_finish_store"],
        ),
        product(
            "long linear",
            &[&[9, 1600], &[7, 1600], &[7]],
            |x| x[0].linear(&x[1], Some(&x[2])),
            &["gemm_exact_small_nt_f32_f32_store", "gemm_finish_bias"],
        ),
        product(
            "long mlp_gate_residual",
            &[&[2, 4, 1600], &[7, 1600], &[7], &[8, 7], &[8], &[2, 8], &[2, 4, 8]],
            mlp,
            &["gemm_exact_small_nt_f32_f32_store", "gemm_finish_bias_gelu"],
        ),
        product(
            "long linear_gate_residual",
            &[&[2, 4, 1600], &[8, 1600], &[8], &[2, 8], &[2, 4, 8]],
            |x| x[0].linear_gate_residual(&x[1], &x[2], &x[3], &x[4]),
            &["gemm_exact_small_nt_f32_f32_store", "gemm_finish_gate_residual"],
        ),
    ]
}

/// Every side and writer of small squares, and every side of large ones, over more panels than the
/// ring of shared memory has.
fn products_of_bf16() -> Vec<Trial> {
    let product = |label, shapes, op, kernels| product(label, DType::BF16, shapes, op, kernels);
    vec![
        product(
            "A·B",
            &[&[136, 200], &[200, 72]],
            |x| x[0].matmul(&x[1]),
            &["gemm_tensor_cores_small_nn_bf16_f32_store"],
        ),
        product(
            "A·Bᵀ",
            &[&[2, 72, 136], &[2, 40, 136]],
            |x| x[0].matmul(&x[1].transpose(1, 2)?),
            &["gemm_tensor_cores_small_nt_bf16_f32_store"],
        ),
        product(
            "Aᵀ·B",
            &[&[136, 200], &[136, 72]],
            |x| x[0].transpose(0, 1)?.matmul(&x[1]),
            &["gemm_tensor_cores_small_tn_bf16_f32_store"],
        ),
        product(
            "Aᵀ·Bᵀ",
            &[&[136, 72], &[40, 136]],
            |x| x[0].transpose(0, 1)?.matmul(&x[1].transpose(0, 1)?),
            &["gemm_tensor_cores_small_tt_bf16_f32_store"],
        ),
        product(
            "linear",
            &[&[2, 70, 136], &[40, 136], &[40]],
            |x| x[0].linear(&x[1], Some(&x[2])),
            &["gemm_tensor_cores_small_nt_bf16_f32_bias"],
        ),
        product(
            "mlp_gate_residual",
            &[&[2, 70, 136], &[40, 136], &[40], &[24, 40], &[24], &[2, 24], &[2, 70, 24]],
            mlp,
            &["gemm_tensor_cores_small_nt_bf16_f32_bias_gelu"],
        ),
        product(
            "linear_gate_residual",
            &[&[2, 70, 136], &[40, 136], &[40], &[2, 40], &[2, 70, 40]],
            |x| x[0].linear_gate_residual(&x[1], &x[2], &x[3], &x[4]),
            &["gemm_tensor_cores_small_nt_bf16_f32_gate_residual"],
        ),
        // Results enough for large squares.
        product(
            "many Aᵀ·Bᵀ",
            &[&[33, 136, 136], &[33, 136, 136]],
            |x| x[0].transpose(1, 2)?.matmul(&x[1].transpose(1, 2)?),
            &["gemm_tensor_cores_tt_bf16_f32_store"],
        ),
        // Sums that are cut into parts, for results that are few.
        product(
            "long Aᵀ·B",
            &[&[520, 16], &[520, 24]],
            |x| x[0].transpose(0, 1)?.matmul(&x[1]),
            &["gemm_tensor_cores_small_tn_bf16_f32_store", "gemm_finish_store"],
        ),
        // Rows that begin where they should, but end within 16 bytes: what follows is not theirs.
        product(
            "parts of A·Bᵀ",
            &[&[48, 64], &[32, 64]],
            |x| x[0].narrow(1, 8, 12)?.matmul(&x[1].narrow(1, 8, 12)?.transpose(0, 1)?),
            &["gemm_exact_small_nt_bf16_f32_store"],
        ),
    ]
}

/// Of numbers that bf16 has, also backward, a product is only summed in another order.
fn products_autocast() -> Vec<Trial> {
    let op: fn(&[Var]) -> Result<Var> = |x| x[0].linear(&x[1], Some(&x[2]));
    let few = &[
        "gemm_tensor_cores_small_nt_bf16_f32_bias",
        "gemm_tensor_cores_small_nn_bf16_f32_store",
        "gemm_tensor_cores_small_tn_bf16_f32_store",
    ];
    vec![
        product("linear", DType::F32, &[&[136, 200], &[72, 200], &[72]], op, few),
        product(
            "many A·B",
            DType::F32,
            &[&[33, 136, 136], &[33, 136, 136]],
            |x| x[0].matmul(&x[1]),
            &[
                "gemm_tensor_cores_nn_bf16_f32_store",
                "gemm_tensor_cores_nt_bf16_f32_store",
                "gemm_tensor_cores_tn_bf16_f32_store",
            ],
        ),
        // Rows that tensor cores cannot take.
        product(
            "linear",
            DType::F32,
            &[&[16, 23], &[40, 23], &[40]],
            op,
            &["gemm_exact_small_nt_f32_f32_bias"],
        ),
    ]
}
