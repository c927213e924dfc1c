//! Formulas, AdamW, random numbers.

use half::{bf16, f16};
use kernels::adamw;
use kernels::elementwise::exprs::{
    Abs, Add, AddScalar, Clamp, Div, Exp, GeluTanh, Ln, Maximum, Minimum, Mul, MulScalar, Neg,
    Recip, Relu, Sigmoid, Silu, Softplus, Sqrt, Square, Sub, Tanh,
};
use kernels::elementwise::ptx::{self, Identity, Layout};
use kernels::elementwise::{
    Binary, Chain, ChainSlope, Partial, PartialSlope, Pointwise, Unary, map,
};
use kernels::ptx::Storage;
use kernels::random::{self, philox4x32};
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, numbers, run};

const SINGLE: [Storage; 2] = [Storage::F32; 2];

/// Ordinary numbers, then those where formulas break.
fn awkward(n: usize, seed: u32) -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-40,
        -1e-40,
        f32::MAX,
        f32::MIN_POSITIVE,
        88.7,
        -103.5,
        1.0,
    ];
    let mut x = numbers(n, 4.0, seed);
    // Operands meet each other's special values in different places.
    for (i, value) in special.into_iter().enumerate() {
        x[(i * (7 + seed as usize) + 3) % n] = value;
    }
    x
}

/// The kernel's answer for operands of any strides.
fn on_gpu<const K: usize, F: Pointwise<K>>(
    f: &F,
    shape: &[usize],
    x: [(&[f32], &[usize]); K],
) -> Vec<f32> {
    let mut gpu = Machine::new();
    let launch = ptx::Launch::new(shape, x.map(|(_, strides)| strides), true).expect("small");
    let kernel = ptx::kernel("f", f, SINGLE, launch.layout);
    let mut args: Vec<Arg> = x.map(|(x, _)| gpu.upload(x).into()).to_vec();
    let y: Buffer<f32> = gpu.alloc(launch.len);
    args.push(y.into());
    args.extend(launch.numbers.iter().map(|&n| Arg::from(n)));
    run(&mut gpu, &kernel, [launch.len, 1, 1], &args);
    gpu.download(y).expect("a buffer")
}

/// Dense operands, and ones that are transposed, broadcast and skipped through.
fn check<const K: usize, F: Pointwise<K>>(name: &str, f: &F) {
    let n = 1027;
    let x: [Vec<f32>; K] = std::array::from_fn(|k| awkward(n, k as u32));
    let layouts: [(&[usize], [&[usize]; 4]); 3] = [
        (&[n], [&[1]; 4]),
        (&[5, 3, 7], [&[1, 5, 15], &[0, 0, 1], &[21, 7, 1], &[2, 10, 30]]),
        (&[9], [&[3], &[0], &[1], &[2]]),
    ];
    for (shape, strides) in layouts {
        let operands: [(&[f32], &[usize]); K] = std::array::from_fn(|k| (&x[k][..], strides[k]));
        let mut want = vec![0.0; shape.iter().product()];
        map(f, shape, operands, &mut want);
        assert_bits(&format!("{name} {shape:?}"), &on_gpu(f, shape, operands), &want);
    }
}

fn unary<U: Unary>(f: U) {
    check(U::NAME, &f);
    check(&format!("slope of {}", U::NAME), &Chain(f));
    check(&format!("curvature of {}", U::NAME), &ChainSlope(f));
}

fn binary<B: Binary>(f: B) {
    check(B::NAME, &f);
    check(B::NAME, &Partial::<B, 0>(f));
    check(B::NAME, &Partial::<B, 1>(f));
    check(B::NAME, &PartialSlope::<B, 0, 0>(f));
    check(B::NAME, &PartialSlope::<B, 0, 1>(f));
    check(B::NAME, &PartialSlope::<B, 1, 0>(f));
    check(B::NAME, &PartialSlope::<B, 1, 1>(f));
}

#[test]
fn formulas_of_one_operand_have_the_bits_of_the_cpu() {
    unary(Neg);
    unary(MulScalar(-1.7));
    unary(AddScalar(0.3));
    unary(Clamp { low: -1.0, high: 0.5 });
    unary(Exp);
    unary(Ln);
    unary(Sqrt);
    unary(Square);
    unary(Recip);
    unary(Abs);
    unary(Relu);
    unary(Tanh);
    unary(Sigmoid);
    unary(Silu);
    unary(GeluTanh);
    unary(Softplus);
}

#[test]
fn formulas_of_two_operands_have_the_bits_of_the_cpu() {
    binary(Add);
    binary(Sub);
    binary(Mul);
    binary(Div);
    binary(Maximum);
    binary(Minimum);
}

