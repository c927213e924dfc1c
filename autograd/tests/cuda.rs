//! Every operation on a GPU beside the CPU, in the registry's own random cases. The GPU is the
//! virtual machine behind the stand-in for the driver, with all its checks on.
#![cfg(target_os = "linux")]

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use autograd::optim::{AdamW, AdamWConfig, Ema};
use autograd::spec::{agree, agree_by_family, difference};
use autograd::{Keep, Kept, Op, Params, Segment, Var, apply, attention, ops};
use kernels::ptx::registry;
use tensor::rng::Rng;
use tensor::{Cuda, DType, Device, ErrorKind, Result, Tensor};

/// Random instances of each operation and element type: `DDIT_CASES` over all, or a few.
fn each() -> u64 {
    let cases = std::env::var("DDIT_CASES").ok().and_then(|cases| cases.parse().ok());
    cases.map_or(6, |cases: u64| cases.div_ceil(2 * ops::all().count() as u64).clamp(1, 100))
}

/// The stand-in's GPU, for one test at a time: they count its memory and its launches.
struct Gpu(Device, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Gpu {
    fn cuda(&self) -> &Cuda {
        match &self.0 {
            Device::Cuda(gpu) => gpu,
            Device::Cpu => unreachable!("it is a GPU"),
        }
    }
}

impl Deref for Gpu {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

fn gpu() -> Gpu {
    static ONE: Mutex<()> = Mutex::new(());
    let held = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    cuda::unless_gpu();
    Gpu(Device::cuda(0).expect("the stand-in has a GPU"), held)
}

/// Every kernel that was launched so far is one that the assembler's check walks over.
fn assert_listed() {
    let Some(stand_in) = cuda::unless_gpu() else { return };
    let launched = stand_in.launched();
    let unlisted = registry::unlisted(launched.iter().map(String::as_str));
    assert!(unlisted.is_empty(), "not in the registry: {unlisted:?}");
}

#[test]
fn every_operation_is_on_a_gpu_what_it_is_on_the_cpu() {
    let gpu = gpu();
    let wrong = |op| agree(op, &gpu, each()).unwrap().wrong;
    let wrong: Vec<String> = ops::all().flat_map(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_listed();
}

/// Tensor cores among them, which the registry's cases hardly ever come to.
#[test]
fn every_family_of_kernels_does_what_the_cpu_does() {
    let gpu = gpu();
    let found = agree_by_family(gpu.cuda()).unwrap();
    let wrong: Vec<&String> = found.iter().flat_map(|family| &family.wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_listed();
}

/// An operation of somebody's own, for the CPU.
#[derive(Debug)]
struct Here;

impl Op<1> for Here {
    const NAME: &'static str = "here";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        Ok((x.clone(), ()))
    }

    fn vjp(&self, _: Kept<'_, ()>, _: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([None])
    }
}

#[test]
fn what_has_no_kernel_is_an_error_that_says_so() {
    let x = Tensor::ones([2], DType::F32);
    assert!(apply(Here, [&Var::constant(x.clone())]).is_ok());
    let error = apply(Here, [&Var::constant(x.to_device(&gpu()).unwrap())]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    assert!(error.to_string().contains("this operation has no GPU kernel"), "{error}");
}

#[test]
fn operands_on_different_devices_are_an_error() {
    let x = Tensor::ones([2, 3], DType::F32);
    let [here, there] = [x.clone(), x.to_device(&gpu()).unwrap()].map(Var::constant);
    let error = here.add(&there).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    let text = error.to_string();
    assert!(text.contains("different devices") && text.contains("f32  cuda:0"), "{text}");
    // In float64 nothing is computed there.
    let wide = x.to_dtype(DType::F64).to_device(&gpu()).unwrap();
    assert!(Var::constant(wide).exp().is_err());
}

/// Sums and maxima whose rows are longer than one warp's, and products whose tiles have edges,
/// or whose sums are cut into parts.
#[test]
fn large_operands_have_the_bits_of_the_cpu() {
    let gpu = gpu();
    let mut rng = Rng::new(1);
    let x = rng.normal([3, 40_000], DType::F32).unwrap();
    let [a, b] = [[2, 70, 410], [2, 410, 66]].map(|s| rng.normal(s, DType::F32).unwrap());
    let long = rng.normal([7, 2500], DType::F32).unwrap();
    let both = |f: &dyn Fn([&Var; 4]) -> Result<Var>| {
        let here = [&x, &a, &b, &long].map(|x| Var::constant(x.clone()));
        let there = [&x, &a, &b, &long].map(|x| Var::constant(x.to_device(&gpu).unwrap()));
        let [here, there] = [here, there].map(|x| f(x.each_ref()).unwrap().value());
        assert_eq!(there.device(), *gpu);
        assert!(difference(&here, &there).unwrap().equal);
    };
    both(&|[x, ..]| x.sum(&[1], false));
    both(&|[x, ..]| x.sum(&[0], false));
    both(&|[x, ..]| x.max(1, false));
    both(&|[_, a, b, _]| a.matmul(b));
    both(&|[_, a, b, _]| b.transpose(1, 2)?.matmul(&a.transpose(1, 2)?));
    both(&|[.., long]| long.matmul(&long.transpose(0, 1)?));
    assert!(gpu.cuda().launches("gemm_finish_store") > 0, "sums are cut where they are long");
}

/// Memory grows with the tokens, not with their square.
#[test]
fn no_scores_exist() {
    const TOKENS: usize = 600;
    let device = gpu();
    let gpu = device.cuda();
    let operands = [1, 2, 3].map(|seed| {
        let normal = Rng::new(seed).normal([2, TOKENS, 2], DType::F32).unwrap();
        Var::parameter(normal.to_device(&device).unwrap())
    });
    gpu.reset_peak();
    let before = gpu.peak_bytes();
    let [q, k, v] = operands.each_ref();
    let answers = attention(&[Segment::new(q, k, v)], 2, 1.0, None).unwrap();
    answers[0].sum_all().unwrap().backward().unwrap();
    let scores = 4 * 2 * 2 * TOKENS * TOKENS;
    let more = gpu.peak_bytes() - before;
    assert!(more * 20 < scores, "{more} bytes, of {scores} for scores");
}

/// Of a parameter without a gradient the average goes on.
#[test]
fn averages_are_those_of_the_cpu() {
    let averages = |device: &Device| {
        let weight = |seed| Rng::new(seed).normal([5, 60], DType::F32).unwrap();
        let var = |seed| Var::parameter(weight(seed).to_device(device).unwrap());
        let (learns, rests) = (var(1), var(2));
        let named = [("learns".to_owned(), learns.clone()), ("rests".to_owned(), rests)];
        let params = Params::from_vars(named).unwrap();
        let config = AdamWConfig { ema: Some(Ema::Rising(0.99)), ..Default::default() };
        let mut optimizer = AdamW::new(&params, config).unwrap();
        let named = [("learns", 1), ("rests", 3)]
            .map(|(name, seed)| (name.to_owned(), weight(seed).to_device(device).unwrap()));
        params.set(named).unwrap();
        for _ in 0..2 {
            let loss = learns.mul(&learns).unwrap().sum_all().unwrap();
            optimizer.step(&loss.backward().unwrap(), 0.1).unwrap();
        }
        optimizer.average().into_iter().map(|(name, x)| (name, x.to_f64_vec())).collect::<Vec<_>>()
    };
    assert_eq!(averages(&gpu()), averages(&Device::Cpu));
}

/// Norm, factor and update are the GPU's alone; a norm that is not finite changes nothing there.
#[test]
fn steps_are_clipped_as_on_the_cpu() {
    let steps = |device: &Device| {
        let weight = |seed, n: usize| {
            let tensor = Rng::new(seed).normal([n, 60], DType::F32).unwrap();
            Var::parameter(tensor.to_device(device).unwrap())
        };
        let (limited, free) = (weight(1, 50), weight(2, 3));
        let named = [("limited".to_owned(), limited.clone()), ("free".to_owned(), free.clone())];
        let params = Params::from_vars(named).unwrap();
        let config =
            AdamWConfig { clip: Some(0.5), ema: Some(Ema::Rising(0.99)), ..Default::default() };
        let mut optimizer =
            AdamW::new(&params, config).unwrap().without_clipping(|name| name == "free");
        let mut seen = Vec::new();
        for [a, b] in [[1.0, 1.0], [f64::NAN, 1.0], [1.0, f64::INFINITY], [1e-3, -2.0]] {
            let sum = |x: &Var, c| x.square().unwrap().sum_all().unwrap().mul_scalar(c).unwrap();
            let loss = sum(&limited, a).add(&sum(&free, b)).unwrap();
            let clipped = optimizer.step(&loss.backward().unwrap(), 0.1).unwrap();
            seen.push(format!("{clipped:?} {}", optimizer.steps()));
        }
        let state = [params.tensors(), optimizer.state()].concat().into_iter();
        (seen, state.map(|(name, x)| (name, x.to_f64_vec())).collect::<Vec<_>>())
    };
    let (there, here) = (steps(&gpu()), steps(&Device::Cpu));
    assert_eq!(there, here);
    assert!(here.0[0].ends_with(" 1") && here.0[3].ends_with(" 2"), "{:?}", here.0);
}