/// Every element is read once and written once, a dense kernel's in whole sectors.
#[test]
fn dense_kernels_read_once_by_whole_sectors() {
    let (n, mut gpu) = (4096, Machine::new());
    let x = gpu.upload(&numbers(n, 1.0, 1));
    let y: Buffer<f32> = gpu.alloc(n);
    let kernel = ptx::kernel("f", &GeluTanh, SINGLE, Layout::Dense);
    let args = [x.into(), y.into(), Arg::from(n as u32)];
    let counts = run(&mut gpu, &kernel, [n, 1, 1], &args);
    assert_eq!(counts.traffic[&x.address].read, 4 * n as u64);
    assert_eq!(counts.traffic[&y.address].written, 4 * n as u64);
    let total = counts.total();
    assert_eq!((total.sectors, total.sectors), (total.ideal_sectors, 2 * 4 * n as u64 / 32));
}

/// Casts round to the nearest, ties to even, and widening is exact; alone and by fours.
#[test]
fn casts_are_those_of_half() {
    let x = awkward(103, 3);
    let mut gpu = Machine::new();
    let from = gpu.upload(&x);
    for layout in [Layout::Dense, Layout::Strided(1)] {
        let mut numbers = vec![Arg::from(x.len() as u32)];
        if layout != Layout::Dense {
            numbers.push(Arg::from(1u32));
        }
        let cast = |gpu: &mut Machine, [from, to]: [Storage; 2], x: u64, y: u64| {
            let kernel = ptx::kernel("copy", &Identity, [from, to], layout);
            let args = [&[x.into(), y.into()][..], &numbers].concat();
            run(gpu, &kernel, [103, 1, 1], &args);
        };
        let back: Buffer<f32> = gpu.alloc(x.len());
        let small: Buffer<u16> = gpu.alloc(x.len());
        cast(&mut gpu, [Storage::F32, Storage::Bf16], from.address, small.address);
        cast(&mut gpu, [Storage::Bf16, Storage::F32], small.address, back.address);
        let want: Vec<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        assert_bits("bf16", &gpu.download(back).expect("a buffer"), &want);
        cast(&mut gpu, [Storage::F32, Storage::F16], from.address, small.address);
        cast(&mut gpu, [Storage::F16, Storage::F32], small.address, back.address);
        let want: Vec<f32> = x.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        assert_bits("f16", &gpu.download(back).expect("a buffer"), &want);
    }
}

#[test]
fn adamw_has_the_bits_of_the_cpu() {
    let n = 301;
    let update = adamw::Update {
        lr: 1e-2,
        betas: [0.9, 0.99],
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 0.3,
        number: 3,
        ema_decay: 0.8,
    };
    let g = numbers(n, 1.0, 0);
    let square = |x: Vec<f32>| x.iter().map(|x| x * x).collect::<Vec<_>>();
    for average in [false, true] {
        let mut arrays = [
            numbers(n, 1.0, 1),
            numbers(n, 0.1, 2),
            square(numbers(n, 0.1, 3)),
            numbers(n, 1.0, 4),
        ];
        let mut gpu = Machine::new();
        let buffers: Vec<Buffer<f32>> = arrays.iter().map(|array| gpu.upload(array)).collect();
        let mut args: Vec<Arg> = vec![gpu.upload(&g).into()];
        args.extend(buffers[..3 + usize::from(average)].iter().map(|&buffer| Arg::from(buffer)));
        args.push(gpu.upload(&[update.clip as f32]).into());
        args.push((n as u32).into());
        args.extend(adamw::ptx::numbers(&update).map(Arg::from));
        run(&mut gpu, &adamw::ptx::kernel(average), [n, 1, 1], &args);
        let [p, m, v, e] = &mut arrays;
        adamw::update(&update, &g, adamw::State { p, m, v, ema: average.then_some(e) });
        for (array, buffer) in arrays.iter().zip(buffers) {
            assert_bits("adamw", &gpu.download(buffer).expect("a buffer"), array);
        }
    }
}

#[test]
fn uniform_numbers_are_those_of_philox() {
    // The first block's number wraps in its low half within the run.
    let (n, seed, first, stream) = (777_u32, [7, 9], [u32::MAX - 100, 4], [3, 0]);
    let mut gpu = Machine::new();
    let y: Buffer<f32> = gpu.alloc(n as usize);
    let numbers = [[n, seed[0]], [seed[1], first[0]], [first[1], stream[0]]].concat();
    let mut args: Vec<Arg> = vec![y.into()];
    args.extend(numbers.into_iter().chain([stream[1]]).map(Arg::from));
    let extent = [n.div_ceil(2) as usize, 1, 1];
    run(&mut gpu, &random::ptx::uniform(Storage::F32), extent, &args);
    let word = |i: u32| {
        let low = first[0].wrapping_add(i / 2);
        let high = first[1] + u32::from(low < first[0]);
        philox4x32(seed, [low, high, stream[0], stream[1]])[1 + 2 * (i % 2) as usize]
    };
    let want: Vec<f32> = (0..n).map(|i| (word(i) >> 8) as f32 / 2f32.powi(24)).collect();
    assert_bits("uniform", &gpu.download(y).expect("a buffer"), &want);
}
